"""Looking through a database: what the journal writes is never a trouble, and whatever is not as it writes is told, by job."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from rbees.orcd.live import LiveJob
from rbees.orcd.store import queries
from rbees.orcd.store.check import TROUBLES_TOLD, check
from rbees.orcd.store.migrations import migrate, packaged
from rbees.protocol.chat import ToolCall
from rbees.protocol.database import DatabaseReport
from rbees.protocol.errors import ErrorBody, ErrorCode, RbeesError
from rbees.protocol.events import ChoiceEnd, Embedding, End, Result, Started, Timings, Usage
from rbees.protocol.jobs import JobRequest
from rbees.protocol.vectors import EmbedRequest
from rbees.service.clock import ManualClock
from tests.support.orcd_parts import Desk, end, started, token

WHY = ErrorBody(code=ErrorCode.WORKER_CRASHED, message="The worker died.")
STOPPED = ErrorBody(code=ErrorCode.CANCELLED, message="The job was cancelled.")


def look(connection: sqlite3.Connection) -> DatabaseReport:
    return check(connection, packaged(), queries.load(), lambda: None)


def troubles(connection: sqlite3.Connection) -> list[tuple[str | None, str]]:
    return [(trouble.job_id, trouble.what) for trouble in look(connection).troubles]


async def _running(desk: Desk, name: str) -> LiveJob:
    job = await desk.running(name)
    desk.journal.resolve(job, "ab" * 32, "file:/m")
    return job


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    """One job in every state that there is, and one whose content was erased."""
    async with Desk(ManualClock()) as desk:
        await desk.job("queued", model_sha256=None)
        await _running(desk, "dispatched")
        running = await _running(desk, "running")
        desk.take(running, 1, 1, started())
        desk.take(running, 1, 2, token(0))
        await desk.journal.settled()
        desk.take(running, 1, 3, token(1))
        desk.journal.requeue(running, 1, "worker-a", "lost", WHY, counted=True)
        await desk.journal.begin_attempt(running, 2, "worker-b", "pool")
        desk.take(running, 2, 1, started(2))
        waiting = await _running(desk, "waiting")
        desk.journal.requeue(waiting, 1, "worker-a", "failed", WHY, counted=True)
        for name in ("completed", "erased"):
            job = await _running(desk, name)
            desk.take(job, 1, 1, started())
            desk.take(job, 1, 2, token(0))
            desk.take(job, 1, 3, end())
        called = await _running(desk, "called")
        desk.take(called, 1, 1, started())
        choice = ChoiceEnd(finish_reason="tool_calls", tool_calls=(ToolCall(id="call-1", name="look", arguments={}),))
        usage = Usage(prompt_tokens=3, cached_tokens=0, completion_tokens=0)
        desk.take(called, 1, 2, End(choices=(choice,), usage=usage, timings=Timings(prefill_ms=1.0, decode_ms=2.0)))
        desk.journal.finish(await _running(desk, "failed"), "failed", WHY)
        desk.journal.finish(await desk.job("cancelled"), "cancelled", STOPPED)
        await desk.journal.settled()
        # The others ended at the same moment, so only what this one says is taken for older.
        desk.database.connection.execute("UPDATE jobs SET ended_at_ms = 5 WHERE job_id = 'job-erased'")
        assert await desk.store.erase_content(10) == 1
        yield desk


def test_whatever_the_journal_writes_is_no_trouble(desk: Desk) -> None:
    report = look(desk.database.connection)
    assert report.troubles == ()
    assert (report.schema_version, report.jobs, report.unended_jobs) == (len(packaged()), 9, 4)
    (events,) = desk.database.rows("SELECT sum(last_seq) FROM (SELECT max(last_seq) AS last_seq FROM journal GROUP BY job)")
    assert report.events == events[0] > 9


DAMAGES = {
    "a gap": (
        "DELETE FROM journal WHERE job = {running} AND first_seq = 2",
        "running",
        "its events go on at",
    ),
    "no beginning": ("DELETE FROM journal WHERE job = {queued}", "queued", "it has no events"),
    "events of an attempt that is not": (
        "DELETE FROM attempts WHERE job = {completed}",
        "completed",
        "attempt 1, of which nothing",
    ),
    "attempts out of order": (
        "UPDATE journal SET epoch = 2 WHERE job = {running} AND first_seq = 1",
        "running",
        "stand behind those of attempt 2",
    ),
    "a worker that goes back": (
        "UPDATE journal SET worker_seq = 9 WHERE job = {running} AND first_seq = 2",
        "running",
        "goes back from event 9",
    ),
    "bytes": ("UPDATE journal SET frames = substr(frames, 2) WHERE job = {queued}", "queued", "are damaged"),
    "bytes at the end": ("UPDATE journal SET frames = CAST(frames || x'0a' AS BLOB) WHERE job = {queued}", "queued", "are damaged"),
    "one event less": ("UPDATE journal SET last_seq = 2 WHERE job = {queued}", "queued", "are damaged"),
    "an event in the wrong place": (
        "UPDATE journal SET frames = (SELECT frames FROM journal WHERE job = {running} AND first_seq = 1) WHERE job = {queued};"
        "UPDATE journal SET frames = CAST(replace(CAST(frames AS TEXT), ': queued', ': token') AS BLOB) WHERE job = {queued}",
        "queued",
        "event 1, `token`, may not come there",
    ),
    "no terminal event": (
        "UPDATE jobs SET status = 'completed', ended_at_ms = 1, outcome ="
        " (SELECT outcome FROM jobs WHERE job_id = 'job-completed') WHERE number = {queued}",
        "queued",
        "its events have not ended",
    ),
    "a terminal event too early": (
        "UPDATE jobs SET status = 'queued', ended_at_ms = NULL, outcome = NULL WHERE number = {cancelled}",
        "cancelled",
        "it is queued although its events have ended",
    ),
    "another status": ("UPDATE jobs SET status = 'failed' WHERE number = {cancelled}", "cancelled", "its outcome says cancelled"),
    "another outcome": (
        "UPDATE jobs SET outcome = (SELECT outcome FROM jobs WHERE job_id = 'job-cancelled'), status = 'cancelled'"
        " WHERE number = {failed}",
        "failed",
        "its last event and its outcome differ",
    ),
    "an outcome that is none": ("UPDATE jobs SET outcome = x'00' WHERE number = {failed}", "failed", "its outcome says nothing"),
    "an attempt that goes on": (
        "UPDATE attempts SET outcome = 'running' WHERE job = {completed}",
        "completed",
        "it has ended and an attempt has not",
    ),
    "two attempts at once": (
        "UPDATE attempts SET outcome = 'running' WHERE job = {running}",
        "running",
        "an attempt before its last one has not ended",
    ),
    "no attempt": (
        "UPDATE attempts SET outcome = 'lost' WHERE job = {dispatched}",
        "dispatched",
        "it is dispatched without an attempt",
    ),
    "an attempt of a job that waits": (
        "UPDATE attempts SET outcome = 'running' WHERE job = {waiting}",
        "waiting",
        "it is queued while an attempt has not ended",
    ),
    "a model that nobody knew": (
        "UPDATE jobs SET model_sha256 = NULL WHERE number = {waiting}",
        "waiting",
        "it was tried although nobody knew its model",
    ),
    "an attempt left out": ("DELETE FROM attempts WHERE job = {running} AND epoch = 1", "running", "it has 1 attempts"),
    "a request erased too early": ("UPDATE jobs SET request = NULL WHERE number = {queued}", "queued", "its request is gone"),
    "events that outlive their request": (
        "UPDATE jobs SET request = NULL, prefixes = x'' WHERE number = {completed}",
        "completed",
        "its events outlive its request",
    ),
    "names that outlive their prompt": (
        "UPDATE jobs SET prefixes = x'0001020304050607' WHERE number = {erased}",
        "erased",
        "outlive the prompt",
    ),
    "names cut off": ("UPDATE jobs SET prefixes = x'00' WHERE number = {queued}", "queued", "are cut off"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_not_as_the_journal_writes_is_told_by_job(desk: Desk, damage: str) -> None:
    sql, name, expected = DAMAGES[damage]
    numbers = {row[0].removeprefix("job-"): row[1] for row in desk.database.rows("SELECT job_id, number FROM jobs")}
    desk.database.connection.executescript(sql.format(**numbers))
    found = troubles(desk.database.connection)
    assert any(job_id == f"job-{name}" and expected in what for job_id, what in found), found
    assert {job_id for job_id, _ in found} == {f"job-{name}"}


def test_rows_without_their_job_and_numbers_used_again_are_told(desk: Desk) -> None:
    connection = desk.database.connection
    connection.execute("PRAGMA foreign_keys = OFF")
    connection.execute("DELETE FROM jobs WHERE job_id = 'job-queued'")
    connection.execute("DELETE FROM sqlite_sequence")
    assert troubles(connection) == [
        (None, "a row of `journal` belongs to no row of `jobs`"),
        (None, "the numbers of 8 jobs would be given out again"),
    ]


def test_a_schema_that_was_meddled_with_is_told(desk: Desk) -> None:
    connection = desk.database.connection
    connection.executescript("DROP INDEX jobs_by_model; CREATE TABLE notes (x); DELETE FROM schema_versions WHERE version = 2")
    newest = len(packaged())
    versions = [version for version in range(1, newest + 1) if version != 2]
    assert troubles(connection) == [
        (None, f"the versions of its schema have gaps: {versions}"),
        (None, f"the index `jobs_by_model` is not that of schema {newest}"),
        (None, f"the table `notes` is not that of schema {newest}"),
    ]
    connection.execute("INSERT INTO schema_versions VALUES (99, 'from_the_future')")
    with pytest.raises(RbeesError) as caught:
        look(connection)
    assert caught.value.code is ErrorCode.CONFIGURATION


def test_only_the_first_troubles_are_told_and_the_others_counted(desk: Desk) -> None:
    connection = desk.database.connection
    columns = (
        "status, model, priority, seed, timeout_ms, cancel_on_disconnect, request, request_sha256, accepted_position, created_at_ms"
    )
    for number in range(TROUBLES_TOLD + 5):
        connection.execute(
            f"INSERT INTO jobs (job_id, {columns}) VALUES (?, 'queued', 'm', 'batch', 1, 1, 0, x'7b7d', x'00', 1, 1)",
            (f"{number}",),
        )
    report = look(connection)
    assert (len(report.troubles), report.further_troubles) == (TROUBLES_TOLD, 5)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(tmp_path / "orcd.db", isolation_level=None)
    connection.row_factory = sqlite3.Row
    yield connection
    connection.close()


@pytest.mark.parametrize("version", range(1, len(packaged()) + 1))
def test_every_earlier_schema_can_be_looked_through(file: sqlite3.Connection, version: int) -> None:
    migrate(file, packaged()[:version])
    assert look(file) == DatabaseReport(schema_version=version)


def test_a_file_without_a_schema_is_new_or_a_stranger(file: sqlite3.Connection) -> None:
    assert look(file) == DatabaseReport(schema_version=0)
    file.execute("CREATE TABLE letters (x)")
    assert troubles(file) == [(None, "it is not a database of rbees")]


def test_a_damaged_page_is_told(file: sqlite3.Connection, tmp_path: Path) -> None:
    migrate(file, packaged())
    file.close()
    path = tmp_path / "orcd.db"
    pages = bytearray(path.read_bytes())
    pages[4096:8192] = bytes(4096)
    path.write_bytes(pages)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.row_factory = sqlite3.Row
    found = troubles(connection)
    connection.close()
    assert found
    assert all(job_id is None for job_id, _ in found)


def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    path = tmp_path / "orcd.db"
    path.write_bytes(b"no database" * 1000)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.row_factory = sqlite3.Row
    assert troubles(connection) == [(None, "the file cannot be read to its end (SQLITE_NOTADB)")]
    connection.close()


async def test_a_job_of_vectors_is_no_trouble() -> None:
    request = JobRequest(model="bees", kind="embed", embed=EmbedRequest(input=("a", "b")), seed=1)
    async with Desk(ManualClock()) as desk:
        job = await desk.job("vectors", request, model_sha256="ab" * 32)
        await desk.journal.begin_attempt(job, 1, "worker-a", "pool")
        desk.take(job, 1, 1, Started(epoch=1, worker_id="worker-a", model="file:/m", prompt_tokens=2))
        desk.take(
            job,
            1,
            2,
            Result(
                index=0, embeddings=(Embedding(index=0, embedding="AAAA", tokens=1), Embedding(index=1, embedding="AAAA", tokens=1))
            ),
        )
        desk.take(job, 1, 3, end(0))
        await desk.journal.settled()
        assert troubles(desk.database.connection) == []
