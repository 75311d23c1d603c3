"""The life of a job: events in, effects out."""

from __future__ import annotations

import pytest

from rbees.orcd.scheduler.effects import Abandon, Dispatch, Finish, Note, Requeue, ResolveModel, SpawnWorker
from rbees.orcd.scheduler.events import (
    AttemptCancelled,
    AttemptCompleted,
    AttemptFailed,
    AttemptStarted,
    CancelAsked,
    SpawnAccepted,
    Ticked,
)
from rbees.orcd.scheduler.job import TRANSITIONS, Move, Phase
from rbees.orcd.scheduler.policy import Policy
from rbees.protocol.errors import ErrorBody, ErrorCode
from tests.simulation import facts
from tests.unit.orcd_scheduler.driver import HAIKU, UNREACHABLE, Drive, kinds, spawned

CANCELLED = ErrorBody(code=ErrorCode.CANCELLED, message="The job was cancelled on request.")
INTERNAL = ErrorBody(code=ErrorCode.INTERNAL, message="The engine failed.")


def with_worker(worker_id: str = "w1", *, slots: int = 2, policy: Policy | None = None) -> Drive:
    drive = Drive(policy)
    assert drive.report("a", facts.worker(worker_id, HAIKU, slots=slots)) == []
    return drive


def test_a_job_travels_from_an_empty_cluster_to_its_end() -> None:
    drive = Drive(noted=True)
    waits = "No pool has registered yet; start one with `rbees poold serve`."
    assert drive.job("job-1", resolved=False) == [Note("job-1", "waiting", waits)]
    effects = drive.report()
    spawn = spawned(effects)
    loads = f"Worker {spawn.worker_id} on pool a loads the model."
    assert effects == [
        ResolveModel("job-1", HAIKU.sha256, "haiku"),
        SpawnWorker("a", spawn.worker_id, "haiku", HAIKU.sha256, "cpu", ("cpu",)),
        Note("job-1", "loading", loads, spawn.worker_id, "a", 0.0),
    ]
    assert drive.send(SpawnAccepted(spawn.worker_id)) == []
    assert drive.report("a", facts.worker(spawn.worker_id, HAIKU, "loading", progress=0.04)) == []
    assert drive.report("a", facts.worker(spawn.worker_id, HAIKU, "loading", progress=0.57)) == [
        Note("job-1", "loading", loads, spawn.worker_id, "a", 0.57)
    ]
    assert drive.ready("a", facts.worker(spawn.worker_id, HAIKU)) == [Dispatch("job-1", 1, spawn.worker_id, "a")]
    assert drive.send(AttemptStarted("job-1", 1)) == []
    assert drive.send(AttemptCompleted("job-1", 1)) == []
    assert drive.scheduler.queue_position("job-1") is None


def test_a_job_takes_a_slot_for_each_answer_as_far_as_the_worker_has_so_many() -> None:
    drive = with_worker(slots=4)
    assert drive.job("job-1", choices=16) == [Dispatch("job-1", 1, "w1", "a")]
    assert drive.job("job-2") == []
    assert drive.scheduler.waiting_for("job-2") == "All 4 slots of the 1 worker for this model are in use or kept free for others."
    assert drive.send(AttemptCompleted("job-1", 1)) == [Dispatch("job-2", 1, "w1", "a")]


def test_a_job_with_many_answers_goes_where_there_is_room_for_all_of_them() -> None:
    drive = with_worker(slots=4)
    drive.report("b", facts.worker("w2", HAIKU, slots=3))
    assert drive.job("job-1", choices=2) == [Dispatch("job-1", 1, "w1", "a")]
    assert drive.job("job-2", choices=3) == [Dispatch("job-2", 1, "w2", "b")]
    assert drive.job("job-3", choices=2) == [Dispatch("job-3", 1, "w1", "a")]


def test_nobody_overtakes_a_job_that_waits_for_several_slots() -> None:
    drive = with_worker(slots=2)
    drive.job("job-1")
    assert drive.job("job-2", choices=2) == []
    assert drive.job("job-3") == [], "a slot is free and kept so"
    reason = "The first job for this model takes 2 slots; none is given away until a worker has as many free."
    assert drive.scheduler.waiting_for("job-3") == reason
    assert drive.send(AttemptCompleted("job-1", 1)) == [Dispatch("job-2", 1, "w1", "a")]
    assert drive.send(AttemptCompleted("job-2", 1)) == [Dispatch("job-3", 1, "w1", "a")]


