"""A mixed fleet in virtual time: the real scheduler, or one with a rival's rules, over hosts whose speed follows a cost model.

No faults here: the question is how long jobs take. The world below the scheduler is the same for all rules of a seed: jobs and the
lengths of their answers are drawn before it begins.

**Cost model.** A host has a speed v: 1 for the fast ones, 0.1 for the slow one. Loading takes `START_S` and `LOAD_S_PER_GIB` / v
for each GiB. A prompt token that is not cached takes `PREFILL_S` / v. A token of each of n streams takes (`STEP_S` + `STREAM_S` n)
/ v; attempts on one worker share its steps. A worker keeps the prompts of its last `KEPT_SESSIONS` sessions. A stopped one leaves
its memory after `STOP_S`.

**Load.** Two models, of which a device holds one at a time. Chats come one at a time (`EVERY_S` on average) and in bursts of
`BURST` for one model, the models taking turns. Most belong to a session whose prompt grows with every turn.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from rbees.orcd.scheduler.core import Scheduler
from rbees.orcd.scheduler.effects import Dispatch, Effect, SpawnWorker, StopWorker
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
from rbees.protocol.prefix_chain import LINK_ENDS
from tests.simulation import facts

START_S: Final = 0.5
LOAD_S_PER_GIB: Final = 1.0
PREFILL_S: Final = 1 / 2_000
STEP_S: Final = 0.02
STREAM_S: Final = 0.002
STOP_S: Final = 1.0
KEPT_SESSIONS: Final = 8
SLOTS: Final = 4
DEVICE_BYTES: Final = 10 << 30
MODELS: Final = (facts.model("writer", 7 << 30), facts.model("coder", 6 << 30))
SPEEDS: Final = {"fast-1": 1.0, "fast-2": 1.0, "slow": 0.1}
BYTES_PER_TOKEN: Final = 4
EVERY_S: Final = 8.0
BURST: Final = 16
BURST_EVERY_S: Final = 150.0
SESSIONS: Final = 16
HEARTBEAT_S: Final = 2.0
TICK_S: Final = 0.25
REST_S: Final = 7_200.0


@dataclass(frozen=True, slots=True)
class Order:
    """A job, and how long its answer will be."""

    at_s: float
    spec: JobSpec
    tokens: int


@dataclass(slots=True)
class Run:
    """An attempt on a worker."""

    order: Order
    epoch: int
    began_s: float
    prompt_tokens: int
    cached_tokens: int
    prefilled_s: float
    """When its prompt has been read."""
    left: float
    """Tokens still to be written."""


@dataclass(slots=True)
class Worker:
    """A worker process: what it runs, and up to when that was worked out."""

    known: WorkerFacts
    speed: float
    runs: dict[str, Run] = field(default_factory=dict)
    at_s: float = 0.0
    sessions: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Prefixes by session, the one used last at the end."""
    plans: int = 0
    """How often its next end was foretold, so that older foretellings are known as such."""

    def advance(self, now_s: float) -> None:
        """Let everything that has read its prompt be written further."""
        while self.at_s < now_s:
            writing = [run for run in self.runs.values() if run.prefilled_s <= self.at_s]
            begins = [run.prefilled_s for run in self.runs.values() if run.prefilled_s > self.at_s]
            until_s = min([now_s, *begins])
            for run in writing:
                run.left -= (until_s - self.at_s) / self._step_s(len(writing))
            self.at_s = until_s

    def next_s(self) -> float | None:
        """When the next attempt ends, or begins to be written, which changes the pace of the others."""
        writing = [run for run in self.runs.values() if run.prefilled_s <= self.at_s]
        moments = [run.prefilled_s for run in self.runs.values() if run.prefilled_s > self.at_s]
        moments += [self.at_s + max(run.left, 0.0) * self._step_s(len(writing)) for run in writing]
        return min(moments, default=None)

    def _step_s(self, streams: int) -> float:
        return (STEP_S + STREAM_S * streams) / self.speed


