"""Restarts: of orcd, of a pool daemon, of a host."""

from __future__ import annotations

from rbees.orcd.scheduler.effects import Abandon, Attach, Dispatch, Finish, Requeue
from rbees.orcd.scheduler.events import AttemptCompleted, AttemptProved, CancelAsked, DrainBegan, JobRecovered, SpawnAccepted
from rbees.orcd.scheduler.policy import Policy
from rbees.protocol.errors import ErrorBody, ErrorCode
from tests.simulation import facts
from tests.unit.orcd_scheduler.driver import HAIKU, Drive, kinds, spawned

OTHER = facts.model("other", 4 << 20)


def recovered(drive: Drive, job_id: str, *, worker_id: str | None = "w1", timeout_ms: int = 300_000) -> JobRecovered:
    pool_id = None if worker_id is None else "a"
    return JobRecovered(drive.spec(job_id, timeout_ms=timeout_ms), 3, 1, worker_id, pool_id)


def test_an_attempt_that_still_runs_is_attached_to() -> None:
    drive = Drive()
    assert drive.send(recovered(drive, "job-1")) == []
    assert drive.report("a", facts.worker("w1", HAIKU)) == [Attach("job-1", 3, "w1", "a")]
    assert drive.send(AttemptCompleted("job-1", 3)) == []


def test_jobs_that_come_back_before_any_pool_are_looked_at_by_the_next_tick() -> None:
    drive = Drive(noted=True)
    assert [drive.send(recovered(drive, f"job-{number}", worker_id=None)) for number in range(3)] == [[], [], []]
    assert kinds(drive.tick()) == ["Note", "Note", "Note"]
    assert kinds(drive.report("a", facts.worker("w1", HAIKU, slots=3))) == ["Dispatch"] * 3


def test_an_attempt_taken_up_again_has_its_slots_again() -> None:
    drive = Drive()
    drive.send(JobRecovered(drive.spec("job-1", choices=9), 3, 1, "w1", "a"))
    drive.job("job-2")
    assert drive.report("a", facts.worker("w1", HAIKU)) == [Attach("job-1", 3, "w1", "a")]
    assert drive.send(AttemptCompleted("job-1", 3)) == [Dispatch("job-2", 1, "w1", "a")]


def test_an_attempt_whose_worker_is_gone_goes_back_to_the_queue() -> None:
    drive = Drive()
    drive.send(recovered(drive, "job-1"))
    error = ErrorBody(code=ErrorCode.WORKER_CRASHED, message="Worker w1 is not among those that pool a has running.")
    assert drive.report("a", facts.worker("w2", HAIKU)) == [Requeue("job-1", 3, "w1", "lost", error)]
    assert drive.report("a", facts.worker("w2", HAIKU), after_s=2.0) == [Dispatch("job-1", 4, "w2", "a")]


def test_an_attempt_whose_pool_stays_away_is_given_up_when_its_lease_would_end() -> None:
    drive = Drive()
    drive.send(recovered(drive, "job-1"))
    assert drive.ticks(14) == []
    assert kinds(drive.ticks(1)) == ["Abandon", "Requeue"]
    drive.tick(after_s=2.0)
    assert drive.report("a", facts.worker("w1", HAIKU)) == [Dispatch("job-1", 4, "w1", "a")]


def test_a_recovered_attempt_has_its_whole_time_again() -> None:
    drive = Drive()
    drive.send(recovered(drive, "job-1", timeout_ms=12_000))
    assert drive.ticks(11) == []
    (abandon, finish) = drive.ticks(1)
    assert abandon == Abandon("job-1", 3, "w1")
    assert isinstance(finish, Finish)
    assert finish.error.code is ErrorCode.TIMEOUT


def test_the_time_of_a_recovered_job_that_waits_begins_with_its_next_dispatch() -> None:
    drive = Drive()
    drive.send(recovered(drive, "job-1", worker_id=None, timeout_ms=2_000))
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
    drive.send(recovered(drive, "job-1"))
    drive.send(DrainBegan())
    assert drive.report("a", facts.worker("w1", HAIKU)) == [Attach("job-1", 3, "w1", "a")]


def test_a_held_job_can_be_cancelled() -> None:
    drive = Drive()
    drive.send(recovered(drive, "job-1"))
    assert kinds(drive.send(CancelAsked("job-1"))) == ["Abandon", "Finish"]
    assert drive.report("a", facts.worker("w1", HAIKU)) == []


def test_recovered_jobs_keep_their_order_whatever_order_they_are_told_in() -> None:
    drive = Drive()
    specs = [drive.spec(f"job-{number}") for number in range(3)]
    for spec in reversed(specs):
        drive.send(JobRecovered(spec, 0, 0, None, None), after_s=0.01)
    assert [drive.scheduler.queue_position(spec.job_id) for spec in specs] == [1, 2, 3]


def test_a_worker_that_ends_before_its_pool_is_heard_frees_its_recovered_jobs() -> None:
    drive = Drive()
    drive.send(recovered(drive, "job-1"))
    assert kinds(drive.died("a", "w1")) == ["Requeue"]
    assert drive.report("a", facts.worker("w1", HAIKU), after_s=2.0) != [], "a late report does not bring it back"
    assert drive.scheduler.workers() == ()


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
    drive.send(JobRecovered(drive.spec("job-1"), 1, 1, None, None, deaths=1))
    drive.send(JobRecovered(drive.spec("job-2"), 2, 2, None, None, deaths=2))
    drive.send(JobRecovered(drive.spec("job-3"), 0, 0, None, None))
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
