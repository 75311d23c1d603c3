"""One attempt of one job: sends it to its worker, journals what comes back, and tells the scheduler how it went.

A broken connection is no death: the worker goes on and keeps its events, so the attempt is taken up again for as long as a
hang would be tolerated. Only then, or when the worker stands still, is it given up. Acknowledgements follow commits.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Final, Protocol

from rbees.orcd.journal import Journal
from rbees.orcd.live import LiveJob, Verdict
from rbees.orcd.scheduler.events import AttemptCancelled, AttemptCompleted, AttemptFailed, AttemptProved, AttemptStarted
from rbees.orcd.scheduler.events import Event as Happening
from rbees.orcd.scheduler.speeds import Took
from rbees.orcd.stalls import Stalls
from rbees.protocol.errors import ErrorBody, ErrorCode, RbeesError
from rbees.protocol.events import End, Error, Event, Started, Token
from rbees.protocol.workers import Beat, ExecuteRequest
from rbees.service import logs
from rbees.service.clock import Clock

FINAL_CODES: Final = frozenset({ErrorCode.CONTEXT_EXCEEDED, ErrorCode.INVALID_REQUEST, ErrorCode.MODEL_INCOMPATIBLE})
"""Another attempt would end the same way; where a context was too small, one on a worker with a larger one may not."""
REATTACH_PAUSE_S: Final = 0.25
REFUSALS: Final = 2
"""A port that refuses so often in a row has nobody behind it any more."""
ACK_EVERY_S: Final = 10.0
"""A worker waits six times as long. One call for each stream and second would cost more than the events of a slow stream."""
ACK_AFTER_BYTES: Final = 64 * 1024
"""Committed events of this size are acknowledged at once: a worker that must keep a MiB stands still."""
GOLDEN_RATIO: Final = 0.618033988749895
MOST_UNCOMMITTED: Final = 512
"""Events of one attempt that may wait for a commit before reading pauses."""
CANCEL_PATIENCE_S: Final = 5.0

Frames = AsyncIterator[tuple[int | None, Event | Beat]]


class WorkerPort(Protocol):
    """What an attempt needs of a worker; `clients.workerd.WorkerClient` is one."""

    def execute(self, request: ExecuteRequest) -> AbstractAsyncContextManager[Frames]:
        """Start the attempt, or take it up from its first event where the worker knows it already."""
        ...

    def attach(self, job_id: str, epoch: int, after: int) -> AbstractAsyncContextManager[Frames]:
        """Take the attempt up after the worker's event `after`."""
        ...

    async def ack(self, job_id: str, epoch: int, seq: int) -> None:
        """Everything up to `seq` is durable."""
        ...

    async def cancel(self, job_id: str, epoch: int | None = None) -> None:
        """Stop the attempt."""
        ...


@dataclass(frozen=True, slots=True)
class Over:
    """The worker's stream has come to its end; what is to be reported, unless the journal's commit does that."""

    report: Happening | None = None


@dataclass(frozen=True, slots=True)
class Seat:
    """Where an attempt runs."""

    worker_id: str
    pool_id: str
    worker: WorkerPort
    answers: Callable[[], Awaitable[bool]]
    """Whether the worker's port still takes connections: tells a hang from a host that is cut off."""


