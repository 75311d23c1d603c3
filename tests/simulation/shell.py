"""The simulated shell of orcd: a store that survives, an executor that carries effects out, a relay that journals tokens.

It is a small model of what loop, executor and store do, around the real Scheduler and the real fence of the journal
(`orcd/live.py`), which admits and numbers every event that a worker sends. What it journals is checked token by token, and every
effect is checked against what the scheduler had been told (`watch.py`). Of its own stalls the real `Stalls` tells, whatever comes
first after one.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import assert_never

import msgspec

from rbees.orcd.live import Stream as Fence
from rbees.orcd.live import Verdict
from rbees.orcd.scheduler.core import Scheduler
from rbees.orcd.scheduler.effects import (
    Abandon,
    Attach,
    Dispatch,
    Effect,
    Finish,
    Note,
    Requeue,
    ResolveModel,
    SpawnWorker,
    StopWorker,
)
from rbees.orcd.scheduler.events import (
    AttemptCompleted,
    AttemptFailed,
    AttemptProved,
    AttemptStarted,
    DrainBegan,
    Event,
    JobArrived,
    JobRecovered,
    JobSpec,
    LoopStalled,
    Moment,
    Ticked,
)
from rbees.orcd.scheduler.policy import Policy
from rbees.orcd.scheduler.speeds import Took
from rbees.orcd.stalls import Stalls
from rbees.protocol.errors import ErrorBody, ErrorCode, RbeesError
from rbees.protocol.events import End, Error, Metrics, Queued, Started, StreamState, Token
from rbees.protocol.events import Event as StreamEvent
from tests.simulation.hosts import Host, script
from tests.simulation.watch import TICK_S, Watch


@dataclass(slots=True)
class Record:
    """A job in the store, with its journal."""

    spec: JobSpec
    seed: int
    length: int
    deadly_at: int | None
    """It kills its worker when it has so many tokens."""
    accepted_at_s: float
    prompt_tokens: int = 1
    model_sha256: str | None = None
    tokens: list[int] = field(default_factory=list)
    fence: Fence = field(default_factory=Fence)
    """What decides which events of workers count; of it only what the journal's rows tell outlives orcd."""
    journal_epoch: int = 0
    """Of the last event that an attempt wrote."""
    epoch: int = 0
    failures: int = 0
    crashes: int = 0
    """Attempts that the store knows to have ended with their worker."""
    worker_id: str | None = None
    pool_id: str | None = None
    dispatched_at_s: float | None = None
    ended: str | None = None
    code: ErrorCode | None = None
    ended_at_s: float = 0.0
    cancel_asked: bool = False
    deaths: int = 0
    """Of workers while they ran it, or may have for all that orcd could know."""
    broken_on: set[str] = field(default_factory=set)
    """Workers to which its stream broke: nobody can tell whether the attempt got there."""

    def remembered(self) -> Fence:
        """What `recovery.py` makes of the journal."""
        fence = self.fence
        worker_seq = fence.worker_seq if self.journal_epoch == self.epoch else 0
        return Fence(fence.state, fence.last_seq, self.epoch, worker_seq, taken={0: len(self.tokens)})


@dataclass(slots=True)
class Stream:
    """orcd's end of an attempt's connection."""

    job_id: str
    epoch: int
    worker_id: str
    pool_id: str
    after: int = 0
    """The last event of the worker that orcd had when it opened this."""
    sent: int = 0
    """How many of the worker's events have been sent over it, those before it left out."""
    open: bool = True
    started: bool = False
    proof_left: int | None = None
    """Tokens after which orcd's scheduler is told that the attempt has made so many."""


