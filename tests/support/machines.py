"""Computers of a home network, as their users have them: each with a name, addresses, a home folder and programs of its own.

A machine is a host of `networks.py` that has also its own mounts and host name: its files of names, of users and of the order in
which those are asked are its own, so that a command there finds the others as `NAME.home.arpa` and its user's home folder where
`ssh` and a login find it. What runs there is known by its network namespace and ended by its id. Needs root, and fails where that
lacks, as `networks.py` does.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import pty
import pwd
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import psutil

from rbees.personas import CALLED_NAMES
from tests.support.home import Daemon, Finished, entry_point
from tests.support.networks import Host, Network
from tests.support.sshd import Sshd

DOMAIN: Final = "home.arpa"
SYSTEM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
COMMAND_S: Final = 120.0
NAMES: Final = ("rbees", *CALLED_NAMES)
"""Of the installed program."""
_ORDER: Final = "passwd: files\ngroup: files\nhosts: files\n"


@dataclass
class Machine:
    """One computer. Its user is whoever runs the tests, with another home folder."""

    name: str
    host: Host
    home: Path
    environ: dict[str, str]
    """What a login finds, beside what it sets itself."""
    sshd: Sshd | None = None
    started: list[Daemon] = field(default_factory=list)

    @property
    def full_name(self) -> str:
        """As others call it."""
        return f"{self.name}.{DOMAIN}"

    @property
    def programs(self) -> Path:
        """Programs of its system that this one does not have, or not so; they go before those that it has."""
        return self.home / "programs"

    @property
    def config(self) -> Path:
        """The user's folder of settings."""
        return self.home / ".config" / "rbees"

    def install(self) -> None:
        """Have rbees, as pipx leaves it behind: its names in `~/.local/bin`."""
        folder = self.home / ".local" / "bin"
        folder.mkdir(parents=True, exist_ok=True)
        for name in NAMES:
            (folder / name).symlink_to(entry_point(name)[0])

    def add_program(self, name: str, text: str) -> None:
        """A shell script that its system has."""
        path = self.programs / name
        path.write_text(f"#!/bin/sh\n{text}")
        path.chmod(0o755)

    def sh(self, line: str, **environ: str) -> Finished:
        """What somebody types there, to its end. Nobody sits at a terminal."""
        done = subprocess.run(
            self._words(line, environ), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=COMMAND_S, check=False
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    def done(self, line: str, **environ: str) -> str:
        """The standard output of a line that is to succeed."""
        done = self.sh(line, **environ)
        assert done.returncode == 0, f"{self.name}$ {line}\n{done.said}"
        return done.stdout

    def start(self, line: str, **environ: str) -> Daemon:
        """A command that goes on; it leads a process group."""
        files = [self.home / f"{kind}-{len(self.started)}.txt" for kind in ("output", "errors")]
        with files[0].open("wb") as output, files[1].open("wb") as errors:
            words = self._words(f"exec {line}", environ)
            process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, start_new_session=True)
        self.started.append(Daemon(process, *files))
        return self.started[-1]

    def in_terminal(self, line: str, typed: str = "") -> tuple[str, int]:
        """The same line in a terminal in which `typed` is typed; what it showed, and the exit code."""
        leader, follower = pty.openpty()
        process = subprocess.Popen(
            self._words(f"exec {line}", {}), stdin=follower, stdout=follower, stderr=follower, start_new_session=True
        )
        os.close(follower)
        os.write(leader, typed.encode())
        said = b""
        with contextlib.suppress(OSError):  # How Linux says that nobody holds the other side any more.
            while data := os.read(leader, 65_536):
                said += data
        os.close(leader)
        return said.decode(errors="replace"), process.wait(COMMAND_S)

    def serve_ssh(self, environ: Mapping[str, str]) -> None:
        """Let others log in by SSH, with the key that they got; `environ` is what such a login finds beside the usual."""
        given = {**self._usual(login=True), **environ}
        self.sshd = Sshd(self.home / "sshd", given, inside=self.host.inside, address=self.host.address, port=22)
        self.sshd.start()

    def may_log_in_to(self, other: Machine) -> None:
        """Have the key for another machine, and know that one's."""
        assert other.sshd is not None, f"{other.name} has no SSH server"
        folder = self.home / ".ssh"
        folder.mkdir(mode=0o700, exist_ok=True)
        key = folder / "id_ed25519"
        key.write_bytes(other.sshd.user_key.read_bytes())
        key.chmod(0o600)
        with (folder / "known_hosts").open("a") as known:
            known.write(f"{other.full_name} {other.sshd.host_key.with_suffix('.pub').read_text()}")

    def processes(self) -> list[psutil.Process]:
        """Whatever runs there, but for what keeps the machine in being."""
        space = os.readlink(f"/proc/{self.host.holder.pid}/ns/net")
        found = [pid for pid in psutil.pids() if pid != self.host.holder.pid and _net_of(pid) == space]
        return [process for pid in found if (process := _process(pid)) is not None]

    def close(self) -> None:
        """End all that was started there, and what that left behind."""
        for daemon in reversed(self.started):
            with contextlib.suppress(AssertionError):
                daemon.stop(timeout_s=15.0)
        if self.sshd is not None:
            self.sshd.stop()
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        for daemon in self.started:
            daemon.process.wait(15.0)

    def _words(self, line: str, environ: Mapping[str, str]) -> list[str]:
        variables = {**self._usual(), **self.environ, **environ}
        settings = [f"{name}={value}" for name, value in variables.items()]
        return [*self.host.inside, "env", "-i", *settings, "sh", "-c", f"cd && {{ {line}\n}}"]

    def _usual(self, *, login: bool = False) -> dict[str, str]:
        """What the system gives to its user. A login by SSH reads no profile, so that `~/.local/bin` is not on its path."""
        path = f"{self.programs}:{SYSTEM_PATH}" if login else f"{self.programs}:{self.home}/.local/bin:{SYSTEM_PATH}"
        own = {} if login else {"HOME": str(self.home), "LOGNAME": getpass.getuser(), "USER": getpass.getuser()}
        return {**own, "PATH": path, "LANG": "C.UTF-8", "NO_COLOR": "1", "XDG_RUNTIME_DIR": str(self.home / "run")}


