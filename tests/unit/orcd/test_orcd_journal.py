"""The journal: group commits, and nobody hears of anything before it is durable."""

from __future__ import annotations

import asyncio

import pytest

from rbees.orcd.live import Verdict
from rbees.protocol.errors import ErrorBody, ErrorCode, RbeesError
from rbees.protocol.events import Error, Metrics
from rbees.service.clock import ManualClock
from tests.support.orcd_parts import Desk, end, new_job, settle, started, token

LOST = ErrorBody(code=ErrorCode.WORKER_CRASHED, message="The worker died.")
FULL = RbeesError(ErrorCode.STORAGE_FULL, "full")


def _is_full(desk: Desk) -> bool:
    return desk.journal.full


async def test_nothing_is_heard_before_the_commit() -> None:
    async with Desk(ManualClock()) as desk:
        job = await desk.running()
        desk.published.clear()
        desk.database.gate.clear()
        told: list[str] = []
        desk.take(job, 1, 1, started(), lambda: told.append("committed"))
        await settle()
        assert (desk.published, told) == ([], [])
        assert desk.database.rows("SELECT status FROM jobs") == [("dispatched",)]
        desk.database.gate.set()
        await settle()
        assert told == ["committed"]
        assert [run.first_seq for run in desk.published] == [2]
        assert desk.database.rows("SELECT status FROM jobs") == [("running",)]


async def test_a_commit_takes_all_that_has_arrived_with_one_row_per_job() -> None:
    async with Desk(ManualClock()) as desk:
        jobs = [await desk.running(name) for name in ("a", "b")]
        for job in jobs:
            desk.take(job, 1, 1, started())
        await settle()
        desk.database.gate.clear()
        desk.take(jobs[0], 1, 2, token(0))
        await settle()
        for index in range(4):
            desk.take(jobs[0], 1, index + 3, token(index + 1))
            desk.take(jobs[1], 1, index + 2, token(index))
        before = desk.database.commits
        desk.database.gate.set()
        await settle()
        assert desk.database.commits - before == 2, "the one under way, and one for everything that came meanwhile"
        columns = "job, first_seq, last_seq, worker_seq"
        assert desk.database.rows(f"SELECT {columns} FROM journal WHERE first_seq > 2 ORDER BY job, first_seq") == [
            (1, 3, 3, 2),
            (1, 4, 7, 6),
            (2, 3, 6, 5),
        ]


async def test_the_end_is_committed_with_the_change_of_state() -> None:
    async with Desk(ManualClock(unix_ms=5000)) as desk:
        job = await desk.running()
        desk.take(job, 1, 1, started())
        desk.take(job, 1, 2, token(0))
        desk.take(job, 1, 3, end())
        await settle()
        assert desk.database.rows("SELECT status, ended_at_ms FROM jobs") == [("completed", 5000)]
        assert desk.database.rows("SELECT outcome, ended_at_ms FROM attempts") == [("completed", 5000)]
        assert desk.published[-1].ended
        assert desk.journal.live == {}
        assert sum(desk.journal.counts.values()) == 0


async def test_a_full_disk_refuses_new_jobs_and_keeps_everything_else() -> None:
    clock = ManualClock()
    async with Desk(clock) as desk:
        job = await desk.running()
        desk.database.failure = FULL
        told: list[str] = []
        desk.take(job, 1, 1, started(), lambda: told.append("started"))
        with pytest.raises(RbeesError) as caught:
            await desk.job("new")
        assert caught.value.code is ErrorCode.STORAGE_FULL
        assert list(desk.journal.live) == ["job-one"]
        assert _is_full(desk)
        desk.take(job, 1, 2, token(0), lambda: told.append("token"))
        await clock.advance(1.0)
        assert told == []
        desk.database.failure = None
        await clock.advance(1.0)
        assert told == ["started", "token"]
        assert not _is_full(desk)
        later = await desk.job("later")
        assert later.number > job.number
        assert desk.bytes_of(job.number).count(b"\n\n") == 3


async def test_a_disk_that_was_full_is_known_to_have_room_again_though_nothing_is_written() -> None:
    clock = ManualClock()
    async with Desk(clock) as desk:
        desk.database.failure = FULL
        with pytest.raises(RbeesError):
            await desk.job("new")
        await clock.advance(5.0)
        assert _is_full(desk)
        await desk.journal.settled()
        assert _is_full(desk), "where nothing was to be written nothing was learnt"
        desk.database.failure = None
        await clock.advance(1.0)
        assert not _is_full(desk)
        commits = desk.database.commits
        await clock.advance(5.0)
        assert desk.database.commits == commits, "and nothing is tried any more"


