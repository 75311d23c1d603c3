"""`rbees-pool dev setup`: says what it will do, does it, and a second time does nothing; what it has systemd start does start.

No systemd runs where tests run: a program in its place keeps in files what it was told, and systemd's part in starting a daemon,
the socket for readiness and signs of life, is played by the test.
"""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
from pathlib import Path

import pytest

from rbees.host.service_files import ROLES, Role
from tests.support.home import Home, free_port

SYSTEMCTL = """#!/bin/sh
cd "$(dirname "$0")" || exit 1
[ "$1" = --user ] || exit 1
case $2 in
    is-system-running) echo running ;;
    is-enabled | is-active) [ -e "$3.started" ] && case $2 in is-enabled) echo enabled ;; *) echo active ;; esac ;;
    *) echo "$2 $3" >>told; [ "$2" != restart ] || touch "$3.started" ;;
esac
"""
LOGINCTL = """#!/bin/sh
cd "$(dirname "$0")" || exit 1
case $1 in
    show-user) [ -e lingers ] && echo yes || echo no ;;
    enable-linger) touch lingers ;;
esac
"""


@pytest.fixture
def environ(home: Home) -> dict[str, str]:
    programs = home.folder / "programs"
    programs.mkdir()
    for name, text in (("systemctl", SYSTEMCTL), ("loginctl", LOGINCTL)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    user = home.folder / "user"
    unset = {"XDG_CONFIG_HOME": "", "XDG_DATA_HOME": ""}
    return {**unset, "HOME": str(user), "PATH": f"{programs}:{os.environ['PATH']}", "LOGNAME": "somebody"}


WORDS = ("--service", "user", "--role", "poold", "--role", "orcd", "--shell", "bash", "--shell", "zsh", "--shell", "fish")


def setup(home: Home, environ: dict[str, str], *words: str) -> list[str]:
    """The states of all steps."""
    done = home.run("dev", "setup", *WORDS, *words, "--json", program="rbees-pool", environ=environ)
    assert done.returncode == 0, done.said
    return [step["state"] for step in done.json["steps"]]


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_a_host_is_prepared_once(home: Home, environ: dict[str, str]) -> None:
    before = contents(home.folder)
    assert "to do" in setup(home, environ, "--dry-run")
    assert contents(home.folder) == before
    refused = home.run("dev", "setup", *WORDS, program="rbees-pool", environ=environ)
    assert (refused.returncode, "--yes" in refused.stderr) == (2, True)
    assert "have systemd start rbees-poold.service" in refused.stdout
    assert contents(home.folder) == before

    assert set(setup(home, environ, "--yes")) == {"made", "done"}
    told = (home.folder / "programs/told").read_text().split("\n")
    assert [line for line in told if "poold" in line] == ["enable rbees-poold.service", "restart rbees-poold.service"]
    user = home.folder / "user"
    assert (user / ".local/share/bash-completion/completions/rbees-pool").exists()
    assert (user / ".config/fish/completions/llorch.fish").exists()
    assert {path.name for path in home.folder.iterdir() if path.stat().st_mode & 0o777 == 0o700} >= {"orcd", "poold"}

    after = contents(home.folder)
    assert set(setup(home, environ, "--yes")) == {"done"}
    assert contents(home.folder) == after
    unit = user / ".config/systemd/user/rbees-poold.service"
    unit.write_text("changed by hand\n")
    assert setup(home, environ, "--yes").count("made") == 2
    assert f"RBEES_HOME={home.folder}" in unit.read_text()


def test_where_nothing_keeps_services_running_it_says_so(home: Home, environ: dict[str, str]) -> None:
    (home.folder / "programs/systemctl").write_text("#!/bin/sh\necho offline\nexit 1\n")
    assert "left out" in setup(home, environ, "--yes")
    done = home.run("dev", "setup", "--dry-run", program="llorch", environ=environ)
    assert done.returncode == 0, done.said
    assert (
        "rbees orcd serve" in home.run("dev", "setup", "--dry-run", "--service", "user", program="llorch", environ=environ).stdout
    )


@pytest.mark.parametrize("role", ROLES)
def test_what_the_unit_starts_tells_systemd_that_it_is_ready_and_alive(home: Home, environ: dict[str, str], role: Role) -> None:
    setup(home, environ, "--yes")
    unit = (home.folder / f"user/.config/systemd/user/rbees-{role}.service").read_text()
    command = next(line.partition("=")[2] for line in unit.splitlines() if line.startswith("ExecStart="))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(home.folder / "notify"))
        notified.settimeout(60)
        variables = {"NOTIFY_SOCKET": str(home.folder / "notify"), "WATCHDOG_USEC": "200000"}
        own = home.environ(**variables, **{f"RBEES_{role.upper()}_PORT": str(free_port())})
        with subprocess.Popen(shlex.split(command), env=own, stderr=subprocess.DEVNULL) as daemon:
            said: set[bytes] = set()
            while not {b"READY=1", b"WATCHDOG=1"} <= said:
                said |= {line for line in notified.recv(4096).split(b"\n") if line}
            daemon.terminate()
            assert daemon.wait(60) == 0
