"""How long one decision takes, by the size of the fleet: `Scheduler.handle` on a stream of events like those of a busy day.

The scheduler is pure, so nothing else is in the figure. Every fleet is full and has `QUEUED` jobs waiting. The events come in the
same proportions for all sizes (`MIX`); time passes at the pace at which each pool reports every 2 s; attempts go as fast as these
proportions have it.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from rbees.orcd.scheduler.core import Scheduler
from rbees.orcd.scheduler.effects import Dispatch, SpawnWorker
from rbees.orcd.scheduler.events import (
    AttemptCompleted,
    AttemptStarted,
    Event,
    JobArrived,
    JobSpec,
    Moment,
    PoolReported,
    PrefixesCached,
    SpawnAccepted,
    Ticked,
    WorkerBecameReady,
    WorkerEnded,
)
from rbees.orcd.scheduler.policy import Policy
from rbees.orcd.scheduler.speeds import Took
from rbees.protocol.errors import ErrorBody, ErrorCode
from rbees.protocol.pools import ModelFacts, WorkerFacts
from tests.bench.orcd import curve
from tests.bench.rows import Row, at_most
from tests.bench.timing import Samples
from tests.simulation import facts

QUEUED: Final = 10_000
SIZES: Final = (10, 100, 1_000, 8_000, 10_000)
"""Workers. 8 000 are the 1 000 pools of 8 workers for which the issue asks."""
MODELS: Final = (1, 10, 100)
EVENTS: Final = 4_000
ASKED: Final = 400
WORKERS_OF_A_POOL: Final = 8
MODELS_OF_A_POOL: Final = 10
SLOTS: Final = 4
TOTAL_BYTES: Final = 12 << 30
MODEL_BYTES: Final = 8 << 30
PICTURE: Final = Path("docs/images/decisions.svg")
MIX: Final = {"arrival": 58, "start": 58, "end": 58, "heartbeat": 16, "prefixes": 6, "tick": 3, "death": 1}
"""Of 200 events."""


class Fleet:
    """A full fleet around a scheduler, which does at once what it is told and says so later, in the order of `MIX`."""

    def __init__(self, workers: int, models: int, *, several: int = 0, seed: int = 4) -> None:
        """Of 100 jobs, `several` ask for two answers at once."""
        self.scheduler = Scheduler(Policy())
        self._rng = random.Random(seed)
        self._several = several
        self._models = [facts.model(f"model-{number}", MODEL_BYTES) for number in range(models)]
        self._workers: dict[str, dict[str, WorkerFacts]] = {}
        self._begun: deque[tuple[str, int]] = deque()
        self._running: deque[tuple[str, int]] = deque()
        self._loading: deque[tuple[str, WorkerFacts]] = deque()
        self._beat = 0
        self._orders = 0
        self.now_s = 0.0
        self._pools = -(-workers // WORKERS_OF_A_POOL)
        for index in range(self._pools):
            there = min(WORKERS_OF_A_POOL, workers - index * WORKERS_OF_A_POOL)
            held = self._held(index)
            self._workers[f"pool-{index}"] = {
                f"cuda:{device}": facts.worker(
                    f"w-{index}-{device}", held[device % len(held)], device_id=f"cuda:{device}", slots=SLOTS
                )
                for device in range(there)
            }
            self.send(self._report(index))
        self._step_s = 2.0 * MIX["heartbeat"] / sum(MIX.values()) / self._pools

    def _held(self, index: int) -> list[ModelFacts]:
        first = index * MODELS_OF_A_POOL
        count = min(MODELS_OF_A_POOL, len(self._models))
        return [self._models[(first + number) % len(self._models)] for number in range(count)]

    def fill(self) -> None:
        """Jobs until every worker is full and `QUEUED` wait."""
        slots = SLOTS * sum(map(len, self._workers.values()))
        for _ in range(slots + QUEUED):
            self.send(self.arrival())

    def send(self, event: Event) -> float:
        """One turn of the scheduler, and how many seconds it took."""
        self._orders += 1
        moment = Moment(self.now_s, round(self.now_s * 1000), self._orders.to_bytes(10, "big"))
        begun = time.thread_time()
        effects = self.scheduler.handle(event, moment)
        taken = time.thread_time() - begun
        for effect in effects:
            if isinstance(effect, Dispatch):
                self._begun.append((effect.job_id, effect.epoch))
            elif isinstance(effect, SpawnWorker):
                model = next(one for one in self._models if one.sha256 == effect.model_sha256)
                known = facts.worker(effect.worker_id, model, device_id=effect.devices[0], slots=SLOTS)
                self._workers[effect.pool_id][effect.devices[0]] = known
                self._loading.append((effect.pool_id, known))
        return taken

    def events(self, count: int) -> Iterator[tuple[str, Event]]:
        """So many events of the day, each made when the scheduler has dealt with the one before."""
        cycle = [name for name, times in MIX.items() for _ in range(times)]
        for number in range(count):
            if number % len(cycle) == 0:
                self._rng.shuffle(cycle)
            self.now_s += self._step_s
            while self._loading:
                yield from self._comes_up(*self._loading.popleft())
            event = self._event(cycle[number % len(cycle)])
            if event is not None:
                yield cycle[number % len(cycle)], event

    def _comes_up(self, pool_id: str, worker: WorkerFacts) -> Iterator[tuple[str, Event]]:
        yield "accepted", SpawnAccepted(worker.worker_id)
        yield "ready", WorkerBecameReady(pool_id, worker)

    def _event(self, name: str) -> Event | None:
        match name:
            case "arrival":
                return self.arrival()
            case "start" if self._begun:
                self._running.append(self._begun.popleft())
                return AttemptStarted(*self._running[-1])
            case "end" if self._running:
                self._running.rotate(-self._rng.randrange(min(len(self._running), 64)))
                took = Took(500, 0, 200, self._rng.uniform(0.1, 0.3), self._rng.uniform(4.0, 8.0))
                return AttemptCompleted(*self._running.popleft(), took)
            case "heartbeat":
                self._beat += 1
                return self._report(self._beat % self._pools)
            case "prefixes":
                return PrefixesCached(self._some_worker()[1].worker_id, tuple(f"chat-{self._rng.randrange(200)}" for _ in range(8)))
            case "tick":
                return Ticked()
            case "death":
                pool_id, worker = self._some_worker()
                del self._workers[pool_id][worker.devices[0]]
                error = ErrorBody(code=ErrorCode.WORKER_CRASHED, message="It was killed.")
                return WorkerEnded(pool_id, worker.worker_id, error, while_loading=False)
        return None

    def _some_worker(self) -> tuple[str, WorkerFacts]:
        pool_id = self._rng.choice([*self._workers]) if self._pools < 20 else f"pool-{self._rng.randrange(self._pools)}"
        return pool_id, self._rng.choice([*self._workers[pool_id].values()])

    def _report(self, index: int) -> PoolReported:
        workers = self._workers[f"pool-{index}"]
        devices = tuple(
            facts.device(name, TOTAL_BYTES, TOTAL_BYTES - MODEL_BYTES * (name in workers) - self._rng.randrange(1 << 28))
            for name in (f"cuda:{device}" for device in range(WORKERS_OF_A_POOL))
            if name in workers or index < self._pools - 1
        )
        return PoolReported(f"pool-{index}", "1", False, devices, tuple(self._held(index)), tuple(workers.values()))

    def arrival(self, deadline_s: float | None = None) -> JobArrived:
        """A job of the kind of this day."""
        self._orders += 1
        rng = self._rng
        model = rng.choice(self._models)
        chat = rng.randrange(200)
        spec = JobSpec(
            job_id=f"job-{self._orders:08d}",
            model=model.ref,
            model_sha256=model.sha256,
            priority=rng.choice(("interactive", "interactive", "interactive", "batch")),
            order=self._orders,
            timeout_ms=3_600_000,
            choices=2 if rng.randrange(100) < self._several else 1,
            prompt_bytes=rng.randrange(100, 8_000),
            max_tokens=rng.choice((None, 64, 256)),
            session_id=f"session-{chat % 50}",
            prefixes=(f"chat-{chat}",),
            deadline_at_ms=None if deadline_s is None else round((self.now_s + deadline_s) * 1000),
        )
        return JobArrived(spec)


def decision_times(workers: int, models: int, events: int, *, several: int = 0) -> dict[str, list[float]]:
    """Milliseconds of each decision, by the kind of event; `all` has those of all kinds."""
    fleet = Fleet(workers, models, several=several)
    fleet.fill()
    taken: dict[str, list[float]] = {"all": []}
    for name, event in fleet.events(events):
        ms = fleet.send(event) * 1000
        taken["all"].append(ms)
        taken.setdefault(name, []).append(ms)
    fleet.scheduler.check_integrity()
    return taken


def asking_times(workers: int, models: int, count: int) -> dict[str, list[float]]:
    """Milliseconds of a submission with a deadline, which asks first whether it could be kept, and of a plan."""
    fleet = Fleet(workers, models)
    fleet.fill()
    for _, event in fleet.events(EVENTS // 8):
        fleet.send(event)
    taken: dict[str, list[float]] = {"submission": [], "plan": []}
    for number in range(count):
        arrival = fleet.arrival(deadline_s=3_600.0)
        begun = time.thread_time()
        refusal = fleet.scheduler.refusal_for_deadline(arrival.job, fleet.now_s, round(fleet.now_s * 1000))
        asked_s = time.thread_time() - begun
        assert refusal is None, "everybody has time enough"
        if number % 10 == 0:
            begun = time.thread_time()
            fleet.scheduler.plan(arrival.job, fleet.now_s, round(fleet.now_s * 1000))
            taken["plan"].append((time.thread_time() - begun) * 1000)
        taken["submission"].append((asked_s + fleet.send(arrival)) * 1000)
    fleet.scheduler.check_integrity()
    return taken


def measure(short: bool) -> list[Row]:
    """Every size of fleet with every number of models; the picture has the medians and the p99 of each."""
    sizes = (10, 1_000) if short else SIZES
    events = EVENTS // 8 if short else EVENTS
    p99: dict[tuple[int, int], float] = {}
    rows: list[Row] = []
    for workers in sizes:
        for models in MODELS:
            taken = decision_times(workers, models, events)
            p99[workers, models] = Samples(tuple(taken["all"])).percentile(99)
            rows.append(_row(workers, models, taken))
    few, many = sizes[0], sizes[-1]
    growth = max(p99[many, models] / p99[few, models] for models in MODELS)
    about = f"p99 of a decision with {many} workers over that with {few}, the largest of the ratios with {_listed(MODELS)} models"
    rows.append(at_most("orcd.decision_growth", growth, "×", 3, about))
    taken = decision_times(many, 10, events, several=2)
    about = (
        f"p99 of a decision with {many} workers and 10 models where 2 % of the jobs ask for two answers: whatever such a job has "
        "held up goes to workers in one decision"
    )
    rows.append(at_most("orcd.decision_several", Samples(tuple(taken["all"])).percentile(99), "ms", 5, about))
    rows += _asking_rows(*((1_000, 10) if short else (8_000, 10)), ASKED // 8 if short else ASKED)
    if not short:
        lines = {f"{models} model{'s' * (models > 1)}": [(size, p99[size, models]) for size in sizes] for models in MODELS}
        PICTURE.write_text(curve.draw("p99 of one decision, 10 000 jobs queued", "workers", "ms", lines, goal=5.0))
    return rows


def _row(workers: int, models: int, taken: dict[str, list[float]]) -> Row:
    every = Samples(tuple(taken["all"]))
    kinds = {name: Samples(tuple(times)).percentile(99) for name, times in taken.items() if name in MIX}
    slowest = max(kinds, key=kinds.__getitem__)
    about = (
        f"processor time of a decision, p99 of {len(every.values)}, with {QUEUED} jobs queued, {workers} workers and {models} "
        f"models; median {every.median:.2f} ms, longest {max(every.values):.1f} ms, p99 of the slowest kind ({slowest}) "
        f"{kinds[slowest]:.2f} ms"
    )
    return at_most(f"orcd.decision_{workers}x{models}", every.percentile(99), "ms", 5, about)


def _asking_rows(workers: int, models: int, count: int) -> list[Row]:
    taken = {name: Samples(tuple(times)) for name, times in asking_times(workers, models, count).items()}
    submissions, plans = taken["submission"], taken["plan"]
    fleet = f"with {QUEUED} jobs queued, {workers} workers on {workers // WORKERS_OF_A_POOL} pools and {models} models"
    about = (
        f"processor time of a submission with a deadline, asking whether it can be kept included, p99 of {count}, {fleet}; median "
        f"{submissions.median:.2f} ms, longest {max(submissions.values):.1f} ms"
    )
    about_plan = (
        f"processor time of a plan with the table of all places, median of {len(plans.values)}, {fleet}; longest "
        f"{max(plans.values):.0f} ms: no goal, for people ask for it and not every client"
    )
    return [
        at_most("orcd.decision_deadline", submissions.percentile(99), "ms", 5, about),
        at_most("orcd.decision_plan", plans.median, "ms", None, about_plan),
    ]


def _listed(numbers: tuple[int, ...]) -> str:
    return f"{', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"
