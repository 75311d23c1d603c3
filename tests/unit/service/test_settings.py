"""Precedence, origins, and every way to write a setting wrongly."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rbees.protocol.errors import RbeesError
from rbees.service import settings
from rbees.service.role_settings import CtlSettings, OrcdSettings, PooldSettings

STRANGER = 65_530


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return [tmp_path / name for name in ("project.toml", "user.toml", "system.toml")]


def load(files: list[Path], flags: dict[str, object] | None = None, **environ: str) -> settings.Loaded[OrcdSettings]:
    return settings.load("orcd", OrcdSettings, flags, environ=environ, files=files)


def refusal(files: list[Path], **environ: str) -> str:
    with pytest.raises(RbeesError) as caught:
        load(files, None, **environ)
    assert caught.value.exit_code == 78
    return caught.value.message


def test_the_first_source_that_names_a_setting_wins(files: list[Path]) -> None:
    project, user, system = files
    system.write_text("[orcd]\nport = 1\nretries = 1\nbind = '127.0.0.2'\nqueue_limit = 1\nretention_days = 1\n")
    user.write_text("[orcd]\nport = 2\nretries = 2\nbind = '127.0.0.3'\nqueue_limit = 2\n")
    project.write_text("[orcd]\nport = 3\nretries = 3\nbind = '127.0.0.4'\n")
    loaded = load(files, {"port": 5, "retries": None}, RBEES_ORCD_PORT="4", RBEES_ORCD_RETRIES="4", PATH="x")
    values = loaded.values
    assert (values.port, values.retries, values.bind, values.queue_limit, values.retention_days) == (5, 4, "127.0.0.4", 2, 1.0)
    origins = [loaded.origins[name] for name in ("port", "retries", "bind", "queue_limit", "retention_days", "drain_timeout_s")]
    assert origins == [
        "flag --port",
        "environment RBEES_ORCD_RETRIES",
        f"file {project}",
        f"file {user}",
        f"file {system}",
        "default",
    ]


def test_without_any_source_there_are_the_defaults() -> None:
    loaded = load([])
    assert loaded.values == OrcdSettings()
    assert set(loaded.origins.values()) == {"default"}


@pytest.mark.parametrize(("word", "value"), [("true", True), ("1", True), ("False", False), ("0", False)])
def test_switches_in_the_environment(word: str, value: bool) -> None:
    assert load([], RBEES_ORCD_INSECURE_LAN=word).values.insecure_lan is value


@pytest.mark.parametrize(
    ("text", "value"), [("http://a:1, http://b:2", ("http://a:1", "http://b:2")), ("http://a:1", ("http://a:1",)), ("", ())]
)
def test_lists_in_the_environment(files: list[Path], text: str, value: tuple[str, ...]) -> None:
    files[0].write_text('[orcd]\npools = ["http://c:3"]\n')
    assert load(files, RBEES_ORCD_POOLS=text).values.pools == value


def test_an_empty_variable_names_nothing() -> None:
    loaded = load([], RBEES_ORCD_TOKEN_FILE="", RBEES_ORCD_PORT="")
    assert loaded.values == OrcdSettings()


def test_optional_numbers_and_texts(files: list[Path]) -> None:
    files[0].write_text("[orcd]\nerase_content_after_s = 5\ntoken_file = '/t'\n")
    values = load(files, RBEES_ORCD_LOST_AFTER_S="20.5").values
    assert (values.erase_content_after_s, values.token_file, values.lost_after_s) == (5.0, "/t", 20.5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[orcd]\nprot = 1\n", "Did you mean `port`?"),
        ("[poold]\nmodeldirs = []\n", "Did you mean `model_dirs`?"),
        ("[orcc]\nport = 1\n", "Did you mean `orcd`?"),
        ("[workerd]\nport = 1\n", "`[workerd]`"),
        ("port = 1\n", "The table `[port]`"),
        ("orcd = 1\n", "must be a table"),
        ("[hosts]\nattic = 'http://x'\n", "[hosts.attic]"),
        ("[hosts.attic]\nur = 'http://x'\n", "Did you mean `url`?"),
        ("[hosts.attic]\nurl = 4\n", "[hosts.attic]"),
        ("[orcd]\nport = 'x'\n", "`port` (file"),
        ("[orcd]\nport = 65536\n", "<= 65535"),
        ("[orcd]\nport = true\n", "Expected `int`"),
        ("[orcd]\npools = 'http://a'\n", "Expected `array`"),
        ("[orcd]\nlog_level = 'loud'\n", "Write one of debug, info, warning, error"),
        ("[orcd]\ndrain_timeout_s = inf\n", "finite"),
        ("[orcd]\ndrain_timeout_s = nan\n", "`drain_timeout_s`"),
        ("[orcd]\nlost_after_s = 1\n", "must grow in this order"),
        ("[orcd\n", "is not TOML"),
        ("[orcd]\nzzz = 1\n", "docs/configuration.md"),
    ],
)
def test_slips_in_files(files: list[Path], text: str, said: str) -> None:
    files[1].write_text(text)
    message = refusal(files)
    assert said in message
    assert str(files[1]) in message or "must grow" in message


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("RBEES_ORCD_PROT", "1", "Did you mean `RBEES_ORCD_PORT`?"),
        ("RBEES_HOMES", "/x", "Did you mean `RBEES_HOME`?"),
        ("RBEES_ZZZ", "1", "`RBEES_ZZZ` is unknown"),
        ("RBEES_ORCD_PORT", "eighty", "`port` (environment RBEES_ORCD_PORT)"),
        ("RBEES_ORCD_INSECURE_LAN", "maybe", "true, false, 1 or 0"),
        ("RBEES_ORCD_DRAIN_TIMEOUT_S", "nan", "`drain_timeout_s`"),
    ],
)
def test_slips_in_the_environment(variable: str, value: str, said: str) -> None:
    assert said in refusal([], **{variable: value})


def test_variables_of_other_roles_and_of_none_are_known() -> None:
    assert load([], RBEES_HOME="/x", RBEES_POOLD_PORT="1", RBEES_CTL_ORCD_URL="http://x", RBEESWAX="y").values == OrcdSettings()


def test_a_file_that_cannot_be_read(files: list[Path]) -> None:
    files[0].write_bytes(b"\xff\xfe")
    assert "is not TOML" in refusal(files)


def test_ports_that_contradict_each_other() -> None:
    with pytest.raises(RbeesError, match="worker_port_last"):
        settings.load("poold", PooldSettings, {"worker_port_first": 10, "worker_port_last": 9}, environ={}, files=[])


def test_hosts_of_several_files_are_joined(files: list[Path]) -> None:
    files[0].write_text("[hosts.attic]\nurl = 'http://new:9200'\n")
    files[2].write_text("[hosts.attic]\nurl = 'http://old:9200'\n[hosts.cellar]\nurl = 'http://cellar:9200'\n")
    hosts = settings.load_hosts(files)
    assert {name: host.values.url for name, host in hosts.items()} == {"attic": "http://new:9200", "cellar": "http://cellar:9200"}
    assert hosts["attic"].origins == {"url": f"file {files[0]}"}
    assert hosts["cellar"].origins == {"url": f"file {files[2]}"}


def test_an_empty_list_of_a_flag_was_not_given(files: list[Path]) -> None:
    files[0].write_text("[ctl]\norcd_url = 'http://x:1'\n")
    loaded = settings.load("ctl", CtlSettings, {"token_file": None}, environ={}, files=files)
    assert loaded.values == CtlSettings(orcd_url="http://x:1")
    assert load([], {"pools": ()}).origins["pools"] == "default"


def test_a_project_file_that_others_may_write_is_refused(tmp_path: Path) -> None:
    project, user = tmp_path / "rbees.toml", tmp_path / "config.toml"
    for file in (project, user):
        file.write_text("[orcd]\nport = 1\n")
        file.chmod(0o664)
    assert load([user]).values.port == 1
    said = refusal([project])
    assert f"chmod go-w {project}" in said
    project.chmod(0o644)
    assert load([project]).values.port == 1


def test_a_project_file_of_a_stranger_is_refused(tmp_path: Path) -> None:
    project, link = tmp_path / "rbees.toml", tmp_path / "link"
    project.write_text("[ctl]\norcd_url = 'http://thief.example:8080'\n")
    link.symlink_to(project)
    settings._check_owner(link, project.stat(), os.getuid())
    if os.getuid() == 0:  # What root owns is trusted by everybody, so it is given away first.
        os.lchown(link, STRANGER, -1)
        with pytest.raises(RbeesError, match="another user"):
            settings._check_owner(link, project.stat(), 0)
        os.chown(project, STRANGER, -1)
    with pytest.raises(RbeesError, match="another user") as caught:
        settings._check_owner(project, project.stat(), STRANGER + 1)
    assert caught.value.exit_code == 78


def test_a_variable_that_is_not_utf_8_is_named() -> None:
    assert "RBEES_ORCD_BIND" in refusal([], RBEES_ORCD_BIND="\udcff")