def orders(seed: int, minutes: float, *, every_s: float = EVERY_S, burst_every_s: float = BURST_EVERY_S) -> list[Order]:
    """All jobs of a world, by when they come."""
    rng = random.Random(seed)
    turns: dict[str, int] = {}
    moments: list[tuple[float, ModelFacts | None]] = []
    at_s = 5.0
    while at_s < minutes * 60.0:
        moments.append((at_s, None))
        at_s += rng.expovariate(1 / every_s)
    at_s, bursts = 20.0, 0
    while at_s < minutes * 60.0:
        model = MODELS[bursts % len(MODELS)]
        moments += [(at_s + rng.random() * 2.0, model) for _ in range(BURST)]
        at_s += burst_every_s * rng.uniform(0.7, 1.3)
        bursts += 1
    moments.sort(key=lambda moment: moment[0])
    return [_order(rng, turns, number, at_s, model or rng.choice(MODELS)) for number, (at_s, model) in enumerate(moments)]


def _order(rng: random.Random, turns: dict[str, int], number: int, at_s: float, model: ModelFacts) -> Order:
    session = f"{model.ref}-{rng.randrange(SESSIONS)}" if rng.random() < 0.7 else f"once-{number}"
    turns[session] = turns.get(session, 0) % 8 + 1
    prompt_bytes = BYTES_PER_TOKEN * (rng.randrange(100, 600) + 900 * (turns[session] - 1))
    tokens = round(min(800.0, max(8.0, rng.lognormvariate(4.8, 0.7))))
    spec = JobSpec(
        job_id=f"job-{number:05d}",
        model=model.ref,
        model_sha256=model.sha256,
        priority="interactive",
        order=number,
        timeout_ms=3_600_000,
        prompt_bytes=prompt_bytes,
        max_tokens=1_024,
        session_id=session,
        prefixes=tuple(f"{session}:{index}" for index, end in enumerate(LINK_ENDS) if end <= prompt_bytes),
    )
    return Order(at_s, spec, tokens)


