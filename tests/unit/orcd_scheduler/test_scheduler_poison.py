"""A job that kills its worker must not take the others with it."""

from __future__ import annotations

from rbees.orcd.scheduler.effects import Dispatch, Effect, Finish, StopWorker
from rbees.orcd.scheduler.events import AttemptCompleted, AttemptProved, CancelAsked, PoolReported, SpawnRefused
from rbees.orcd.scheduler.policy import Policy
from rbees.protocol.errors import ErrorBody, ErrorCode
from tests.simulation import facts
from tests.unit.orcd_scheduler.driver import CPU, HAIKU, Drive, kinds, spawned

FULL = facts.device("cpu", 16 * facts.GIB, 0)


def dispatches(effects: list[Effect]) -> list[tuple[str, str]]:
    return [(effect.job_id, effect.worker_id) for effect in effects if isinstance(effect, Dispatch)]


def test_two_deaths_alone_end_the_job() -> None:
    drive = Drive()
    drive.report("a", facts.worker("w1", HAIKU))
    drive.job("job-1")
    assert "SpawnWorker" in kinds(drive.died("a", "w1"))
    assert dispatches(drive.ready("a", facts.worker("w2", HAIKU))) == [("job-1", "w2")]
    effects = drive.died("a", "w2")
    (finish,) = [effect for effect in effects if isinstance(effect, Finish)]
    assert finish.error.code is ErrorCode.WORKER_CRASHED
    assert finish.error.details["deaths_alone"] == 2


def test_deaths_in_company_do_not_count_but_make_suspects_who_run_alone() -> None:
    drive = Drive()
    drive.report("a", facts.worker("w1", HAIKU))
    drive.job("job-1")
    drive.job("job-2")
    drive.died("a", "w1")
    ready = drive.ready("a", facts.worker("w2", HAIKU))
    assert dispatches(ready) == [("job-1", "w2")], "the other one waits, although there is a second slot"
    assert drive.job("job-3") == [], "and nobody joins a suspect"
    assert drive.scheduler.waiting_for("job-2") is not None
    assert dispatches(drive.send(AttemptCompleted("job-1", 2))) == [("job-2", "w2")]
    assert dispatches(drive.send(AttemptCompleted("job-2", 2))) == [("job-3", "w2")]


def test_one_worker_at_a_time_empties_for_the_first_suspect() -> None:
    drive = Drive()
    drive.report("a", *(facts.worker(name, HAIKU, memory_bytes=4 << 30) for name in ("w1", "w2", "w3")), devices=(FULL,))
    for number in range(1, 7):
        drive.job(f"job-{number}", timeout_ms=1_800_000)
    replacement = spawned(drive.died("a", "w1"))
    no_memory = ErrorBody(code=ErrorCode.INSUFFICIENT_VRAM, message="No room.")
    assert drive.send(SpawnRefused(replacement.worker_id, no_memory)) == [], "w1 had job-1 and job-4; now w2 empties for job-1"
    assert dispatches(drive.job("job-7")) == []
    assert dispatches(drive.send(AttemptCompleted("job-2", 1))) == []
    assert dispatches(drive.send(AttemptCompleted("job-5", 1))) == [("job-1", "w2")]
    assert dispatches(drive.send(AttemptCompleted("job-3", 1))) == [], "w3 empties for job-4"
    assert dispatches(drive.send(AttemptCompleted("job-6", 1))) == [("job-4", "w3")]
    assert dispatches(drive.send(AttemptCompleted("job-1", 2))) == [("job-7", "w2")]


def test_a_worker_that_emptied_for_a_cancelled_suspect_is_stopped_like_any_idle_one() -> None:
    drive = Drive(Policy(worker_idle_s=30.0))
    idle = facts.worker("w2", HAIKU)

    def pass_time(seconds: int) -> list[Effect]:
        reports = (drive.report("a", idle, devices=(FULL,), after_s=1.0) + drive.tick() for _ in range(seconds))
        return [effect for effects in reports for effect in effects]

    drive.report("a", facts.worker("w1", HAIKU), idle, devices=(FULL,))
    drive.job("job-1")
    drive.job("job-2")
    drive.died("a", "w1")
    assert pass_time(2) == [], "w2 empties for job-1"
    drive.send(CancelAsked("job-1"))
    drive.send(AttemptCompleted("job-2", 1))
    assert pass_time(29) == []
    assert kinds(pass_time(2)) == ["StopWorker"]