async def test_what_arrived_during_a_commit_that_failed_comes_after_it() -> None:
    clock = ManualClock()
    async with Desk(clock) as desk:
        job = await desk.running()
        desk.take(job, 1, 1, started())
        await settle()
        desk.database.gate.clear()
        told: list[int] = []
        desk.take(job, 1, 2, token(0), lambda: told.append(0))
        await settle()
        desk.take(job, 1, 3, token(1), lambda: told.append(1))
        desk.database.failure = FULL
        desk.database.gate.set()
        await settle()
        desk.database.failure = None
        await clock.advance(1.0)
        assert told == [0, 1]
        assert [frame.split(b"\n")[0] for frame in desk.bytes_of(job.number).split(b"\n\n")[:-1]] == [
            b"id: 1",
            b"id: 2",
            b"id: 3",
            b"id: 4",
        ]
        assert desk.database.rows("SELECT first_seq, last_seq FROM journal ORDER BY first_seq")[-1] == (3, 4)


async def test_a_new_job_is_refused_on_a_full_disk_even_if_its_caller_has_gone() -> None:
    async with Desk(ManualClock()) as desk:
        desk.database.failure = FULL
        submission = asyncio.create_task(desk.job("gone"))
        await asyncio.sleep(0)
        submission.cancel()
        await settle()
        assert submission.cancelled()
        assert desk.journal.live == {}


async def test_a_caller_who_leaves_does_not_undo_the_job() -> None:
    async with Desk(ManualClock()) as desk:
        heard: list[str] = []
        submission = asyncio.create_task(desk.journal.accept(new_job("left"), lambda job: heard.append(job.job_id)))
        await asyncio.sleep(0)
        submission.cancel()
        await settle()
        assert heard == ["job-left"]
        assert desk.database.rows("SELECT job_id FROM jobs") == [("job-left",)]


async def test_late_results_are_dropped() -> None:
    async with Desk(ManualClock()) as desk:
        job = await desk.running()
        desk.take(job, 1, 1, started())
        desk.journal.requeue(job, 1, "worker-a", "failed", LOST, counted=True)
        assert desk.take(job, 1, 2, token(0)) is Verdict.STALE
        desk.journal.begin_attempt(job, 2, "worker-b", "pool")
        assert desk.take(job, 1, 2, token(0)) is Verdict.STALE
        await settle()
        assert desk.database.rows("SELECT epoch, outcome, counted FROM attempts") == [(1, "failed", 1), (2, "running", 0)]


async def test_what_comes_after_the_end_is_ignored() -> None:
    async with Desk(ManualClock()) as desk:
        job = await desk.running()
        desk.take(job, 1, 1, started())
        desk.take(job, 1, 2, end(0))
        desk.journal.requeue(job, 1, "worker-a", "failed", LOST, counted=True)
        desk.journal.finish(job, "cancelled", LOST)
        desk.journal.note(job, Metrics(stage="waiting"))
        await settle()
        assert desk.database.rows("SELECT status FROM jobs") == [("completed",)]
        assert desk.bytes_of(job.number).count(b"\n\n") == 3


async def test_a_finished_job_ends_its_running_attempt() -> None:
    async with Desk(ManualClock()) as desk:
        job = await desk.running()
        desk.journal.finish(job, "cancelled", ErrorBody(code=ErrorCode.CANCELLED, message="On request."))
        await settle()
        assert desk.database.rows("SELECT status FROM jobs") == [("cancelled",)]
        assert desk.database.rows("SELECT outcome FROM attempts") == [("cancelled",)]


async def test_a_workers_error_is_not_recorded() -> None:
    async with Desk(ManualClock()) as desk:
        job = await desk.running()
        assert desk.take(job, 1, 1, Error(error=LOST)) is Verdict.TAKE
        await settle()
        assert desk.bytes_of(job.number).count(b"\n\n") == 1


async def test_figures_follow_the_jobs() -> None:
    async with Desk(ManualClock()) as desk:
        first, second = await desk.running("a"), await desk.job("b")
        assert (desk.journal.counts["dispatched"], desk.journal.counts["queued"]) == (1, 1)
        desk.take(first, 1, 1, started())
        assert desk.journal.counts["running"] == 1
        desk.journal.finish(second, "failed", LOST)
        await settle()
        assert desk.journal.counts["queued"] == 0
        assert desk.figures.ended.labels("failed")._value.get() == 1
