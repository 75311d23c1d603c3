"""A home of its own for real processes: daemons and commands started as a user would, in a temporary RBEES_HOME.

Every process is ended by its id. Workers outlive their pool by design, so what belongs to a home is found by the RBEES_HOME
in its environment, which rbees passes on, and ended too. Used by the acceptance tests and by the bench.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import psutil

from tests.support.raw_http import request

URL: Final = re.compile(r"http://127\.0\.0\.1:\d+")
START_S: Final = 60.0
STOP_S: Final = 40.0
POLL_S: Final = 0.02

T = TypeVar("T")


@dataclass(frozen=True)
class Finished:
    """A command that ran to its end."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def said(self) -> str:
        """Everything it wrote, for messages of failed assertions and for searches."""
        return self.stdout + self.stderr

    @property
    def json(self) -> Any:
        """Its standard output as JSON."""
        return json.loads(self.stdout)


class Daemon:
    """A process that goes on until it is told to stop; what it writes goes to two files."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path, errors: Path) -> None:
        self.process = process
        self.url = ""
        self._output = output
        self._errors = errors

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def stdout(self) -> str:
        """What it has written to standard output so far."""
        return self._output.read_text(errors="replace")

    @property
    def said(self) -> str:
        """Everything it has written so far, standard output first."""
        return self.stdout + self._errors.read_text(errors="replace")

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """End it as a crash would, and reap it."""
        self.process.kill()
        self.process.wait(STOP_S)

    def wait(self, timeout_s: float = STOP_S) -> int:
        """Its exit code; the test fails if it does not end in time."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"pid {self.pid} did not end within {timeout_s} s; it said:\n{self.said}") from None

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout_s: float = STOP_S) -> int:
        """Ask it to end and wait for that; its exit code."""
        if self.process.poll() is None:
            self.send(number)
        return self.wait(timeout_s)