class Fleet:
    """One world; `run` gives the seconds from acceptance to completion of every job."""

    def __init__(self, seed: int, *, minutes: float = 30.0) -> None:
        self._scheduler = Scheduler(Policy())
        self._orders = {order.spec.job_id: order for order in orders(seed, minutes)}
        self._end_s = minutes * 60.0
        self._workers: dict[str, dict[str, Worker]] = {pool_id: {} for pool_id in SPEEDS}
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._entries = 0
        self._now_s = 0.0
        self._took_s: dict[str, float] = {}
        self.spawns = 0

    def run(self) -> list[float]:
        """Until every job is done."""
        for pool_id in SPEEDS:
            self._after(0.0, lambda pool_id=pool_id: self._heartbeat(pool_id))  # type: ignore[misc]
        self._after(0.0, self._tick)
        for order in self._orders.values():
            self._after(order.at_s, lambda order=order: self._send(JobArrived(order.spec)))  # type: ignore[misc]
        while len(self._took_s) < len(self._orders):
            self._now_s, _, action = heapq.heappop(self._agenda)
            assert self._now_s < self._end_s + REST_S, "jobs are stuck"
            action()
        self._scheduler.check_integrity()
        return list(self._took_s.values())

    def _after(self, delay_s: float, action: Callable[[], None]) -> None:
        self._entries += 1
        heapq.heappush(self._agenda, (self._now_s + delay_s, self._entries, action))

    def _send(self, event: Event) -> None:
        self._entries += 1
        moment = Moment(self._now_s, round(self._now_s * 1000), self._entries.to_bytes(10, "big"))
        for effect in self._scheduler.handle(event, moment):
            self._carry_out(effect)

    def _tick(self) -> None:
        self._send(Ticked())
        self._after(TICK_S, self._tick)

    def _heartbeat(self, pool_id: str) -> None:
        self._send(self._report(pool_id))
        self._after(HEARTBEAT_S, lambda: self._heartbeat(pool_id))

    def _report(self, pool_id: str) -> PoolReported:
        workers = tuple(worker.known for worker in self._workers[pool_id].values())
        free = DEVICE_BYTES - sum(_size(worker) for worker in workers)
        return PoolReported(pool_id, "1", False, (facts.device("cuda:0", DEVICE_BYTES, free),), MODELS, workers)

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case SpawnWorker():
                self._after(0.0, lambda: self._load(effect))
            case StopWorker():
                self._after(STOP_S, lambda: self._stop(effect))
            case Dispatch():
                self._after(0.0, lambda: self._begin(effect))
            case _:
                pass

    def _load(self, command: SpawnWorker) -> None:
        self.spawns += 1
        model = next(one for one in MODELS if one.sha256 == command.model_sha256)
        assert self._report(command.pool_id).devices[0].free_bytes >= model.size_bytes, "there is no room"
        loading = facts.worker(command.worker_id, model, "loading", device_id="cuda:0", slots=0, memory_bytes=0)
        speed = SPEEDS[command.pool_id]
        worker = self._workers[command.pool_id][command.worker_id] = Worker(loading, speed)
        self._send(SpawnAccepted(command.worker_id))
        load_s = START_S + LOAD_S_PER_GIB * model.size_bytes / facts.GIB / speed

        def ready() -> None:
            worker.known = facts.worker(command.worker_id, model, device_id="cuda:0", slots=SLOTS)
            self._send(WorkerBecameReady(command.pool_id, worker.known))

        self._after(load_s, ready)

    def _stop(self, command: StopWorker) -> None:
        if self._workers[command.pool_id].pop(command.worker_id, None) is not None:
            error = ErrorBody(code=ErrorCode.WORKER_CRASHED, message="It was told to stop.")
            self._send(WorkerEnded(command.pool_id, command.worker_id, error, while_loading=False))

    def _begin(self, effect: Dispatch) -> None:
        order, worker = self._orders[effect.job_id], self._workers[effect.pool_id][effect.worker_id]
        worker.advance(self._now_s)
        held = worker.sessions.get(order.spec.session_id, ())
        shared = sum(one == other for one, other in zip(held, order.spec.prefixes, strict=False))
        prompt = order.spec.prompt_bytes // BYTES_PER_TOKEN
        cached = min(LINK_ENDS[shared - 1] // BYTES_PER_TOKEN, prompt) if shared else 0
        prefilled_s = self._now_s + (prompt - cached) * PREFILL_S / worker.speed
        worker.runs[effect.job_id] = Run(order, effect.epoch, self._now_s, prompt, cached, prefilled_s, float(order.tokens))
        self._send(AttemptStarted(effect.job_id, effect.epoch))
        self._foretell(worker)

    def _foretell(self, worker: Worker) -> None:
        worker.plans += 1
        plan, next_s = worker.plans, worker.next_s()
        if next_s is not None:
            self._after(max(next_s - self._now_s, 0.0), lambda: self._continue(worker, plan))

    def _continue(self, worker: Worker, plan: int) -> None:
        if plan != worker.plans:
            return
        worker.advance(self._now_s)
        for run in [run for run in worker.runs.values() if run.left <= 1e-6 and run.prefilled_s <= self._now_s]:
            self._end(worker, run)
        self._foretell(worker)

    def _end(self, worker: Worker, run: Run) -> None:
        spec = run.order.spec
        del worker.runs[spec.job_id]
        self._took_s[spec.job_id] = self._now_s - run.order.at_s
        worker.sessions.pop(spec.session_id, None)
        worker.sessions[spec.session_id] = spec.prefixes
        for oldest in list(worker.sessions)[:-KEPT_SESSIONS]:
            del worker.sessions[oldest]
        prefill_s = run.prefilled_s - run.began_s
        took = Took(run.prompt_tokens, run.cached_tokens, run.order.tokens, prefill_s, self._now_s - run.prefilled_s)
        self._send(AttemptCompleted(spec.job_id, run.epoch, took))
        told = tuple(prefix for prefixes in worker.sessions.values() for prefix in prefixes)
        self._send(PrefixesCached(worker.known.worker_id, told))


def _size(worker: WorkerFacts) -> int:
    return next(model.size_bytes for model in MODELS if model.sha256 == worker.model_sha256)
