"""The control socket's file: one worker for each, put back when it vanishes, and never taken from another."""

from __future__ import annotations

import asyncio
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rbees.clients.control import read_control
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.workers import ControlInfo
from rbees.service.clock import ManualClock
from rbees.service.folders import make_private_folder
from rbees.workerd.control import RESTORE_EVERY_S, ControlSocket


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short, because the system bounds the path of a socket."""
    with tempfile.TemporaryDirectory(prefix="rb-", dir="/tmp") as made:
        yield Path(made)


def control(folder: Path, nonce: str) -> ControlSocket:
    info = ControlInfo(worker_id="w", nonce=nonce, pid=1, uri="http://127.0.0.1:1", secret="s", state="ready")
    return ControlSocket(folder / "run", "w", lambda: info)


async def nonce_at(folder: Path) -> str:
    return (await read_control(folder / "run" / "workers" / "w.sock")).nonce


async def test_a_second_worker_of_the_same_id_is_refused_and_the_first_goes_on(folder: Path) -> None:
    first, second = control(folder, "first"), control(folder, "second")
    await first.start()
    with pytest.raises(RbeesError) as caught:
        await second.start()
    assert caught.value.code is ErrorCode.ALREADY_RUNNING
    assert await nonce_at(folder) == "first"
    await first.stop()


async def test_what_a_killed_worker_left_behind_is_replaced(folder: Path) -> None:
    path = folder / "run" / "workers" / "w.sock"
    make_private_folder(folder / "run")
    make_private_folder(path.parent)
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
    second = control(folder, "second")
    await second.start()
    assert await nonce_at(folder) == "second"
    await second.stop()
    assert not path.exists()


async def test_ending_leaves_the_socket_of_a_successor_alone(folder: Path) -> None:
    path = folder / "run" / "workers" / "w.sock"
    first, second = control(folder, "first"), control(folder, "second")
    await first.start()
    path.rename(folder / "kept")
    await second.start()
    await first.stop()
    assert await nonce_at(folder) == "second"
    await second.stop()
    assert not path.exists()


async def test_a_socket_that_vanished_is_put_back(folder: Path) -> None:
    clock, mine = ManualClock(), control(folder, "mine")
    await mine.start()
    keeping = asyncio.create_task(mine.keep(clock))
    await clock.advance(RESTORE_EVERY_S)
    for _ in range(2):
        shutil.rmtree(folder / "run")
        await clock.advance(RESTORE_EVERY_S)
        assert await nonce_at(folder) == "mine"
        assert (folder / "run").stat().st_mode & 0o777 == 0o700
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    await mine.stop()
    assert not (folder / "run" / "workers" / "w.sock").exists()


async def test_a_socket_that_cannot_be_put_back_is_tried_again(folder: Path) -> None:
    clock, mine = ManualClock(), control(folder, "mine")
    await mine.start()
    keeping = asyncio.create_task(mine.keep(clock))
    shutil.rmtree(folder / "run")
    (folder / "run").write_text("in the way")
    await clock.advance(3 * RESTORE_EVERY_S)
    assert not keeping.done()
    (folder / "run").unlink()
    await clock.advance(RESTORE_EVERY_S)
    assert await nonce_at(folder) == "mine"
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    await mine.stop()
