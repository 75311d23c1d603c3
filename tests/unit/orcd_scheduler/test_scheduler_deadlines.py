"""A job ends at its deadline wherever it is, and is refused where it could not be done by then."""

from __future__ import annotations

import pytest

from rbees.orcd.scheduler.effects import Abandon, Finish
from rbees.orcd.scheduler.events import AttemptCompleted, PoolReported
from rbees.orcd.scheduler.speeds import Took
from rbees.protocol.errors import ErrorCode
from tests.simulation import facts
from tests.unit.orcd_scheduler.driver import CPU, HAIKU, Drive

WORKER = facts.worker("w1", HAIKU, slots=1)


def serving() -> Drive:
    drive = Drive()
    drive.report("a", WORKER)
    return drive


def in_s(drive: Drive, seconds: float) -> int:
    return round((drive.now_s + seconds) * 1000)


def test_a_waiting_job_ends_at_its_deadline() -> None:
    drive = serving()
    drive.job("running")
    drive.job("waiting", deadline_at_ms=in_s(drive, 5.0))
    assert drive.tick(after_s=4.9) == []
    (finish,) = drive.tick(after_s=0.2)
    assert isinstance(finish, Finish)
    assert (finish.job_id, finish.error.code) == ("waiting", ErrorCode.DEADLINE_EXCEEDED)
    assert finish.error.message == "The job's deadline came while it waited for a worker."


def test_a_running_job_is_stopped_at_its_deadline_but_not_one_that_has_just_ended() -> None:
    drive = serving()
    drive.job("late", deadline_at_ms=in_s(drive, 2.0))
    abandon, finish = drive.tick(after_s=2.5)
    assert abandon == Abandon("late", 1, "w1")
    assert isinstance(finish, Finish)
    assert finish.error.message == "The job's deadline came before it was done."
    drive.job("in time", deadline_at_ms=in_s(drive, 2.0))
    assert drive.send(AttemptCompleted("in time", 1), after_s=2.5) == []


def test_a_job_that_was_taken_up_after_a_restart_keeps_its_deadline() -> None:
    drive = Drive()
    drive.recovered(drive.spec("old", deadline_at_ms=in_s(drive, 3.0)))
    drive.recovered(drive.spec("overdue", deadline_at_ms=in_s(drive, -60.0)))
    ended = [effect.job_id for effect in drive.tick() if isinstance(effect, Finish)]
    assert ended == []
    assert drive.scheduler.queue_position("overdue") is None, "it ended as soon as it was taken up"
    (finish,) = drive.tick(after_s=3.1)
    assert isinstance(finish, Finish)
    assert finish.job_id == "old"


def test_the_time_of_day_may_jump_after_acceptance() -> None:
    drive = serving()
    drive.job("job-1", deadline_at_ms=in_s(drive, 100.0))
    pool = PoolReported("a", "1", False, (CPU,), (HAIKU,), (WORKER,))
    drive.clock_jumps(3_600.0)
    assert drive.send(pool, after_s=1.0) == []
    assert drive.tick() == []


@pytest.mark.parametrize(("deadline_s", "outlook"), [(300.0, "runs"), (60.0, "runs"), (20.0, "refused")])
def test_what_cannot_be_done_in_time_is_refused_once_the_model_is_known_well_enough(deadline_s: float, outlook: str) -> None:
    drive = serving()
    spec = drive.spec("new", max_tokens=1_000, deadline_at_ms=in_s(drive, deadline_s))
    assert drive.plan(spec).outlook == "runs", "nothing was seen yet: it may be as fast as anything"
    drive.job("show", max_tokens=1_000)
    drive.send(AttemptCompleted("show", 1, Took(10, 0, 1_000, 0.1, 100.0)))
    told = drive.plan(spec)
    assert told.outlook == outlook
    assert told.done_in_s == pytest.approx(100.0, rel=0.05)
    if told.error is not None:
        assert told.error.code is ErrorCode.DEADLINE_EXCEEDED


def test_those_who_wait_already_count() -> None:
    drive = serving()
    drive.job("show", max_tokens=100)
    drive.send(AttemptCompleted("show", 1, Took(10, 0, 100, 0.1, 10.0)))
    for number in range(10):
        drive.job(f"job-{number}", max_tokens=100)
    told = drive.plan(drive.spec("new", max_tokens=100, deadline_at_ms=in_s(drive, 30.0)))
    assert told.outlook == "refused"
    assert told.done_in_s == pytest.approx(110.0, rel=0.1)
