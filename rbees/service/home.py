"""The runtime file of home mode: where a running `rbees up` listens, for everything on this machine that looks for it.

Its writer holds an advisory lock on the file for as long as it lives, so a file that outlived its writer, however that one
ended, is recognised at once and no process id has to be trusted.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from rbees.protocol import codec
from rbees.protocol.codec import Message
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.service.folders import runtime_folder
from rbees.service.lock import take

FILE_NAME: Final = "up.json"
START_PATIENCE_S: Final = 20.0
"""How long a home that is starting is waited for; it takes a second or two where the machine is not busy."""
_LOOK_S: Final = 0.05
_MAX_BYTES: Final = 65_536


class Home(Message, frozen=True, kw_only=True):
    """A running home mode."""

    pid: int
    orcd_url: str
    poold_url: str
    state_dir: str
    """The folder that holds databases, models and logs of this home."""


class HomeFile:
    """Held by `rbees up`, one for each runtime folder."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or runtime_folder() / FILE_NAME
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Become the one home of this runtime folder.

        Raises:
            RbeesError: ALREADY_RUNNING, with the address of the one that is.
        """
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        if not take(descriptor):
            home = _decode(descriptor)
            os.close(descriptor)
            raise _already_running(home)
        os.ftruncate(descriptor, 0)
        self._descriptor = descriptor

    def write(self, home: Home) -> None:
        """Tell where this home is."""
        assert self._descriptor is not None, "acquire the file first"
        os.pwrite(self._descriptor, codec.encode(home), 0)

    def release(self) -> None:
        """Nobody is at home any more; harmless where nothing is held."""
        if self._descriptor is not None:
            # The file stays: a lock on a file that somebody else is about to replace would keep nobody out.
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()


def is_home_taken(path: Path | None = None) -> bool:
    """True while an `rbees up` runs here, also one that is not ready yet."""
    return _look(path)[0]


def read_home(path: Path | None = None) -> Home | None:
    """The `rbees up` that runs now, or None where none runs or it is not ready yet."""
    return _look(path)[1]


def wait_for_home(
    path: Path | None = None, *, patience_s: float = START_PATIENCE_S, on_wait: Callable[[], None] = lambda: None
) -> Home | None:
    """The `rbees up` that runs here; None where none does. One that is about to be ready is waited for, after `on_wait`.

    Whoever looked elsewhere meanwhile could reach the orchestrator of a stranger.

    Raises:
        RbeesError: ORCD_UNREACHABLE, where it is still not ready after `patience_s`.
    """
    is_held, home = _look(path)
    if not is_held or home is not None:
        return home
    on_wait()
    until = time.monotonic() + patience_s
    while True:
        is_held, home = _look(path)
        if not is_held or home is not None:
            return home
        if time.monotonic() >= until:
            message = "`rbees up` is starting here and not ready yet; try again when it has told its address."
            raise RbeesError(ErrorCode.ORCD_UNREACHABLE, message)
        time.sleep(_LOOK_S)


def _look(path: Path | None) -> tuple[bool, Home | None]:
    """Whether somebody holds the file, and what the holder tells."""
    try:
        descriptor = os.open(path or runtime_folder() / FILE_NAME, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False, None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True, _decode(descriptor)
    finally:
        # Closing also gives back the shared lock that only a file without a writer lets us have.
        os.close(descriptor)
    return False, None


def _decode(descriptor: int) -> Home | None:
    try:
        return codec.decode(os.pread(descriptor, _MAX_BYTES, 0), Home)
    except RbeesError:
        return None


def _already_running(home: Home | None) -> RbeesError:
    where = f"at {home.orcd_url} (pid {home.pid})" if home else "and is about to be ready"
    details = {"url": home.orcd_url, "pid": home.pid} if home else {}
    return RbeesError(
        ErrorCode.ALREADY_RUNNING, f"`rbees up` already runs {where}; use that one, or end it with Ctrl-C first.", **details
    )
