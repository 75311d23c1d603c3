"""A job ends at its deadline wherever it is, and is refused where it could not be done by then."""

from __future__ import annotations

from typing import Any

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


def busy(*, ageing: bool = False) -> Drive:
    """One slot; a job of 100 tokens takes ten seconds and has just begun."""
    drive = serving()
    drive.job("show", max_tokens=100)
    drive.send(AttemptCompleted("show", 1, Took(10, 0, 100, 0.1, 10.0)))
    drive.job("runs", max_tokens=100, priority="interactive" if not ageing else "batch")
    return drive


def expects(drive: Drive, **fields: Any) -> tuple[str, Any]:
    """What is said of a job with 40 seconds; and it must be said in both ways."""
    spec = drive.spec("new", max_tokens=100, deadline_at_ms=in_s(drive, 40.0), **fields)
    told = drive.plan(spec)
    refusal = drive.scheduler.refusal_for_deadline(spec, drive.now_s, round(drive.now_s * 1000))
    assert refusal == told.error
    return told.outlook, told.done_in_s


def test_batch_jobs_that_wait_do_not_count_before_an_interactive_one() -> None:
    drive = busy()
    for number in range(50):
        drive.job(f"batch-{number}", max_tokens=100, priority="batch")
    assert expects(drive) == ("waits", pytest.approx(20.0, rel=0.1))
    assert expects(drive, priority="batch")[0] == "refused"
    for _ in range(61):
        drive.report("a", WORKER, after_s=1.0)
    assert expects(drive)[0] == "refused", "by now they have waited so long that they come first"


def test_the_flood_of_one_session_does_not_count_before_another() -> None:
    drive = busy()
    for number in range(50):
        drive.job(f"flood-{number}", max_tokens=100, session_id="flood")
    assert expects(drive, session_id="flood")[0] == "refused"
    assert expects(drive, session_id="small") == ("waits", pytest.approx(30.0, rel=0.1))


def test_what_gives_way_does_not_count() -> None:
    drive = busy(ageing=True)
    assert expects(drive) == ("runs", pytest.approx(10.0, rel=0.1))


def test_those_that_ask_for_less_count_less() -> None:
    drive = busy()
    for number in range(10):
        drive.job(f"short-{number}", max_tokens=1)
    assert expects(drive) == ("waits", pytest.approx(22.0, rel=0.1))


def test_a_refusal_says_what_was_expected() -> None:
    drive = busy()
    told = drive.plan(drive.spec("new", max_tokens=100, deadline_at_ms=in_s(drive, 0.001)))
    assert told.error is not None
    assert told.error.message == (
        "The job is expected to need 20 s, waiting included, which is far beyond its deadline in 1 ms; give it more time, or try "
        "again when fewer jobs wait."
    )
    assert told.error.details == {"expected_ms": pytest.approx(20_200, rel=0.02), "deadline_in_ms": 1}
    short = drive.plan(drive.spec("short", max_tokens=1, priority="interactive", deadline_at_ms=in_s(drive, 0.0)))
    assert short.error is not None


def test_a_restful_cluster_tells_milliseconds() -> None:
    drive = serving()
    drive.job("show", max_tokens=10)
    drive.send(AttemptCompleted("show", 1, Took(10, 0, 10, 0.01, 0.1)))
    told = drive.plan(drive.spec("new", max_tokens=10, deadline_at_ms=in_s(drive, 0.001)))
    assert told.error is not None
    assert told.error.message.startswith("The job is expected to need 100 ms, waiting included")
