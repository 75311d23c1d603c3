"""Who comes next."""

from __future__ import annotations

from rbees.orcd.scheduler.effects import Dispatch
from rbees.orcd.scheduler.events import AttemptCompleted, CancelAsked
from rbees.orcd.scheduler.policy import Policy
from tests.simulation import facts
from tests.unit.orcd_scheduler.driver import HAIKU, NOVEL, Drive


def full() -> Drive:
    """One worker with one slot, taken by job-0."""
    drive = Drive()
    drive.report("a", facts.worker("w1", HAIKU, slots=1))
    drive.job("job-0", timeout_ms=1_800_000)
    return drive


def live_on(drive: Drive, seconds: int) -> None:
    """Let time pass while the pool keeps reporting."""
    for _ in range(seconds):
        drive.report("a", facts.worker("w1", HAIKU, slots=1), after_s=1.0)
        assert drive.tick() == []


def order(drive: Drive, count: int) -> list[str]:
    """Let one job after the other complete; who followed."""
    running, followers = "job-0", []
    for _ in range(count):
        drive.report("a", facts.worker("w1", HAIKU, slots=1))
        (dispatch,) = drive.send(AttemptCompleted(running, 1))
        assert isinstance(dispatch, Dispatch)
        running = dispatch.job_id
        followers.append(running)
    return followers


def test_interactive_before_batch_then_by_acceptance() -> None:
    drive = full()
    drive.job("batch-1", priority="batch")
    drive.job("chat-1")
    drive.job("batch-2", priority="batch")
    drive.job("chat-2")
    assert [drive.scheduler.queue_position(job) for job in ("chat-1", "chat-2", "batch-1", "batch-2")] == [1, 2, 3, 4]
    assert order(drive, 4) == ["chat-1", "chat-2", "batch-1", "batch-2"]


def test_a_batch_job_is_overtaken_only_by_what_comes_within_its_ageing() -> None:
    drive = full()
    drive.job("batch", priority="batch")
    live_on(drive, 59)
    drive.job("chat-in-time")
    live_on(drive, 2)
    drive.job("chat-too-late")
    assert order(drive, 3) == ["chat-in-time", "batch", "chat-too-late"]


def test_the_ageing_is_a_figure_of_the_policy() -> None:
    drive = Drive(Policy(batch_ages_after_s=1.0))
    drive.job("batch", priority="batch")
    drive.tick(after_s=2.0)
    drive.job("chat")
    assert [drive.scheduler.queue_position(job) for job in ("batch", "chat")] == [1, 2]


def test_a_job_that_comes_back_keeps_its_place() -> None:
    drive = full()
    drive.job("job-1")
    drive.job("job-2")
    drive.broke("job-0", 1)
    assert [drive.scheduler.queue_position(job) for job in ("job-1", "job-2")] == [1, 2], "it pauses"
    drive.tick(after_s=2.0)
    assert [drive.scheduler.queue_position(job) for job in ("job-0", "job-1", "job-2")] == [1, 2, 3]


def test_a_model_that_cannot_be_placed_holds_up_no_other() -> None:
    drive = full()
    drive.job("stuck", NOVEL)
    drive.job("job-1")
    assert drive.send(AttemptCompleted("job-0", 1)) == [Dispatch("job-1", 1, "w1", "a")]


def test_positions_close_up() -> None:
    drive = full()
    for number in range(1, 4):
        drive.job(f"job-{number}")
    drive.send(CancelAsked("job-2"))
    assert drive.scheduler.queue_position("job-3") == 2
    assert drive.scheduler.queue_position("job-2") is None
    assert drive.scheduler.queue_position("job-1") == 1