class Attempt:
    """`run` is its life; `abandon` has it end without a result; `check` is called regularly with the time."""

    def __init__(
        self,
        job: LiveJob,
        epoch: int,
        seat: Seat,
        *,
        journal: Journal,
        clock: Clock,
        report: Callable[[Happening], None],
        start: Callable[[Coroutine[Any, Any, None]], object],
        stalls: Stalls,
        hang_after_s: float,
        proof_tokens: int | None = None,
    ) -> None:
        self.job = job
        self.epoch = epoch
        self.seat = seat
        self._journal = journal
        self._clock = clock
        self._report = report
        self._start = start
        self._stalls = stalls
        self._hang_after_s = hang_after_s
        self._proof_left = proof_tokens
        """Tokens until the scheduler is told that the attempt has made so many."""
        self._log = logs.logger().bind(job_id=job.job_id, epoch=epoch, worker_id=seat.worker_id)
        self._reader: asyncio.Task[None] | None = None
        self._abandoned = False
        self._hung: str | None = None
        self._connected = False
        self._waits_for_commit = False
        """Nothing is read meanwhile, so no sign of life can be seen."""
        self._progress_at = clock.monotonic()
        self._step: int | None = None
        self._beat_at = self._progress_at
        self._given_tokens: int | None = job.stream.tokens if job.stream.worker_seq == 0 else None
        self._seen_seq = job.stream.worker_seq
        self._committed_seq = job.stream.worker_seq
        self._acked_seq = job.stream.worker_seq
        self._acked_bytes = job.written_bytes
        # Streams that began together take turns: multiples of the golden ratio lie evenly.
        self._ack_due_s = self._progress_at + ACK_EVERY_S * (0.5 + job.number * GOLDEN_RATIO % 1)

    async def run(self, request: ExecuteRequest) -> None:
        """Follow the attempt to its end and report how it went."""
        self._reader = asyncio.current_task()
        assert self._reader is not None
        try:
            outcome = await self._follow(request)
        except asyncio.CancelledError:
            if self._hung is None:
                raise
            self._reader.uncancel()
            outcome = await self._hang()
        if outcome.report is not None:
            self._report(outcome.report)

    def abandon(self) -> None:
        """Nothing counts any more; have the worker stop, and wait a while for it to say so."""
        if not self._abandoned:
            self._abandoned = True
            self._start(self._stop_worker())

    def extend(self, seconds: float) -> None:
        """This process stood still for so long: that was no silence of the worker. What it sent since then may have been read."""
        now_s = self._clock.monotonic()
        self._progress_at = min(now_s, self._progress_at + seconds)
        self._beat_at = min(now_s, self._beat_at + seconds)

    def check(self, now_s: float) -> None:
        """Acknowledge what has become durable, now and then; notice a hang."""
        self._ack_in_turn(now_s)
        if not self._connected or self._waits_for_commit or self._hung or self._reader is None:
            return
        if now_s - self._progress_at < self._hang_after_s:
            return
        self._hung = "its step counter stands still" if self._step_is_fresh(now_s) else "it shows no sign of life"
        self._reader.cancel()

    # ---- following the worker's stream ---------------------------------------------------------------------------------

    async def _follow(self, request: ExecuteRequest) -> Over:
        refusals = 0
        self._progressed()
        while True:
            before = self._seen_seq
            try:
                self._connected = True
                async with self._open(request) as frames:
                    refusals = 0
                    outcome = await self._read(frames)
                if outcome is not None:
                    return outcome
                problem = RbeesError(ErrorCode.WORKER_UNREACHABLE, "The worker's stream broke off.")
            except RbeesError as error:
                if error.code is not ErrorCode.WORKER_UNREACHABLE:
                    return self._failed(error.body(), suspect=error.code is ErrorCode.INTERNAL)
                refusals += error.details.get("reason") == "connection refused"
                problem = error
            finally:
                self._connected = False
            self._stalls.look()
            silent_s = self._clock.monotonic() - self._progress_at
            if self._abandoned or refusals >= REFUSALS or silent_s >= self._hang_after_s:
                return self._failed(problem.body(), suspect=True)
            self._log.info("stream broke off; attaching again", action="attempt_reattach", after=before)
            await self._clock.sleep(REATTACH_PAUSE_S)

    def _open(self, request: ExecuteRequest) -> AbstractAsyncContextManager[Frames]:
        # Nothing was taken yet, so the worker may never have heard of the attempt; asking again starts nothing twice.
        if self._seen_seq == 0:
            return self.seat.worker.execute(request)
        return self.seat.worker.attach(self.job.job_id, self.epoch, self._seen_seq)

    async def _read(self, frames: Frames) -> Over | None:
        if self._seen_seq > 0:
            self._report(AttemptStarted(self.job.job_id, self.epoch))
        async for seq, event in frames:
            if isinstance(event, Beat):
                self._beat(event)
                continue
            self._progressed()
            if seq is None:
                raise RbeesError(ErrorCode.INTERNAL, "The worker sent an event without a number.")
            outcome = self._take(seq, event)
            if outcome is not None:
                return outcome
            if self._seen_seq - self._committed_seq > MOST_UNCOMMITTED:
                await self._wait_for_commit()
        return None

    async def _wait_for_commit(self) -> None:
        """A disk that is slow, or full, is no silence of the worker."""
        self._waits_for_commit = True
        try:
            await self._journal.settled()
        finally:
            self._waits_for_commit = False
            self._progressed()

    def _take(self, seq: int, event: Event) -> Over | None:
        verdict = self._journal.take(
            self.job, self.epoch, seq, event, self.seat.worker_id, self.seat.pool_id, lambda: self._committed(seq, event)
        )
        self._seen_seq = max(self._seen_seq, seq)
        if verdict is Verdict.REPEATED:
            return None
        match event:
            case End() if verdict is Verdict.TAKE:
                return Over()
            case Error() if verdict is Verdict.TAKE and event.error.code is not ErrorCode.CANCELLED:
                self._start(self._ack(seq))
                return self._failed(event.error, suspect=False)
            case End() | Error():
                return self._stopped(seq)
            case _:
                return None

    def _committed(self, seq: int, event: Event) -> None:
        self._committed_seq = seq
        if isinstance(event, Started):
            self._report(AttemptStarted(self.job.job_id, self.epoch))
        elif isinstance(event, Token):
            self._prove(len(event.token_ids))
        elif isinstance(event, End):
            self._report(AttemptCompleted(self.job.job_id, self.epoch, self._took(event)))
            self._start(self._ack(seq))
            return
        if self.job.written_bytes - self._acked_bytes >= ACK_AFTER_BYTES:
            self._start(self._ack(seq))

    def _prove(self, tokens: int) -> None:
        if self._proof_left is None:
            return
        self._proof_left -= tokens
        if self._proof_left <= 0:
            self._proof_left = None
            self._report(AttemptProved(self.job.job_id, self.epoch))

    def _took(self, end: End) -> Took | None:
        """What the scheduler learns from; nothing where this process saw only a part of the attempt."""
        if self._given_tokens is None:
            return None
        return Took(
            prompt_tokens=end.usage.prompt_tokens,
            cached_tokens=end.usage.cached_tokens,
            completion_tokens=end.usage.completion_tokens - self._given_tokens,
            prefill_s=end.timings.prefill_ms / 1000,
            decode_s=end.timings.decode_ms / 1000,
        )

    # ---- how it can end ------------------------------------------------------------------------------------------------

    def _failed(self, error: ErrorBody, *, suspect: bool, hung: bool = False) -> Over:
        if self._abandoned:
            return Over()
        self._log.warning("attempt failed", action="attempt_failed", code=error.code, reason=error.message, suspect=suspect)
        final = error.code in FINAL_CODES
        return Over(AttemptFailed(self.job.job_id, self.epoch, error, final=final, worker_suspect=suspect, worker_hung=hung))

    def _stopped(self, seq: int) -> Over:
        self._start(self._ack(seq))
        return Over(AttemptCancelled(self.job.job_id, self.epoch))

    async def _hang(self) -> Over:
        reachable = await self.seat.answers()
        error = RbeesError(
            ErrorCode.WORKER_UNREACHABLE, f"The worker was given up: {self._hung} for {self._hang_after_s:g} s.", hung=reachable
        )
        return self._failed(error.body(), suspect=True, hung=reachable)

    async def _stop_worker(self) -> None:
        """Cancel at the worker; if it has not confirmed in time, stop listening: the fence holds either way."""
        await self._cancel()
        await self._clock.sleep(CANCEL_PATIENCE_S)
        if self._reader is not None and not self._reader.done():
            self._log.warning("worker did not confirm the cancellation", action="attempt_unconfirmed")
            self._reader.cancel()

    async def _cancel(self) -> None:
        try:
            await self.seat.worker.cancel(self.job.job_id, self.epoch)
        except RbeesError as error:
            self._log.info("worker could not be told to cancel", action="attempt_cancel", code=error.code)

    # ---- acknowledging -------------------------------------------------------------------------------------------------

    def _ack_in_turn(self, now_s: float) -> None:
        if now_s >= self._ack_due_s and self._committed_seq > self._acked_seq:
            self._ack_due_s = now_s + ACK_EVERY_S
            self._start(self._ack(self._committed_seq))

    async def _ack(self, seq: int) -> None:
        if seq <= self._acked_seq:
            return
        self._acked_seq = seq
        self._acked_bytes = self.job.written_bytes
        try:
            await self.seat.worker.ack(self.job.job_id, self.epoch, seq)
        except RbeesError:
            # The worker keeps its events; the next acknowledgement covers them too.
            self._log.debug("acknowledgement not delivered", action="attempt_ack", seq=seq)

    # ---- signs of life -------------------------------------------------------------------------------------------------

    def _beat(self, beat: Beat) -> None:
        self._beat_at = self._clock.monotonic()
        if beat.step != self._step:
            self._step = beat.step
            self._progressed()

    def _progressed(self) -> None:
        self._progress_at = self._clock.monotonic()

    def _step_is_fresh(self, now_s: float) -> bool:
        return self._step is not None and now_s - self._beat_at < self._hang_after_s / 2
