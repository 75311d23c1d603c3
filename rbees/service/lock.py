"""One daemon per state folder: an advisory lock that ends with the process, however it ends."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from rbees.protocol.errors import ErrorCode, RbeesError


class ProcessLock:
    """`flock` on a file. The holder may leave a line in it that tells a second one where the first is.

    Use it as a context manager, or `acquire` and `release`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def acquire(self, about: str = "") -> None:
        """Take the lock or fail at once. `about` is a short line such as the url of this daemon.

        Raises:
            RbeesError: ALREADY_RUNNING, with the holder's line.
        """
        assert self._descriptor is None, "the lock is held already"
        # Python opens descriptors close-on-exec, so no child keeps the lock alive.
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        if not take(descriptor):
            holder = _said(descriptor)
            os.close(descriptor)
            raise _already_running(self._path, holder)
        self._descriptor = descriptor
        self.describe(about)

    def describe(self, about: str) -> None:
        """Replace the holder's line."""
        assert self._descriptor is not None, "only the holder describes itself"
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"pid {os.getpid()} {about}".strip().encode() + b"\n", 0)

    def release(self) -> None:
        """Let go; harmless where the lock is not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()


def holder_of(path: Path) -> str | None:
    """What the process says that holds the lock of this file now, perhaps nothing yet; None where nobody holds it."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _said(descriptor)
    finally:
        # Closing also gives back the shared lock that only a file without a holder lets us have.
        os.close(descriptor)
    return None


def check_not_held(path: Path) -> None:
    """Only look whether the lock could be had; nothing is made. Raises RbeesError ALREADY_RUNNING, as `ProcessLock.acquire`."""
    try:
        holder = holder_of(path)
    except OSError:
        return  # Whoever takes it says what is wrong with the file.
    if holder is not None:
        raise _already_running(path, holder)


def take(descriptor: int) -> bool:
    """Take the lock of an open file; False where another holds it. Who only looks has a lock of its own for microseconds, hence the
    further tries."""
    for patience_s in (0.05, 0.2, 0.0):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(patience_s)
        else:
            return True
    return False


def _said(descriptor: int) -> str:
    return os.pread(descriptor, 400, 0).decode(errors="replace").strip()


def _already_running(path: Path, holder: str) -> RbeesError:
    who = f" ({holder})" if holder else ""
    return RbeesError(
        ErrorCode.ALREADY_RUNNING,
        f"Another process{who} works on {path.parent}; stop it first or name another folder with `--state-dir`.",
        path=str(path),
        holder=holder,
    )
