"""Jobs go where they are expected to be done first: by learned speeds, by what is cached, by what they would wait for."""

from __future__ import annotations

from typing import Any

from rbees.orcd.scheduler.effects import Dispatch, Effect, Note, SpawnWorker, StopWorker
from rbees.orcd.scheduler.events import AttemptCompleted, PrefixesCached
from rbees.orcd.scheduler.policy import Policy
from rbees.orcd.scheduler.speeds import Took
from rbees.protocol.pools import WorkerFacts
from tests.simulation import facts
from tests.unit.orcd_scheduler.driver import CPU, NOVEL, Drive, kinds, spawned

GIB = facts.GIB
FAST, SLOW = facts.worker("fast", NOVEL, slots=1), facts.worker("slow", NOVEL, slots=1)
FULL = facts.device("cpu", 16 * GIB, GIB)
"""No room for another worker."""
ANSWER = 100


def fleet(drive: Drive, *, fast_s: float = 1.0, slow_s: float = 10.0) -> None:
    """Two hosts with one worker each; both have shown how long an answer takes them."""
    report(drive)
    for number, worker in enumerate((FAST, SLOW)):
        other = SLOW if worker is FAST else FAST
        for _ in range(2):
            # Once without its worker, and once more for what that has left free.
            drive.report(_pool(other), models=(NOVEL,), devices=(FULL,))
        drive.report(_pool(worker), worker, models=(NOVEL,), devices=(FULL,))
        (started,) = drive.job(f"show-{number}", NOVEL, prompt_bytes=400)
        assert isinstance(started, Dispatch)
        done(drive, started, fast_s if worker is FAST else slow_s)
    report(drive)


def report(drive: Drive, **fields: Any) -> list[Effect]:
    """Both hosts, with nothing new."""
    effects = [drive.report(_pool(worker), worker, models=(NOVEL,), devices=(FULL,), **fields) for worker in (FAST, SLOW)]
    return [effect for one in effects for effect in one]


def _pool(worker: WorkerFacts) -> str:
    return f"host-{worker.worker_id}"


def done(drive: Drive, started: Effect, seconds: float, *, prompt: int = 100, cached: int = 0) -> list[Effect]:
    """The attempt is over; reading its prompt took a tenth of the time."""
    assert isinstance(started, Dispatch)
    took = Took(prompt, cached, ANSWER, seconds * 0.1, seconds * 0.9)
    return drive.send(AttemptCompleted(started.job_id, started.epoch, took))


def places(effects: list[Effect]) -> list[tuple[str, str]]:
    return [(effect.job_id, effect.worker_id) for effect in effects if isinstance(effect, Dispatch)]


def test_a_job_goes_to_the_worker_that_has_shown_to_be_faster() -> None:
    for fast_s, slow_s, first in ((1.0, 10.0, "fast"), (10.0, 1.0, "slow")):
        drive = Drive()
        fleet(drive, fast_s=fast_s, slow_s=slow_s)
        assert places(drive.job("job-1", NOVEL)) == [("job-1", first)]


def test_a_job_waits_for_a_much_faster_worker_and_says_so() -> None:
    drive = Drive(noted=True)
    fleet(drive)
    drive.job("job-1", NOVEL)
    (note,) = drive.job("job-2", NOVEL)
    assert isinstance(note, Note)
    assert note.reason == (
        "It waits for worker fast on pool host-fast, where it is expected to be done in 1.8 s; on slow on pool host-slow, "
        "which is free, it would take 9.0 s."
    ), "neither has a prompt, which is why both take a tenth less than was shown"
    assert places(done(drive, Dispatch("job-1", 1, "fast", "host-fast"), 1.0)) == [("job-2", "fast")]


def test_it_does_not_wait_where_little_would_be_won() -> None:
    drive = Drive()
    fleet(drive, fast_s=1.0, slow_s=2.0)
    assert places(drive.job("job-1", NOVEL)) == [("job-1", "fast")]
    assert places(drive.job("job-2", NOVEL)) == [("job-2", "slow")]


def test_it_waits_no_longer_than_the_free_worker_would_have_needed() -> None:
    drive = Drive()
    fleet(drive)
    drive.job("job-1", NOVEL)
    assert drive.job("job-2", NOVEL) == []
    effects: list[Effect] = []
    for _ in range(10):
        effects += [*report(drive, after_s=1.0), *drive.tick()]
    assert places(effects) == [("job-2", "slow")], "the fast one has not kept what was expected of it"


def test_the_slow_worker_takes_the_first_job_for_which_waiting_does_not_pay() -> None:
    drive = Drive()
    fleet(drive)
    placed = [place for number in range(1, 15) for place in places(drive.job(f"job-{number}", NOVEL))]
    assert placed[0] == ("job-1", "fast")
    ((late, where),) = placed[1:]
    assert where == "slow"
    assert 8 <= int(late.removeprefix("job-")) <= 11, "about nine answers take the fast one as long as one takes the slow one"


