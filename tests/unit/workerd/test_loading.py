"""What is plainly no model is refused before anything waits for it or reads it without end."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.service.cgroup import ControlGroups
from rbees.workerd.engine.backend import LoadSpec
from rbees.workerd.loading import in_passing_thread, load_backend, spill_bytes

LONGER_THAN_ANY_CANCEL_S = 5.0


def refusal(path: Path | str, backend: Any) -> tuple[ErrorCode, str]:
    with pytest.raises(RbeesError) as caught:
        load_backend(LoadSpec(str(path), backend, "cpu", 1, 64), lambda _: True)
    return caught.value.code, caught.value.message


@pytest.mark.parametrize("backend", ["cpu", "scripted"])
def test_a_path_that_names_no_regular_file_is_refused_at_once(tmp_path: Path, backend: str) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    for path in (tmp_path / "pipe.gguf", tmp_path, "/dev/zero"):
        code, message = refusal(path, backend)
        assert (code, "does not name a file" in message) == (ErrorCode.MODEL_NOT_FOUND, True), path
    code, message = refusal(tmp_path / "nowhere.gguf", backend)
    assert (code, "No such file" in message) == (ErrorCode.MODEL_NOT_FOUND, True)


def test_a_file_that_does_not_begin_as_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"PK\x03\x04")
    assert refusal(tmp_path / "x.gguf", "cpu")[0] is ErrorCode.MODEL_INCOMPATIBLE


def test_a_script_is_read_within_a_bound(tmp_path: Path) -> None:
    path = tmp_path / "long.scripted.json"
    path.write_bytes(b"{}" + b" " * (1 << 20))
    code, message = refusal(path, "scripted")
    assert (code, "1048576 bytes" in message) == (ErrorCode.MODEL_INCOMPATIBLE, True)
    path.write_bytes(b"{}" + b" " * ((1 << 20) - 2))
    load_backend(LoadSpec(str(path), "scripted", "cpu", 1, 64), lambda _: True).close()


async def test_the_thread_that_loaded_is_gone_before_anything_computes(tmp_path: Path) -> None:
    path = tmp_path / "short.scripted.json"
    path.write_text("{}")
    seen: list[threading.Thread] = []

    def note(_share: float) -> bool:
        seen.append(threading.current_thread())
        return True

    (await in_passing_thread(load_backend, LoadSpec(str(path), "scripted", "cpu", 1, 64), note)).close()
    assert seen
    assert threading.current_thread() not in seen, "the event loop goes on meanwhile"
    assert not any(thread.is_alive() for thread in seen), "libgomp would keep compute threads for it"


async def test_the_thread_of_a_load_that_failed_is_gone_too() -> None:
    seen: list[threading.Thread] = []

    def fail() -> None:
        seen.append(threading.current_thread())
        raise RbeesError(ErrorCode.MODEL_INCOMPATIBLE, "It is damaged.")

    with pytest.raises(RbeesError, match="damaged"):
        await in_passing_thread(fail)
    assert [thread.is_alive() for thread in seen] == [False]


async def test_who_is_cancelled_does_not_wait_for_the_load_whose_thread_ends_with_it() -> None:
    began, may_end = threading.Event(), threading.Event()
    seen: list[threading.Thread] = []

    def load() -> None:
        seen.append(threading.current_thread())
        began.set()
        may_end.wait(LONGER_THAN_ANY_CANCEL_S)

    waiting = asyncio.create_task(in_passing_thread(load))
    assert await asyncio.to_thread(began.wait, LONGER_THAN_ANY_CANCEL_S)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    (thread,) = seen
    assert thread.is_alive(), "the loop went on while the load did"
    may_end.set()
    await asyncio.to_thread(thread.join, LONGER_THAN_ANY_CANCEL_S)
    assert not thread.is_alive()


def test_main_memory_for_prompts_follows_what_is_free_within_the_container(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("80000000\n")
    (tmp_path / "memory.current").write_text("16000000\n")
    (tmp_path / "self").write_text("0::/\n")
    limited = ControlGroups(tmp_path / "self", tmp_path)
    assert spill_bytes(None, limited) == 8_000_000
    assert spill_bytes(None, ControlGroups(tmp_path / "missing", tmp_path)) <= 1 << 30
    assert spill_bytes(0, limited) == 0
    assert spill_bytes(64, limited) == 64 << 20, "what was asked for"
