"""Where jobs go and where workers are started."""

from __future__ import annotations

import math

import msgspec
import pytest

from rbees.orcd.scheduler import rooms
from rbees.orcd.scheduler.effects import Dispatch, Effect, Finish, Note, SpawnWorker, StopWorker
from rbees.orcd.scheduler.events import AttemptCompleted, LetGoAsked, SpawnRefused
from rbees.orcd.scheduler.policy import Policy
from rbees.protocol.errors import ErrorBody, ErrorCode
from rbees.protocol.pools import ModelFacts
from tests.simulation import facts
from tests.unit.orcd_scheduler.driver import CPU, CRASH, HAIKU, NOVEL, Drive, kinds, spawned

GIB = facts.GIB
SMALL_CPU = facts.device("cpu", 4 * GIB, 3 * GIB)
GPU = facts.device("cuda:0", 8 * GIB, 7 * GIB)


def refusal(code: ErrorCode = ErrorCode.INSUFFICIENT_VRAM, **details: object) -> ErrorBody:
    return ErrorBody(code=code, message="No.", details=details)


def test_of_like_workers_the_one_with_fewest_streams_comes_first() -> None:
    drive = Drive()
    drive.report("a", facts.worker("w1", HAIKU, slots=4))
    drive.report("b", facts.worker("w2", HAIKU, slots=2))
    places = [drive.job(f"job-{number}")[0] for number in range(6)]
    assert [place.worker_id for place in places if isinstance(place, Dispatch)] == ["w1", "w2", "w1", "w2", "w1", "w1"]


def test_an_accelerator_comes_before_the_cpu_and_the_roomier_before_the_tighter() -> None:
    drive = Drive()
    drive.report("a", devices=(CPU,))
    drive.report("b", devices=(CPU, GPU))
    drive.report("c", devices=(facts.device("cuda:0", 8 * GIB, 5 * GIB),))
    spawn = spawned(drive.job("job-1"))
    assert spawn == SpawnWorker("b", spawn.worker_id, "haiku", HAIKU.sha256, "cuda", ("cuda:0",))


def test_a_model_goes_where_it_fits() -> None:
    drive = Drive()
    drive.report("a", models=(NOVEL,), devices=(facts.device("cuda:0", 4 * GIB, 0), facts.device("cpu", 16 * GIB, 14 * GIB)))
    assert spawned(drive.job("job-1", NOVEL)).devices == ("cpu",)


def test_unhealthy_devices_and_pools_without_the_model_get_no_workers() -> None:
    drive = Drive(noted=True)
    drive.report("a", devices=(facts.device("cuda:0", 8 * GIB, 7 * GIB, healthy=False),))
    drive.report("b", models=(NOVEL,))
    reason = "No device of pool a can take the model at present (cuda:0: It does not answer.)."
    assert drive.job("job-1") == [Note("job-1", "waiting", reason, pool_id="a")]
    assert spawned(drive.report("a", devices=(GPU,))).pool_id == "a"


def test_a_worker_on_its_way_is_waited_for() -> None:
    drive = Drive()
    drive.report("a", devices=(CPU, GPU))
    spawn = spawned(drive.job("job-1"))
    for number in range(2, 9):
        assert drive.job(f"job-{number}") == []
    assert drive.report("a", facts.worker(spawn.worker_id, HAIKU, "loading", device_id="cuda:0"), devices=(CPU, GPU)) == []
    ready = facts.worker(spawn.worker_id, HAIKU, device_id="cuda:0", slots=4)
    effects = drive.ready("a", ready)
    assert kinds(effects) == ["Dispatch"] * 4, "four jobs run, four wait, and will be done before another worker has loaded"
    waiting = [drive.job(f"job-{number}") for number in range(9, 120)]
    (starts,) = [effects for effects in waiting if effects]
    assert spawned(starts).devices == ("cpu",), "the device without a worker for the model"
    assert waiting.index(starts) > 8, "the queue has to be worth it"


