"""The runtime file: who is at home, who is not yet, who is no more."""

from __future__ import annotations

from pathlib import Path

import pytest

from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.service.home import Home, HomeFile, read_home, wait_for_home

HERE = Home(pid=1, orcd_url="http://127.0.0.1:1", poold_url="http://127.0.0.1:2", state_dir="/x")


def test_nobody_is_at_home(tmp_path: Path) -> None:
    assert wait_for_home(tmp_path / "up.json") is None
    file = HomeFile(tmp_path / "up.json")
    file.acquire()
    file.write(HERE)
    file.release()
    assert wait_for_home(tmp_path / "up.json") is None


def test_a_home_that_is_ready_is_found_without_waiting(tmp_path: Path) -> None:
    with HomeFile(tmp_path / "up.json") as file:
        file.write(HERE)
        assert wait_for_home(tmp_path / "up.json", on_wait=pytest.fail) == HERE
    assert read_home(tmp_path / "up.json") is None


def test_a_home_that_is_starting_is_not_taken_for_none(tmp_path: Path) -> None:
    told: list[bool] = []
    with HomeFile(tmp_path / "up.json"), pytest.raises(RbeesError, match="starting") as refused:
        wait_for_home(tmp_path / "up.json", patience_s=0.0, on_wait=lambda: told.append(True))
    assert refused.value.code is ErrorCode.ORCD_UNREACHABLE
    assert told == [True]


def test_a_home_that_gets_ready_meanwhile_is_found(tmp_path: Path) -> None:
    with HomeFile(tmp_path / "up.json") as file:
        assert wait_for_home(tmp_path / "up.json", on_wait=lambda: file.write(HERE)) == HERE


def test_a_home_that_gives_up_is_not_waited_for(tmp_path: Path) -> None:
    file = HomeFile(tmp_path / "up.json")
    file.acquire()
    assert wait_for_home(tmp_path / "up.json", on_wait=file.release) is None
