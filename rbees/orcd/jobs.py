"""Jobs as clients deal with them: submitted, looked at, listed, cancelled, watched.

A job is refused here or accepted for good: once `submit` has returned, it is durable and the scheduler has heard of it.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Callable
from typing import Final

import msgspec

from rbees.orcd.crew import Crew
from rbees.orcd.frames import decode, journaled
from rbees.orcd.journal import Journal, NewJob
from rbees.orcd.live import LiveJob
from rbees.orcd.relay import Relay
from rbees.orcd.scheduler.core import Scheduler
from rbees.orcd.scheduler.events import CancelAsked, Event, JobArrived, JobSpec
from rbees.orcd.store.jobs import JobRow, JobStore
from rbees.protocol import model_ref
from rbees.protocol.codec import encode
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.events import End, Error, Token
from rbees.protocol.jobs import CancelAnswer, ChoiceOutput, JobAccepted, JobList, JobRequest, JobView, check_job
from rbees.service.clock import Clock
from rbees.service.correlation import correlation_id
from rbees.service.identity import Identities

GONE_AFTER_S: Final = 5.0
"""`cancel_on_disconnect` acts when the last watcher has been gone for so long."""
LONGEST_RETRY_AFTER_S: Final = 60
UNKNOWN_RATE_RETRY_AFTER_S: Final = 10


class Jobs:
    """What the routes about jobs do. `draining` and `queue_limit` decide whether new ones are taken."""

    def __init__(
        self,
        journal: Journal,
        store: JobStore,
        scheduler: Scheduler,
        relay: Relay,
        clock: Clock,
        crew: Crew,
        post: Callable[[Event], None],
        queue_limit: int,
    ) -> None:
        self._journal = journal
        self._store = store
        self._scheduler = scheduler
        self._relay = relay
        self._clock = clock
        self._crew = crew
        self._post = post
        self._queue_limit = queue_limit
        self._identities = Identities(clock)
        self._submitting: dict[str, asyncio.Lock] = {}
        self.draining = False

    # ---- submitting ----------------------------------------------------------------------------------------------------

    async def submit(self, request: JobRequest, idempotency_key: str | None = None) -> JobAccepted:
        """Accept a job durably, or give the answer again that the same submission got before.

        Raises RbeesError: INVALID_REQUEST, MODEL_NOT_FOUND, QUEUE_FULL, DRAINING, STORAGE_FULL, IDEMPOTENCY_CONFLICT,
        OUTPUT_ERASED.
        """
        check_job(request)
        if idempotency_key is None:
            return await self._accept(request, None)
        # Two submissions under one key at the same moment must not both find it unused.
        lock = self._submitting.setdefault(idempotency_key, asyncio.Lock())
        try:
            async with lock:
                return await self._answer_again(request, idempotency_key) or await self._accept(request, idempotency_key)
        finally:
            if not lock.locked():
                self._submitting.pop(idempotency_key, None)

    async def _answer_again(self, request: JobRequest, key: str) -> JobAccepted | None:
        before = await self._store.submitted(key)
        if before is None:
            return None
        if before.request_sha256 != _fingerprint(request):
            message = "This Idempotency-Key was used with another body; send a new key."
            raise RbeesError(ErrorCode.IDEMPOTENCY_CONFLICT, message, job_id=before.job_id)
        if before.erased:
            raise _erased(before.job_id)
        return _accepted(before.job_id, before.accepted_position, before.seed)

    async def _accept(self, request: JobRequest, key: str | None) -> JobAccepted:
        self._check_room()
        model_ref.parse(request.model)
        facts = self._scheduler.resolve(request.model)
        seed = request.seed if request.seed is not None else self._identities.seed()
        new = NewJob(
            job_id=self._identities.job_id(),
            model=request.model,
            model_sha256=facts.sha256 if facts else None,
            model_ref=facts.ref if facts else None,
            priority=request.priority,
            session_id=request.session_id,
            seed=seed,
            timeout_ms=request.timeout_ms,
            cancel_on_disconnect=request.cancel_on_disconnect,
            request=encode(msgspec.structs.replace(request, seed=seed)),
            request_sha256=_fingerprint(request),
            idempotency_key=key,
            queue_position=self._journal.counts["queued"] + 1,
            created_at_ms=self._clock.unix_ms(),
            correlation_id=correlation_id.get(),
        )
        await self._journal.accept(new, lambda job: self._post(JobArrived(_spec(job, new))))
        return _accepted(new.job_id, new.queue_position, seed)

    def _check_room(self) -> None:
        if self.draining:
            message = "This orchestrator is shutting down and takes no new jobs; try again once it is back."
            raise RbeesError(ErrorCode.DRAINING, message, retry_after_s=5)
        if self._queue_limit and self._journal.counts["queued"] >= self._queue_limit:
            message = f"{self._queue_limit} jobs wait already; send the job again later."
            raise RbeesError(
                ErrorCode.QUEUE_FULL, message, queue_limit=self._queue_limit, retry_after_s=self._until_a_place_is_free_s()
            )

    def _until_a_place_is_free_s(self) -> int:
        """From how fast jobs have been ending lately."""
        ended_at = self._journal.ended_at
        if not ended_at:
            return UNKNOWN_RATE_RETRY_AFTER_S
        pace_s = (self._clock.monotonic() - ended_at[0]) / len(ended_at)
        return min(max(1, math.ceil(pace_s)), LONGEST_RETRY_AFTER_S)

    # ---- looking -------------------------------------------------------------------------------------------------------

    async def row(self, job_id: str) -> JobRow:
        """The job as stored. Raises RbeesError JOB_NOT_FOUND."""
        row = await self._store.job(job_id)
        if row is None:
            message = "No job has this id; list them with `llorch jobs list`."
            raise RbeesError(ErrorCode.JOB_NOT_FOUND, message, job_id=job_id[:64])
        return row

    async def row_for_events(self, job_id: str) -> JobRow:
        """The job, if its events can be replayed. Raises RbeesError JOB_NOT_FOUND, OUTPUT_ERASED."""
        row = await self.row(job_id)
        if row.erased:
            raise _erased(job_id)
        return row

    async def view(self, job_id: str) -> JobView:
        """Everything about one job. Raises RbeesError JOB_NOT_FOUND."""
        row = await self.row(job_id)
        attempts = tuple(await self._store.attempts(row.number))
        output = await self._output(row) if row.ended_at_ms is not None and not row.erased else None
        return msgspec.structs.replace(self._summary(row), attempts=attempts, output=output)

    async def list(self, *, status: str | None, model: str | None, limit: int, below: int) -> JobList:
        """A page of jobs, newest first, with numbers under `below`."""
        rows = await self._store.jobs(below=below, status=status, model=model, limit=limit + 1)
        page = rows[:limit]
        more = str(page[-1].number) if len(rows) > limit else None
        return JobList(jobs=tuple(self._summary(row) for row in page), next_cursor=more)

    def is_live(self, job_id: str) -> bool:
        """Whether the job has not ended."""
        return job_id in self._journal.live

    def _summary(self, row: JobRow) -> JobView:
        outcome = decode(row.outcome) if row.outcome is not None else None
        return JobView(
            job_id=row.job_id,
            status=row.status,
            model=row.model,
            model_sha256=row.model_sha256,
            priority=row.priority,
            session_id=row.session_id,
            seed=row.seed,
            queue_position=self._scheduler.queue_position(row.job_id),
            waiting_for=self._scheduler.waiting_for(row.job_id),
            created_at_ms=row.created_at_ms,
            started_at_ms=row.started_at_ms,
            ended_at_ms=row.ended_at_ms,
            last_seq=row.last_seq,
            usage=outcome.usage if isinstance(outcome, End) else None,
            timings=outcome.timings if isinstance(outcome, End) else None,
            error=outcome.error if isinstance(outcome, Error) else None,
        )

    async def _output(self, row: JobRow) -> tuple[ChoiceOutput, ...]:
        texts: dict[int, list[str]] = {}
        async for event in journaled(self._store, row.number):
            if isinstance(event, Token):
                texts.setdefault(event.choice, []).append(event.text)
        outcome = decode(row.outcome) if row.outcome is not None else None
        reasons = {end.choice: end.finish_reason for end in outcome.choices} if isinstance(outcome, End) else {}
        return tuple(
            ChoiceOutput(choice=choice, text="".join(texts.get(choice, ())), finish_reason=reasons.get(choice))
            for choice in sorted(texts.keys() | reasons.keys())
        )

    # ---- cancelling ----------------------------------------------------------------------------------------------------

    async def cancel(self, job_id: str) -> CancelAnswer:
        """Have a job cancelled; its status tells whether that is still to come. Raises RbeesError JOB_NOT_FOUND."""
        row = await self.row(job_id)
        job = self._journal.live.get(job_id)
        if job is None:
            ended = await self.row(job_id)
            return CancelAnswer(job_id=job_id, status=ended.status)
        await self._ask_cancel(job)
        return CancelAnswer(job_id=job_id, status=row.status)

    def left(self, row: JobRow) -> None:
        """A watcher of the job has left."""
        job = self._journal.live.get(row.job_id)
        if job is not None and job.cancel_on_disconnect and not self.draining:
            self._crew.start(self._cancel_if_unwatched(job), "cancel_on_disconnect")

    async def _cancel_if_unwatched(self, job: LiveJob) -> None:
        await self._clock.sleep(GONE_AFTER_S)
        if job.job_id in self._journal.live and not self._relay.is_watched(job.number) and not self.draining:
            await self._ask_cancel(job)

    async def _ask_cancel(self, job: LiveJob) -> None:
        if not job.cancel_asked:
            await self._journal.ask_cancel(job)
        self._post(CancelAsked(job.job_id))


def _spec(job: LiveJob, new: NewJob) -> JobSpec:
    return JobSpec(job.job_id, new.model, new.model_sha256, new.priority, job.number, new.timeout_ms, new.session_id)


def _accepted(job_id: str, queue_position: int, seed: int) -> JobAccepted:
    return JobAccepted(
        job_id=job_id, status="queued", queue_position=queue_position, events_url=f"/v2/tasks/{job_id}/events", seed=seed
    )


def _fingerprint(request: JobRequest) -> bytes:
    """Of the submitted request, whatever the order of its fields and the space between them."""
    return hashlib.sha256(encode(request)).digest()


def _erased(job_id: str) -> RbeesError:
    message = "The job ended and its content was erased as the retention setting says."
    return RbeesError(ErrorCode.OUTPUT_ERASED, message, job_id=job_id)
