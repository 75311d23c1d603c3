"""The durable record of every job: numbers events, commits them in groups, and only then lets anybody hear of them.

Commits run back to back: each takes all that has arrived while the one before was written; there is no timer. This is the
only writer of a job's course, so it is also the place of the fence: what an attempt that counts no more sends in is dropped
here. Callers enqueue without waiting; order of enqueueing is order of numbers and order of commits.

A full disk refuses new jobs and keeps everything else until there is room; where nothing is kept, it is tried for room all the
same, so that `full` tells the truth. A broken one ends the process (`app`).
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, NoReturn

from msgspec.structs import replace

from rbees.orcd.figures import Figures
from rbees.orcd.group import Acceptance, Group, Run
from rbees.orcd.live import LiveJob, Stream, Verdict, public_event
from rbees.orcd.requests import Extent
from rbees.orcd.store.jobs import JobStore, Statement
from rbees.orcd.throughput import Lately
from rbees.protocol.codec import encode
from rbees.protocol.errors import ErrorBody, ErrorCode, RbeesError
from rbees.protocol.events import End, Error, Event, Metrics, Queued, Stage, Started, Token, event_name, is_terminal
from rbees.protocol.jobs import JobStatus, Kind, Priority
from rbees.service import logs
from rbees.service.clock import Clock
from rbees.service.sse import frame

Then = Callable[[], None]
Publish = Callable[[Run], None]

FULL_RETRY_S: Final = 0.25
"""How often a commit that found the disk full is tried again."""


@dataclass(frozen=True, slots=True)
class Beside:
    """What an API keeps of its own beside a job: both become durable in one transaction, or neither."""

    said: bytes
    """All that it depends on; a job that is submitted again under its idempotency key must have the same."""
    rows: Callable[[int], tuple[Statement, ...]]
    """By the job's number."""


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job that was checked and may be accepted."""

    job_id: str
    kind: Kind
    model: str
    model_sha256: str | None
    model_ref: str | None
    priority: Priority
    session_id: str | None
    seed: int
    timeout_ms: int
    choices: int
    extent: Extent
    cancel_on_disconnect: bool
    request: bytes
    request_sha256: bytes
    idempotency_key: str | None
    queue_position: int
    created_at_ms: int
    deadline_at_ms: int | None = None
    correlation_id: str | None = None
    beside: Beside | None = None


class Journal:
    """Holds the jobs that have not ended (`live`, by id) and writes what happens to them. `run` does the writing."""

    def __init__(self, store: JobStore, clock: Clock, figures: Figures, publish: Publish) -> None:
        self._store = store
        self._clock = clock
        self._figures = figures
        self._publish = publish
        self._log = logs.logger()
        self._next_number = 1
        self._group = Group()
        self._arrived = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self.live: dict[str, LiveJob] = {}
        self.counts: Counter[JobStatus] = Counter()
        """How many live jobs have each status."""
        self.ended_at: deque[float] = deque(maxlen=64)
        """When the latest jobs ended, by the monotonic clock."""
        self.tokens = Lately(clock.monotonic)
        """That came lately, by worker."""
        self.ends = Lately(clock.monotonic)
        """Jobs that ended lately, by how."""
        self.full = False
        """The last write found no room on the disk."""

    # ---- what can happen to a job --------------------------------------------------------------------------------------

    def begin_at(self, number: int) -> None:
        """The next accepted job gets this number."""
        self._next_number = number

    def restore(self, job: LiveJob) -> None:
        """Hold a job that an earlier process accepted."""
        self.live[job.job_id] = job
        self.counts[job.status] += 1

    async def accept(self, new: NewJob, then: Callable[[LiveJob], None]) -> LiveJob:
        """Make a job durable; `then` runs right after the commit, even if the caller has gone meanwhile.

        Raises:
            RbeesError: STORAGE_FULL, and then the job does not exist.
        """
        durable: asyncio.Future[LiveJob] = asyncio.get_running_loop().create_future()
        stream = Stream(choices=new.choices, kind=new.kind)
        job = LiveJob(self._next_number, new.job_id, new.created_at_ms, new.cancel_on_disconnect, stream)
        job.correlation_id = new.correlation_id
        self._next_number += 1
        self.restore(job)

        def accepted() -> None:
            self._figures.accepted.inc()
            then(job)
            durable.set_result(job)

        def refuse(error: RbeesError) -> None:
            self._drop(job)
            durable.set_exception(error)

        beside = () if new.beside is None else new.beside.rows(job.number)
        self._group.accepted[job.number] = Acceptance(_job_row(job.number, new), accepted, refuse, beside)
        self._append(job, Queued(queue_position=new.queue_position, created_at_ms=new.created_at_ms))
        # Shielded: a caller that leaves must not turn the future of a commit under way into a cancelled one.
        return await asyncio.shield(durable)

    def resolve(self, job: LiveJob, model_sha256: str, model_ref: str) -> None:
        """Record which file the job's reference means."""
        self._change("resolve_model", job, model_sha256=model_sha256, model_ref=model_ref)

    def begin_attempt(self, job: LiveJob, epoch: int, worker_id: str, pool_id: str, why: str = "") -> asyncio.Future[None]:
        """Fence all earlier epochs from this moment on; the future is done when the new one is durable."""
        now_ms = self._clock.unix_ms()
        job.stream.begin(epoch)
        job.dispatched_at_ms = job.dispatched_at_ms or now_ms
        self._move(job, "dispatched")
        self._change("dispatch_job", job, at_ms=now_ms)
        self._change("insert_attempt", job, epoch=epoch, worker_id=worker_id, pool_id=pool_id, why=why or None, at_ms=now_ms)
        return self.settled()

    def take(self, job: LiveJob, epoch: int, worker_seq: int, event: Event, worker_id: str, pool_id: str, then: Then) -> Verdict:
        """Record an event that a worker sent, if it is the next one of the attempt that counts.

        A worker's own `error` passes the fence but is not recorded: what it means for the job is the scheduler's to decide.
        Raises RbeesError INTERNAL where the worker's stream cannot be right.
        """
        verdict = job.stream.admit(epoch, worker_seq, event)
        if verdict is not Verdict.TAKE or isinstance(event, Error):
            return verdict
        if isinstance(event, Token):
            self.tokens.add(worker_id, len(event.token_ids))
        now_ms = self._clock.unix_ms()
        public = public_event(job, event, worker_id=worker_id, pool_id=pool_id, now_ms=now_ms)
        match event:
            case Started():
                job.started_at_ms = job.started_at_ms or now_ms
                self._move(job, "running")
                self._change("run_job", job, at_ms=now_ms)
            case Token() if job.stream.tokens == 0:
                self._figures.first_token.observe((now_ms - job.created_at_ms) / 1000)
            case End():
                self._end(job, "completed", public)
            case _:
                pass
        self._append(job, public)
        self._group.then.append(then)
        return verdict

    def note(self, job: LiveJob, metrics: Metrics) -> None:
        """Tell the job's watchers something."""
        if not job.stream.ended:
            self._append(job, metrics)

    def requeue(
        self,
        job: LiveJob,
        epoch: int,
        worker_id: str,
        outcome: Literal["failed", "lost", "cancelled"],
        error: ErrorBody,
        counted: bool,
    ) -> None:
        """The attempt failed, or gave way to another job, and the job waits again."""
        if job.stream.ended:
            return
        job.stream.listening = False
        self._move(job, "queued")
        at_ms = self._clock.unix_ms()
        reason = f"{error.code}: {error.message}"
        self._change("end_attempt", job, epoch=epoch, outcome=outcome, reason=reason, at_ms=at_ms, counted=int(counted))
        self._change("requeue_job", job)
        stage: Stage = "preempted" if outcome == "cancelled" else "attempt_failed"
        self._append(job, Metrics(stage=stage, epoch=epoch, worker_id=worker_id, reason=error.message, code=error.code))

    def finish(self, job: LiveJob, status: Literal["failed", "cancelled"], error: ErrorBody) -> None:
        """End the job without a result. Nothing happens where its `end` was taken already."""
        if job.stream.ended:
            return
        event = Error(error=replace(error, correlation_id=job.correlation_id))
        self._end(job, status, event, f"{error.code}: {error.message}")
        self._append(job, event)

    def ask_cancel(self, job: LiveJob) -> asyncio.Future[None]:
        """Record that the job is to be cancelled; the future is done when that is durable."""
        job.cancel_asked = True
        self._change("ask_cancel", job)
        return self.settled()

    def watched(self, job: LiveJob) -> None:
        """Record that somebody watches the job, so that a restarted orcd knows whom to expect back."""
        job.watched = True
        self._change("watch_job", job)

    def settled(self) -> asyncio.Future[None]:
        """A future that is done when everything enqueued so far is durable."""
        durable: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._group.then.append(lambda: None if durable.done() else durable.set_result(None))
        self._wake()
        return durable

    # ---- writing -------------------------------------------------------------------------------------------------------

    async def run(self) -> NoReturn:
        """Commit for ever."""
        while True:
            self._idle.set()
            await self._look_for_room()
            await self._arrived.wait()
            self._idle.clear()
            self._arrived.clear()
            while self._group:
                group, self._group = self._group, Group()
                await self._commit(group)

    async def drained(self) -> None:
        """Return when nothing waits to be written."""
        while self._group or not self._idle.is_set():
            await self.settled()
            await self._idle.wait()

    async def _look_for_room(self) -> None:
        """While the disk is full and nothing waits to be written, find out whether it still is."""
        while self.full and not self._arrived.is_set():
            waits = [asyncio.ensure_future(wait) for wait in (self._clock.sleep(FULL_RETRY_S), self._arrived.wait())]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
            if not self._arrived.is_set():
                self._told_full(full=not await self._store.has_room())

    async def _commit(self, group: Group) -> None:
        begun = self._clock.monotonic()
        try:
            await self._write(group.statements())
        except RbeesError as error:
            if error.code is not ErrorCode.STORAGE_FULL:
                raise
            await self._wait_for_room(group, error)
            return
        self._figures.commit_seconds.observe(self._clock.monotonic() - begun)
        events = 0
        for run in group.runs():
            events += len(run.frames)
            self._publish(run)
        self._figures.commit_events.observe(events)
        for new in group.accepted.values():
            new.then()
        for then in group.then:
            then()

    async def _write(self, statements: list[Statement]) -> None:
        # Nothing to write needs no room, and says nothing about whether there is any.
        if statements:
            await self._store.apply(statements)
            self._told_full(full=False)

    async def _wait_for_room(self, group: Group, error: RbeesError) -> None:
        self._told_full(full=True)
        group.absorb(self._group)
        group.refuse_new(error)
        self._group = group
        if group:
            await self._clock.sleep(FULL_RETRY_S)

    def _told_full(self, *, full: bool) -> None:
        if full and not self.full:
            self._log.error("the disk is full; no new jobs until there is room", action="storage_full")
        elif self.full and not full:
            self._log.info("the disk has room again", action="storage_room")
        self.full = full

    def _append(self, job: LiveJob, event: Event) -> None:
        stream = job.stream
        seq = stream.number(event)
        data = frame(seq, event_name(event), encode(event))
        job.written_bytes += len(data)
        self._group.add(Run(job.number, seq, stream.epoch, stream.worker_seq, [data], ended=is_terminal(event)))
        self._wake()

    def _change(self, query: str, job: LiveJob, **values: object) -> None:
        self._group.changes.append(Statement(query, {"job": job.number, **values}))
        self._wake()

    def _end(
        self,
        job: LiveJob,
        status: Literal["completed", "failed", "cancelled"],
        event: Event,
        reason: str | None = None,
    ) -> None:
        at_ms = self._clock.unix_ms()
        job.stream.listening = False
        self._change("end_running_attempts", job, outcome=status, reason=reason, at_ms=at_ms)
        self._change("end_job", job, status=status, event=encode(_without_content(event)), at_ms=at_ms)
        self._group.then.append(lambda: self._ended(job, status))

    def _ended(self, job: LiveJob, status: JobStatus) -> None:
        self._figures.ended.labels(status).inc()
        self.ended_at.append(self._clock.monotonic())
        self.ends.add(status)
        self._drop(job)

    def _drop(self, job: LiveJob) -> None:
        del self.live[job.job_id]
        self.counts[job.status] -= 1

    def _move(self, job: LiveJob, status: JobStatus) -> None:
        self.counts[job.status] -= 1
        self.counts[status] += 1
        job.status = status

    def _wake(self) -> None:
        self._arrived.set()


def _without_content(event: Event) -> Event:
    """What is kept of a terminal event with the job itself, which outlives the job's content."""
    if not isinstance(event, End):
        return event
    return replace(event, choices=tuple(replace(choice, tool_calls=()) for choice in event.choices))


def _job_row(number: int, new: NewJob) -> Statement:
    return Statement(
        "insert_job",
        {
            "number": number,
            "job_id": new.job_id,
            "kind": new.kind,
            "model": new.model,
            "model_sha256": new.model_sha256,
            "model_ref": new.model_ref,
            "priority": new.priority,
            "session_id": new.session_id,
            "seed": new.seed,
            "timeout_ms": new.timeout_ms,
            "deadline_at_ms": new.deadline_at_ms,
            "prompt_bytes": new.extent.prompt_bytes,
            "prefixes": new.extent.prefixes,
            "cancel_on_disconnect": int(new.cancel_on_disconnect),
            "request": new.request,
            "idempotency_key": new.idempotency_key,
            "request_sha256": new.request_sha256,
            "accepted_position": new.queue_position,
            "correlation_id": new.correlation_id,
            "created_at_ms": new.created_at_ms,
        },
    )
