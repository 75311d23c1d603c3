"""What `--host NAME` means: the settings, an ssh_config, the default domain."""

from __future__ import annotations

from pathlib import Path

import pytest

from rbees.ctl.hosts import Host, SshTarget, chosen_names, find_hosts
from rbees.ctl.remote import command_line
from rbees.ctl.ssh_config import read_ssh_config
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.service.role_settings import CtlSettings


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    monkeypatch.setenv("RBEES_HOME", str(home))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return home


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "ssh_config"


def find(name: str, config: Path, **settings: str) -> Host:
    (host,) = find_hosts((name,), CtlSettings(ssh_config_file=str(config), **settings))
    return host


def write(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o600)


def test_a_bare_name_lies_in_the_default_domain(config: Path) -> None:
    host = find("mac", config)
    assert host.ssh == SshTarget("mac.home.arpa")
    assert (host.url, host.is_url_known) == ("http://mac.home.arpa:9200", False)
    assert find("mac", config, default_domain="lan").ssh.host == "mac.lan"
    assert find("mac", config, default_domain="").ssh.host == "mac"


@pytest.mark.parametrize("name", ["mac.example", "localhost", "10.0.0.7", "fe80::1"])
def test_a_name_that_is_no_bare_one_stays(name: str, config: Path) -> None:
    assert find(name, config).ssh.host == name


def test_an_ssh_config_goes_before_the_domain(config: Path) -> None:
    write(config, "Host mac attic\n  HostName %h.example\n  User me\n  Port 2222\nHost *\n  User other\n  IdentityFile ~/.ssh/%h\n")
    assert find("mac", config).ssh == SshTarget("mac.example", 2222, "me", identity_files=(Path.home() / ".ssh/mac.example",))
    assert find("cellar", config).ssh.host == "cellar.home.arpa"
    assert find("cellar", config).ssh.user == "other"


def test_the_hosts_table_goes_before_all(own_home: Path, config: Path) -> None:
    write(config, "Host inner\n  HostName 10.0.0.9\n  User me\n")
    write(
        own_home / "config.toml",
        '[hosts.mac]\nssh = "you@inner:23"\nurl = "https://m:1"\ntoken_file = "t"\nprogram = "~/p"\n[hosts.attic]\nurl = "http://a:2"\n',
    )
    mac = find("mac", config)
    assert mac.ssh == SshTarget("10.0.0.9", 23, "you")
    assert (mac.url, mac.is_url_known, mac.token_file, mac.program) == ("https://m:1", True, "t", "~/p")
    assert find("attic", config).ssh == SshTarget("a"), "where nothing else is said, SSH goes where the daemon is"


def test_jump_hosts_come_with_what_is_said_of_them(config: Path) -> None:
    write(config, "Host far\n  ProxyJump you@near:2222\nHost near\n  HostName 10.0.0.1\n  ProxyJump door\nHost door\n  User d\n")
    far = find("far", config)
    assert far.ssh.jumps == (SshTarget("door", user="d"), SshTarget("10.0.0.1", 2222, "you"))
    assert far.url is None, "what lies behind others is not guessed"


def test_jump_hosts_in_a_circle(config: Path) -> None:
    write(config, "Host a\n  ProxyJump b\nHost b\n  ProxyJump a\n")
    with pytest.raises(RbeesError, match="circle") as raised:
        find("a", config)
    assert raised.value.code is ErrorCode.CONFIGURATION


@pytest.mark.parametrize("written", ["-oProxyCommand=x", "me@", "@mac", "mac:", "mac:0", "mac:99999", "a b", "-l@mac", "mac/x"])
def test_an_ssh_target_that_is_none(written: str, own_home: Path, config: Path) -> None:
    write(own_home / "config.toml", f'[hosts.mac]\nssh = "{written}"\n')
    with pytest.raises(RbeesError, match=r"user@\]host") as raised:
        find("mac", config)
    assert raised.value.code is ErrorCode.CONFIGURATION


@pytest.mark.parametrize("line", ["HostName -oX", "HostName a;b", "User -l", "User $(x)"])
def test_an_ssh_config_with_names_that_are_none(line: str, config: Path) -> None:
    write(config, f"Host mac\n  {line}\n")
    with pytest.raises(RbeesError, match="no user or host name"):
        find("mac", config)


def test_names_may_be_several_in_one_word() -> None:
    assert chosen_names(("a,b", "c", "a"), every=False) == ("a", "b", "c")


@pytest.mark.parametrize("text", ["", "a,", "-v", "a b", "a/b", "$x"])
def test_what_can_be_no_host(text: str) -> None:
    with pytest.raises(RbeesError, match="names of hosts"):
        chosen_names((text,), every=False)


# ---- ssh_config --------------------------------------------------------------------------------------------------------


def test_the_first_value_counts_and_key_files_add_up(config: Path) -> None:
    write(
        config, '# first\nIdentityFile=a\n\nHost ma? !mac2\n  User = one\n\tIdentityFile "b c"\nMatch all\n  User two\n  Port 7\n'
    )
    found = read_ssh_config(config, "mac")
    assert (found.user, found.port, found.identity_files, found.is_named) == ("one", 7, ("a", "b c"), True)
    assert read_ssh_config(config, "mac2").user == "two"
    assert not read_ssh_config(config, "other").is_named


def test_files_that_are_included(config: Path, tmp_path: Path) -> None:
    write(tmp_path / "more", "Host mac\n  User me\n")
    write(config, f"Include {tmp_path}/mor*\nHost other\n  Include {tmp_path}/more\n")
    assert read_ssh_config(config, "mac").user == "me"
    write(config, f"Include {config}\n")
    with pytest.raises(RbeesError, match="too deep"):
        read_ssh_config(config, "mac")


def test_a_match_that_would_run_something_never_applies(config: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    write(
        config,
        f'Match host mac exec "touch {ran}"\n  User evil\nMatch originalhost mac\n  User me\nMatch exec "touch {ran}"\n  Port 1\n',
    )
    assert (read_ssh_config(config, "mac").user, read_ssh_config(config, "mac").port) == ("me", None)
    assert not ran.exists()


def test_a_proxy_command_is_refused_unless_it_is_none(config: Path) -> None:
    write(config, "Host mac\n  ProxyCommand none\nHost *\n  ProxyCommand nc %h %p\n")
    assert read_ssh_config(config, "mac").is_named
    with pytest.raises(RbeesError, match="would run a program"):
        read_ssh_config(config, "other")
    write(config, "Host *\n  ProxyJump near\n  ProxyCommand nc %h %p\n")
    assert read_ssh_config(config, "mac").proxy_jump == "near"


@pytest.mark.parametrize(
    ("text", "mode", "said"),
    [
        ("Host mac\n  User\n", 0o600, "lacks a value"),
        ('Host "mac\n', 0o600, "quotation mark"),
        ("Port many\n", 0o600, "no number"),
        ("User me\n", 0o622, "chmod go-w"),
    ],
)
def test_an_ssh_config_that_cannot_be_used(text: str, mode: int, said: str, config: Path) -> None:
    config.write_text(text)
    config.chmod(mode)
    with pytest.raises(RbeesError, match=said) as raised:
        read_ssh_config(config, "mac")
    assert raised.value.code is ErrorCode.CONFIGURATION


def test_words_are_quoted_one_by_one() -> None:
    line = command_line("mark", "rbees-pool", ["a b", "$x", "'"])
    assert line.startswith("exec sh -c ")
    assert line.endswith("""mark rbees-pool 'a b' '$x' ''"'"''""")
