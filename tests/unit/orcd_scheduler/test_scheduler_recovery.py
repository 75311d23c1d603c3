"""Restarts: of orcd, of a pool daemon, of a host."""

from __future__ import annotations

from rbees.orcd.scheduler.effects import Abandon, Attach, Dispatch, Effect, Finish, Requeue
from rbees.orcd.scheduler.events import AttemptCompleted, AttemptProved, CancelAsked, DrainBegan, SpawnAccepted
from rbees.orcd.scheduler.policy import Policy
from rbees.protocol.errors import ErrorBody, ErrorCode
from tests.simulation import facts
from tests.unit.orcd_scheduler.driver import HAIKU, Drive, kinds, spawned

OTHER = facts.model("other", 4 << 20)


def recovered(drive: Drive, job_id: str, *, worker_id: str | None = "w1", timeout_ms: int = 300_000) -> list[Effect]:
    return drive.recovered(drive.spec(job_id, timeout_ms=timeout_ms), 3, 1, worker_id)


def test_an_attempt_that_still_runs_is_attached_to() -> None:
    drive = Drive()
    assert recovered(drive, "job-1") == []
    assert drive.report("a", facts.worker("w1", HAIKU)) == [Attach("job-1", 3, "w1", "a")]
    assert drive.send(AttemptCompleted("job-1", 3)) == []


def test_jobs_that_come_back_before_any_pool_are_looked_at_by_the_next_tick() -> None:
    drive = Drive(noted=True)
    assert [recovered(drive, f"job-{number}", worker_id=None) for number in range(3)] == [[], [], []]
    assert kinds(drive.tick()) == ["Note", "Note", "Note"]
    assert kinds(drive.report("a", facts.worker("w1", HAIKU, slots=3))) == ["Dispatch"] * 3


def test_an_attempt_taken_up_again_has_its_slots_again() -> None:
    drive = Drive()
    drive.recovered(drive.spec("job-1", choices=9), 3, 1, "w1")
    drive.job("job-2")
    assert drive.report("a", facts.worker("w1", HAIKU)) == [Attach("job-1", 3, "w1", "a")]
    assert drive.send(AttemptCompleted("job-1", 3)) == [Dispatch("job-2", 1, "w1", "a")]


def test_an_attempt_whose_worker_is_gone_goes_back_to_the_queue() -> None:
    drive = Drive()
    recovered(drive, "job-1")
    error = ErrorBody(code=ErrorCode.WORKER_CRASHED, message="Worker w1 is not among those that pool a has running.")
    assert drive.report("a", facts.worker("w2", HAIKU)) == [Requeue("job-1", 3, "w1", "lost", error)]
    assert drive.report("a", facts.worker("w2", HAIKU), after_s=2.0) == [Dispatch("job-1", 4, "w2", "a")]


def test_an_attempt_whose_pool_stays_away_is_given_up_when_its_lease_would_end() -> None:
    drive = Drive()
    recovered(drive, "job-1")
    assert drive.ticks(14) == []
    assert kinds(drive.ticks(1)) == ["Abandon", "Requeue"]
    drive.tick(after_s=2.0)
    assert drive.report("a", facts.worker("w1", HAIKU)) == [Dispatch("job-1", 4, "w1", "a")]


def test_a_recovered_attempt_has_its_whole_time_again() -> None:
    drive = Drive()
    recovered(drive, "job-1", timeout_ms=12_000)
    assert drive.ticks(11) == []
    (abandon, finish) = drive.ticks(1)
    assert abandon == Abandon("job-1", 3, "w1")
    assert isinstance(finish, Finish)
    assert finish.error.code is ErrorCode.TIMEOUT


def test_the_time_of_a_recovered_job_that_waits_begins_with_its_next_dispatch() -> None:
    drive = Drive()
    recovered(drive, "job-1", worker_id=None, timeout_ms=2_000)
    assert drive.ticks(60) == []
    assert drive.report("a", facts.worker("w1", HAIKU)) == [Dispatch("job-1", 4, "w1", "a")]
    assert drive.ticks(1) == []
    assert kinds(drive.ticks(1)) == ["Abandon", "Finish"]


