"""A seeded cluster in virtual time: hosts, clients and faults around one simulated orcd. The same seed gives the same world."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from rbees.orcd.scheduler.effects import Abandon, Attach, Dispatch, Effect, SpawnWorker, StopWorker
from rbees.orcd.scheduler.events import (
    CancelAsked,
    JobSpec,
    PrefixesCached,
    SpawnAccepted,
    SpawnRefused,
    WorkerBecameReady,
    WorkerEnded,
)
from rbees.orcd.scheduler.policy import Policy
from rbees.orcd.scheduler.speeds import Took
from rbees.protocol.errors import ErrorBody, ErrorCode
from rbees.protocol.events import Started
from tests.simulation import facts
from tests.simulation.faults import HANG_S, Faults
from tests.simulation.hosts import ACK_PATIENCE_S, STEP_S, Host, Run, SimWorker
from tests.simulation.shell import Record, Shell, Stream
from tests.simulation.watch import TICK_S

HEARTBEAT_S: Final = 2.0
REATTACH_S: Final = 0.5
"""For so long orcd tries to take up a stream that broke; its pool's word on a death usually comes before that."""
CONNECT_S: Final = 5.0
CHECKED_HOSTS: Final = 5
"""In worlds with more hosts the scheduler's state is checked more seldom, since a check costs as much as the state is large."""
CONTEXTS: Final = (512, 4096)
"""Of the workers of every other host."""
PROMPT_TOKENS: Final = (*(1,) * 20, 1_000, 1, 1, 5_000)
"""Of one job after the other: most are short, some too long for every other host, and a few for all."""
SHORT_TIMEOUT_MS: Final = 20_000
"""Some jobs are given so little time that a fault, or the mere length of their answer, may cost it."""
CHOICES: Final = (1, 1, 1, 1, 1, 2, 3, 16)
"""Most jobs make one answer; some make more at once than a worker has slots."""
MODELS: Final = (facts.model("small", 1 << 30), facts.model("medium", 3 << 30), facts.model("large", 6 << 30))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a seed came to."""

    seed: int
    jobs: int
    completed: int
    failed: dict[str, int]
    retries: int
    events: int
    longest_wait_s: float
    faults: int


class World:
    """Run with `run()`; an AssertionError out of it is a violated invariant."""

    def __init__(
        self,
        seed: int,
        *,
        hosts: int = 5,
        minutes: float = 10.0,
        faults: int | None = None,
        jobs: int | None = None,
        policy: Policy | None = None,
    ) -> None:
        """`faults` and `jobs` are the most that there may be."""
        self.seed = seed
        self.rng = random.Random(seed)
        self.now_s = 0.0
        self.end_s = minutes * 60.0
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._entries = 0
        self._events = 0
        self._orders = 0
        self._policy = policy or Policy(worker_idle_s=self.rng.choice((20.0, 120.0, 1_800.0)))
        self.hosts = {host.pool_id: host for host in (self._make_host(index) for index in range(hosts))}
        self.shell = Shell(self._policy, self.rng, self._send, check_every=max(1, hosts // CHECKED_HOSTS))
        self._most_jobs = jobs
        self._faults = Faults(self, faults)

    def _make_host(self, index: int) -> Host:
        held = tuple(model for number, model in enumerate(MODELS) if index % 3 == number or self.rng.random() < 0.6)
        devices = {"cpu": self.rng.choice((4, 8)) * facts.GIB}
        if self.rng.random() < 0.5:
            devices["cuda:0"] = self.rng.choice((4, 8)) * facts.GIB
        if self.rng.random() < 0.3:
            devices["cuda:1"] = 4 * facts.GIB
        if any(model.size_bytes > 4 * facts.GIB for model in held):
            devices["cpu"] = 8 * facts.GIB
        return Host(f"pool-{index}", devices, held, tokens_at_once=self.rng.choice((1, 1, 10)), default_ctx=CONTEXTS[index % 2])

    # --- time ---------------------------------------------------------------------------------------------------------

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        """Have something happen later."""
        self._entries += 1
        heapq.heappush(self._agenda, (self.now_s + delay_s, self._entries, action))

    def run(self) -> Outcome:
        """Let the virtual minutes pass, then let the cluster rest until every job has ended."""
        for host in self.hosts.values():
            self.after(self.rng.uniform(0.0, 3.0), lambda host=host: self._heartbeat(host))  # type: ignore[misc]
        self.after(0.0, self._tick)
        self.after(0.0, self._next_job)
        self._pass_until(self.end_s)
        rest_s = self.end_s
        while any(record.ended is None for record in self.shell.records.values()):
            rest_s += 10.0
            assert rest_s < self.end_s + 3_600.0, f"jobs are stuck: {self._stuck()}"
            self._pass_until(rest_s)
        self._check_ends()
        return self._outcome()

    def _check_ends(self) -> None:
        for record in self.shell.records.values():
            assert self._is_owed(record), f"{record.spec.job_id} ended for no good reason: {record.ended} {record.code}"

    def _is_owed(self, record: Record) -> bool:
        """Faults delay jobs and cost none, with exceptions that each have their reason in the job's own course."""
        match record.code:
            case None:
                return record.deadly_at is None
            case ErrorCode.CANCELLED:
                return record.cancel_asked
            case ErrorCode.TIMEOUT:
                return record.spec.timeout_ms == SHORT_TIMEOUT_MS
            case ErrorCode.DEADLINE_EXCEEDED:
                return record.spec.deadline_at_ms is not None
            case ErrorCode.MODEL_NOT_FOUND:
                # Accepted while no pool was known; whether those that came then held the model, `Watch` has seen.
                return record.model_sha256 is None
            case ErrorCode.CONTEXT_EXCEEDED:
                # Where the hosts that would do are away, or none of them holds the model.
                return record.prompt_tokens > min(CONTEXTS)
            case ErrorCode.WORKER_CRASHED:
                # Twice is the least; where workers were killed from outside, the job has had the bad luck to look like poison.
                return record.deaths >= self._policy.deaths_alone
            case _:
                return record.deadly_at is not None

    def _pass_until(self, end_s: float) -> None:
        agenda = self._agenda
        while agenda and agenda[0][0] <= end_s:
            self.now_s, _, action = heapq.heappop(agenda)
            self.shell.now_s = self.now_s
            self._events += 1
            action()
        self.now_s = self.shell.now_s = end_s

    @property
    def calm(self) -> bool:
        """The last fifth of the time brings no faults and no jobs."""
        return self.now_s > self.end_s * 0.8

    def _stuck(self) -> list[tuple[str, str | None]]:
        waiting = self.shell.scheduler.waiting_for
        return [(key, waiting(key)) for key, record in self.shell.records.items() if record.ended is None][:5]

    @property
    def counts(self) -> tuple[int, int]:
        """How many jobs and how many faults there have been."""
        return self._orders, self._faults.count

    def _outcome(self) -> Outcome:
        records = self.shell.records.values()
        failed: dict[str, int] = {}
        for record in records:
            if record.code is not None:
                failed[record.code.value] = failed.get(record.code.value, 0) + 1
        waits = [(record.dispatched_at_s or record.ended_at_s) - record.accepted_at_s for record in records]
        return Outcome(
            self.seed,
            len(records),
            sum(record.ended == "completed" for record in records),
            failed,
            self.shell.counts.get("Requeue", 0),
            self._events,
            max(waits, default=0.0),
            self._faults.count,
        )

    # --- orcd and its network -------------------------------------------------------------------------------------------

    def deaf(self) -> bool:
        """True while orcd hears nothing, being down or standing still."""
        return not self.shell.up or self.now_s < self.shell.stalled_until_s

    def _to_orcd(self, host: Host, action: Callable[[], None]) -> None:
        """Deliver to orcd unless it or the way there is down; a standing loop gets it when it goes on."""

        def deliver() -> None:
            if self.shell.up and host.reachable(self.now_s):
                if self.now_s < self.shell.stalled_until_s:
                    self.after(self.shell.stalled_until_s - self.now_s + 0.001, deliver)
                else:
                    action()

        self.after(self.rng.random() * 0.03, deliver)

    def _tick(self) -> None:
        if not self.deaf():
            self.shell.tick()
        self.after(TICK_S, self._tick)

    def _heartbeat(self, host: Host) -> None:
        if host.powered and host.daemon_up and host.reachable(self.now_s):
            self._to_orcd(host, lambda: self._hear(host))
        self.after(HEARTBEAT_S, lambda: self._heartbeat(host))

    def _hear(self, host: Host) -> None:
        if host.daemon_up:
            self.shell.registered.add(host.pool_id)
            self.shell.feed(host.report())

    def _send(self, effect: Effect, stream: Stream | None) -> None:
        latency_s = self.rng.random() * 0.03
        match effect:
            case SpawnWorker():
                self.after(latency_s, lambda: self._start(effect))
            case StopWorker():
                self.after(latency_s, lambda: self._stop(effect))
            case Dispatch() | Attach():
                assert stream is not None
                self.after(latency_s, lambda: self._connect(effect, stream))
            case Abandon():
                self.after(latency_s, lambda: self._cancel(effect))
            case _:
                raise AssertionError(effect)

    # --- commands to pools ----------------------------------------------------------------------------------------------

    def _start(self, command: SpawnWorker) -> None:
        host = self.hosts[command.pool_id]
        if not host.reachable(self.now_s) or not host.daemon_up:
            error = ErrorBody(code=ErrorCode.POOL_UNREACHABLE, message="No answer.")
            self.after(CONNECT_S, lambda: self._answer(SpawnRefused(command.worker_id, error)))
            return
        known = command.worker_id in host.workers
        refusal = host.start(command)
        if refusal is None and not known:
            self._load(host, host.workers[command.worker_id])
        if self.rng.random() < 0.03:
            # The answer is lost on its way, although the worker may have been started.
            refusal = ErrorBody(code=ErrorCode.POOL_UNREACHABLE, message="The answer was lost.")
        self._answer(SpawnAccepted(command.worker_id) if refusal is None else SpawnRefused(command.worker_id, refusal))

    def _answer(self, event: SpawnAccepted | SpawnRefused) -> None:
        if not self.deaf():
            self.shell.feed(event)

    def _load(self, host: Host, worker: SimWorker) -> None:
        load_s = worker.model.size_bytes / facts.GIB * self.rng.uniform(0.5, 2.0)
        if self.rng.random() < 0.06 and not self.calm:
            self.after(load_s * self.rng.random(), lambda: self.die(host, worker, "simulated crash at load"))
            return
        for tenth in (3, 6, 9):
            self.after(load_s * tenth / 10, lambda tenth=tenth: self._progress(host, worker, tenth / 10))  # type: ignore[misc]
        self.after(load_s, lambda: self._ready(host, worker))

    def _progress(self, host: Host, worker: SimWorker, progress: float) -> None:
        if worker.alive:
            worker.progress = progress
            host.changed()

    def _ready(self, host: Host, worker: SimWorker) -> None:
        if worker.alive:
            worker.ready = True
            host.changed()
            if host.daemon_up:
                self._to_orcd(host, lambda: self._pass_on_ready(host, worker))

    def _pass_on_ready(self, host: Host, worker: SimWorker) -> None:
        if worker.alive and host.pool_id in self.shell.registered:
            self.shell.feed(WorkerBecameReady(host.pool_id, worker.facts()))

    def _stop(self, command: StopWorker) -> None:
        host = self.hosts[command.pool_id]
        worker = host.workers.get(command.worker_id)
        if worker is not None and worker.alive and host.daemon_up and host.reachable(self.now_s):
            worker.draining = True
            host.changed()
            self.after(self.rng.uniform(0.1, 2.0), lambda: self.die(host, worker, None))

    # --- workers ----------------------------------------------------------------------------------------------------------

    def take_down(self, worker: SimWorker) -> set[str]:
        """The process is gone, and everything that it ran; the jobs that may have been the reason."""
        worker.alive = False
        broken = {job_id for job_id, record in self.shell.records.items() if worker.worker_id in record.broken_on}
        counted = broken | worker.runs.keys()
        for job_id in counted:
            self.shell.records[job_id].deaths += 1
        worker.runs.clear()
        return counted

    def _pass_on_end(self, event: WorkerEnded, counted: set[str]) -> None:
        """A job that was sent to the worker when it was dead already may, for all that orcd can know, have killed it."""
        for stream in self.shell.streams.values():
            if stream.worker_id == event.worker_id and stream.job_id not in counted:
                self.shell.records[stream.job_id].deaths += 1
        self.shell.feed(event)

    def die(self, host: Host, worker: SimWorker, cause: str | None) -> None:
        """The process ends. Its connections are reset at once; its daemon, if it is up, passes an unasked end on."""
        if not worker.alive:
            return
        counted = self.take_down(worker)
        del host.workers[worker.worker_id]
        host.changed()
        if cause is not None and host.daemon_up:
            error = ErrorBody(code=ErrorCode.WORKER_CRASHED, message=cause)
            event = WorkerEnded(host.pool_id, worker.worker_id, error, not worker.ready)
            self._to_orcd(host, lambda: self._pass_on_end(event, counted))
        for stream in self.shell.streams_of(host, worker.worker_id):
            self.after(REATTACH_S, lambda stream=stream: self._break(host, stream))  # type: ignore[misc]

    def _break(self, host: Host, stream: Stream) -> None:
        """Nobody answers on the port any more."""
        if host.reachable(self.now_s):
            self.tell_failed(stream, ErrorCode.WORKER_UNREACHABLE, suspect=True)

    def tell_failed(
        self, stream: Stream, code: ErrorCode, *, suspect: bool, hung: bool = False, ctx_tokens: int | None = None
    ) -> None:
        """A stream ends without a result; an orcd that stands still hears of it once it goes on and knows of its own stall."""
        left_s = self.shell.stalled_until_s - self.now_s
        if self.shell.up and left_s > 0:
            self.after(left_s + 0.001, lambda: self.tell_failed(stream, code, suspect=suspect, hung=hung, ctx_tokens=ctx_tokens))
        else:
            self.shell.failed(stream, code, suspect=suspect, hung=hung, ctx_tokens=ctx_tokens)

    def _connect(self, effect: Dispatch | Attach, stream: Stream) -> None:
        """orcd's request reaches the worker, or does not."""
        if not stream.open:
            return
        host = self.hosts[effect.pool_id]
        if not host.reachable(self.now_s):
            self.after(CONNECT_S, lambda: self.tell_failed(stream, ErrorCode.WORKER_UNREACHABLE, suspect=True))
            return
        worker = host.workers.get(effect.worker_id)
        if worker is None:
            self.tell_failed(stream, ErrorCode.WORKER_UNREACHABLE, suspect=True)
        elif worker.hung_until_s > self.now_s:
            self.after(HANG_S, lambda: self._connect_hung(effect, stream, worker))
        elif isinstance(effect, Attach):
            self._attach(worker, stream)
        elif worker.draining:
            self.tell_failed(stream, ErrorCode.DRAINING, suspect=False)
        elif self.shell.records[stream.job_id].prompt_tokens >= worker.ctx:
            self.tell_failed(stream, ErrorCode.CONTEXT_EXCEEDED, suspect=False, ctx_tokens=worker.ctx)
        else:
            self._execute(host, worker, stream)

    def _connect_hung(self, effect: Dispatch | Attach, stream: Stream, worker: SimWorker) -> None:
        if worker.hung_until_s > self.now_s:
            self.tell_failed(stream, ErrorCode.WORKER_UNREACHABLE, suspect=True, hung=True)
        else:
            self._connect(effect, stream)

    def _execute(self, host: Host, worker: SimWorker, stream: Stream) -> None:
        record = self.shell.records[stream.job_id]
        older = worker.runs.get(stream.job_id)
        assert older is None or older.epoch <= stream.epoch
        run = Run(
            stream.job_id,
            stream.epoch,
            record.seed,
            record.length,
            list(record.tokens),
            stream,
            self.now_s,
            self.now_s,
            record.deadly_at,
        )
        worker.runs[stream.job_id] = run
        run.events.append(Started(epoch=run.epoch, worker_id=worker.worker_id, model=worker.model.ref, prompt_tokens=1))
        if not self.deaf():
            self._deliver(run, stream)
        self.after(STEP_S, lambda: self._step(host, worker, run))

    def _attach(self, worker: SimWorker, stream: Stream) -> None:
        run = worker.runs.get(stream.job_id)
        if run is None or run.epoch != stream.epoch:
            self.tell_failed(stream, ErrorCode.JOB_NOT_FOUND, suspect=False)
        else:
            run.stream = stream
            run.last_ack_s = self.now_s
            # Some come twice: what was taken last may not have been known to be.
            stream.sent = max(0, stream.after - self.rng.randrange(3))

    def _cancel(self, effect: Abandon) -> None:
        for host in self.hosts.values():
            worker = host.workers.get(effect.worker_id)
            if worker is not None and host.reachable(self.now_s):
                run = worker.runs.get(effect.job_id)
                if run is not None and run.epoch <= effect.epoch:
                    del worker.runs[effect.job_id]

    def _step(self, host: Host, worker: SimWorker, run: Run) -> None:
        """A second of work: some tokens more, and what orcd has not got yet is sent."""
        if not worker.alive or worker.runs.get(run.job_id) is not run:
            return
        if worker.hung_until_s > self.now_s:
            self.after(worker.hung_until_s - self.now_s, lambda: self._step(host, worker, run))
            return
        run.make(min(run.length - len(run.tokens), self.rng.randrange(2, 9) * host.tokens_at_once))
        if run.deadly_at is not None and len(run.tokens) >= run.deadly_at:
            self.die(host, worker, "the job is poison")
            return
        stream = run.stream
        if stream is not None and stream.open and host.reachable(self.now_s) and not self.deaf():
            run.last_ack_s = self.now_s
            self._deliver(run, stream)
            if run.has_ended and stream.sent == len(run.events):
                del worker.runs[run.job_id]
                self._tell_prefixes(host, worker, run)
                return
        elif self.now_s - run.last_ack_s > ACK_PATIENCE_S:
            del worker.runs[run.job_id]
            return
        self.after(STEP_S, lambda: self._step(host, worker, run))

    def _deliver(self, run: Run, stream: Stream) -> None:
        """What the worker has to tell and this connection has not brought; orcd may hang up at any of it."""
        took_s = max(self.now_s - run.begun_at_s, 0.001)
        took = Took(run.length // 2, 0, run.length, took_s * 0.2, took_s * 0.8)
        while stream.open and stream.sent < len(run.events):
            stream.sent += 1
            self.shell.receive(stream, stream.sent, run.events[stream.sent - 1], took)

    def _tell_prefixes(self, host: Host, worker: SimWorker, run: Run) -> None:
        """After an attempt the worker is sometimes asked what it holds, and it may have forgotten some of it."""
        worker.prefixes += self.shell.records[run.job_id].spec.prefixes
        if host.reachable(self.now_s) and not self.deaf() and self.rng.random() < 0.5:
            worker.prefixes = worker.prefixes[-self.rng.randrange(1, 9) :]
            self.shell.feed(PrefixesCached(worker.worker_id, tuple(worker.prefixes)))

    # --- clients --------------------------------------------------------------------------------------------------------

    def _next_job(self) -> None:
        if self.calm or self._orders == self._most_jobs:
            return
        if not self.deaf() and not self.shell.draining:
            for _ in range(self.rng.choice((1, 1, 1, 2, 6))):
                if self._orders != self._most_jobs:
                    self._submit()
        self.after(self.rng.expovariate(1 / 12.0), self._next_job)

    def _submit(self) -> None:
        rng = self.rng
        self._orders += 1
        job_id = f"job-{self._orders}"
        model = rng.choice(MODELS)
        length = rng.randrange(4, 120)
        deadly_at = rng.randrange(1, length + 1) if rng.random() < 0.02 else None
        timeout_ms = SHORT_TIMEOUT_MS if rng.random() < 0.03 else 300_000
        deadline_at_ms = self.shell.unix_ms + rng.randrange(1_000, 300_000) if rng.random() < 0.05 else None
        spec = JobSpec(
            job_id=job_id,
            model=model.ref,
            model_sha256=None,
            priority=rng.choice(("interactive", "batch")),
            order=self._orders,
            timeout_ms=timeout_ms,
            deadline_at_ms=deadline_at_ms,
            choices=rng.choice(CHOICES),
            prompt_bytes=rng.randrange(1, 20_000),
            max_tokens=rng.choice((None, length)),
            session_id=rng.choice(("", "", "anna", "bert")),
            prefixes=tuple(f"chat-{rng.randrange(6)} block-{block}" for block in range(rng.randrange(4))),
        )
        self.shell.accept(
            Record(spec, self._orders, length, deadly_at, self.now_s, PROMPT_TOKENS[self._orders % len(PROMPT_TOKENS)])
        )
        if job_id in self.shell.records and rng.random() < 0.05:
            self.after(rng.uniform(0.0, 30.0), lambda: self._ask_to_cancel(job_id))

    def _ask_to_cancel(self, job_id: str) -> None:
        record = self.shell.records[job_id]
        if not self.deaf() and record.ended is None:
            record.cancel_asked = True
            self.shell.feed(CancelAsked(job_id))
            assert record.ended == "cancelled"
