"""One holder at a time, and the second learns who the first is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.service.lock import ProcessLock


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
