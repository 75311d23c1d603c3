"""Models that do not fit together: who makes room for whom, and when."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rbees.orcd.scheduler.effects import Dispatch, Effect, Requeue, SpawnWorker, StopWorker
from rbees.orcd.scheduler.events import AttemptCompleted, AttemptProved
from rbees.orcd.scheduler.growth import TURN_IN_LOADS
from rbees.orcd.scheduler.policy import Policy
from rbees.orcd.scheduler.speeds import Took
from rbees.protocol.pools import WorkerFacts
from tests.simulation import facts
from tests.unit.orcd_scheduler.driver import HAIKU, Drive, kinds, spawned

FIRST = facts.model("first", 6 * facts.GIB)
SECOND = facts.model("second", 6 * facts.GIB)
TIGHT = facts.device("cpu", 9 * facts.GIB, 2 * facts.GIB)
OPEN = facts.device("cpu", 9 * facts.GIB, 9 * facts.GIB)


class Host:
    """One device that holds one of two models at a time; it does at once what it is told."""

    def __init__(self, **policy: Any) -> None:
        self.drive = Drive(Policy(**policy))
        self.workers: tuple[WorkerFacts, ...] = (facts.worker("w1", FIRST, slots=2, memory_bytes=7 * facts.GIB),)
        self.report()
        self.drive.job("show", FIRST)
        self.drive.send(AttemptCompleted("show", 1, Took(1, 0, 100, 0.0, 60.0)))

    def report(self, *, after_s: float = 0.0) -> list[Effect]:
        device = TIGHT if self.workers else OPEN
        return self.drive.report("a", *self.workers, devices=(device,), models=(FIRST, SECOND), after_s=after_s)

    def seconds(self, count: int) -> Iterator[Effect]:
        """What happens in so many seconds."""
        for _ in range(count):
            yield from self.carry_out(self.report(after_s=1.0) + self.drive.tick())

    def complete(self, *job_ids: str) -> Iterator[Effect]:
        """First attempts end, and what follows."""
        for job_id in job_ids:
            yield from self.carry_out(self.drive.send(AttemptCompleted(job_id, 1)))

    def carry_out(self, effects: list[Effect]) -> Iterator[Effect]:
        for effect in effects:
            yield effect
            if isinstance(effect, StopWorker):
                self.workers = ()
                yield from self.carry_out(self.drive.died("a", effect.worker_id))
            elif isinstance(effect, SpawnWorker):
                model = FIRST if effect.model_ref == "first" else SECOND
                self.workers = (facts.worker(effect.worker_id, model, slots=2, memory_bytes=7 * facts.GIB),)


def moved(effects: list[Effect]) -> list[tuple[str, str]]:
    """Jobs that were given to workers or taken back."""
    return [(type(effect).__name__, effect.job_id) for effect in effects if isinstance(effect, Dispatch | Requeue)]


def test_a_pinned_worker_makes_room_for_nobody_and_goes_on_serving() -> None:
    host = Host(pinned_models=frozenset({"first"}))
    host.drive.job("other", SECOND)
    assert list(host.seconds(120)) == []
    assert "pinned_models" in (host.drive.scheduler.waiting_for("other") or "")
    assert moved(host.drive.job("mine", FIRST)) == [("Dispatch", "mine")]


def test_batch_jobs_make_way_for_an_interactive_job_of_another_model() -> None:
    host = Host()
    for number in range(2):
        host.drive.job(f"batch-{number}", FIRST, priority="batch")
    host.drive.job("chat", SECOND)
    assert list(host.seconds(9)) == [], "a swap is not begun for a moment"
    effects = list(host.seconds(20))
    assert moved(effects) == [("Requeue", "batch-0"), ("Requeue", "batch-1"), ("Dispatch", "chat")]
    assert [kind for kind in kinds(effects) if kind in {"StopWorker", "SpawnWorker"}] == ["StopWorker", "SpawnWorker"]


def test_an_interactive_job_makes_way_for_nobody_of_another_model() -> None:
    host = Host()
    host.drive.job("running", FIRST)
    host.drive.job("chat", SECOND)
    assert moved(list(host.seconds(30))) == []
    effects = [*host.complete("running"), *host.seconds(10)]
    assert moved(effects) == [("Dispatch", "chat")]


def test_a_model_with_a_long_line_gives_its_room_up_in_time() -> None:
    host = Host(swap_at_latest_s=60.0)
    for number in range(60):
        host.drive.job(f"first-{number}", FIRST, timeout_ms=1_800_000)
    host.drive.job("second", SECOND)
    asked_at_s = host.drive.now_s
    running = ["first-0", "first-1"]
    given: list[tuple[str, float]] = []
    for _ in range(60):
        effects = [*host.seconds(5), *host.complete(*running)]
        running = [job_id for _, job_id in moved(effects)]
        given += [(job_id, host.drive.now_s - asked_at_s) for job_id in running]
    names = [job_id for job_id, _ in given]
    (at_s,) = [at_s for job_id, at_s in given if job_id == "second"]
    assert 60.0 <= at_s <= 90.0
    later = [at_s for job_id, at_s in given if job_id.startswith("first") and names.index(job_id) > names.index("second")]
    assert later, "and gets it back"
    assert min(later) < at_s + 20.0, "since nobody waits for the second model"


def test_while_both_have_long_lines_each_has_the_room_for_a_while() -> None:
    host = Host(swap_at_latest_s=60.0)
    for number in range(200):
        host.drive.job(f"first-{number}", FIRST, timeout_ms=1_800_000)
        host.drive.job(f"second-{number}", SECOND, timeout_ms=1_800_000)
    running, spawns = ["first-0", "first-1"], 0
    for _ in range(600):
        effects = [*host.seconds(1), *host.complete(*running)]
        running = [job_id for _, job_id in moved(effects)]
        spawns += kinds(effects).count("SpawnWorker")
    load_s = max(host.drive.scheduler._state.speeds.load_s(worker.place) for worker in host.drive.scheduler._state.workers.values())
    assert 600 / (2 * TURN_IN_LOADS * max(load_s, 10.0)) <= spawns <= 600 / 10, "each has its turns"


def test_batch_jobs_make_way_for_a_suspect() -> None:
    drive = Drive()
    full = facts.device("cpu", 16 * facts.GIB, 0)
    workers = [facts.worker(name, HAIKU, slots=2, memory_bytes=4 << 20) for name in ("w1", "w2")]
    drive.report("a", *workers, devices=(full,))
    drive.job("show")
    drive.send(AttemptCompleted("show", 1, Took(1, 0, 100, 0.0, 600.0)))
    boarded = {job_id: drive.job(job_id, priority=priority) for job_id, priority in JOBS}
    at = {job_id: worker_id for effects in boarded.values() for job_id, worker_id in _dispatched(effects)}
    effects = drive.died("a", at["chat"])
    survivors = {job_id for job_id, worker_id in at.items() if worker_id != at["chat"]}
    assert {("Requeue", job_id) for job_id in survivors} <= set(moved(effects)), "or the chat would wait for ten minutes"
    assert ("Dispatch", "chat") in moved(effects)
    assert drive.send(AttemptProved("chat", 2)) != []
    drive.scheduler.check_integrity()


def _dispatched(effects: list[Effect]) -> list[tuple[str, str]]:
    return [(effect.job_id, effect.worker_id) for effect in effects if isinstance(effect, Dispatch)]


JOBS = (("batch-0", "batch"), ("chat", "interactive"), ("batch-1", "batch"), ("batch-2", "batch"))


def test_a_dead_worker_beside_another_of_its_model_is_replaced() -> None:
    drive = Drive()
    drive.report("a", *(facts.worker(name, HAIKU) for name in ("w1", "w2")))
    for number in range(4):
        drive.job(f"job-{number}")
    replacement = spawned(drive.died("a", "w1"))
    assert (replacement.devices, replacement.model_ref) == (("cpu",), "haiku")
    assert "empties" not in (drive.scheduler.waiting_for("job-0") or "") + (drive.scheduler.waiting_for("job-1") or "")


def test_a_worker_that_died_without_work_is_not_replaced_beside_another() -> None:
    drive = Drive()
    drive.report("a", *(facts.worker(name, HAIKU) for name in ("w1", "w2")))
    assert drive.died("a", "w1") == []


def test_the_room_of_a_dead_worker_belongs_to_who_has_waited_longest() -> None:
    drive = Drive()
    full = facts.device("cpu", 16 * facts.GIB, 0)
    beside = [facts.worker(name, HAIKU, slots=1, memory_bytes=7 * facts.GIB) for name in ("w1", "w2")]
    drive.report("a", *beside, devices=(full,), models=(HAIKU, SECOND))
    assert _dispatched(drive.job("batch", HAIKU, priority="batch")) == [("batch", "w1")]
    drive.job("chat", HAIKU)
    drive.job("second", SECOND)
    assert spawned(drive.died("a", "w1")).model_ref == "second", "the batch job ranks behind it"


def test_a_worker_alone_on_its_device_is_not_replaced_before_others_are_asked() -> None:
    drive = Drive()
    drive.report("a", facts.worker("w1", FIRST, memory_bytes=7 * facts.GIB), devices=(TIGHT,), models=(FIRST, SECOND))
    drive.job("second", SECOND)
    drive.job("first", FIRST)
    assert [e.model_ref for e in drive.died("a", "w1") if isinstance(e, SpawnWorker)] == ["second"]
