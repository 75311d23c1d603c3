"""The only user of aiosqlite: one SQLite file, one connection that writes and one that reads.

Every piece of work is one function that runs whole on its connection's thread, so transactions cannot interleave and a
commit costs one hop between threads. SQLite's errors are translated here, once: a full disk is `STORAGE_FULL`; an I/O error
is `StorageBroken`, after which nothing may be written, because what an fsync that failed has left on the disk is unknown.
This file knows nothing of jobs.
"""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import aiosqlite

from rbees.orcd.store.check import DAMAGED, Pause
from rbees.orcd.store.copying import forget_unfinished
from rbees.orcd.store.migrations import Migration, migrate
from rbees.protocol.errors import ErrorCode, RbeesError

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]
LongWork = Callable[[sqlite3.Connection, Pause], T]

BUSY_TIMEOUT_S: Final = 30.0
"""How long to wait for a lock that a foreign program (a backup, an operator's shell) holds on the file."""
PAUSE_S: Final = 0.002
"""Between two steps of long work, in which whoever waits for the interpreter or for the disk has its turn."""
STOP_LOOK_STEPS: Final = 100_000
"""After so many steps of its own machine SQLite looks whether long work was called off."""
CHECKPOINT_PAGES: Final = 4000
"""Of 4 KB in the WAL before it is folded into the file, which takes milliseconds in which nothing is committed. By SQLite's own
1000 that came several times a second under load; a page that was written often is folded once."""

_BROKEN: Final = frozenset(
    {
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_PERM,
    }
)
# Growing the shared-memory index of the WAL reports a full disk as an I/O error.
_SHARED_MEMORY: Final = frozenset({sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_SHMOPEN, sqlite3.SQLITE_IOERR_SHMMAP})


class StorageBroken(Exception):
    """The file cannot be trusted or used any more; the process must end with exit code 74. Holds SQLite's name of the error."""


class _CalledOff(Exception):
    """Nobody waits for this work any more."""


OnBroken = Callable[[StorageBroken], None]


class _Connection(aiosqlite.Connection):
    """aiosqlite's thread and queue, with whole functions as the unit of work."""

    async def run(self, work: Work[T]) -> T:
        execute = cast("Callable[..., Awaitable[T]]", self._execute)
        return await execute(work, self._conn)


class Database:
    """An open database file of mode 0600. Close it: its threads keep the process alive."""

    def __init__(self, path: Path, writer: _Connection, reader: _Connection, on_broken: OnBroken) -> None:
        self._path = path
        self._writer = writer
        self._reader = reader
        self._on_broken = on_broken
        self._one_aside = asyncio.Lock()

    @property
    def path(self) -> Path:
        """Of the file."""
        return self._path

    @classmethod
    async def open(cls, path: Path, migrations: tuple[Migration, ...], on_broken: OnBroken) -> Database:
        """Open `path`, creating it if absent, and bring its schema to the newest version.

        The caller holds the process lock of the folder. `on_broken` is called at the first StorageBroken after that, before
        anybody else hears of it. Raises RbeesError (STORAGE_FULL; CONFIGURATION where the file was written by a newer version)
        and StorageBroken.
        """
        _make_private(path)
        forget_unfinished(path)
        writer = await _connect(path, _open_writer)
        try:
            with _translated(path):
                await writer.run(lambda connection: migrate(connection, migrations))
            reader = await _connect(path, _open_reader)
        except BaseException:
            await writer.close()
            raise
        return cls(path, writer, reader, on_broken)

    async def write(self, work: Work[T]) -> T:
        """Run `work` in one transaction; when this returns, its effect is on the disk (`synchronous=FULL`).

        Raises RbeesError STORAGE_FULL or StorageBroken, and then nothing of `work` has happened.
        """

        def transaction(connection: sqlite3.Connection) -> T:
            connection.execute("BEGIN IMMEDIATE")
            try:
                result = work(connection)
                connection.execute("COMMIT")
            except BaseException:
                # A full disk rolls back by itself.
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            return result

        return await self._run(self._writer, transaction)

    async def read(self, work: Work[T]) -> T:
        """Run `work` on a consistent snapshot of everything committed so far. Raises StorageBroken."""

        def snapshot(connection: sqlite3.Connection) -> T:
            connection.execute("BEGIN")
            try:
                return work(connection)
            finally:
                connection.execute("ROLLBACK")

        return await self._run(self._reader, snapshot)

    async def aside(self, work: LongWork[T]) -> T:
        """`read_aside`, one at a time. What it fails with says nothing about the file in use: the connections that use it find that
        out by themselves.
        """
        async with self._one_aside:
            return await read_aside(self._path, work)

    async def checkpoint(self) -> None:
        """Move the whole WAL into the file and empty it, so that erased content is gone from both."""
        await self._run(self._writer, lambda connection: connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())

    async def close(self) -> None:
        """Close both connections, the writing one last: it folds the WAL into the file."""
        await self._reader.close()
        await self._writer.close()

    async def _run(self, connection: _Connection, work: Work[T]) -> T:
        try:
            with _translated(self._path):
                return await connection.run(work)
        except StorageBroken as error:
            self._on_broken(error)
            raise