def test_jobs_fill_the_slots_and_no_more() -> None:
    drive = with_worker(slots=2)
    assert drive.job("job-1") == [Dispatch("job-1", 1, "w1", "a")]
    assert drive.job("job-2") == [Dispatch("job-2", 1, "w1", "a")]
    assert drive.job("job-3") == []
    assert drive.scheduler.queue_position("job-3") == 1
    assert drive.scheduler.waiting_for("job-3") == "All 2 slots of the 1 worker for this model are in use or kept free for others."
    assert drive.send(AttemptCompleted("job-1", 1)) == [Dispatch("job-3", 1, "w1", "a")]


def test_a_waiting_job_is_cancelled_at_once() -> None:
    drive = with_worker(slots=1)
    drive.job("job-1")
    drive.job("job-2")
    assert drive.send(CancelAsked("job-2")) == [Finish("job-2", "cancelled", CANCELLED)]
    assert drive.send(CancelAsked("job-2")) == []


def test_a_running_job_is_cancelled_at_once_and_its_slot_given_on() -> None:
    drive = with_worker(slots=1)
    drive.job("job-1")
    drive.job("job-2")
    assert drive.send(CancelAsked("job-1")) == [
        Abandon("job-1", 1, "w1"),
        Finish("job-1", "cancelled", CANCELLED),
        Dispatch("job-2", 1, "w1", "a"),
    ]
    assert drive.send(AttemptCancelled("job-1", 1)) == []
    assert drive.send(AttemptCompleted("job-1", 1)) == []


def test_timeout_counts_from_the_first_dispatch_over_all_attempts() -> None:
    drive = Drive()
    drive.job("job-1", timeout_ms=10_000)
    assert [kind for kind in kinds(drive.ticks(60)) if kind == "Finish"] == []
    drive.report("a", facts.worker("w1", HAIKU))
    drive.report("a", facts.worker("w1", HAIKU), after_s=5.0)
    drive.send(AttemptFailed("job-1", 1, INTERNAL, final=False, worker_suspect=False))
    assert drive.tick(after_s=2.0) == [Dispatch("job-1", 2, "w1", "a")]
    assert drive.tick(after_s=2.9) == []
    message = "The job did not end within 10000 ms of its first dispatch."
    assert drive.tick(after_s=0.1) == [
        Abandon("job-1", 2, "w1"),
        Finish("job-1", "failed", ErrorBody(code=ErrorCode.TIMEOUT, message=message, details={"timeout_ms": 10_000})),
    ]


def test_an_end_that_came_in_time_counts_before_the_deadline() -> None:
    drive = with_worker()
    drive.job("job-1", timeout_ms=1_000)
    assert drive.send(AttemptCompleted("job-1", 1), after_s=5.0) == []


def test_a_failed_attempt_comes_back_after_a_pause_under_the_next_epoch() -> None:
    drive = with_worker()
    drive.job("job-1")
    assert drive.send(AttemptFailed("job-1", 1, INTERNAL, final=False, worker_suspect=False)) == [
        Requeue("job-1", 1, "w1", "failed", INTERNAL)
    ]
    assert drive.scheduler.waiting_for("job-1") == "The last attempt failed; the next follows after a pause."
    assert drive.tick(after_s=0.45) == []
    assert drive.tick(after_s=0.55) == [Dispatch("job-1", 2, "w1", "a")]
    assert drive.send(AttemptCompleted("job-1", 1)) == [], "the first attempt's end comes too late"
    assert drive.send(AttemptFailed("job-1", 1, INTERNAL, final=True, worker_suspect=True)) == []
    assert kinds(drive.send(CancelAsked("job-1"))) == ["Abandon", "Finish"], "none of that has touched the second attempt"