def test_a_prompt_goes_where_its_beginning_is_cached() -> None:
    drive = Drive()
    one, other = facts.worker("w1", NOVEL, slots=4), facts.worker("w2", NOVEL, slots=4)
    drive.report("a", one, models=(NOVEL,))
    drive.report("b", other, models=(NOVEL,))
    chat = {"prompt_bytes": 8_000, "prefixes": ("p1", "p2", "p3"), "max_tokens": 20}
    drive.send(PrefixesCached("w2", ("p1", "p2")))
    assert places(drive.job("job-1", NOVEL, **chat)) == [("job-1", "w2")]
    assert places(drive.job("job-2", NOVEL, prompt_bytes=8_000, prefixes=("q1",))) == [("job-2", "w1")]
    drive.send(PrefixesCached("w2", ()))
    assert places(drive.job("job-3", NOVEL, **chat)) == [("job-3", "w2")], "its own attempt computes them right now"


def test_what_a_worker_has_forgotten_attracts_nobody() -> None:
    drive = Drive()
    one, other = facts.worker("w1", NOVEL), facts.worker("w2", NOVEL)
    drive.report("a", one, models=(NOVEL,))
    drive.report("b", other, models=(NOVEL,))
    drive.send(PrefixesCached("w2", ("p1",)))
    drive.send(PrefixesCached("w2", ("p2",)))
    assert places(drive.job("job-1", NOVEL, prompt_bytes=600, prefixes=("p1",))) == [("job-1", "w1")]


def test_a_worker_is_started_where_the_job_would_be_done_first() -> None:
    drive = Drive()
    gpu = facts.device("cuda:0", 24 * GIB, 20 * GIB)
    drive.report("a", models=(NOVEL,), devices=(CPU,))
    drive.report("b", models=(NOVEL,), devices=(gpu,))
    assert spawned(drive.job("job-1", NOVEL)).pool_id == "b"


def test_a_free_slow_worker_is_joined_by_one_that_is_much_better_and_jobs_wait_for_that() -> None:
    drive = Drive(noted=True)
    gpu = facts.device("cuda:0", 24 * GIB, 20 * GIB)
    slow = facts.worker("slow", NOVEL)
    drive.report("a", slow, models=(NOVEL,), devices=(FULL,))
    drive.report("b", models=(NOVEL,), devices=(gpu,))
    effects = drive.job("job-1", NOVEL)
    assert kinds(effects) == ["SpawnWorker", "Note"]
    spawn = effects[0]
    assert isinstance(spawn, SpawnWorker)
    assert spawn.pool_id == "b"
    ready = facts.worker(spawn.worker_id, NOVEL, device_id="cuda:0")
    assert places(drive.ready("b", ready)) == [("job-1", spawn.worker_id)]


def test_the_worker_whose_end_costs_least_makes_room() -> None:
    drive = Drive()
    small, large, big = facts.model("small", 3 * GIB), facts.model("large", 4 * GIB), facts.model("big", 9 * GIB)
    workers = (facts.worker("w1", small), facts.worker("w2", large))
    devices = (facts.device("cpu", 16 * GIB, 7 * GIB),)
    drive.report("a", *workers, models=(small, large, big), devices=devices)
    (started,) = drive.job("job-1", small)
    drive.send(AttemptCompleted("job-1", 1))
    assert isinstance(started, Dispatch)
    stops = [effect for effect in drive.job("job-2", big) if isinstance(effect, StopWorker)]
    assert [stop.worker_id for stop in stops] == ["w2"], (
        "nobody asks for it, though it has idled no longer and takes longer to load"
    )


def test_a_pinned_model_stays() -> None:
    drive = Drive(Policy(worker_idle_s=30.0, pinned_models=frozenset({"novel"})))
    big = facts.model("big", 9 * GIB)
    worker, devices = facts.worker("w1", NOVEL), (facts.device("cpu", 16 * GIB, 8 * GIB),)
    effects = drive.report("a", worker, models=(NOVEL, big), devices=devices)
    effects += drive.job("job-1", big)
    for _ in range(60):
        effects += [*drive.report("a", worker, models=(NOVEL, big), devices=devices, after_s=1.0), *drive.tick()]
    assert not [effect for effect in effects if isinstance(effect, StopWorker)]


def test_one_of_several_idle_workers_is_stopped_sooner_than_the_last() -> None:
    drive = Drive(Policy(worker_idle_s=60.0, replica_idle_s=20.0))
    stops: list[tuple[int, str]] = []
    left = {worker.worker_id: worker for worker in (FAST, SLOW)}
    for second in range(70):
        for worker in (FAST, SLOW):
            here = (worker,) if worker.worker_id in left else ()
            drive.report(_pool(worker), *here, models=(NOVEL,), devices=(FULL,), after_s=0.5)
        for effect in drive.tick():
            assert isinstance(effect, StopWorker)
            stops.append((second, effect.worker_id))
            del left[effect.worker_id]
    assert [worker for _, worker in stops] == ["fast", "slow"]
    assert 19 <= stops[0][0] <= 21
    assert 59 <= stops[1][0] <= 61