class Home:
    """One temporary installation. Use it as a context manager: at the end nothing of it is left."""

    def __init__(self, environ: Mapping[str, str] | None = None, parent: str = "/tmp") -> None:
        # Short, because the path of a worker's control socket lies below it and the system bounds that.
        self.folder = Path(tempfile.mkdtemp(prefix="rb-", dir=parent)).resolve()
        self.url = ""
        self._daemons: list[Daemon] = []
        self._environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RBEES_")},
            "RBEES_HOME": str(self.folder),
            "NO_COLOR": "1",
            **(environ or {}),
        }

    def environ(self, **more: str) -> dict[str, str]:
        """The environment of this home's processes."""
        return {**self._environ, **more}

    # ---- running things ------------------------------------------------------------------------------------------------

    def run(
        self, *arguments: str, program: str = "rbees", environ: Mapping[str, str] | None = None, timeout_s: float = 60.0
    ) -> Finished:
        """Run a command to its end, by the name of its entry point."""
        done = subprocess.run(
            [*entry_point(program), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            env={**self._environ, **(environ or {})},
            cwd=self.folder,
            check=False,
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    def llorch(self, *arguments: str, environ: Mapping[str, str] | None = None, timeout_s: float = 60.0) -> Finished:
        """Run the operator's client against this home's orchestrator."""
        target = {"RBEES_CTL_ORCD_URL": self.url} if self.url else {}
        return self.run(*arguments, program="llorch", environ={**target, **(environ or {})}, timeout_s=timeout_s)

    def start(
        self, *arguments: str, program: str = "rbees", environ: Mapping[str, str] | None = None, new_group: bool = True
    ) -> Daemon:
        """Start a command that goes on. It leads a process group, so that a test may send it what a terminal sends on Ctrl-C."""
        return self.start_in([], *arguments, program=program, environ=environ, new_group=new_group)

    def start_in(
        self,
        inside: list[str],
        *arguments: str,
        program: str = "rbees",
        environ: Mapping[str, str] | None = None,
        new_group: bool = True,
    ) -> Daemon:
        """As `start`, run by the words of `inside`, such as those that enter a namespace."""
        files = [self.folder / f"{name}-{len(self._daemons)}.txt" for name in ("output", "errors")]
        with files[0].open("wb") as output, files[1].open("wb") as errors:
            process = subprocess.Popen(
                [*inside, *entry_point(program), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                env={**self._environ, **(environ or {})},
                cwd=self.folder,
                start_new_session=new_group,
            )
        daemon = Daemon(process, *files)
        self._daemons.append(daemon)
        return daemon

    def up(self, *arguments: str, environ: Mapping[str, str] | None = None) -> Daemon:
        """`rbees up`, until it has told its address and answers there."""
        daemon = self.start("up", *arguments, environ=environ)
        wait_until(lambda: URL.search(daemon.said), daemon, "tell its address")
        found = URL.search(daemon.said)
        assert found is not None
        self.url = daemon.url = found.group()
        wait_until(lambda: is_ready(daemon.url), daemon, "become ready")
        return daemon

    def serve_orcd(self, port: int | None = None, environ: Mapping[str, str] | None = None) -> Daemon:
        """`rbees orcd serve`, until it answers."""
        return self._serve("orcd", port, environ)

    def serve_poold(self, port: int | None = None, environ: Mapping[str, str] | None = None) -> Daemon:
        """`rbees poold serve`, until it answers; it registers with this home's orchestrator."""
        target = {"RBEES_POOLD_ORCD_URL": self.url} if self.url else {}
        return self._serve("poold", port, {"RBEES_POOLD_POOL_ID": "bench", **target, **(environ or {})})

    def _serve(self, role: str, port: int | None, environ: Mapping[str, str] | None) -> Daemon:
        port = port or free_port()
        daemon = self.start(role, "serve", environ={f"RBEES_{role.upper()}_PORT": str(port), **(environ or {})})
        daemon.url = f"http://127.0.0.1:{port}"
        wait_until(lambda: is_alive(daemon.url), daemon, "answer")
        if role == "orcd":
            self.url = daemon.url
        return daemon

    # ---- looking and ending --------------------------------------------------------------------------------------------

    def processes(self) -> list[psutil.Process]:
        """Every living process of this home, this one left out."""
        # `rbees up` gives its daemons a folder inside this one as theirs.
        return [process for process in psutil.process_iter() if process.pid != os.getpid() and self._owns(_home_of(process))]

    def workers(self) -> list[psutil.Process]:
        """Its worker processes."""
        return [process for process in self.processes() if _is_role(process, "workerd")]

    def of_role(self, role: str) -> psutil.Process:
        """The one process of this home that plays a role."""
        found = [process for process in self.processes() if _is_role(process, role)]
        assert len(found) == 1, f"{len(found)} processes play {role}"
        return found[0]

    def _owns(self, home: str | None) -> bool:
        return home is not None and Path(home).is_relative_to(self.folder)

    def close(self) -> None:
        """End everything, each process by its id, and remove the folder.

        Nothing is asked to end by itself, which takes as long as what still runs: a test that is about an end looks at it itself.
        """
        for daemon in reversed(self._daemons):
            daemon.kill()
        # What they started last may be seen only now.
        until_s = time.monotonic() + STOP_S
        while left := self.processes():
            assert time.monotonic() < until_s, f"{left} cannot be ended"
            for process in left:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(left, timeout=1.0)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Home:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def entry_point(program: str) -> list[str]:
    """The command line that starts an entry point of the environment these tests run in."""
    script = Path(sys.executable).parent / program
    assert script.exists(), f"{script} is missing; install the project with `pip install -e .`"
    return [str(script)]


def free_port() -> int:
    """A port that nobody listens on now, chosen by the system, which gives it to nobody else for the next minute.

    Several tests run at once: between this answer and the daemon that listens there, another might be given the same port. A port
    with a connection in TIME_WAIT is never chosen by the system, and daemons, which name it, may have it all the same.
    """
    with socket.socket() as listener, socket.socket() as caller:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        caller.connect(listener.getsockname())
        accepted, _ = listener.accept()
        accepted.close()  # First, so that it is this end that waits.
        port: int = listener.getsockname()[1]
        return port


@contextlib.contextmanager
def taken_port(port: int = 0) -> Iterator[int]:
    """A port that a foreign program listens on: a given one, which may be taken already, or a free one."""
    with socket.socket() as listener:
        # As daemons do: what an earlier one left in TIME_WAIT does not count as taken.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            yield port
            return
        listener.listen()
        yield listener.getsockname()[1]


def is_alive(url: str) -> bool:
    """True if a daemon answers there."""
    return _status(f"{url}/livez") == 200


def is_ready(url: str) -> bool:
    """True if a daemon says that it can do its work."""
    return _status(f"{url}/readyz") == 200


def wait_until(check: Callable[[], T], daemon: Daemon | None = None, what: str = "happen", timeout_s: float = START_S) -> T:
    """Poll until `check` gives something true, and return that. Fails early where the daemon has ended."""
    deadline = time.monotonic() + timeout_s
    while not (found := check()):
        said = f"; it said:\n{daemon.said}" if daemon else ""
        assert daemon is None or daemon.process.poll() is None, f"it ended with {daemon.process.returncode}{said}"
        assert time.monotonic() < deadline, f"it did not {what} within {timeout_s} s{said}"
        time.sleep(POLL_S)
    return found


def _status(url: str) -> int:
    try:
        return request("GET", url, timeout_s=5.0).status
    except OSError:
        return 0


def _home_of(process: psutil.Process) -> str | None:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        home: str | None = process.environ().get("RBEES_HOME")
        return home
    except psutil.Error:
        return None


def _is_role(process: psutil.Process, role: str) -> bool:
    """By the command line: `rbees <role> …` and `python -m rbees <role> …` carry the role as a word, `rbees-<role>` as a name."""
    try:
        words = process.cmdline()[1:7]
    except psutil.Error:
        return False
    return any(word == role or Path(word).name == f"rbees-{role}" for word in words)
