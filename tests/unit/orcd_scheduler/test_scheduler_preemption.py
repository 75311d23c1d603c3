"""Batch work fills what is idle and gives way to people, without losing what it has made."""

from __future__ import annotations

from rbees.orcd.scheduler.effects import Abandon, Dispatch, Effect, Requeue
from rbees.orcd.scheduler.events import AttemptCompleted
from rbees.orcd.scheduler.policy import Policy
from rbees.orcd.scheduler.speeds import Took
from rbees.protocol.errors import ErrorCode
from tests.simulation import facts
from tests.unit.orcd_scheduler.driver import NOVEL, Drive, kinds

FULL = facts.device("cpu", 8 * facts.GIB, 0)


def serving(slots: int = 2, *, answer_s: float = 60.0) -> Drive:
    """One worker that has shown how long an answer takes."""
    drive = Drive(Policy(batch_ages_after_s=30.0))
    report(drive, slots)
    drive.job("show", NOVEL)
    drive.send(AttemptCompleted("show", 1, Took(1, 0, 100, 0.0, answer_s)))
    return drive


def report(drive: Drive, slots: int = 2, *, after_s: float = 0.0) -> list[Effect]:
    worker = facts.worker("w1", NOVEL, slots=slots)
    return drive.report("a", worker, models=(NOVEL,), devices=(FULL,), after_s=after_s)


def test_batch_jobs_fill_what_is_idle_and_the_youngest_gives_way() -> None:
    drive = serving()
    for number in range(2):
        assert kinds(drive.job(f"batch-{number}", NOVEL, priority="batch")) == ["Dispatch"]
        report(drive, after_s=1.0)
    abandon, requeue, dispatch = drive.job("chat", NOVEL)
    assert abandon == Abandon("batch-1", 1, "w1"), "the other has been at it for longer and will be done earlier"
    assert isinstance(requeue, Requeue)
    assert (requeue.job_id, requeue.outcome, requeue.error.code, requeue.counted) == (
        "batch-1",
        "cancelled",
        ErrorCode.CANCELLED,
        False,
    )
    assert dispatch == Dispatch("chat", 1, "w1", "a")
    (back,) = drive.send(AttemptCompleted("chat", 1))
    assert back == Dispatch("batch-1", 2, "w1", "a"), "it goes on at once, under the next epoch"


def test_nobody_gives_way_for_a_short_wait() -> None:
    drive = serving(slots=1, answer_s=1.0)
    drive.job("batch", NOVEL, priority="batch")
    assert drive.job("chat", NOVEL) == []


def test_interactive_jobs_give_way_to_nobody_and_batch_jobs_not_to_batch_jobs() -> None:
    drive = serving(slots=1)
    drive.job("chat-1", NOVEL)
    assert drive.job("chat-2", NOVEL) == []
    drive = serving(slots=1)
    drive.job("batch-1", NOVEL, priority="batch")
    assert drive.job("batch-2", NOVEL, priority="batch") == []


def test_a_batch_job_that_was_accepted_long_before_keeps_its_place() -> None:
    drive = serving(slots=1)
    drive.job("batch", NOVEL, priority="batch")
    for _ in range(31):
        report(drive, 1, after_s=1.0)
    assert drive.job("chat", NOVEL) == []


def test_as_many_give_way_as_the_job_needs_slots_or_none() -> None:
    drive = serving(slots=3)
    for number in range(3):
        drive.job(f"batch-{number}", NOVEL, priority="batch")
    effects = drive.job("chat", NOVEL, choices=2)
    assert kinds(effects) == ["Abandon", "Requeue", "Abandon", "Requeue", "Dispatch"]
    drive = serving(slots=2)
    drive.job("chat-1", NOVEL)
    drive.job("batch", NOVEL, priority="batch")
    assert drive.job("chat-2", NOVEL, choices=2) == [], "one slot would not do"


def test_what_could_only_start_over_does_not_give_way() -> None:
    drive = serving(slots=1)
    drive.job("vectors", NOVEL, priority="batch", max_tokens=0, prompt_bytes=100_000_000)
    assert drive.job("chat", NOVEL) == []


def test_giving_way_uses_up_no_retry() -> None:
    drive = serving(slots=1)
    drive.job("batch", NOVEL, priority="batch")
    for number in range(10):
        effects = drive.job(f"chat-{number}", NOVEL)
        assert kinds(effects) == ["Abandon", "Requeue", "Dispatch"]
        (back,) = drive.send(AttemptCompleted(f"chat-{number}", 1))
        assert back == Dispatch("batch", number + 2, "w1", "a")