async def read_aside(path: Path, work: LongWork[T], *, still: bool = False) -> T:
    """Run what takes long on a reading connection and in a thread of its own, while reads and writes of others go on.

    `work` calls what it is given between its steps. It takes its snapshots itself and keeps none longer than it must, for the
    write-ahead log grows meanwhile. A caller that is cancelled has `work` end first. `still` says that nobody writes to the file;
    reading then leaves nothing beside it.

    Raises:
        RbeesError: INTERNAL, or STORAGE_FULL where `work` writes elsewhere.
    """
    called_off = threading.Event()
    running = asyncio.ensure_future(asyncio.to_thread(_run_aside, path, work, called_off, still))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        called_off.set()
        await asyncio.wait([running])
        running.exception()  # What it ends with nobody wants to know.
        raise


def _run_aside(path: Path, work: LongWork[T], called_off: threading.Event, still: bool) -> T:
    def pause() -> None:
        if called_off.is_set():
            raise _CalledOff
        time.sleep(PAUSE_S)

    try:
        with closing(_open_reader(path, still=still)) as connection:
            connection.set_progress_handler(called_off.is_set, STOP_LOOK_STEPS)
            return work(connection, pause)
    except sqlite3.Error as error:
        code: Any = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
        if code & 0xFF == sqlite3.SQLITE_FULL:
            raise _no_room() from error
        name = getattr(error, "sqlite_errorname", type(error).__name__)
        if isinstance(code, int) and code & 0xFF in DAMAGED:
            message = f"{path.name} is damaged ({name}); see `rbees orcd db check`, and go back to a backup."
            raise RbeesError(ErrorCode.INTERNAL, message, reason=name) from error
        raise RbeesError(ErrorCode.INTERNAL, f"Reading {path.name} failed ({name}).", reason=name) from error
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise _no_room() from error
        reason = os.strerror(error.errno or 0)
        raise RbeesError(ErrorCode.INTERNAL, f"Copying {path.name} failed: {reason}.", reason=reason) from error


def _no_room() -> RbeesError:
    return RbeesError(ErrorCode.STORAGE_FULL, "There is no room for a copy of the database; free as much space as it takes.")


def _make_private(path: Path) -> None:
    # SQLite gives its companion files the mode of the database.
    os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    path.chmod(0o600)


async def _connect(path: Path, opener: Callable[[Path], sqlite3.Connection]) -> _Connection:
    with _translated(path):
        # Opened before aiosqlite gets it: where that fails, aiosqlite would leave a thread behind that nobody can wait for.
        opened = await asyncio.to_thread(opener, path)
    connection = _Connection(lambda: opened, iter_chunk_size=64)
    await connection
    return connection


def _open_writer(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    return _with_pragmas(
        connection,
        journal_mode="WAL",
        synchronous="FULL",
        foreign_keys="ON",
        secure_delete="ON",
        mmap_size="0",
        wal_autocheckpoint=str(CHECKPOINT_PAGES),
    )


def _open_reader(path: Path, *, still: bool = False) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode=ro{'&immutable=1' if still else ''}"
    connection = sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    return _with_pragmas(connection, query_only="ON", mmap_size="0")


def _with_pragmas(connection: sqlite3.Connection, **values: str) -> sqlite3.Connection:
    connection.row_factory = sqlite3.Row
    try:
        for name, value in values.items():
            connection.execute(f"PRAGMA {name} = {value}")
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        translated = _translation(error, path)
        if translated is None:
            raise
        raise translated from error


def _translation(error: sqlite3.Error, path: Path) -> Exception | None:
    code: Any = getattr(error, "sqlite_errorcode", None)
    if not isinstance(code, int):
        return None
    if code & 0xFF == sqlite3.SQLITE_FULL or (code in _SHARED_MEMORY and _disk_is_full(path)):
        return RbeesError(ErrorCode.STORAGE_FULL, "The disk under orcd's state folder is full; free space and send the job again.")
    if code & 0xFF in _BROKEN:
        return StorageBroken(error.sqlite_errorname)
    return None


def _disk_is_full(path: Path) -> bool:
    return os.statvfs(path.parent).f_bavail < 64
