"""The lock over the process table: whoever starts workers on this host, or takes stock of them, does it alone.

A pool daemon and commands that work without one share the table. The lock is held for the moments of a start, never while a
model loads, and it ends with the process that holds it, however that ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from pathlib import Path
from typing import Final

from rbees.protocol.errors import ErrorCode, RbeesError

PATIENCE_S: Final = 20.0
"""How long a start waits for another one; none takes longer unless its process was stopped."""
SHORT_PATIENCE_S: Final = 5.0
"""The same of whoever can do without the lock in the end."""
_LOOK_S: Final = 0.02


class FolderTaken(RbeesError):
    """Somebody else has taken the state folder over: starting workers, and starting one again, is theirs now."""


class TableLock:
    """`flock` on a file, and one turn after the other within this process. A process that ends lets go, however it ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._turn = asyncio.Lock()

    async def acquire(self, patience_s: float = PATIENCE_S) -> None:
        """Wait for the table.

        Raises:
            RbeesError: ALREADY_RUNNING, where another process has held it for `patience_s`.
            OSError: the disk fails.
        """
        loop = asyncio.get_running_loop()
        until_s = loop.time() + patience_s
        while not await self.try_acquire():
            if loop.time() >= until_s:
                message = (
                    f"Another command{self._holder()} is starting a worker on this host and does not come to an end; "
                    "end it and try again."
                )
                raise RbeesError(ErrorCode.ALREADY_RUNNING, message, path=str(self._path))
            await asyncio.sleep(_LOOK_S)

    async def try_acquire(self) -> bool:
        """Take the table if nobody has it. Raises OSError: the disk fails."""
        if self._turn.locked():
            return False
        await self._turn.acquire()
        try:
            self._descriptor = _lock(self._path)
        finally:
            if self._descriptor is None:
                self._turn.release()
        return self._descriptor is not None

    def release(self) -> None:
        """Let go."""
        assert self._descriptor is not None, "the table is not held"
        os.close(self._descriptor)
        self._descriptor = None
        self._turn.release()

    def _holder(self) -> str:
        try:
            said = self._path.read_text(encoding="ascii", errors="replace").strip()
        except OSError:
            return ""
        return f" (pid {said})" if said.isdigit() else ""


def _lock(path: Path) -> int | None:
    """The descriptor that holds the lock, or None. Children do not inherit it, so a worker never keeps the table."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Who holds it is for a message only: a full disk keeps nobody from the table.
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