class Machines:
    """Those of one network. Use it as a context manager: at the end nothing of them is left."""

    def __init__(self, net: Network) -> None:
        self._net = net
        # Short, because the paths of sockets lie below it and the system bounds those.
        self._temporary = tempfile.TemporaryDirectory(prefix="rb-", dir="/tmp")
        self.folder = Path(self._temporary.name).resolve()
        self._hosts = self.folder / "hosts"
        self._hosts.write_text("127.0.0.1 localhost\n")
        (self.folder / "nsswitch.conf").write_text(_ORDER)
        self.all: list[Machine] = []

    def add(self, name: str, **environ: str) -> Machine:
        """A further machine, known to the others by its name."""
        home = self.folder / name
        for folder in (home, home / "run", home / "programs"):
            folder.mkdir(mode=0o700)
        made = Machine(name, self._net.add_host("--mount", "--uts"), home, environ)
        self.all.append(made)
        with self._hosts.open("a") as hosts:
            hosts.write(f"{made.host.address} {made.full_name}\n")
        users = self.folder / f"{name}.passwd"
        users.write_text(_users_with(home))
        for file, place in ((self._hosts, "hosts"), (self.folder / "nsswitch.conf", "nsswitch.conf"), (users, "passwd")):
            made.done(f"mount --bind {file} /etc/{place}")
        made.done(f"echo {name} >/proc/sys/kernel/hostname")
        return made

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for machine in self.all:
            machine.close()
        self._temporary.cleanup()


def _users_with(home: Path) -> str:
    """The system's users, this one with another home folder and a plain shell."""
    own = pwd.getpwuid(os.getuid())
    lines = Path("/etc/passwd").read_text().splitlines()
    others = [line for line in lines if not line.startswith(f"{own.pw_name}:")]
    return "\n".join([f"{own.pw_name}:x:{own.pw_uid}:{own.pw_gid}::{home}:/bin/sh", *others]) + "\n"


def _net_of(pid: int) -> str | None:
    try:
        return os.readlink(f"/proc/{pid}/ns/net")
    except OSError:
        return None


def _process(pid: int) -> psutil.Process | None:
    try:
        return psutil.Process(pid)
    except psutil.Error:
        return None
