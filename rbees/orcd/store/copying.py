"""A consistent copy of a database that is in use, made page by page beside the work that goes on (SQLite's online backup).

One snapshot is held from the first page to the last, so writers neither wait nor make the copy begin again; what they write
meanwhile stays in the write-ahead log until the copy is done.
"""

from __future__ import annotations

import errno
import hashlib
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from rbees.orcd.store.check import Pause

PAGES_PER_STEP: Final = 32
PIECE_BYTES: Final = 256 * 1024
_LEFT_BEHIND: Final = ".copy-"


@dataclass(frozen=True, slots=True)
class Copy:
    """A finished copy without a name: it is gone when `file` is closed, or the process ends."""

    file: BinaryIO
    size_bytes: int
    sha256: bytes


def copy(source: sqlite3.Connection, path: Path, pause: Pause) -> None:
    """Copy everything committed into `path`, an empty file, which is not synced; `pause` is called after each step.

    Raises:
        sqlite3.Error: from either side.
    """
    source.execute("BEGIN")
    try:
        # The first thing read is what fixes the snapshot.
        source.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        with closing(sqlite3.connect(path, isolation_level=None)) as target:
            # A copy that is not finished is thrown away, so it needs no journal of its own.
            target.execute("PRAGMA journal_mode = OFF")
            target.execute("PRAGMA synchronous = OFF")
            source.backup(target, pages=PAGES_PER_STEP, progress=lambda *_: pause())
    finally:
        source.execute("ROLLBACK")


def copy_beside(source: sqlite3.Connection, database: Path, pause: Pause) -> Copy:
    """A copy in the folder of `database`, private as that is.

    Raises:
        sqlite3.Error: as `copy`.
        OSError: where the copy cannot be made or read.
    """
    descriptor, name = tempfile.mkstemp(prefix=f"{database.name}{_LEFT_BEHIND}", dir=database.parent)
    os.close(descriptor)
    path = Path(name)
    try:
        copy(source, path, pause)
        file = path.open("rb")
    finally:
        path.unlink()
    try:
        sha256 = hashlib.sha256()
        while piece := file.read(PIECE_BYTES):
            sha256.update(piece)
            pause()
        return Copy(file, file.tell(), sha256.digest())
    except BaseException:
        file.close()
        raise


def forget_unfinished(database: Path) -> None:
    """Remove the copies that a killed process left."""
    for path in database.parent.glob(f"{database.name}{_LEFT_BEHIND}*"):
        path.unlink(missing_ok=True)


@contextmanager
def replacing(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """An empty file of mode 0600 next to `path`, to be filled; after the block it is on the disk as `path`, all of it at once.

    Where the block fails, `path` is as it was and nothing lies beside it.

    Raises:
        FileExistsError: without `overwrite`, where there is something at `path` by then.
        OSError: where the file cannot be made or brought onto the disk.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(descriptor)
    part = Path(name)
    try:
        yield part
        _sync(part)
        if not overwrite and os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        part.replace(path)
        _sync(path.parent)
    finally:
        part.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
