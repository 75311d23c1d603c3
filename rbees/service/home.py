"""The runtime file of home mode: where a running `rbees up` listens, for everything on this machine that looks for it.

Its writer holds an advisory lock on the file for as long as it lives, so a file that outlived its writer, however that one
ended, is recognised at once and no process id has to be trusted.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import Final

from rbees.protocol import codec
from rbees.protocol.codec import Message
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.service.folders import runtime_folder

FILE_NAME: Final = "up.json"
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
        if not _lock(descriptor):
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


def read_home(path: Path | None = None) -> Home | None:
    """The `rbees up` that runs now, or None where none runs or it is not ready yet."""
    try:
        descriptor = os.open(path or runtime_folder() / FILE_NAME, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _decode(descriptor)
    finally:
        # Closing also gives back the shared lock that only a file without a writer lets us have.
        os.close(descriptor)
    return None


def _lock(descriptor: int) -> bool:
    """Take the writer's lock. A reader that looks at this very moment holds its own for microseconds, hence the second try."""
    for patience_s in (0.05, 0.2, 0.0):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(patience_s)
        else:
            return True
    return False


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