def test_a_replica_needs_a_device_of_its_own_and_never_pushes_others_out() -> None:
    drive = Drive()
    workers = (facts.worker("w1", HAIKU, slots=1), facts.worker("w2", NOVEL, device_id="cuda:0"))
    devices = (CPU, facts.device("cuda:0", 8 * GIB, 0))
    drive.report("a", *workers, devices=devices, models=(HAIKU, NOVEL))
    for number in range(5):
        assert kinds(drive.job(f"job-{number}")) == ([] if number else ["Dispatch"])
    assert drive.ticks(2) == []


def test_an_idle_worker_beside_another_of_its_model_makes_room_for_one_that_is_asked_for_more() -> None:
    drive = Drive()
    full = (facts.device("cuda:0", 8 * GIB, GIB),)
    other = facts.model("other", 6 * GIB)
    drive.report("a", facts.worker("w1", other, device_id="cuda:0", slots=1), devices=full, models=(NOVEL, other))
    drive.report("b", facts.worker("w2", NOVEL, device_id="cuda:0"), devices=full, models=(NOVEL, other))
    effects = [drive.job(f"job-{number}", other) for number in range(12)]
    assert [kinds(one) for one in effects if one] == [["Dispatch"]], "the only worker of a model stays"
    reported = drive.report("c", facts.worker("w3", NOVEL, device_id="cuda:0"), devices=full, models=(NOVEL, other))
    assert [effect.worker_id for effect in reported if isinstance(effect, StopWorker)] == ["w2"]
    assert drive.ticks(2) == [], "the other one of the model stays"


def test_in_a_large_fleet_one_look_finds_room_behind_pools_that_have_none_any_more() -> None:
    drive = Drive()
    other = facts.model("other", 6 * GIB)
    for number in range(21):
        worker = facts.worker(f"w{number:02d}", NOVEL if number else other, device_id="cuda:0", slots=1)
        drive.report(f"pool-{number:02d}", worker, devices=(facts.device("cuda:0", 8 * GIB, GIB),), models=(NOVEL, other))
    assert [kinds(drive.job(f"other-{number}", other)) for number in range(2)] == [["Dispatch"], []]
    dispatched = [effect for number in range(rooms.LIKELY) for effect in drive.job(f"novel-{number}", NOVEL)]
    busy = {effect.worker_id for effect in dispatched if isinstance(effect, Dispatch)}
    assert len(busy) == rooms.LIKELY
    found = rooms.further(drive.scheduler._state, other.sha256, drive.now_s, pushing=True)
    giving_way = [victim.worker_id for site in found if site.room for victim in site.room.victims]
    assert len(giving_way) == rooms.LIKELY
    assert not busy.intersection(giving_way)


def test_memory_of_workers_on_their_way_is_taken_into_account() -> None:
    drive = Drive()
    other = facts.model("other", 6 * GIB)
    drive.report("a", models=(NOVEL, other), devices=(facts.device("cpu", 10 * GIB, 9 * GIB),))
    first = spawned(drive.job("job-1", NOVEL))
    assert drive.job("job-2", other) == [], "six of nine are spoken for"
    worker = facts.worker(first.worker_id, NOVEL)
    drive.ready("a", worker)
    assert drive.report("a", worker, models=(NOVEL, other), devices=(facts.device("cpu", 10 * GIB, 3 * GIB),)) == []


def test_an_idle_worker_of_another_model_makes_room() -> None:
    drive = Drive()
    devices = (facts.device("cpu", 8 * GIB, 2 * GIB),)
    drive.report("a", facts.worker("w1", NOVEL), models=(NOVEL, _big()), devices=devices)
    assert drive.job("job-1", _big()) == [StopWorker("a", "w1", "It idles and its memory is needed for big.")]
    assert drive.ticks(2) == [], "told once"
    draining = facts.worker("w1", NOVEL, "draining")
    assert drive.report("a", draining, models=(NOVEL, _big()), devices=devices) == []
    empty = (facts.device("cpu", 8 * GIB, 8 * GIB),)
    assert kinds(drive.report("a", models=(NOVEL, _big()), devices=empty)) == ["SpawnWorker"]


def _big() -> ModelFacts:
    return facts.model("big", 5 * GIB)