def test_streams_that_broke_before_the_death_was_known_were_on_board() -> None:
    drive = Drive()
    drive.report("a", facts.worker("w1", HAIKU))
    drive.report("b", facts.worker("w2", HAIKU))
    drive.job("job-1")
    drive.broke("job-1", 1)
    assert dispatches(drive.died("a", "w1")) == [("job-1", "w2")]
    drive.broke("job-1", 2)
    effects = drive.died("b", "w2")
    assert "Finish" in kinds(effects)


def test_a_worker_that_was_told_to_stop_did_not_die_of_a_job() -> None:
    drive = Drive()
    drive.report("a", facts.worker("w1", HAIKU))
    drive.job("job-1")
    assert isinstance(drive.broke("job-1", 1, hung=True)[0], StopWorker)
    drive.died("a", "w1")
    assert drive.scheduler._state.jobs["job-1"].suspect is False


def test_a_host_that_restarted_did_not_die_of_a_job() -> None:
    drive = Drive()
    drive.report("a", facts.worker("w1", HAIKU))
    drive.job("job-1")
    drive.send(PoolReported("a", "2", True, (CPU,), (HAIKU,), ()))
    assert drive.scheduler._state.jobs["job-1"].suspect is False


def test_some_tokens_alone_clear_a_suspect_and_others_join_it() -> None:
    drive = Drive()
    drive.report("a", facts.worker("w1", HAIKU))
    drive.job("job-1")
    drive.job("job-2")
    drive.died("a", "w1")
    (first,) = drive.ready("a", facts.worker("w2", HAIKU))
    assert first == Dispatch("job-1", 2, "w2", "a", proof_tokens=Policy().proof_tokens)
    assert dispatches(drive.send(AttemptProved("job-1", 1))) == [], "the proof of an earlier attempt is none"
    assert drive.job("job-3") == []
    made_way = drive.send(AttemptProved("job-1", 2))
    assert kinds(made_way) == ["Abandon", "Requeue", "Dispatch"]
    assert dispatches(made_way) == [("job-2", "w2")]
    assert dispatches(drive.send(AttemptProved("job-2", 2))) == [("job-1", "w2")], "before job-3, which came later"
    assert drive.scheduler._state.jobs["job-1"].failures == 1, "making way is no failure"
    drive.scheduler.check_integrity()


def test_who_has_seen_a_second_death_is_not_cleared() -> None:
    drive = Drive()
    drive.report("a", facts.worker("w1", HAIKU))
    drive.job("job-1")
    drive.job("job-2")
    drive.died("a", "w1")
    drive.ready("a", facts.worker("w2", HAIKU))
    drive.send(AttemptProved("job-1", 2))
    drive.send(AttemptProved("job-2", 2))
    drive.died("a", "w2")
    effects = drive.ready("a", facts.worker("w3", HAIKU)) + drive.tick(after_s=4.0)
    asked = {effect.job_id: effect.proof_tokens for effect in effects if isinstance(effect, Dispatch)}
    assert asked == {"job-1": None}


def test_a_stream_that_broke_before_the_death_was_known_goes_on_at_once() -> None:
    drive = Drive()
    drive.report("a", facts.worker("w1", HAIKU))
    drive.report("b", facts.worker("w2", HAIKU))
    drive.job("job-1")
    assert dispatches(drive.broke("job-1", 1)) == [], "it might be a connection that comes back"
    assert dispatches(drive.died("a", "w1")) == [("job-1", "w2")]


def test_the_policy_may_forgive_deaths_in_company() -> None:
    drive = Drive(Policy(deaths_before_alone=2))
    drive.report("a", facts.worker("w1", HAIKU))
    drive.job("job-1")
    drive.job("job-2")
    drive.died("a", "w1")
    assert dispatches(drive.ready("a", facts.worker("w2", HAIKU))) == [("job-1", "w2"), ("job-2", "w2")]


def test_a_worker_that_empties_for_one_suspect_is_taken_by_whichever_is_first_by_then() -> None:
    drive = Drive()
    drive.report("a", *(facts.worker(name, HAIKU, slots=4, memory_bytes=8 << 30) for name in ("w1", "w2")), devices=(FULL,))
    for number in range(1, 9):
        drive.job(f"job-{number}", timeout_ms=1_800_000)
    boarded = {name: list(drive.scheduler._state.workers[name].attempts) for name in ("w1", "w2")}
    drive.died("a", "w1")
    for _ in range(20):
        drive.tick(after_s=0.05)  # The pauses of the four end one by one, and not in the order of their ranks.
    effects = [effect for job_id in boarded["w2"] for effect in drive.send(AttemptCompleted(job_id, 1))]
    alone = []
    while found := dispatches(effects):
        alone += found
        effects = drive.send(AttemptCompleted(found[0][0], 2))
    assert alone == [(job_id, "w2") for job_id in sorted(boarded["w1"])]
