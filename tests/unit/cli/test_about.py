"""What the program tells about itself."""

from __future__ import annotations

import json
import subprocess
import tomllib
from pathlib import Path

import pytest
from msgspec.structs import fields

from rbees import __version__, cli
from rbees.personas import CALLED_NAMES
from rbees.service.role_settings import CtlSettings
from rbees.terminal.completion import script


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("RBEES_CTL_ORCD_URL", "RBEES_ORCD_PORT"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    monkeypatch.setenv("RBEES_HOME", str(home))
    monkeypatch.chdir(tmp_path)
    return home


def test_version_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run("rbees", ["version", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["rbees"] == __version__
    assert set(shown) == {"rbees", "python", "platform", "llama_extra", "llama_cpp_python", "uvloop"}


def test_version_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run("rbees", ["version"]) == 0
    assert f"rbees       {__version__}\n" in capsys.readouterr().out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_serves_every_name(shell: str) -> None:
    made = script(shell)
    assert all(f"_{name.replace('-', '_').upper()}_COMPLETE" in made for name in ("rbees", *CALLED_NAMES))


def test_bash_takes_the_completion_script() -> None:
    assert subprocess.run(["bash", "-n"], input=script("bash"), text=True, check=False).returncode == 0


def test_settings_and_where_they_come_from(
    own_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (own_home / "config.toml").write_text('[orcd]\nqueue_limit = 7\n[hosts.attic]\nurl = "http://me:word@attic:9200"\n')
    monkeypatch.setenv("RBEES_ORCD_PORT", "8181")
    assert cli.run("rbees", ["config", "show", "--origin"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "port = 8181 # environment RBEES_ORCD_PORT" in lines
    assert f"queue_limit = 7 # file {own_home / 'config.toml'}" in lines
    assert "[hosts.attic]" in lines
    assert f'url = "http://<hidden>@attic:9200" # file {own_home / "config.toml"}' in lines


def test_hosts_say_where_they_come_from_and_are_toml_again(own_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = own_home / "config.toml"
    file.write_text('[hosts.attic]\nurl = "http://attic:9200"\n[hosts."my \\"host\\""]\nurl = "http://mine:9200"\n')
    assert cli.run("rbees", ["config", "show", "--origin"]) == 0
    shown = capsys.readouterr().out
    assert f'url = "http://attic:9200"  # file {file}' in shown
    assert tomllib.loads(shown)["hosts"] == {"attic": {"url": "http://attic:9200"}, 'my "host"': {"url": "http://mine:9200"}}
    assert cli.run("rbees", ["config", "show", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["hosts"]["attic"] == {
        "url": {"value": "http://attic:9200", "origin": f"file {file}"}
    }


def test_one_role_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run("rbees", ["config", "show", "--role", "ctl", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown == {"ctl": {setting.name: {"value": setting.default, "origin": "default"} for setting in fields(CtlSettings)}}


def test_what_is_printed_is_toml_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run("rbees", ["config", "show"]) == 0
    assert tomllib.loads(capsys.readouterr().out)["orcd"]["port"] == 8080


def test_the_files_that_are_looked_for(own_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (own_home / "config.toml").touch()
    assert cli.run("rbees", ["config", "path"]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{own_home.parent / 'rbees.toml'} (absent)", str(own_home / "config.toml")]
