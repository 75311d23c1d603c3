"""The scheduler under arbitrary events, also such as no cluster would send: its promises hold and its state stays whole.

`tests.simulation.shell` plays the store and checks each effect as it is carried out; the machine below plays everything
else, without any regard for plausibility.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rbees.orcd.scheduler.effects import Effect, SpawnWorker
from rbees.orcd.scheduler.events import (
    AttemptCancelled,
    AttemptCompleted,
    AttemptFailed,
    AttemptStarted,
    CancelAsked,
    JobSpec,
    LetGoAsked,
    LoopStalled,
    PoolDrainChanged,
    PoolForgotten,
    PoolReported,
    PrefixesCached,
    SpawnAccepted,
    SpawnRefused,
    Ticked,
    WorkerBecameReady,
    WorkerEnded,
)
from rbees.orcd.scheduler.policy import Policy
from rbees.orcd.scheduler.speeds import Took
from rbees.protocol.errors import ErrorBody, ErrorCode
from rbees.protocol.jobs import Priority
from rbees.protocol.pools import ModelFacts, WorkerFacts
from rbees.protocol.workers import WorkerState
from tests.simulation import facts
from tests.simulation.hosts import script
from tests.simulation.shell import Record, Shell, Stream

MODELS = {"small": facts.model("small", 1 << 30), "large": facts.model("large", 6 << 30)}
CONTEXTS = (0, 512, 4096)
POOLS = ("a", "b", "c", "d")
STATES: tuple[WorkerState, ...] = ("starting", "loading", "ready", "ready", "ready", "draining", "stopped", "failed")
CODES = (
    ErrorCode.INTERNAL,
    ErrorCode.WORKER_UNREACHABLE,
    ErrorCode.DRAINING,
    ErrorCode.MODEL_LOADING,
    ErrorCode.JOB_NOT_FOUND,
    ErrorCode.WORKER_NOT_FOUND,
)
REFUSALS = (
    ErrorCode.INSUFFICIENT_VRAM,
    ErrorCode.DEVICE_BUSY,
    ErrorCode.POOL_UNREACHABLE,
    ErrorCode.MODEL_INCOMPATIBLE,
    ErrorCode.BACKEND_UNAVAILABLE,
    ErrorCode.INTERNAL,
)


POOL = st.sampled_from(POOLS)
MODEL = st.sampled_from(sorted(MODELS))
PREFIXES = st.lists(st.sampled_from(("p1", "p2", "p3", "p4")), max_size=3)
TOOK = st.builds(
    Took,
    prompt_tokens=st.integers(1, 10_000),
    cached_tokens=st.integers(0, 1),
    completion_tokens=st.integers(0, 10_000),
    prefill_s=st.floats(0, 100),
    decode_s=st.floats(0, 1_000),
)


@dataclass
class FakePool:
    """What a pool will say next."""

    pool_id: str
    boot: int = 1
    workers: dict[str, WorkerFacts] = field(default_factory=dict)
    healthy: bool = True
    free_bytes: int = 7 * facts.GIB
    default_ctx: int = 0

    def report(self) -> PoolReported:
        devices = (facts.device("cpu", 8 * facts.GIB, max(self.free_bytes, 0), healthy=self.healthy),)
        models, workers = tuple(MODELS.values()), tuple(self.workers.values())
        return PoolReported(self.pool_id, str(self.boot), False, devices, models, workers, default_ctx=self.default_ctx)


class SchedulerMachine(RuleBasedStateMachine):
    """Rules are what can happen to a scheduler."""

    def __init__(self) -> None:
        super().__init__()
        self.pools = {pool_id: FakePool(pool_id, default_ctx=CONTEXTS[index % 3]) for index, pool_id in enumerate(POOLS)}
        self.spawns: dict[str, SpawnWorker] = {}
        self.orders = 0
        self.shell = Shell(Policy(worker_idle_s=20.0), random.Random(0), self._command)
        self.shell.now_s = 50.0

    def _command(self, effect: Effect, _stream: Stream | None) -> None:
        if isinstance(effect, SpawnWorker):
            self.spawns[effect.worker_id] = effect

    def _live(self) -> list[Record]:
        return [record for record in self.shell.records.values() if record.ended is None]

    def _attempts(self) -> list[Record]:
        return [record for record in self._live() if record.worker_id is not None]

    def _streaming(self) -> list[Stream]:
        return [stream for stream in self.shell.streams.values() if stream.open]

    @initialize(workers=st.lists(st.tuples(POOL, MODEL), max_size=4), jobs=st.lists(MODEL, max_size=6))
    def something_goes_on(self, workers: list[tuple[str, str]], jobs: list[str]) -> None:
        for pool_id, model in workers:
            self.a_worker_appears(pool_id, model, 0)
            self.shell.feed(self.pools[pool_id].report())
        for model in jobs:
            self.a_job_arrives(model, "interactive", 300_000)

    # --- pools ----------------------------------------------------------------------------------------------------------

    @rule(pool_id=POOL, change=st.booleans(), data=st.data())
    def a_pool_reports(self, pool_id: str, change: bool, data: st.DataObject) -> None:
        pool = self.pools[pool_id]
        if change:
            for worker_id, worker in list(pool.workers.items()):
                state = data.draw(st.sampled_from((*STATES, worker.state, worker.state, None)))
                if state is None:
                    del pool.workers[worker_id]
                else:
                    pool.workers[worker_id] = msgspec.structs.replace(worker, state=state)
            pool.free_bytes = data.draw(st.integers(0, 8)) * facts.GIB
            pool.healthy = data.draw(st.integers(0, 5)) > 0
        self.shell.feed(pool.report())

    @rule(pool_id=POOL, data=st.data())
    def a_pool_restarts(self, pool_id: str, data: st.DataObject) -> None:
        pool = self.pools[pool_id]
        pool.boot += 1
        pool.workers = {key: worker for key, worker in pool.workers.items() if data.draw(st.booleans())}
        self.shell.feed(pool.report())

    @rule(pool_id=POOL, drains=st.booleans())
    def an_operator_drains_or_resumes(self, pool_id: str, drains: bool) -> None:
        self.shell.feed(PoolDrainChanged(pool_id, drains))

    @rule(model=MODEL)
    def a_client_wants_a_model_gone(self, model: str) -> None:
        self.shell.feed(LetGoAsked(MODELS[model].sha256))

    @rule(pool_id=POOL, really=st.integers(0, 5))
    def a_pool_is_forgotten(self, pool_id: str, really: int) -> None:
        if really == 0:
            self.shell.feed(PoolForgotten(pool_id))

    @precondition(lambda self: self.spawns)
    @rule(accepted=st.booleans(), exists=st.booleans(), code=st.sampled_from(REFUSALS), data=st.data())
    def a_start_is_answered(self, accepted: bool, exists: bool, code: ErrorCode, data: st.DataObject) -> None:
        worker_id = data.draw(st.sampled_from(sorted(self.spawns)))
        command = self.spawns.pop(worker_id)
        if accepted or exists:
            model = next(model for model in MODELS.values() if model.sha256 == command.model_sha256)
            self._add_worker(command.pool_id, worker_id, model, "loading", command.devices[0])
        answer = SpawnAccepted(worker_id) if accepted else SpawnRefused(worker_id, ErrorBody(code=code, message="No."))
        self.shell.feed(answer)

    @rule(pool_id=POOL, model=MODEL, number=st.integers(0, 3))
    def a_worker_appears(self, pool_id: str, model: str, number: int) -> None:
        self._add_worker(pool_id, f"by-hand-{pool_id}-{model}-{number}", MODELS[model], "ready", "cpu")

    def _add_worker(self, pool_id: str, worker_id: str, model: ModelFacts, state: WorkerState, device_id: str) -> None:
        slots = 1 + len(worker_id) % 3
        ctx = CONTEXTS[sum(worker_id.encode()) % len(CONTEXTS)]
        self.pools[pool_id].workers[worker_id] = facts.worker(worker_id, model, state, device_id=device_id, slots=slots, ctx=ctx)

    @rule(pool_id=POOL, data=st.data())
    def a_worker_becomes_ready(self, pool_id: str, data: st.DataObject) -> None:
        pool = self.pools[pool_id]
        if pool.workers:
            worker_id = data.draw(st.sampled_from(sorted(pool.workers)))
            pool.workers[worker_id] = msgspec.structs.replace(pool.workers[worker_id], state="ready")
            self.shell.feed(WorkerBecameReady(pool_id, pool.workers[worker_id]))

    @rule(pool_id=POOL, loading=st.booleans(), code=st.sampled_from(REFUSALS), data=st.data())
    def a_worker_ends(self, pool_id: str, loading: bool, code: ErrorCode, data: st.DataObject) -> None:
        pool = self.pools[pool_id]
        if pool.workers:
            worker_id = data.draw(st.sampled_from(sorted(pool.workers)))
            del pool.workers[worker_id]
            self.shell.feed(WorkerEnded(pool_id, worker_id, ErrorBody(code=code, message="It died."), loading))

    # --- jobs -----------------------------------------------------------------------------------------------------------

    @rule(
        model=MODEL,
        priority=st.sampled_from(("interactive", "batch")),
        timeout_ms=st.sampled_from((5_000, 300_000)),
        choices=st.sampled_from((1, 1, 1, 2, 3, 16)),
        max_tokens=st.none() | st.integers(0, 100_000),
        prefixes=PREFIXES,
        keep_s=st.sampled_from((None, None, 0.0, 5.0, math.inf)),
    )
    def a_job_arrives(
        self,
        model: str,
        priority: Priority,
        timeout_ms: int,
        choices: int = 1,
        max_tokens: int | None = None,
        prefixes: Sequence[str] = (),
        keep_s: float | None = None,
    ) -> None:
        self.orders += 1
        spec = JobSpec(
            job_id=f"job-{self.orders}",
            model=model,
            model_sha256=None,
            priority=priority,
            order=self.orders,
            timeout_ms=timeout_ms,
            choices=choices,
            prompt_bytes=2_000,
            max_tokens=max_tokens,
            session_id=f"{self.orders % 3}",
            prefixes=tuple(prefixes),
            keep_s=keep_s,
        )
        self.shell.accept(Record(spec, self.orders, 3, None, self.shell.now_s))

    @precondition(lambda self: self.shell.records)
    @rule(data=st.data())
    def a_job_is_cancelled(self, data: st.DataObject) -> None:
        record = data.draw(st.sampled_from(list(self.shell.records.values())))
        self.shell.feed(CancelAsked(record.spec.job_id))
        assert record.ended is not None

    @precondition(lambda self: self._streaming())
    @rule(data=st.data())
    def an_attempt_completes(self, data: st.DataObject) -> None:
        stream = data.draw(st.sampled_from(self._streaming()))
        record = self.shell.records[stream.job_id]
        record.tokens = script(record.seed, record.length)
        self.shell.ended(stream, data.draw(st.none() | TOOK))

    @rule(pool_id=POOL, data=st.data(), prefixes=PREFIXES)
    def a_worker_tells_what_it_has_cached(self, pool_id: str, data: st.DataObject, prefixes: list[str]) -> None:
        worker_id = data.draw(st.sampled_from(sorted({*self.pools[pool_id].workers, "unknown"})))
        self.shell.feed(PrefixesCached(worker_id, tuple(prefixes)))

    @precondition(lambda self: self.shell.records)
    @rule(data=st.data())
    def an_attempt_starts(self, data: st.DataObject) -> None:
        record = data.draw(st.sampled_from(list(self.shell.records.values())))
        self.shell.feed(AttemptStarted(record.spec.job_id, data.draw(self._an_epoch(record))))

    @precondition(lambda self: self._attempts())
    @rule(code=st.sampled_from(CODES), final=st.integers(0, 9), suspect=st.booleans(), hung=st.booleans(), data=st.data())
    def an_attempt_fails(self, code: ErrorCode, final: int, suspect: bool, hung: bool, data: st.DataObject) -> None:
        record = data.draw(st.sampled_from(self._attempts()))
        epoch = data.draw(self._an_epoch(record))
        error = ErrorBody(code=code, message="It failed.")
        self.shell.feed(AttemptFailed(record.spec.job_id, epoch, error, final == 0, suspect, hung))

    @precondition(lambda self: self._attempts())
    @rule(prompt=st.integers(100, 5_000), held=st.sampled_from(CONTEXTS), data=st.data())
    def a_context_is_too_small(self, prompt: int, held: int, data: st.DataObject) -> None:
        record = data.draw(st.sampled_from(self._attempts()))
        numbers = {"prompt_tokens": prompt, "ctx_tokens": held, "max_tokens": None}
        error = ErrorBody(code=ErrorCode.CONTEXT_EXCEEDED, message="Too long.", details=numbers)
        self.shell.feed(AttemptFailed(record.spec.job_id, data.draw(self._an_epoch(record)), error, True, False))

    @precondition(lambda self: self._attempts())
    @rule(data=st.data())
    def a_worker_gives_an_attempt_up(self, data: st.DataObject) -> None:
        record = data.draw(st.sampled_from(self._attempts()))
        self.shell.feed(AttemptCancelled(record.spec.job_id, data.draw(self._an_epoch(record))))

    @precondition(lambda self: self.shell.records)
    @rule(data=st.data())
    def an_older_attempt_speaks_up(self, data: st.DataObject) -> None:
        record = data.draw(st.sampled_from(list(self.shell.records.values())))
        if record.epoch > 0:
            self.shell.feed(AttemptCompleted(record.spec.job_id, record.epoch - 1))

    def _an_epoch(self, record: Record) -> st.SearchStrategy[int]:
        """Mostly the current one, now and then an older one."""
        return st.sampled_from((record.epoch, record.epoch, record.epoch, max(record.epoch - 1, 0)))

    # --- time -----------------------------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from((0.1, 0.5, 1.0)), times=st.integers(1, 20), speaking=st.sets(POOL))
    def time_passes(self, seconds: float, times: int, speaking: set[str]) -> None:
        for _ in range(times):
            self.shell.now_s += seconds
            for pool_id in sorted(speaking):
                self.shell.feed(self.pools[pool_id].report())
            self.shell.feed(Ticked())

    @rule(seconds=st.floats(0.5, 30.0))
    def orcd_stands_still(self, seconds: float) -> None:
        self.shell.now_s += seconds
        self.shell.feed(LoopStalled(seconds))
        self.shell.feed(Ticked())

    @rule(really=st.integers(0, 3))
    def orcd_restarts(self, really: int) -> None:
        if really == 0:
            self.shell.kill()
            self.shell.restart()
            self.spawns.clear()

    # --- what must hold ---------------------------------------------------------------------------------------------------

    @invariant()
    def the_state_is_whole(self) -> None:
        self.shell.scheduler.check_integrity()

    @invariant()
    def every_job_that_has_not_ended_is_known(self) -> None:
        assert set(self.shell.scheduler._state.jobs) == {record.spec.job_id for record in self._live()}

    @invariant()
    def a_job_waits_or_runs_or_has_ended(self) -> None:
        for record in self._live():
            waits = self.shell.scheduler.queue_position(record.spec.job_id) is not None
            assert waits == (record.worker_id is None), "the store and the scheduler disagree on who waits"

    def teardown(self) -> None:
        """However bad it was: once the cluster is well, every job ends."""
        for pool in self.pools.values():
            pool.workers.clear()
            pool.boot += 1
            self.shell.feed(PoolDrainChanged(pool.pool_id, drains=False))
        for step in range(2_000):
            if not self._live():
                return
            self.shell.now_s += 1.0
            for pool in self.pools.values():
                pool.healthy, pool.free_bytes = True, 8 * facts.GIB - sum(worker.memory_bytes for worker in pool.workers.values())
                self.shell.feed(pool.report())
            self._obey(step)
            self.shell.feed(Ticked())
        raise AssertionError([self.shell.scheduler.waiting_for(record.spec.job_id) for record in self._live()])

    def _obey(self, step: int) -> None:
        for worker_id, command in sorted(self.spawns.items()):
            model = next(model for model in MODELS.values() if model.sha256 == command.model_sha256)
            self._add_worker(command.pool_id, worker_id, model, "ready", command.devices[0])
        self.spawns.clear()
        for record in self._attempts():
            stream = self.shell.streams.get(record.spec.job_id)
            if stream is not None and step % 3 == 0:
                record.tokens = script(record.seed, record.length)
                self.shell.ended(stream)


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(
    max_examples=150,
    stateful_step_count=50,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
