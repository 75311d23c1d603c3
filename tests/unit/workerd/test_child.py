"""What counts against a request to a child: not its start, and not that it stands still."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.workerd.child import Child
from rbees.workerd.child_loop import READY

ANSWER = (2).to_bytes(4, "big") + b"ok"


class _Stdin:
    def write(self, data: bytes) -> None:
        pass

    async def drain(self) -> None:
        pass


class _Process:
    """A child that has written this much, and ends where it is said to."""

    returncode: int | None = None

    def __init__(self, written: bytes, *, ends: bool) -> None:
        self.stdin, self.stdout = _Stdin(), asyncio.StreamReader()
        self.stdout.feed_data(written)
        if ends:
            self.stdout.feed_eof()

    def kill(self) -> None:
        pass

    async def wait(self) -> int:
        return -9


def _starting(monkeypatch: pytest.MonkeyPatch, written: bytes, *, ends: bool = False) -> None:
    async def start(*_: Any, **__: Any) -> _Process:
        await asyncio.sleep(0.001)
        return _Process(written, ends=ends)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start)


async def test_its_start_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    _starting(monkeypatch, READY + ANSWER)
    # No time at all: enough for an answer that is there, and none for a start.
    assert await Child("a.module", timeout_s=0.0).ask(b"{}") == b"ok"


async def test_one_that_dies_of_a_request_has_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    _starting(monkeypatch, READY + ANSWER[:5], ends=True)
    assert await Child("a.module").ask(b"{}") is None


@pytest.mark.parametrize(("written", "ends"), [(READY, False), (b"", False), (b"REA", True)], ids=["silent", "hung", "no start"])
async def test_one_that_does_not_start_or_answer_is_no_fault_of_the_request(
    monkeypatch: pytest.MonkeyPatch, written: bytes, ends: bool
) -> None:
    _starting(monkeypatch, written, ends=ends)
    with pytest.raises(RbeesError) as caught:
        await Child("a.module", timeout_s=0.01, start_timeout_s=0.01).ask(b"{}")
    assert caught.value.code is ErrorCode.WORKER_UNREACHABLE
    assert "send the request again" in caught.value.message