def test_a_busy_worker_is_never_stopped_but_takes_no_more_work_when_others_have_waited_long() -> None:
    drive = Drive()
    models, devices = (NOVEL, _big()), (facts.device("cpu", 8 * GIB, 2 * GIB),)
    busy = facts.worker("w1", NOVEL)

    def report() -> list[Effect]:
        return [*drive.report("a", busy, models=models, devices=devices, after_s=1.0), *drive.tick()]

    report()
    drive.job("job-1", NOVEL)
    assert drive.job("job-2", _big()) == []
    for _ in range(11):
        assert report() == []
    assert drive.job("job-3", NOVEL) == [], "the second slot is free but kept shut"
    assert drive.send(AttemptCompleted("job-1", 1)) == [StopWorker("a", "w1", "It idles and its memory is needed for big.")]


def test_a_worker_without_work_is_stopped_after_a_while() -> None:
    drive = Drive(Policy(worker_idle_s=30.0))
    worker = facts.worker("w1", HAIKU)
    drive.report("a", worker)
    for _ in range(29):
        assert drive.report("a", worker, after_s=1.0) == drive.tick() == []
    drive.report("a", worker, after_s=1.0)
    assert drive.tick() == [StopWorker("a", "w1", "It has had no work for 30 s.")]
    for _ in range(9):
        assert drive.report("a", worker, after_s=1.0) == drive.tick() == []
    assert drive.report("a", worker, after_s=1.0) == [StopWorker("a", "w1", "It was told to stop before and is still there.")]


def test_a_model_stays_for_as_long_as_its_latest_job_wants_it() -> None:
    drive = Drive(Policy(worker_idle_s=30.0))
    worker = facts.worker("w1", HAIKU)

    def ask(job_id: str, keep_s: float | None) -> float:
        """The time for which the model stays after a job with this wish."""
        drive.job(job_id, keep_s=keep_s)
        drive.send(AttemptCompleted(job_id, 1))
        return drive.scheduler.kept_for_s(HAIKU.sha256, drive.now_s)

    def stops(seconds: int) -> list[int]:
        """The seconds after which it was told to stop."""
        told = [(n, drive.report("a", worker, after_s=1.0) + drive.tick()) for n in range(1, seconds + 1)]
        return [n for n, effects in told if any(isinstance(effect, StopWorker) for effect in effects)]

    drive.report("a", worker)
    assert drive.scheduler.kept_for_s(HAIKU.sha256, drive.now_s) == 30.0
    assert ask("job-1", math.inf) == math.inf
    assert stops(40) == []
    assert ask("job-2", 60.0) == 60.0
    assert ask("job-3", None) == 60.0, "a job that says nothing changes nothing"
    assert stops(60) == [60]
    assert drive.scheduler.kept_for_s(HAIKU.sha256, drive.now_s) == 0.0, "it is being unloaded"
    drive.report("a")
    assert drive.scheduler.kept_for_s(HAIKU.sha256, drive.now_s) == 0.0
    drive.report("a", facts.worker("w2", HAIKU))
    assert drive.scheduler.kept_for_s(HAIKU.sha256, drive.now_s) == 30.0, "the wish was about what was loaded then"


def test_a_wish_that_comes_while_its_model_is_being_unloaded_is_about_the_next_worker() -> None:
    drive = Drive(Policy(worker_idle_s=30.0))
    drive.report("a", facts.worker("w1", HAIKU))
    drive.job("job-1", keep_s=0.0)
    drive.send(AttemptCompleted("job-1", 1))
    assert drive.tick() == [StopWorker("a", "w1", "It has had no work for 0 s.")]
    drive.job("job-2", keep_s=600.0)
    drive.report("a", facts.worker("w1", HAIKU), facts.worker("w2", HAIKU))
    drive.send(AttemptCompleted("job-2", 1))
    drive.report("a", facts.worker("w2", HAIKU))
    assert drive.scheduler.kept_for_s(HAIKU.sha256, drive.now_s) == pytest.approx(600.0)