def test_pauses_double_with_jitter_and_the_sixth_failure_is_the_last() -> None:
    drive = with_worker()
    drive.job("job-1")
    for epoch, longest in enumerate((1.0, 2.0, 4.0, 8.0, 16.0), start=1):
        effects = drive.send(AttemptFailed("job-1", epoch, INTERNAL, final=False, worker_suspect=False))
        assert kinds(effects) == ["Requeue"]
        drive.report("a", facts.worker("w1", HAIKU))
        assert drive.tick(after_s=longest / 2 - 0.01) == []
        drive.report("a", facts.worker("w1", HAIKU))
        assert kinds(drive.report("a", facts.worker("w1", HAIKU), after_s=longest / 2 + 0.01)) == ["Dispatch"]
    last = ErrorBody(code=ErrorCode.INTERNAL, message="The engine failed.", details={"attempts": 6})
    assert drive.send(AttemptFailed("job-1", 6, INTERNAL, final=False, worker_suspect=False)) == [Finish("job-1", "failed", last)]


def test_a_final_error_ends_the_job_with_that_error() -> None:
    drive = with_worker()
    drive.job("job-1")
    error = ErrorBody(code=ErrorCode.CONTEXT_EXCEEDED, message="Too long.")
    assert drive.send(AttemptFailed("job-1", 1, error, final=True, worker_suspect=False)) == [Finish("job-1", "failed", error)]


def test_a_worker_that_drains_refuses_without_harm_to_the_job() -> None:
    drive = with_worker(policy=Policy(retries=0))
    drive.job("job-1")
    refusal = ErrorBody(code=ErrorCode.DRAINING, message="Shutting down.")
    assert drive.send(AttemptFailed("job-1", 1, refusal, final=False, worker_suspect=False)) == [
        Requeue("job-1", 1, "w1", "failed", refusal, counted=False)
    ]
    assert drive.tick(after_s=1.5) == [], "it gets nothing until its pool says that it is ready"
    assert drive.report("a", facts.worker("w1", HAIKU)) == [Dispatch("job-1", 2, "w1", "a")]


def test_an_attempt_that_its_worker_gave_up_by_itself_is_tried_again() -> None:
    drive = with_worker()
    drive.job("job-1")
    assert kinds(drive.send(AttemptCancelled("job-1", 1))) == ["Requeue"]
    assert drive.tick(after_s=1.0) == [Dispatch("job-1", 2, "w1", "a")]


def test_another_worker_than_the_one_that_failed_is_preferred() -> None:
    drive = with_worker("w1", slots=4)
    drive.report("b", facts.worker("w2", HAIKU, slots=4))
    assert drive.job("job-1") == [Dispatch("job-1", 1, "w1", "a")]
    assert drive.job("job-2") == [Dispatch("job-2", 1, "w2", "b")]
    assert drive.job("job-3") == [Dispatch("job-3", 1, "w1", "a")]
    drive.send(AttemptFailed("job-2", 1, INTERNAL, final=False, worker_suspect=False))
    assert drive.tick(after_s=1.0) == [Dispatch("job-2", 2, "w1", "a")]


def test_what_is_told_of_unknown_jobs_and_workers_is_dropped() -> None:
    drive = with_worker()
    assert drive.send(AttemptStarted("job-9", 1)) == []
    assert drive.send(AttemptCompleted("job-9", 1)) == []
    assert drive.send(AttemptFailed("job-9", 1, UNREACHABLE, final=False, worker_suspect=True)) == []
    assert drive.send(CancelAsked("job-9")) == []
    assert drive.died("a", "w9") == []
    assert drive.ready("z", facts.worker("w9", HAIKU)) == []


def test_watchers_are_not_told_the_same_twice() -> None:
    drive = Drive(noted=True)
    drive.report("a", facts.worker("w1", HAIKU, slots=1))
    drive.job("job-1")
    assert kinds(drive.job("job-2")) == ["Note"]
    assert drive.send(Ticked()) == []
    assert drive.report("a", facts.worker("w1", HAIKU, slots=1), after_s=1.0) == []


@pytest.mark.parametrize("move", list(Move))
def test_nothing_leads_out_of_the_end(move: Move) -> None:
    assert (Phase.ENDED, move) not in TRANSITIONS


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.ENDED])
def test_every_phase_can_end(phase: Phase) -> None:
    assert TRANSITIONS[phase, Move.END] is Phase.ENDED
