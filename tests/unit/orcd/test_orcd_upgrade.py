"""Databases of every earlier schema, with rows as that version wrote them, opened by this one: nothing is lost and jobs go on."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from rbees.orcd.figures import Figures
from rbees.orcd.journal import Journal
from rbees.orcd.recovery import recover
from rbees.orcd.requests import Extent
from rbees.orcd.scheduler.core import Scheduler
from rbees.orcd.scheduler.events import CancelAsked, Event, JobRecovered, Moment
from rbees.orcd.scheduler.policy import Policy
from rbees.orcd.store import queries
from rbees.orcd.store.jobs import JobStore
from rbees.orcd.store.migrations import migrate, packaged
from rbees.orcd.store.sqlite import Database, StorageBroken
from rbees.protocol.codec import decode
from rbees.protocol.jobs import JobRequest
from rbees.service.clock import ManualClock
from rbees.service.metrics import Metrics
from tests.support.earlier_schemas import EARLIER, write_jobs

NAMES = ("queued", "running", "requeued", "cancelling")


def _no_breakage(error: StorageBroken) -> None:
    raise AssertionError(f"broken: {error}")


@pytest.fixture(params=EARLIER)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file as an orcd of the schema left it that was killed."""
    made = tmp_path / "orcd.db"
    with closing(sqlite3.connect(made, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        migrate(connection, packaged()[: request.param])
        write_jobs(connection, request.param)
    return made


async def test_jobs_of_an_earlier_schema_are_taken_up(path: Path) -> None:
    database = await Database.open(path, packaged(), _no_breakage)
    store = JobStore(database, queries.load())
    try:
        report = await store.check()
        assert (report.schema_version, report.troubles) == (len(packaged()), ())
        assert (report.jobs, report.unended_jobs) == (6, 4)
        journal = Journal(store, ManualClock(), Figures(Metrics("orcd")), lambda _: None)
        posted: list[Event] = []
        assert await recover(store, journal, posted.append) == len(NAMES)
        jobs = {event.job.job_id: event for event in posted if isinstance(event, JobRecovered)}
        assert list(jobs) == [f"job-{name}" for name in NAMES], "in the order of acceptance"
        assert [event for event in posted if isinstance(event, CancelAsked)] == [CancelAsked("job-cancelling")]
        assert [(event.epoch, event.failures, event.worker_id) for event in jobs.values()] == [
            (0, 0, None),
            (2, 1, "worker-b"),
            (1, 1, None),
            (0, 0, None),
        ]
        for event in jobs.values():
            # What that version did not know has the value that changes nothing.
            spec = event.job
            assert (spec.deadline_at_ms, spec.prompt_bytes, spec.prefixes, spec.max_tokens) == (None, 0, (), 40)
        live = journal.live["job-running"]
        assert (live.stream.kind, live.stream.last_seq, live.stream.worker_seq) == ("generate", 4, 1)
        unended = {job.job_id: job for job in await store.unended()}
        assert {job.extent for job in unended.values()} == {Extent(0, b"")}
        scheduler = Scheduler(Policy())
        for happened in posted:
            scheduler.handle(happened, Moment(monotonic_s=0.0, unix_ms=1_700_000_000_000, entropy=b"0" * 16))
    finally:
        await database.close()


async def test_ended_jobs_of_an_earlier_schema_read_as_before(path: Path) -> None:
    with closing(sqlite3.connect(path)) as before:
        frames = before.execute("SELECT job, first_seq, last_seq, epoch, worker_seq, frames FROM journal ORDER BY 1, 2").fetchall()
    database = await Database.open(path, packaged(), _no_breakage)
    store = JobStore(database, queries.load())
    try:
        job = await store.job("job-completed")
        assert job is not None
        assert (job.status, job.kind, job.last_seq, job.deadline_at_ms) == ("completed", "generate", 4, None)
        assert json.loads(job.outcome or b"")["type"] == "end"
        found = await store.submitted("key-completed")
        assert found is not None
        assert (found.job_id, found.request_sha256, found.seed) == ("job-completed", b"digest", 7)
        request = await store.request(job.number)
        assert request is not None
        assert decode(request, JobRequest).prompt == "hum"
        (attempt,) = await store.attempts(job.number)
        assert (attempt.outcome, attempt.why) == ("completed", None)
        assert await store.next_number() == 7
        kept = await database.read(
            lambda connection: connection.execute(
                "SELECT job, first_seq, last_seq, epoch, worker_seq, frames FROM journal ORDER BY 1, 2"
            ).fetchall()
        )
        assert [tuple(row) for row in kept] == frames
    finally:
        await database.close()