def test_a_model_that_a_client_wants_gone_goes_once_it_has_no_work() -> None:
    drive = Drive(Policy(worker_idle_s=30.0, replica_idle_s=10.0))
    workers = [facts.worker("w1", HAIKU), facts.worker("w2", HAIKU)]
    drive.report("a", *workers)
    drive.job("job-1")
    drive.send(LetGoAsked(HAIKU.sha256))
    (stop,) = drive.tick()
    assert isinstance(stop, StopWorker), "the other one does something"
    busy = next(worker for worker in workers if worker.worker_id != stop.worker_id)
    drive.report("a", busy)
    assert drive.tick() == []
    drive.send(AttemptCompleted("job-1", 1))
    assert drive.tick() == [StopWorker("a", busy.worker_id, "It has had no work for 0 s.")]
    drive.send(LetGoAsked(HAIKU.sha256))
    drive.report("a")
    drive.send(LetGoAsked(HAIKU.sha256))
    drive.report("a", facts.worker("w3", HAIKU))
    assert drive.tick() == [], "nothing was there to be unloaded"
    assert drive.scheduler.kept_for_s(HAIKU.sha256, drive.now_s) == 30.0


def test_a_wish_goes_with_a_worker_that_dies() -> None:
    drive = Drive(Policy(worker_idle_s=30.0))
    drive.report("a", facts.worker("w1", HAIKU))
    drive.job("job-1", keep_s=5.0)
    drive.send(AttemptCompleted("job-1", 1))
    drive.report("a")
    drive.report("a", facts.worker("w2", HAIKU))
    assert drive.scheduler.kept_for_s(HAIKU.sha256, drive.now_s) == 30.0


def test_a_model_that_no_pool_could_ever_hold_fails_by_how_much() -> None:
    drive = Drive(noted=True)
    drive.report("a", models=(NOVEL,), devices=(SMALL_CPU,))
    message = (
        f"No pool could hold this model even when empty: what could run it best, on pool a, has {2 * 1024} MiB too "
        f"few. Choose a smaller model or quantisation, or add a host."
    )
    assert drive.job("job-1", NOVEL) == [Note("job-1", "waiting", f"{message} Other pools may still come back.")]
    assert drive.ticks(9) == [], "it has only just started; the pool that can may be about to come back"
    details = {"missing_bytes": 2 * GIB, "needed_bytes": 6 * GIB, "total_bytes": 4 * GIB, "pool_id": "a"}
    error = ErrorBody(code=ErrorCode.NO_PLACEMENT, message=message, details=details)
    drive.report("a", models=(NOVEL,), devices=(SMALL_CPU,))
    assert drive.tick(after_s=1.0) == [Finish("job-1", "failed", error)]
    assert drive.job("job-2", NOVEL) == [Finish("job-2", "failed", error)]


def test_a_lost_pool_that_could_hold_the_model_is_waited_for() -> None:
    drive = Drive()
    drive.report("big", models=(NOVEL,))
    drive.tick(after_s=20.0)
    drive.tick(after_s=20.0)
    drive.report("small", models=(NOVEL,), devices=(SMALL_CPU,))
    drive.job("job-1", NOVEL)
    assert drive.ticks(30) == []
    assert kinds(drive.report("big", models=(NOVEL,))) == ["SpawnWorker"]


def test_the_pools_numbers_replace_the_estimate() -> None:
    drive = Drive()
    devices = (facts.device("cpu", 8 * GIB, 7 * GIB),)
    drive.report("a", models=(NOVEL,), devices=devices)
    spawn = spawned(drive.job("job-1", NOVEL))
    error = refusal(device_id="cpu", needed_bytes=9 * GIB, reserve_bytes=GIB)
    assert drive.send(SpawnRefused(spawn.worker_id, error)) == []
    (finish,) = [effect for effect in drive.ticks(12) if isinstance(effect, Finish)]
    assert finish.error.code is ErrorCode.NO_PLACEMENT
    assert finish.error.details["missing_bytes"] == 2 * GIB


def test_a_refused_start_is_tried_again_after_a_pause() -> None:
    drive = Drive(noted=True)
    drive.report()
    spawn = spawned(drive.job("job-1"))
    reason = "Pool a did not bring the model up (DEVICE_BUSY: No); it is tried again after a pause."
    assert drive.send(SpawnRefused(spawn.worker_id, refusal(ErrorCode.DEVICE_BUSY))) == [
        Note("job-1", "waiting", reason, pool_id="a")
    ]
    again = spawned(drive.tick(after_s=1.0))
    assert again.worker_id != spawn.worker_id


