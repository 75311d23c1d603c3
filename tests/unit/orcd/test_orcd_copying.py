"""Copies of a database in use: consistent, private, without a name once they are done, and never in anybody's way."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from rbees.orcd.store import queries
from rbees.orcd.store.check import Pause, check
from rbees.orcd.store.copying import Copy, copy_beside, replacing
from rbees.orcd.store.jobs import JobStore, Statement
from rbees.orcd.store.migrations import packaged
from rbees.orcd.store.sqlite import Database, StorageBroken, read_aside
from rbees.protocol.errors import ErrorCode, RbeesError


def _no_breakage(error: StorageBroken) -> None:
    raise AssertionError(f"broken: {error}")


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = await Database.open(tmp_path / "orcd.db", packaged(), _no_breakage)
    yield database
    await database.close()


async def _name(store: JobStore, first: int, count: int) -> None:
    """Write rows whose sum tells how many commits were copied."""
    await store.apply(
        [
            Statement("name_endpoint", {"endpoint": f"http://{number:05d}.{'x' * 400}:1", "pool_id": "p", "at_ms": 1})
            for number in range(first, first + count)
        ]
    )


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _count(path: Path) -> int:
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        (count,) = connection.execute("SELECT count(*) FROM pool_endpoints").fetchone()
    return int(count)


async def test_a_copy_holds_one_moment_while_others_write(database: Database, tmp_path: Path) -> None:
    begun, written = threading.Event(), threading.Event()

    def work(connection: sqlite3.Connection, pause: Pause) -> Copy:
        def slow() -> None:
            begun.set()
            written.wait(30)
            pause()

        return copy_beside(connection, database.path, slow)

    store = JobStore(database, queries.load())
    await _name(store, 0, 2000)
    made_aside = asyncio.create_task(database.aside(work))
    await asyncio.to_thread(begun.wait)
    for first in range(2000, 2100, 10):
        await _name(store, first, 10)
    assert not written.is_set(), "nobody waited for the copy"
    written.set()
    made = await made_aside
    with made.file as file:
        file.seek(0)
        content = file.read()
    assert (len(content), hashlib.sha256(content).digest()) == (made.size_bytes, made.sha256)
    (tmp_path / "copy").write_bytes(content)
    assert _count(tmp_path / "copy") == 2000, "nothing that was written after its first page is in it"
    assert _names(tmp_path) == ["copy", "orcd.db", "orcd.db-shm", "orcd.db-wal"]


async def test_looking_through_goes_on_beside_writing(database: Database) -> None:
    store = JobStore(database, queries.load())
    await _name(store, 0, 100)
    report, _ = await asyncio.gather(store.check(), _name(store, 100, 100))
    assert report.troubles == ()
    assert report.schema_version == len(packaged())


async def test_a_caller_that_leaves_ends_the_work_and_nothing_is_left(database: Database, tmp_path: Path) -> None:
    steps = 0
    begun, left = threading.Event(), threading.Event()

    def work(connection: sqlite3.Connection, pause: Pause) -> None:
        def slow() -> None:
            nonlocal steps
            steps += 1
            if steps == 2:
                begun.set()
                left.wait(10)
            pause()

        copy_beside(connection, database.path, slow).file.close()

    await _name(JobStore(database, queries.load()), 0, 5000)
    caller = asyncio.create_task(database.aside(work))
    await asyncio.to_thread(begun.wait)
    caller.cancel()
    for _ in range(3):
        await asyncio.sleep(0)  # Until the work is called off.
    left.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert steps == 2
    assert _names(tmp_path) == ["orcd.db", "orcd.db-shm", "orcd.db-wal"]
    await JobStore(database, queries.load()).check()


async def test_a_long_statement_is_ended_too(database: Database) -> None:
    forever = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"
    caller = asyncio.create_task(database.aside(lambda connection, _: connection.execute(forever).fetchone()))
    await asyncio.sleep(0.05)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(caller, 30.0)


async def test_what_fails_beside_the_work_does_not_end_the_daemon(database: Database) -> None:
    def fail(code: int, _connection: sqlite3.Connection, _pause: Pause) -> None:
        error = sqlite3.OperationalError("made up")
        error.sqlite_errorcode, error.sqlite_errorname = code, "SQLITE_MADE_UP"
        raise error

    for code, expected in ((sqlite3.SQLITE_FULL, ErrorCode.STORAGE_FULL), (sqlite3.SQLITE_IOERR, ErrorCode.INTERNAL)):
        with pytest.raises(RbeesError) as caught:
            await database.aside(partial(fail, code))
        assert caught.value.code is expected
    with pytest.raises(RbeesError) as caught:
        await database.aside(lambda connection, pause: copy_beside(connection, Path("/nowhere/orcd.db"), pause))
    assert caught.value.code is ErrorCode.INTERNAL


async def test_what_a_killed_process_left_of_a_copy_goes_at_the_next_start(tmp_path: Path) -> None:
    (tmp_path / "orcd.db.copy-abc").write_bytes(b"half")
    (tmp_path / "orcd.db.mine").write_bytes(b"mine")
    database = await Database.open(tmp_path / "orcd.db", packaged(), _no_breakage)
    await database.close()
    assert _names(tmp_path) == ["orcd.db", "orcd.db.mine"]


async def test_reading_a_still_file_leaves_nothing_beside_it(database: Database, tmp_path: Path) -> None:
    made = await JobStore(database, queries.load()).copy()
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    with made.file as file:
        file.seek(0)
        (folder / "copy").write_bytes(file.read())
    sql = queries.load()
    report = await read_aside(folder / "copy", lambda connection, pause: check(connection, packaged(), sql, pause), still=True)
    assert report.troubles == ()
    assert _names(folder) == ["copy"]


def _interrupted(target: Path) -> None:
    with replacing(target, overwrite=True) as part:
        part.write_bytes(b"tw")
        raise KeyboardInterrupt


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "backup"
    with replacing(target, overwrite=False) as part:
        part.write_bytes(b"one")
    assert (target.read_bytes(), target.stat().st_mode & 0o777) == (b"one", 0o600)
    with pytest.raises(FileExistsError), replacing(target, overwrite=False) as part:
        part.write_bytes(b"two")
    with pytest.raises(KeyboardInterrupt):
        _interrupted(target)
    assert target.read_bytes() == b"one"
    with replacing(target, overwrite=True) as part:
        part.write_bytes(b"two")
    assert target.read_bytes() == b"two"
    assert _names(tmp_path) == ["backup"]
