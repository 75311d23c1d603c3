"""Folders are private or refused, and RBEES_HOME moves all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.service import folders


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RBEES_HOME", str(tmp_path / "h"))
    return tmp_path / "h"


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def refused(path: Path) -> str:
    with pytest.raises(RbeesError) as caught:
        folders.make_private_folder(path)
    assert caught.value.code is ErrorCode.CONFIGURATION
    return caught.value.message


def test_home_moves_state_and_settings(home: Path) -> None:
    assert folders.state_folder("orcd") == home / "orcd"
    assert mode(home) == mode(home / "orcd") == 0o700
    assert folders.config_files() == (Path.cwd() / "rbees.toml", home / "config.toml")


def test_a_named_folder_goes_before_home(home: Path, tmp_path: Path) -> None:
    assert folders.state_folder("orcd", str(tmp_path / "a" / "b")) == tmp_path / "a" / "b"
    assert not home.exists()


def test_without_home_the_platform_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RBEES_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_STATE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert tmp_path in folders.state_folder("poold").parents
    assert folders.config_files()[-1] == folders.SYSTEM_CONFIG
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert folders.runtime_folder() == tmp_path / "rbees"


def test_sockets_fit_whatever_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    homes = [tmp_path / ("long" * 20), tmp_path / ("other" * 16)]
    found = []
    for home in homes:
        monkeypatch.setenv("RBEES_HOME", str(home))
        found.append(folders.runtime_folder())
        assert folders.runtime_folder() == found[-1]
        assert len(str(found[-1] / "workers" / ("worker-" + "0" * 26 + ".sock"))) < 104
        assert mode(found[-1]) == 0o700
    assert found[0] != found[1]
    for folder in found:
        folder.rmdir()


def test_a_folder_that_others_may_enter_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    assert "chmod 700" in refused(tmp_path / "open")
    assert mode(tmp_path / "open") == 0o755


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "not a folder" in refused(tmp_path / "file")
    below = refused(tmp_path / "file" / "below")
    assert "cannot be used" in below
    assert "name another by `RBEES_HOME`" in below
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    assert "leads nowhere" in refused(tmp_path / "dangling")


def test_an_own_link_to_a_private_folder_serves(tmp_path: Path) -> None:
    folders.make_private_folder(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert folders.make_private_folder(tmp_path / "link") == tmp_path / "link"


@pytest.mark.parametrize("variable", ["RBEES_HOME", "named"])
def test_the_home_of_nobody_is_refused(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RBEES_HOME", "~nosuchuser/x")
    with pytest.raises(RbeesError, match="home folder of a user") as caught:
        folders.home_folder() if variable == "RBEES_HOME" else folders.absolute("~nosuchuser/x")
    assert caught.value.code is ErrorCode.CONFIGURATION


def test_a_folder_that_was_deleted_holds_no_project(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert folders.config_files() == (home / "config.toml",)
    with pytest.raises(RbeesError, match="deleted"):
        folders.absolute("relative")