def test_a_lost_answer_to_a_start_does_no_harm() -> None:
    drive = Drive()
    drive.report()
    spawn = spawned(drive.job("job-1"))
    drive.send(SpawnRefused(spawn.worker_id, refusal(ErrorCode.POOL_UNREACHABLE)))
    assert drive.report("a", facts.worker(spawn.worker_id, HAIKU, "loading")) == []
    assert drive.ticks(2) == [], "the worker was started after all and is waited for"
    assert drive.report("a", facts.worker(spawn.worker_id, HAIKU)) == [Dispatch("job-1", 1, spawn.worker_id, "a")]


def test_a_start_that_nobody_answers_is_given_up() -> None:
    drive = Drive()
    drive.report()
    drive.job("job-1")
    effects = []
    for _ in range(70):
        effects += [*drive.report(after_s=1.0), *drive.tick()]
    assert kinds(effects) == ["SpawnWorker"]


def test_a_crash_at_load_backs_off_and_the_fifth_opens_the_breaker() -> None:
    drive = Drive(noted=True)
    drive.report()
    spawn = spawned(drive.job("job-1"))
    starts = 1
    for _ in range(120):
        drive.died("a", spawn.worker_id, loading=True)
        effects = [*drive.report(after_s=1.0), *drive.tick()]
        if "SpawnWorker" in kinds(effects):
            spawn = spawned(effects)
            starts += 1
    assert starts == 5
    waits = "Pool a did not bring the model up (WORKER_CRASHED: SIGSEGV); after 5 failures it is left alone for some minutes."
    assert drive.scheduler.waiting_for("job-1") == waits
    drive.report(after_s=470.0)
    assert "SpawnWorker" not in kinds(drive.tick())
    drive.report(after_s=60.0)
    assert "SpawnWorker" in kinds(drive.tick())


def test_another_pool_is_taken_while_one_crashes_at_load() -> None:
    drive = Drive()
    drive.report("a", devices=(CPU, GPU))
    drive.report("b")
    spawn = spawned(drive.job("job-1"))
    assert spawn.pool_id == "a"
    assert spawned(drive.died("a", spawn.worker_id, loading=True)).pool_id == "b"


def test_a_file_that_no_pool_can_load_fails_the_job_with_that_reason() -> None:
    drive = Drive()
    drive.report()
    drive.tick(after_s=4.0)
    drive.report()
    drive.tick(after_s=4.0)
    drive.report(after_s=4.0)
    spawn = spawned(drive.job("job-1"))
    error = refusal(ErrorCode.MODEL_INCOMPATIBLE)
    assert drive.died("a", spawn.worker_id, loading=True, error=error) == [Finish("job-1", "failed", error)]
    assert drive.job("job-2") == [Finish("job-2", "failed", error)]
    assert kinds(drive.report(boot="2")) == []
    assert kinds(drive.job("job-3")) == ["SpawnWorker"], "a restarted pool daemon may have been repaired"


def test_a_host_that_lacks_a_backend_is_passed_over_for_what_it_has() -> None:
    drive = Drive()
    drive.report("a", devices=(GPU, CPU))
    drive.job("job-1")
    worker_ids = []
    for _ in range(20):
        effects = [*drive.report("a", devices=(GPU, CPU), after_s=1.0), *drive.tick()]
        worker_ids += [effect for effect in effects if isinstance(effect, SpawnWorker)]
        for worker in list(drive.scheduler._state.workers.values()):
            if worker.backend == "cuda":
                drive.send(SpawnRefused(worker.worker_id, refusal(ErrorCode.BACKEND_UNAVAILABLE)))
    assert worker_ids[-1].devices == ("cpu",)


def test_scripted_models_run_on_any_device() -> None:
    scripted = msgspec.structs.replace(facts.model("echo", 100), architecture="scripted")
    drive = Drive()
    drive.report("a", models=(scripted,))
    assert spawned(drive.job("job-1", scripted)).backend == "scripted"


def test_a_worker_that_dies_is_replaced_while_its_jobs_pause() -> None:
    drive = Drive()
    drive.report("a", facts.worker("w1", HAIKU))
    drive.job("job-1")
    assert kinds(drive.died("a", "w1", error=CRASH)) == ["Requeue", "SpawnWorker"]