def test_a_drain_places_nothing_so_no_job_times_out_that_never_ran() -> None:
    drive = Drive()
    worker = facts.worker("w1", HAIKU, slots=1)
    drive.report("a", worker)
    drive.job("job-1")
    drive.job("job-2", timeout_ms=1_000)
    drive.job("job-3", OTHER)
    assert drive.send(DrainBegan()) == []
    assert drive.send(AttemptCompleted("job-1", 1)) == [], "the slot stays free"
    assert drive.report("a", worker, models=(HAIKU, OTHER)) == [], "no worker is started"
    assert drive.ticks(5) == []
    assert drive.scheduler.queue_position("job-2") == 1


def test_a_drain_lets_attempts_be_taken_up_again() -> None:
    drive = Drive()
    recovered(drive, "job-1")
    drive.send(DrainBegan())
    assert drive.report("a", facts.worker("w1", HAIKU)) == [Attach("job-1", 3, "w1", "a")]


def test_a_held_job_can_be_cancelled() -> None:
    drive = Drive()
    recovered(drive, "job-1")
    assert kinds(drive.send(CancelAsked("job-1"))) == ["Abandon", "Finish"]
    assert drive.report("a", facts.worker("w1", HAIKU)) == []


def test_recovered_jobs_keep_their_order_whatever_order_they_are_told_in() -> None:
    drive = Drive()
    specs = [drive.spec(f"job-{number}", session_id=f"session-{number}") for number in range(3)]
    for told, spec in enumerate(reversed(specs)):
        drive.recovered(spec, accepted_s_ago=0.01 * told, after_s=0.01)
    assert [drive.scheduler.queue_position(spec.job_id) for spec in specs] == [1, 2, 3]


def in_turn(drive: Drive) -> list[str]:
    """The jobs in the order in which a worker with one slot gets them."""
    dispatched: list[str] = []
    effects = drive.report("a", facts.worker("w1", HAIKU, slots=1))
    while starts := [effect for effect in effects if isinstance(effect, Dispatch)]:
        (start,) = starts
        dispatched.append(start.job_id)
        effects = drive.send(AttemptCompleted(start.job_id, start.epoch))
    return dispatched


def test_a_batch_job_ages_over_restarts() -> None:
    drive = Drive()
    drive.recovered(drive.spec("old-batch", priority="batch"), accepted_s_ago=70.0)
    drive.recovered(drive.spec("young-batch", priority="batch"), accepted_s_ago=30.0)
    drive.recovered(drive.spec("chat"), accepted_s_ago=5.0)
    drive.job("new-chat")
    assert in_turn(drive) == ["old-batch", "chat", "new-chat", "young-batch"]


def test_a_wall_clock_that_was_set_back_makes_no_recovered_job_younger_than_the_restart() -> None:
    drive = Drive()
    drive.recovered(drive.spec("chat-1"), accepted_s_ago=-3_600.0)
    drive.recovered(drive.spec("batch", priority="batch"), accepted_s_ago=-3_600.0)
    drive.recovered(drive.spec("chat-2"), accepted_s_ago=-3_600.0)
    drive.tick(after_s=61.0)
    drive.job("new-chat")
    assert in_turn(drive) == ["chat-1", "chat-2", "batch", "new-chat"]


def test_a_wall_clock_that_was_set_forward_changes_no_order_among_recovered_jobs() -> None:
    drive = Drive()
    drive.recovered(drive.spec("chat-1"), accepted_s_ago=3_720.0)
    drive.recovered(drive.spec("batch-1", priority="batch"), accepted_s_ago=3_710.0)
    drive.recovered(drive.spec("batch-2", priority="batch"), accepted_s_ago=3_640.0)
    drive.recovered(drive.spec("chat-2"), accepted_s_ago=3_630.0)
    assert in_turn(drive) == ["chat-1", "batch-1", "chat-2", "batch-2"]


def test_a_worker_that_ends_before_its_pool_is_heard_frees_its_recovered_jobs() -> None:
    drive = Drive()
    recovered(drive, "job-1")
    assert kinds(drive.died("a", "w1")) == ["Requeue"]
    assert drive.report("a", facts.worker("w1", HAIKU), after_s=2.0) != [], "a late report does not bring it back"
    assert drive.scheduler.workers() == ()


def test_late_news_of_its_start_does_not_bring_a_worker_back_that_a_report_called_over() -> None:
    drive = Drive()
    drive.job("job-1")
    drive.report("a", facts.worker("w1", HAIKU, "failed"))
    assert drive.ready("a", facts.worker("w1", HAIKU)) == []
    assert drive.ready("a", facts.worker("w2", HAIKU)) == [Dispatch("job-1", 1, "w2", "a")]


