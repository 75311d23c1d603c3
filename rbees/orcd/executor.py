"""Carries out what the scheduler decides. `Executor` is the one interface behind which every side effect stands.

`RecordingExecutor` only writes down what it is told, for tests and dry runs; `LiveExecutor` does it. `perform` never waits: what
takes time becomes a task, what must keep its order goes through the journal, and what comes of it returns as an event.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any, Final, NoReturn, Protocol, assert_never

import msgspec

from rbees.orcd.attempt import Attempt, Seat
from rbees.orcd.crew import Crew
from rbees.orcd.directory import Directory
from rbees.orcd.frames import journaled
from rbees.orcd.journal import Journal
from rbees.orcd.live import LiveJob
from rbees.orcd.requests import execute_request
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
from rbees.orcd.scheduler.events import AttemptCompleted, AttemptFailed, SpawnAccepted, SpawnRefused
from rbees.orcd.scheduler.events import Event as Happening
from rbees.orcd.stalls import Stalls
from rbees.orcd.store.jobs import JobStore
from rbees.protocol.errors import RbeesError
from rbees.protocol.events import Metrics, Result, StreamState, Token
from rbees.protocol.jobs import JobRequest
from rbees.protocol.pools import SpawnCommand
from rbees.protocol.workers import ExecuteRequest
from rbees.service import logs
from rbees.service.clock import Clock
from rbees.service.correlation import correlation_id

WATCH_S: Final = 0.1
"""How often attempts are looked at for hangs and for what is to be acknowledged; often, so that little comes due at a time."""


class Executor(Protocol):
    """Every side effect of a decision."""

    def perform(self, effect: Effect) -> None:
        """Set `effect` going. Never waits and never raises for what the outside world does."""
        ...


class RecordingExecutor:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.effects: list[Effect] = []

    def perform(self, effect: Effect) -> None:
        """See `Executor`."""
        self.effects.append(effect)

    def take(self) -> list[Effect]:
        """What was performed since the last call."""
        taken, self.effects = self.effects, []
        return taken


class LiveExecutor:
    """Performs effects on the journal, on workers and on pools; `attempt_ended` is told the worker of each attempt that is over."""

    def __init__(
        self,
        journal: Journal,
        store: JobStore,
        directory: Directory,
        clock: Clock,
        crew: Crew,
        report: Callable[[Happening], None],
        attempt_ended: Callable[[str], None],
        stalls: Stalls,
        hang_after_s: float,
    ) -> None:
        self._journal = journal
        self._store = store
        self._directory = directory
        self._clock = clock
        self._crew = crew
        self._report = report
        self._attempt_ended = attempt_ended
        self._stalls = stalls
        self._hang_after_s = hang_after_s
        self._log = logs.logger()
        self._attempts: dict[tuple[str, int], Attempt] = {}
        self._starting: set[tuple[str, int]] = set()
        stalls.tell(self.extend)

    def perform(self, effect: Effect) -> None:
        """See `Executor`."""
        match effect:
            case ResolveModel():
                job = self._journal.live.get(effect.job_id)
                if job is not None:
                    self._journal.resolve(job, effect.model_sha256, effect.model_ref)
            case Dispatch():
                self._dispatch(effect)
            case Attach():
                self._attach(effect)
            case Abandon():
                self._abandon(effect)
            case Requeue() | Finish() | Note():
                self._record(effect)
            case SpawnWorker():
                self._start(self._spawn(effect), "spawn")
            case StopWorker():
                self._start(self._stop(effect), "stop")
            case _:
                assert_never(effect)

    @property
    def running(self) -> int:
        """How many attempts are under way."""
        return len(self._attempts) + len(self._starting)

    async def watch(self) -> NoReturn:
        """Look at all attempts now and then, for ever."""
        while True:
            await self._clock.sleep(WATCH_S)
            self._stalls.awake()
            if self._journal.full:
                # Nothing can be acknowledged, so workers stand still for want of room for their events.
                self.extend(WATCH_S)
            now_s = self._clock.monotonic()
            for attempt in list(self._attempts.values()):
                attempt.check(now_s)

    def extend(self, seconds: float) -> None:
        """This process stood still: no worker was silent meanwhile."""
        for attempt in self._attempts.values():
            attempt.extend(seconds)

    # ---- attempts ------------------------------------------------------------------------------------------------------

    def _dispatch(self, effect: Dispatch) -> None:
        job = self._job_for(effect)
        if job is not None:
            durable = self._journal.begin_attempt(job, effect.epoch, effect.worker_id, effect.pool_id, effect.why)
            self._begin(job, effect, durable)

    def _attach(self, effect: Attach) -> None:
        # An attempt whose pool was silent for a while may have gone on here all the time.
        if (effect.job_id, effect.epoch) in self._attempts or (effect.job_id, effect.epoch) in self._starting:
            return
        job = self._job_for(effect)
        if job is not None:
            assert job.stream.epoch == effect.epoch, "only the current attempt is attached to"
            job.stream.listening = True
            self._begin(job, effect, self._journal.settled())

    def _job_for(self, effect: Dispatch | Attach) -> LiveJob | None:
        """The job; one whose `end` came in just before the scheduler decided otherwise is reported as complete."""
        job = self._journal.live.get(effect.job_id)
        if job is None or job.stream.ended:
            self._report(AttemptCompleted(effect.job_id, effect.epoch))
            return None
        return job

    def _begin(self, job: LiveJob, effect: Dispatch | Attach, durable: asyncio.Future[None]) -> None:
        self._starting.add((effect.job_id, effect.epoch))
        context = copy_context()
        context.run(correlation_id.set, job.correlation_id)
        self._crew.start(self._run(job, effect, durable, context), "attempt", context)

    async def _run(self, job: LiveJob, effect: Dispatch | Attach, durable: asyncio.Future[None], context: Context) -> None:
        key = (effect.job_id, effect.epoch)
        try:
            await durable
            request = await self._request(job, effect.epoch)
            seat = self._seat(effect)
            if request is None or not self._counts(job, effect.epoch):
                return
            attempt = Attempt(
                job,
                effect.epoch,
                seat,
                journal=self._journal,
                clock=self._clock,
                report=self._report,
                start=lambda work: self._crew.start(work, "attempt_call", context),
                stalls=self._stalls,
                hang_after_s=self._hang_after_s,
                proof_tokens=effect.proof_tokens,
            )
        except RbeesError as error:
            self._report(AttemptFailed(*key, error.body(), final=False, worker_suspect=False))
            return
        finally:
            self._starting.discard(key)
        self._attempts[key] = attempt
        try:
            await attempt.run(request)
        finally:
            del self._attempts[key]
            self._attempt_ended(effect.worker_id)

    def _counts(self, job: LiveJob, epoch: int) -> bool:
        return not job.stream.ended and job.stream.listening and job.stream.epoch == epoch

    async def _request(self, job: LiveJob, epoch: int) -> ExecuteRequest | None:
        """What the worker is sent: the job's request and the tokens that the journal holds of it."""
        stored = await self._store.request(job.number)
        if stored is None:
            return None
        request = msgspec.json.decode(stored, type=JobRequest)
        if request.kind != "generate":
            await self._count_results(job)
            return ExecuteRequest(job_id=job.job_id, epoch=epoch, embed=request.embed, rerank=request.rerank)
        assert request.seed is not None, "the seed was recorded at acceptance"
        generated = await self._generated(job, request.n)
        return execute_request(job.job_id, epoch, request, generated)

    async def _generated(self, job: LiveJob, n: int) -> list[tuple[int, ...]]:
        """The tokens of each of the `n` answers so far."""
        answers: list[list[int]] = [[] for _ in range(n)]
        if job.stream.state is StreamState.RUNNING:
            async for event in journaled(self._store, job.number):
                if isinstance(event, Token):
                    answers[event.choice] += event.token_ids
            job.stream.taken = {choice: len(token_ids) for choice, token_ids in enumerate(answers)}
        return [tuple(token_ids) for token_ids in answers]

    async def _count_results(self, job: LiveJob) -> None:
        """An attempt starts over, but what of its result the journal holds was sent on and stays."""
        if job.stream.state is StreamState.RUNNING:
            job.stream.results = 0
            async for event in journaled(self._store, job.number):
                if isinstance(event, Result):
                    job.stream.results += event.size

    def _seat(self, effect: Dispatch | Attach) -> Seat:
        address = self._directory.worker(effect.worker_id)
        return Seat(effect.worker_id, effect.pool_id, address.client, address.answers)

    def _abandon(self, effect: Abandon) -> None:
        job = self._journal.live.get(effect.job_id)
        if job is not None and job.stream.epoch == effect.epoch:
            job.stream.listening = False
        attempt = self._attempts.get((effect.job_id, effect.epoch))
        if attempt is not None:
            attempt.abandon()
        else:
            self._start(self._cancel(effect), "cancel")

    async def _cancel(self, effect: Abandon) -> None:
        try:
            await self._directory.worker(effect.worker_id).client.cancel(effect.job_id, effect.epoch)
        except RbeesError as error:
            self._log.info("worker could not be told to cancel", action="attempt_cancel", job_id=effect.job_id, code=error.code)

    def _record(self, effect: Requeue | Finish | Note) -> None:
        job = self._journal.live.get(effect.job_id)
        if job is None:
            return
        match effect:
            case Requeue():
                self._journal.requeue(job, effect.epoch, effect.worker_id, effect.outcome, effect.error, effect.counted)
            case Finish():
                self._journal.finish(job, effect.status, effect.error)
            case Note():
                note = Metrics(
                    stage=effect.stage,
                    reason=effect.reason,
                    worker_id=effect.worker_id,
                    pool_id=effect.pool_id,
                    progress=effect.progress,
                )
                self._journal.note(job, note)

    # ---- workers -------------------------------------------------------------------------------------------------------

    async def _spawn(self, effect: SpawnWorker) -> None:
        request = SpawnCommand(
            model_ref=effect.model_ref,
            worker_id=effect.worker_id,
            model_sha256=effect.model_sha256,
            backend=effect.backend,
            devices=effect.devices,
            gpu_layers=effect.gpu_layers,
        )
        try:
            await self._directory.pool(effect.pool_id).client.spawn(request)
        except RbeesError as error:
            self._log.warning("pool did not start a worker", action="worker_spawn", pool_id=effect.pool_id, code=error.code)
            self._report(SpawnRefused(effect.worker_id, error.body()))
        else:
            self._log.info("worker asked for", action="worker_spawn", pool_id=effect.pool_id, worker_id=effect.worker_id)
            self._report(SpawnAccepted(effect.worker_id))

    async def _stop(self, effect: StopWorker) -> None:
        self._log.info(
            "worker told to stop", action="worker_stop", pool_id=effect.pool_id, worker_id=effect.worker_id, reason=effect.reason
        )
        try:
            await self._directory.pool(effect.pool_id).client.stop_worker(effect.worker_id, f"the orchestrator: {effect.reason}")
        except RbeesError as error:
            # The scheduler asks again for as long as the pool lists the worker.
            self._log.info("pool did not stop a worker", action="worker_stop", worker_id=effect.worker_id, code=error.code)

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        self._crew.start(work, name)
