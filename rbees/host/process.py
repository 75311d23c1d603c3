"""Worker processes: start, find again, signal, wait for the end. Knows the operating system and no policy.

A process is named by its id together with the moment it started, so that an id which the system gives away again is never
taken for the worker and never signalled.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from rbees.host.worker_spec import WorkerSpec, arguments, environment, owner_of, read_arguments

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
POLL_S: Final = 0.2
"""How often the end of a process is looked for where the system cannot announce it."""
_STRAY_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Identity:
    """A process, beyond doubt."""

    pid: int
    started: str
    """Boot id and clock ticks on Linux, seconds since 1970 elsewhere."""


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended; both None where it was not our child and its status went elsewhere."""

    exit_code: int | None = None
    signal: str | None = None


def identify(pid: int) -> Identity | None:
    """The process that has this id now; None if there is none or only its exit status is left."""
    if platform.system() == "Linux":
        return _identify_by_proc(pid)
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return Identity(pid, repr(process.create_time()))
    except psutil.Error:
        return None


def is_running(identity: Identity) -> bool:
    """True while this very process lives."""
    return identify(identity.pid) == identity


def send_signal(identity: Identity, number: signal.Signals) -> bool:
    """Signal the process if it still lives; False if it does not."""
    descriptor = _open_descriptor(identity.pid)
    try:
        if not is_running(identity):
            return False
        if descriptor is None:
            os.kill(identity.pid, number)
        else:
            # The descriptor is bound to one process: now that it is known to be ours, no other can be hit.
            signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        if descriptor is not None:
            os.close(descriptor)
    return True


def resident_bytes(pid: int) -> int | None:
    """Main memory that a process has now, pages that it shares with others included; None where there is no such process."""
    if sys.platform != "linux":
        try:
            return int(psutil.Process(pid).memory_info().rss)
        except psutil.Error:
            return None
    try:
        # The counters of proc(5): size, then resident pages. Nothing is walked for them.
        return int(Path(f"/proc/{pid}/statm").read_bytes().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError):
        return None