def test_no_pool_can_call_the_worker_of_another_over() -> None:
    drive = Drive()
    recovered(drive, "job-1")
    drive.report("b", facts.worker("w1", HAIKU, "stopped"))
    assert drive.report("a", facts.worker("w1", HAIKU)) == [Attach("job-1", 3, "w1", "a")]
    drive.report("b", facts.worker("w1", HAIKU, "stopped"))
    drive.report("a", facts.worker("w1", HAIKU, "draining"))
    assert [worker.state for worker in drive.scheduler.workers()] == ["draining"]


def test_what_a_pool_says_of_the_worker_of_another_counts_for_nothing() -> None:
    drive = Drive()
    recovered(drive, "job-1")
    drive.report("b")
    assert drive.died("b", "w1") == []
    assert drive.report("a", facts.worker("w1", HAIKU)) == [Attach("job-1", 3, "w1", "a")]
    assert drive.died("b", "w1") == []
    drive.report("a", facts.worker("w1", HAIKU, "draining"))
    assert [worker.state for worker in drive.scheduler.workers()] == ["draining"], "its own pool is heard as before"


def test_a_worker_whose_host_comes_back_under_another_name_is_used_on() -> None:
    drive = Drive()
    worker = facts.worker("w1", HAIKU)
    drive.report("a", worker)
    assert drive.job("job-1") == [Dispatch("job-1", 1, "w1", "a")]
    drive.report("b", worker)
    assert drive.scheduler.pool_of("w1") == "a"
    effects = drive.ticks(15)
    assert kinds(effects)[:2] == ["Abandon", "Requeue"]
    effects += drive.report("b", worker) + drive.tick(after_s=2.0)
    assert effects[-1] == Dispatch("job-1", 2, "w1", "b")
    assert "SpawnWorker" not in kinds(effects), "no second copy of the model is loaded"


def test_workers_that_outlive_their_pool_daemon_keep_their_jobs() -> None:
    drive = Drive()
    drive.report("a", facts.worker("w1", HAIKU), facts.worker("w2", HAIKU))
    assert drive.job("job-1") == [Dispatch("job-1", 1, "w1", "a")]
    assert drive.job("job-2") == [Dispatch("job-2", 1, "w2", "a")]
    effects = drive.report("a", facts.worker("w1", HAIKU), boot="2", after_s=4.0)
    error = ErrorBody(code=ErrorCode.WORKER_CRASHED, message="Worker w2 is not among those that pool a has running.")
    assert effects == [Requeue("job-2", 1, "w2", "lost", error), Dispatch("job-2", 2, "w1", "a")]


def test_jobs_that_saw_a_worker_die_are_suspects_after_a_restart_too() -> None:
    drive = Drive()
    drive.recovered(drive.spec("job-1"), 1, 1, deaths=1)
    drive.recovered(drive.spec("job-2"), 2, 2, deaths=2)
    drive.recovered(drive.spec("job-3"))
    proof = Policy().proof_tokens
    assert drive.report("a", facts.worker("w1", HAIKU)) == [Dispatch("job-1", 2, "w1", "a", proof_tokens=proof)]
    assert Dispatch("job-2", 3, "w1", "a") in drive.send(AttemptProved("job-1", 2)), "alone to its end"
    drive.scheduler.check_integrity()


def test_a_start_that_the_pool_daemon_died_of_is_noticed() -> None:
    drive = Drive()
    drive.report()
    spawn = spawned(drive.job("job-1"))
    drive.send(SpawnAccepted(spawn.worker_id))
    assert drive.report() == [], "the report may be older than the start"
    assert kinds(drive.report(boot="2")) == ["SpawnWorker"]


def test_a_worker_that_a_pool_lists_no_more_is_gone() -> None:
    drive = Drive()
    drive.report("a", facts.worker("w1", HAIKU))
    drive.job("job-1")
    assert kinds(drive.report("a")) == ["Requeue", "SpawnWorker"]


def test_workers_that_orcd_did_not_start_are_used() -> None:
    drive = Drive()
    drive.report()
    assert drive.ready("a", facts.worker("by-hand", HAIKU)) == []
    assert drive.job("job-1") == [Dispatch("job-1", 1, "by-hand", "a")]
