"""A file that is being fetched: counted and summed as it grows, kept over interruptions, locked against a second fetcher."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from rbees.protocol.downloads import HubFile

PIECE_BYTES: Final = 1 << 20
LOOK_EVERY_S: Final = 0.2


class TooLong(Exception):
    """More bytes came than were promised; reading on could fill the disk."""


class PartialFile:
    """What a transfer writes to; nothing has to be read a second time to know its checksum."""

    def __init__(self, file: BinaryIO, expected: HubFile, on_progress: Callable[[int], None]) -> None:
        self._file = file
        self._expected = expected
        self._on_progress = on_progress
        self._reset()

    def _reset(self) -> None:
        self.size_bytes = 0
        self._sha256 = hashlib.sha256()
        # Git names a file by the SHA-1 of a header with its length and of its bytes (git-scm.com/book, "Git Objects"). It is all
        # that is known of small files, and costs as much as the other sum where it is not needed.
        header = b"blob %d\0" % self._expected.size_bytes
        self._git = None if self._expected.sha256 else hashlib.sha1(header, usedforsecurity=False)

    @property
    def sha256(self) -> str:
        """Of all that passed."""
        return self._sha256.hexdigest()

    def is_right(self) -> bool:
        """True if what passed is what the hub promised: by sha256 for large files, by git's own name for small ones."""
        expected = self._expected
        if self.size_bytes != expected.size_bytes:
            return False
        return self.sha256 == expected.sha256 if self._git is None else self._git.hexdigest() == expected.git_oid

    def take_in(self) -> None:
        """Sum what an earlier process left, unless it is too long to be a part of this file."""
        if self._file.seek(0, os.SEEK_END) > self._expected.size_bytes:
            self.start_over()
        self._file.seek(0)
        while piece := self._file.read(PIECE_BYTES):
            self._count(piece)

    def start_over(self) -> None:
        """Forget everything."""
        self._file.seek(0)
        self._file.truncate()
        self._reset()

    def write(self, piece: bytes) -> int:
        """As of a file.

        Raises:
            TooLong: with this piece it is no longer the expected file.
        """
        if self.size_bytes + len(piece) > self._expected.size_bytes:
            raise TooLong
        self._file.write(piece)
        self._file.flush()
        self._count(piece)
        return len(piece)

    def tell(self) -> int:
        """As of a file."""
        return self.size_bytes

    def seek(self, position: int) -> int:
        """As of a file. The library only goes back to the start, where a server has ignored that it asked for the rest."""
        assert position == 0, "only the start is sought"
        return 0

    def truncate(self) -> int:
        """As of a file; follows `seek`."""
        self.start_over()
        return 0

    def _count(self, piece: bytes) -> None:
        self._sha256.update(piece)
        if self._git is not None:
            self._git.update(piece)
        self.size_bytes += len(piece)
        self._on_progress(self.size_bytes)


def sum_of(path: Path, expected: HubFile, on_progress: Callable[[int], None]) -> str | None:
    """The sha256 of a file if it is the expected one; None where there is none or another one."""
    if not path.is_file() or path.stat().st_size != expected.size_bytes:
        return None
    with path.open("rb") as file:
        found = PartialFile(file, expected, on_progress)
        found.take_in()
    return found.sha256 if found.is_right() else None


@contextlib.contextmanager
def locked(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the lock file at `path`; `on_wait` is called again and again while somebody else holds it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            while not _try_lock(descriptor):
                on_wait()
                time.sleep(LOOK_EVERY_S)
            if _is_still(descriptor, path):
                yield
                return
        finally:
            os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_still(descriptor: int, path: Path) -> bool:
    """True if the locked file still has this name: whoever held it before may have removed it."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