class WorkerFinder:
    """Finds this user's running workers that carry the owner's mark on their command line. Blocks on the process list."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._young: frozenset[int] = frozenset()
        """Ids of others that the last look saw for the first time."""
        self._strangers: frozenset[int] = frozenset()

    def look(self) -> list[tuple[Identity, WorkerSpec]]:
        """Those that run now. A later look asks only the processes that are new since, so that it can be had often."""
        pids = frozenset(psutil.pids())
        found, others = [], []
        for pid in pids - self._strangers:
            spec = _spec_of(pid)
            identity = identify(pid) if spec is not None else None
            if spec is not None and identity is not None and owner_of(spec.nonce) == self._owner:
                found.append((identity, spec))
            else:
                others.append(pid)
        # Between its fork and its exec a worker looks like its parent, so nobody is a stranger at first sight.
        self._strangers = (self._strangers & pids) | (self._young & frozenset(others))
        self._young = frozenset(others)
        return found


class StrayReaper:
    """Takes the status of children that have ended and that nobody waits for.

    A daemon that is the first process of a container inherits what its workers leave behind, and the workers that commands
    without it started. Everybody else who starts a child here takes its status within moments, so what still has one at a
    second look, `_STRAY_S` later, is a stray.
    """

    def __init__(self) -> None:
        self._since_s: dict[int, float] = {}

    def look(self) -> None:
        """Reap those that were seen before."""
        now_s, ended = time.monotonic(), _ended_children()
        self._since_s = {pid: self._since_s.get(pid, now_s) for pid in ended}
        for pid, since_s in self._since_s.items():
            if now_s - since_s >= _STRAY_S:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)


class WorkerProcess:
    """One running worker: a child, or a process adopted from an earlier pool daemon."""

    def __init__(self, identity: Identity, child: subprocess.Popen[bytes] | None = None) -> None:
        self.identity = identity
        self._child = child

    @property
    def adopted(self) -> bool:
        """True if an earlier daemon started it, so that its exit status is lost."""
        return self._child is None

    def signal(self, number: signal.Signals) -> bool:
        """Send a signal; False if the process has ended."""
        return send_signal(self.identity, number)

    async def wait(self) -> Exit:
        """Until the process has ended, and how. A child is reaped."""
        descriptor = _open_descriptor(self.identity.pid)
        try:
            if descriptor is not None and not self._has_ended():
                await _readable(descriptor)
            # Without a descriptor this is how the end is noticed; with one, it has come.
            while not self._has_ended():  # noqa: ASYNC110
                await asyncio.sleep(POLL_S)
        finally:
            if descriptor is not None:
                os.close(descriptor)
        return Exit() if self._child is None else as_exit(self._child.returncode)

    def _has_ended(self) -> bool:
        """Of a child the system keeps the status until it is asked for, so it cannot be taken for another process."""
        if self._child is not None:
            return self._child.poll() is not None
        try:
            return not is_running(self.identity)
        except OSError:
            # No descriptor was left to look with: what cannot be seen is not gone.
            return False


def launch(spec: WorkerSpec, secret: str, log: Path, environ: Mapping[str, str]) -> WorkerProcess:
    """Start the worker in a session of its own, its output appended to `log`. Blocks for some milliseconds.

    The secret goes through a pipe whose reading end only the child inherits.

    Raises:
        OSError: the process cannot be started or the log cannot be written.
    """
    reading, writing = os.pipe()
    try:
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(secret.encode())
        child = _start(spec, reading, log, environ)
    finally:
        os.close(reading)
    # An unreaped child keeps its id, so the process found under it is the child even if it has already ended.
    identity = identify(child.pid) or Identity(child.pid, "ended")
    return WorkerProcess(identity, child)


def as_exit(status: int) -> Exit:
    """The meaning of `Popen.returncode`."""
    if status >= 0:
        return Exit(exit_code=status)
    try:
        return Exit(signal=signal.Signals(-status).name)
    except ValueError:
        return Exit(signal=f"SIG{-status}")


def _start(spec: WorkerSpec, secret_fd: int, log: Path, environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        return subprocess.Popen(
            [sys.executable, *arguments(spec, secret_fd)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(secret_fd,),
            env=environment(environ, spec.devices),
            cwd="/",
            start_new_session=True,
        )
    finally:
        os.close(output)


def _spec_of(pid: int) -> WorkerSpec | None:
    try:
        process = psutil.Process(pid)
        return read_arguments(process.cmdline()) if process.uids().real == os.getuid() else None
    except psutil.Error:
        return None


def _ended_children() -> frozenset[int]:
    """This process's children of which only the status is left."""
    if sys.platform == "linux":
        try:
            if os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                return frozenset()
        except ChildProcessError:
            return frozenset()
    return frozenset(child.pid for child in psutil.Process().children() if _is_zombie(child))


def _is_zombie(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _identify_by_proc(pid: int) -> Identity | None:
    try:
        status = Path(f"/proc/{pid}/stat").read_bytes()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name in parentheses may hold anything; the numbered fields of proc(5) follow the last parenthesis: 3 is the state.
    fields = status[status.rindex(b")") + 2 :].split()
    if fields[0] in (b"Z", b"X"):
        return None
    return Identity(pid, f"{boot}/{fields[19].decode()}")


def _open_descriptor(pid: int) -> int | None:
    """A descriptor of the process; None where the system has none (macOS, old kernels, some sandboxes) or the process ended."""
    if sys.platform != "linux":
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


async def _readable(descriptor: int) -> None:
    """Until the process of the descriptor has ended."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    loop.add_reader(descriptor, _resolve, ended)
    try:
        await ended
    finally:
        loop.remove_reader(descriptor)


def _resolve(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)
