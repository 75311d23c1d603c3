"""The store on a real file: schema, modes, and how a full or broken disk shows."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rbees.orcd.store import queries
from rbees.orcd.store.jobs import JobStore, NamedEndpoint
from rbees.orcd.store.migrations import Migration, migrate, packaged, schema_version
from rbees.orcd.store.sqlite import Database, StorageBroken
from rbees.protocol.errors import ErrorCode, RbeesError


def _no_breakage(error: StorageBroken) -> None:
    raise AssertionError(f"broken: {error}")


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = await Database.open(tmp_path / "orcd.db", packaged(), _no_breakage)
    yield database
    await database.close()


def _modes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}


def _memory() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.row_factory = sqlite3.Row
    return connection


def test_every_query_fits_the_schema() -> None:
    connection = _memory()
    migrate(connection, packaged())
    for name, sql in queries.load().items():
        parameters = {word.strip(",;)"): 1 for word in _parameters(sql)}
        connection.execute(f"EXPLAIN {sql}", parameters)
        assert name.islower()
    connection.close()


def _parameters(sql: str) -> list[str]:
    code = "\n".join(line for line in sql.splitlines() if not line.startswith("--"))
    return [word.partition(":")[2] for word in code.replace("(", " ").split() if ":" in word]


def test_migrations_are_applied_once_and_in_order() -> None:
    connection = _memory()
    steps = (Migration(1, "one", "CREATE TABLE a (x)"), Migration(2, "two", "INSERT INTO a VALUES (1)"))
    terminated = tuple(Migration(step.version, step.name, step.sql + ";") for step in steps)
    assert migrate(connection, terminated[:1]) == 1
    assert migrate(connection, terminated) == 2
    assert migrate(connection, terminated) == 2
    assert connection.execute("SELECT count(*) FROM a").fetchone()[0] == 1
    connection.close()


def test_a_migration_that_fails_leaves_nothing_behind() -> None:
    connection = _memory()
    bad = Migration(1, "bad", "CREATE TABLE a (x); INSERT INTO missing VALUES (1);")
    with pytest.raises(sqlite3.OperationalError):
        migrate(connection, (bad,))
    assert schema_version(connection) == 0
    assert connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'a'").fetchone()[0] == 0
    connection.close()


def test_state_of_a_newer_version_is_refused() -> None:
    connection = _memory()
    migrate(connection, packaged())
    connection.execute("INSERT INTO schema_versions VALUES (99, 'from_the_future')")
    with pytest.raises(RbeesError) as caught:
        migrate(connection, packaged())
    assert caught.value.code is ErrorCode.CONFIGURATION
    connection.close()


async def test_the_files_are_private_and_the_journal_is_safe(database: Database, tmp_path: Path) -> None:
    await database.write(lambda connection: connection.execute("CREATE TABLE t (x)").close())
    assert _modes(tmp_path) == {"orcd.db": 0o600, "orcd.db-wal": 0o600, "orcd.db-shm": 0o600}
    modes = await database.write(
        lambda connection: [
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("journal_mode", "synchronous", "foreign_keys", "mmap_size")
        ]
    )
    assert modes[:3] == ["wal", 2, 1]


async def test_a_failed_transaction_leaves_nothing(database: Database) -> None:
    def work(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO pool_endpoints VALUES ('http://h:1', 'p', 1)")
        raise RbeesError(ErrorCode.INVALID_REQUEST, "changed my mind")

    with pytest.raises(RbeesError):
        await database.write(work)
    assert await JobStore(database, queries.load()).named_endpoints() == []


async def test_a_full_disk_refuses_writing_and_goes_on_reading(database: Database) -> None:
    store = JobStore(database, queries.load())
    await store.name_endpoint(NamedEndpoint("http://h:1", "p"), 1)
    pages = await database.write(lambda connection: connection.execute("PRAGMA page_count").fetchone()[0])
    await database.write(lambda connection: connection.execute(f"PRAGMA max_page_count = {pages}").close())
    with pytest.raises(RbeesError) as caught:
        await store.name_endpoint(NamedEndpoint("http://" + "x" * 100_000, "p"), 1)
    assert caught.value.code is ErrorCode.STORAGE_FULL
    assert [place.pool_id for place in await store.named_endpoints()] == ["p"]
    await database.write(lambda connection: connection.execute("PRAGMA max_page_count = 100000").close())
    await store.name_endpoint(NamedEndpoint("http://" + "x" * 100_000, "q"), 1)


async def test_looking_for_room_really_writes_and_leaves_nothing(database: Database, tmp_path: Path) -> None:
    store = JobStore(database, queries.load())
    for _ in range(2):
        before = (tmp_path / "orcd.db-wal").stat().st_size
        assert await store.has_room()
        assert (tmp_path / "orcd.db-wal").stat().st_size > before, "a commit that writes nothing would find room on a full disk"
    assert await store.named_endpoints() == []


async def test_a_broken_file_is_told_before_anybody_goes_on(tmp_path: Path) -> None:
    broken: list[StorageBroken] = []
    database = await Database.open(tmp_path / "orcd.db", packaged(), broken.append)
    store = JobStore(database, queries.load())

    def forge(connection: sqlite3.Connection) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
        error.sqlite_errorname = "SQLITE_IOERR_FSYNC"
        raise error

    with pytest.raises(StorageBroken):
        await database.write(forge)
    assert [str(error) for error in broken] == ["SQLITE_IOERR_FSYNC"]
    assert await store.named_endpoints() == []
    await database.close()


async def test_a_file_that_is_no_database_is_broken(tmp_path: Path) -> None:
    (tmp_path / "orcd.db").write_bytes(b"no database" * 1000)
    with pytest.raises(StorageBroken):
        await Database.open(tmp_path / "orcd.db", packaged(), _no_breakage)


async def test_numbers_are_never_used_twice(database: Database) -> None:
    store = JobStore(database, queries.load())
    assert await store.next_number() == 1

    def fill(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO sqlite_sequence VALUES ('jobs', 41)")

    await database.write(fill)
    assert await store.next_number() == 42


async def test_a_listing_is_narrowed_by_state_and_by_model(database: Database) -> None:
    states = ("queued", "dispatched", "running", "completed", "failed", "cancelled")

    def fill(connection: sqlite3.Connection) -> None:
        connection.executemany(
            "INSERT INTO jobs (job_id, status, model, priority, seed, timeout_ms, cancel_on_disconnect, request_sha256,"
            " accepted_position, created_at_ms, ended_at_ms, outcome) VALUES (?, ?, ?, 'batch', 1, 1, 0, x'00', 1, 1, ?, ?)",
            [
                (f"{status}-{model}", status, model, None if place < 3 else 2, None if place < 3 else b"{}")
                for model in "ab"
                for place, status in enumerate(states)
            ],
        )

    await database.write(fill)
    store = JobStore(database, queries.load())

    async def listed(status: str | None, model: str | None, below: int = 100) -> list[str]:
        return [row.job_id for row in await store.jobs(below=below, status=status, model=model, limit=9)]

    assert await listed("running", None) == ["running-b", "running-a"]
    assert await listed("failed", "a") == ["failed-a"]
    assert await listed(None, "a") == [f"{status}-a" for status in reversed(states)]
    assert await listed("unfinished", "b") == ["running-b", "dispatched-b", "queued-b"]
    assert await listed("unfinished", None, below=8) == ["queued-b", "running-a", "dispatched-a", "queued-a"]


@pytest.mark.parametrize("name", [name for name in queries.load() if name.startswith(("list_jobs", "job_by"))])
def test_listings_use_an_index_and_leave_requests_on_the_disk(name: str) -> None:
    connection = _memory()
    migrate(connection, packaged())
    sql = queries.load()[name]
    parameters = dict.fromkeys(("job_id", "key", "status", "model", "below", "limit"), 1)
    plan = " / ".join(row["detail"] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", parameters))
    assert "SCAN" not in plan, plan
    assert "TEMP B-TREE" not in plan, plan
    columns = {column[0] for column in connection.execute(sql, parameters).description}
    assert "request" not in columns, "it may have megabytes"
    connection.close()