class Shell:
    """One orcd, through all its restarts. `command` sends to a host; the world delays and loses what it likes."""

    def __init__(
        self, policy: Policy, rng: random.Random, command: Callable[[Effect, Stream | None], None], check_every: int = 1
    ) -> None:
        """The scheduler's state is checked whole after every `check_every`-th turn that may have changed it."""
        self._check_every = check_every
        self._changes = 0
        self._policy = policy
        self._rng = rng
        self._command = command
        self.records: dict[str, Record] = {}
        self.now_s = 0.0
        self.up = True
        self.epochs_started = 0
        self.counts: dict[str, int] = {}
        self._begin()

    def _begin(self) -> None:
        self.scheduler = Scheduler(self._policy)
        self.watch = Watch(self._policy, self.records)
        self.draining = False
        self.registered: set[str] = set()
        self.streams: dict[str, Stream] = {}
        self.stalled_until_s = 0.0
        self._stalls = Stalls(lambda: self.now_s, TICK_S)
        self._stalls.tell(lambda seconds: self.feed(LoopStalled(seconds)))

    @property
    def unix_ms(self) -> int:
        """The time of day."""
        return self._unix_ms_at(self.now_s)

    def _unix_ms_at(self, monotonic_s: float) -> int:
        return 1_700_000_000_000 + round(monotonic_s * 1000)

    def kill(self) -> None:
        """kill -9: everything but the store is gone."""
        self.up = False
        for stream in self.streams.values():
            stream.open = False
        for record in self.records.values():
            record.fence = record.remembered()

    def drain(self) -> None:
        """SIGTERM: no new jobs from now on."""
        self.draining = True
        self.feed(DrainBegan())

    def restart(self) -> None:
        """A new process reads the store."""
        self._begin()
        self.up = True
        for record in self.records.values():
            if record.ended is None:
                spec = replace(record.spec, model_sha256=record.model_sha256)
                attempt = (record.epoch, record.failures, record.worker_id, record.pool_id)
                self.feed(JobRecovered(spec, *attempt, self._unix_ms_at(record.accepted_at_s), record.crashes))

    def accept(self, record: Record) -> None:
        """Check a job as the API does, store it, then tell the scheduler."""
        try:
            self.scheduler.resolve(record.spec.model)
        except RbeesError:
            return
        self.records[record.spec.job_id] = record
        record.fence.number(Queued(queue_position=1, created_at_ms=self.unix_ms))
        self.feed(JobArrived(record.spec))

    def tick(self) -> None:
        """The loop's timer comes round."""
        self._stalls.awake()
        self.feed(Ticked())

    def feed(self, event: Event) -> None:
        """One turn of the loop."""
        assert self.up
        self._stalls.look()
        self.watch.hears(event, self.now_s)
        moment = Moment(self.now_s, self.unix_ms, self._rng.randbytes(10))
        effects = self.scheduler.handle(event, moment)
        for effect in effects:
            self.watch.sees(effect, self.now_s)
            self._carry_out(effect)
        if effects or not self.watch.is_quiet(event):
            self._changes += 1
            if self._changes % self._check_every == 0:
                self.scheduler.check_integrity()

    def _carry_out(self, effect: Effect) -> None:
        name = type(effect).__name__
        self.counts[name] = self.counts.get(name, 0) + 1
        match effect:
            case ResolveModel(job_id=job_id, model_sha256=model_sha256):
                self.records[job_id].model_sha256 = model_sha256
            case Dispatch() | Attach():
                self._open(effect)
            case Abandon(job_id=job_id, epoch=epoch):
                stream = self.streams.get(job_id)
                if stream is not None and stream.epoch == epoch:
                    self._close(job_id)
                self._command(effect, None)
            case Requeue(job_id=job_id, counted=counted, error=error):
                record = self.records[job_id]
                record.crashes += error.code is ErrorCode.WORKER_CRASHED
                record.worker_id = record.pool_id = None
                record.failures += counted
                record.fence.listening = False
                record.fence.number(Metrics(stage="attempt_failed", reason=error.message, code=error.code))
                self._close(job_id)
            case Finish(job_id=job_id, status=status, error=error):
                self.records[job_id].fence.number(Error(error=error))
                self._end(self.records[job_id], status, error.code)
            case SpawnWorker() | StopWorker():
                self._command(effect, None)
            case Note(job_id=job_id, stage=stage, reason=reason):
                self.records[job_id].fence.number(Metrics(stage=stage, reason=reason))
            case _:
                assert_never(effect)

    def _open(self, effect: Dispatch | Attach) -> None:
        record = self.records[effect.job_id]
        if isinstance(effect, Dispatch):
            record.epoch, record.worker_id, record.pool_id = effect.epoch, effect.worker_id, effect.pool_id
            record.fence.begin(effect.epoch)
            if record.dispatched_at_s is None:
                record.dispatched_at_s = self.now_s
        else:
            assert record.fence.epoch == effect.epoch, "only the current attempt is attached to"
            record.fence.listening = True
        self._close(effect.job_id)
        stream = Stream(effect.job_id, effect.epoch, effect.worker_id, effect.pool_id, record.fence.worker_seq)
        self.streams[effect.job_id] = stream
        stream.proof_left = effect.proof_tokens
        self._command(effect, stream)

    def _close(self, job_id: str) -> None:
        stream = self.streams.pop(job_id, None)
        if stream is not None:
            stream.open = False

    def _end(self, record: Record, how: str, code: ErrorCode | None) -> None:
        assert record.ended is None, f"{record.spec.job_id} ended twice: {record.ended}, then {how}"
        record.ended, record.code, record.ended_at_s = how, code, self.now_s
        self._close(record.spec.job_id)

    # --- what workers stream ------------------------------------------------------------------------------------------

    def receive(self, stream: Stream, seq: int, event: StreamEvent, took: Took | None = None) -> None:
        """An event of the worker, in its own numbering, as `attempt.py` and `journal.py` take it."""
        record = self.records[stream.job_id]
        verdict = record.fence.admit(stream.epoch, seq, event)
        assert verdict is not Verdict.STALE or record.fence.ended or not stream.open, "what counts is dropped"
        if verdict is Verdict.TAKE:
            self._journal(record, stream, event)
        elif not isinstance(event, Started):
            return
        match event:
            case Started() if not stream.started:
                stream.started = True
                self.feed(AttemptStarted(stream.job_id, stream.epoch))
            case Token():
                self._prove(stream, len(event.token_ids))
            case End():
                self.ended(stream, took)
            case _:
                pass

    def _journal(self, record: Record, stream: Stream, event: StreamEvent) -> None:
        assert stream.epoch == record.epoch, "an older epoch writes"
        assert record.ended is None
        again = isinstance(event, Started) and record.fence.state is StreamState.RUNNING
        record.fence.number(Metrics(stage="attempt_started", epoch=stream.epoch) if again else event)
        record.journal_epoch = stream.epoch
        if isinstance(event, Token):
            record.tokens += event.token_ids

    def _prove(self, stream: Stream, tokens: int) -> None:
        if stream.proof_left is not None:
            stream.proof_left -= tokens
            if stream.proof_left <= 0:
                stream.proof_left = None
                self.feed(AttemptProved(stream.job_id, stream.epoch))

    def ended(self, stream: Stream, took: Took | None = None) -> None:
        """The attempt's `end` event, after all its tokens."""
        record = self.records[stream.job_id]
        assert record.tokens == script(record.seed, record.length), f"{record.spec.job_id} continued wrongly"
        self._end(record, "completed", None)
        self.feed(AttemptCompleted(stream.job_id, stream.epoch, took))

    def failed(self, stream: Stream, code: ErrorCode, *, suspect: bool, hung: bool = False, ctx_tokens: int | None = None) -> None:
        """The attempt's stream is over without a result; with `ctx_tokens` because that is all that the worker holds."""
        if stream.open and self.up and self.streams.get(stream.job_id) is stream:
            self._close(stream.job_id)
            if suspect:
                self.records[stream.job_id].broken_on.add(stream.worker_id)
            error = ErrorBody(code=code, message="simulated")
            if ctx_tokens is not None:
                numbers = {"prompt_tokens": self.records[stream.job_id].prompt_tokens, "ctx_tokens": ctx_tokens, "max_tokens": None}
                error = msgspec.structs.replace(error, details=numbers)
            self.feed(AttemptFailed(stream.job_id, stream.epoch, error, ctx_tokens is not None, suspect, hung))

    def streams_of(self, host: Host, worker_id: str | None = None) -> list[Stream]:
        """Open streams from a host, or from one worker of it."""
        return [s for s in self.streams.values() if s.pool_id == host.pool_id and worker_id in {None, s.worker_id}]
