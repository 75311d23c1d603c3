"""One holder at a time, and the second learns who the first is."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.service.lock import ProcessLock, holder_of


def test_a_second_holder_is_told_of_the_first(tmp_path: Path) -> None:
    first, second = ProcessLock(tmp_path / "lock"), ProcessLock(tmp_path / "lock")
    first.acquire("at http://127.0.0.1:1")
    with pytest.raises(RbeesError) as caught:
        second.acquire()
    assert caught.value.code is ErrorCode.ALREADY_RUNNING
    assert caught.value.exit_code == 75
    assert f"pid {os.getpid()} at http://127.0.0.1:1" in caught.value.message
    first.describe("elsewhere")
    assert (tmp_path / "lock").read_text() == f"pid {os.getpid()} elsewhere\n"
    first.release()
    first.release()
    with second:
        assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o600


def test_the_lock_file_of_a_dead_holder_hinders_nobody(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("pid 1 long gone\n")
    with ProcessLock(tmp_path / "lock"):
        assert "long gone" not in (tmp_path / "lock").read_text()


def test_who_looks_learns_of_the_holder_and_keeps_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, lock = tmp_path / "lock", ProcessLock(tmp_path / "lock")
    assert holder_of(path) is None
    lock.acquire("http://127.0.0.1:1")
    assert holder_of(path) == f"pid {os.getpid()} http://127.0.0.1:1"
    lock.release()
    assert holder_of(path) is None, "what a dead holder said is not believed"
    with path.open() as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        monkeypatch.setattr("time.sleep", lambda _: looking.close())
        lock.acquire()
    lock.release()
