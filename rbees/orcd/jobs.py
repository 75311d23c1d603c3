"""Jobs as clients deal with them: submitted, looked at, listed, cancelled, watched.

A job is refused here or accepted for good: once `submit` has returned, it is durable and the scheduler has heard of it.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from rbees.orcd.crew import Crew
from rbees.orcd.frames import decode, journaled
from rbees.orcd.journal import Beside, Journal, NewJob
from rbees.orcd.live import LiveJob
from rbees.orcd.plugin import GuardedPlugin
from rbees.orcd.relay import Relay
from rbees.orcd.requests import Extent, extent_of
from rbees.orcd.scheduler.core import Scheduler
from rbees.orcd.scheduler.events import CancelAsked, Event, JobArrived, JobSpec
from rbees.orcd.scheduler.judge import Load
from rbees.orcd.store.jobs import JobRow, JobStore, Submitted
from rbees.protocol import model_ref
from rbees.protocol.codec import encode
from rbees.protocol.decisions import Explanation, Plan
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.events import ChoiceEnd, End, Error, Part, Result, Token
from rbees.protocol.jobs import (
    CancelAnswer,
    ChoiceOutput,
    JobAccepted,
    JobList,
    JobRequest,
    JobView,
    Output,
    check_after,
    check_job,
)
from rbees.protocol.pools import ModelFacts
from rbees.protocol.vectors import Embeddings, Ranking
from rbees.service.clock import Clock
from rbees.service.correlation import correlation_id
from rbees.service.identity import Identities

GONE_AFTER_S: Final = 5.0
"""`cancel_on_disconnect` acts when the last watcher has been gone for so long."""
BACK_AFTER_S: Final = 15.0
"""... and this long after a restart, which the watchers did not ask for."""
RESOLVE_AGAIN_S: Final = 0.25
"""How often a model that nobody has is looked for while pools may still come back."""
LONGEST_RETRY_AFTER_S: Final = 60
UNKNOWN_RATE_RETRY_AFTER_S: Final = 10


@dataclass(frozen=True, slots=True)
class Aside:
    """What is said beside a request and is no part of it."""

    keep_s: float | None = None
    """How long the model is to stay without work after the job, infinite until its memory is needed. A restart forgets it."""
    begun: Callable[[JobRow], None] | None = None
    """Is told of a job that is new, right after its commit and before anything else happens to it."""
    beside: Beside | None = None
    """Becomes durable together with the job."""
    reference_of: Callable[[str], str | None] | None = None
    """What another API means by a model's name, as rbees writes it; None of a name that only pools could tell the meaning of, and
    none is known. Under a key the name as it was written counts: what it means may be another thing by then."""


NOTHING_ASIDE: Final = Aside()


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
        plugin: GuardedPlugin | None = None,
    ) -> None:
        self._journal = journal
        self._store = store
        self._scheduler = scheduler
        self._relay = relay
        self._clock = clock
        self._crew = crew
        self._post = post
        self._queue_limit = queue_limit
        self._plugin = plugin
        self._identities = Identities(clock)
        self._submitting: dict[str, asyncio.Task[JobAccepted]] = {}
        self.draining = False
        self.settled_at_s = -math.inf
        """Until then (monotonic) pools may still come back, so a model that nobody has is not refused yet."""

    # ---- submitting ----------------------------------------------------------------------------------------------------

    async def submit(self, request: JobRequest, idempotency_key: str | None = None, aside: Aside = NOTHING_ASIDE) -> JobAccepted:
        """Accept a job durably, or give the answer again that the same submission got before.

        Raises RbeesError: INVALID_REQUEST, MODEL_NOT_FOUND, MODEL_INCOMPATIBLE, QUEUE_FULL, QUOTA_EXCEEDED, DEADLINE_EXCEEDED,
        DRAINING, STORAGE_FULL, IDEMPOTENCY_CONFLICT, OUTPUT_ERASED.
        """
        check_job(request)
        if idempotency_key is None:
            return await self._accept(request, None, aside)
        # Two submissions under one key must not both find it unused, also where the first client leaves before its commit.
        while (under_way := self._submitting.get(idempotency_key)) is not None:
            await asyncio.wait([under_way])
        task = asyncio.create_task(self._accept_once(request, idempotency_key, aside))
        self._submitting[idempotency_key] = task
        task.add_done_callback(lambda done: self._submitted(idempotency_key, done))
        return await asyncio.shield(task)

    def _submitted(self, key: str, done: asyncio.Task[JobAccepted]) -> None:
        del self._submitting[key]
        if not done.cancelled():
            done.exception()  # Told to the client, if that is still there.

    async def _accept_once(self, request: JobRequest, key: str, aside: Aside) -> JobAccepted:
        return await self._answer_again(request, key, aside.beside) or await self._accept(request, key, aside)

    async def _answer_again(self, request: JobRequest, key: str, beside: Beside | None) -> JobAccepted | None:
        before = await self._store.submitted(key)
        if before is None:
            return None
        same = before.request_sha256 == _fingerprint(request, beside)
        if not same and (beside is not None or not await self._is_the_same(before, request)):
            message = "This Idempotency-Key was used with another body; send a new key."
            raise RbeesError(ErrorCode.IDEMPOTENCY_CONFLICT, message, job_id=before.job_id)
        if before.erased:
            raise _erased(before.job_id)
        return _accepted(before.job_id, before.accepted_position, before.seed)

    async def _is_the_same(self, before: Submitted, request: JobRequest) -> bool:
        """Whether a request is the stored one although its digest is not: an earlier version made that over the fields it knew."""
        stored = await self._store.request(before.number)
        seeded = msgspec.structs.replace(request, seed=before.seed if request.seed is None else request.seed)
        return stored is not None and msgspec.json.decode(stored, type=JobRequest) == seeded

    async def _accept(self, asked: JobRequest, key: str | None, aside: Aside) -> JobAccepted:
        self.check_room()
        reference, facts = await self._resolve(asked.model, aside.reference_of)
        model_ref.parse(reference)  # Which nobody has looked at while no pool is there.
        request = msgspec.structs.replace(asked, model=reference)
        _check_capable(request, facts)
        self.check_room()
        now_ms = self._clock.unix_ms()
        extent = extent_of(request)
        spec = _newcomer(request, extent, facts, now_ms)
        self._check_quota(spec)
        self._check_deadline(spec, now_ms)
        seed = request.seed if request.seed is not None else self._identities.seed()
        record = encode(msgspec.structs.replace(request, seed=seed))
        _check_readable(record)
        new = NewJob(
            job_id=self._identities.job_id(),
            kind=request.kind,
            model=request.model,
            model_sha256=facts.sha256 if facts else None,
            model_ref=facts.ref if facts else None,
            priority=request.priority,
            session_id=request.session_id,
            seed=seed,
            timeout_ms=request.timeout_ms,
            choices=request.n,
            extent=extent,
            cancel_on_disconnect=request.cancel_on_disconnect,
            request=record,
            request_sha256=_fingerprint(asked, aside.beside),
            idempotency_key=key,
            queue_position=self._scheduler.position_of(spec, self._clock.monotonic()),
            created_at_ms=now_ms,
            deadline_at_ms=spec.deadline_at_ms,
            correlation_id=correlation_id.get(),
            beside=aside.beside,
        )

        def durable(job: LiveJob) -> None:
            if aside.begun is not None:
                aside.begun(_row(job, new))
            self._post(JobArrived(replace(spec, job_id=job.job_id, order=job.number, keep_s=aside.keep_s)))

        await self._journal.accept(new, durable)
        return _accepted(new.job_id, new.queue_position, seed)

    async def _resolve(self, name: str, reference_of: Callable[[str], str | None] | None) -> tuple[str, ModelFacts | None]:
        """The reference and its model, None where no pool is known. Raises RbeesError, such as MODEL_NOT_FOUND."""
        while True:
            is_settled = self._clock.monotonic() >= self.settled_at_s
            reference = name if reference_of is None else reference_of(name)
            if reference is not None or is_settled:
                try:
                    return reference or name, self._scheduler.resolve(reference or name)
                except RbeesError as error:
                    if error.code is not ErrorCode.MODEL_NOT_FOUND or is_settled:
                        raise
            await self._clock.sleep(RESOLVE_AGAIN_S)

    def check_room(self) -> None:
        """Raises RbeesError DRAINING, QUEUE_FULL where no job can be taken at present, whatever it is."""
        if self.draining:
            message = "This orchestrator is shutting down and takes no new jobs; try again once it is back."
            raise RbeesError(ErrorCode.DRAINING, message, retry_after_s=5)
        if self._queue_limit and self._journal.counts["queued"] >= self._queue_limit:
            message = f"{self._queue_limit} jobs wait already; send the job again later."
            raise RbeesError(
                ErrorCode.QUEUE_FULL, message, queue_limit=self._queue_limit, retry_after_s=self._until_a_place_is_free_s()
            )

    def _check_quota(self, newcomer: JobSpec) -> None:
        """Refuse what the cluster's own policy refuses. Raises RbeesError QUOTA_EXCEEDED."""
        if self._plugin is not None:
            counts = self._journal.counts
            self._plugin.admit(newcomer, Load(counts["queued"], counts["dispatched"] + counts["running"]))

    def _check_deadline(self, newcomer: JobSpec, now_ms: int) -> None:
        """Refuse what could not be done in time. Raises RbeesError DEADLINE_EXCEEDED."""
        if newcomer.model_sha256 is None or newcomer.deadline_at_ms is None:
            return
        error = self._scheduler.refusal_for_deadline(newcomer, self._clock.monotonic(), now_ms)
        if error is not None:
            raise RbeesError(error.code, error.message, **error.details)

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

    async def row_for_events(self, job_id: str, after: int = 0) -> JobRow:
        """The job, if its events behind `after` can be replayed.

        Raises RbeesError: JOB_NOT_FOUND, OUTPUT_ERASED, INVALID_REQUEST.
        """
        row = await self.row(job_id)
        if row.erased:
            raise _erased(job_id)
        if row.ended_at_ms is not None:
            check_after(after, row.last_seq)
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
            kind=row.kind,
            model=row.model,
            model_sha256=row.model_sha256,
            priority=row.priority,
            session_id=row.session_id,
            seed=row.seed,
            queue_position=self._scheduler.queue_position(row.job_id),
            waiting_for=self._scheduler.waiting_for(row.job_id),
            created_at_ms=row.created_at_ms,
            deadline_at_ms=row.deadline_at_ms,
            started_at_ms=row.started_at_ms,
            ended_at_ms=row.ended_at_ms,
            last_seq=row.last_seq,
            usage=outcome.usage if isinstance(outcome, End) else None,
            timings=outcome.timings if isinstance(outcome, End) else None,
            error=outcome.error if isinstance(outcome, Error) else None,
        )

    async def _output(self, row: JobRow) -> Output:
        if row.kind != "generate":
            return await self._result(row)
        texts: dict[int, dict[Part, list[str]]] = {}
        ends: dict[int, ChoiceEnd] = {}
        async for event in journaled(self._store, row.number):
            if isinstance(event, Token):
                texts.setdefault(event.choice, {}).setdefault(event.part, []).append(event.text)
            elif isinstance(event, End):
                ends = {end.choice: end for end in event.choices}
        return tuple(
            _choice_output(choice, texts.get(choice, {}), ends.get(choice)) for choice in sorted(texts.keys() | ends.keys())
        )

    async def _result(self, row: JobRow) -> Embeddings | Ranking:
        results: list[Result] = []
        async for event in journaled(self._store, row.number):
            if isinstance(event, Result):
                results.append(event)
                # To read one takes a millisecond, and a result may have a hundred of them: others' streams go on in between.
                await asyncio.sleep(0)
        if row.kind == "embed":
            return Embeddings(embeddings=tuple(one for result in results for one in result.embeddings))
        return Ranking(results=tuple(one for result in results for one in result.ranking))

    # ---- explaining ----------------------------------------------------------------------------------------------------

    async def explain(self, job_id: str) -> Explanation:
        """Why a job is where it is, or what it waits for. Raises RbeesError JOB_NOT_FOUND."""
        row = await self.row(job_id)
        attempts = tuple(await self._store.attempts(row.number))
        told = self._scheduler.explain(job_id, self._clock.monotonic())
        if told is None:
            reason = "The job has ended." if row.ended_at_ms is not None else "It has only just been accepted."
            return Explanation(
                job_id=job_id,
                status=row.status,
                outlook="ended" if row.ended_at_ms is not None else "waits",
                reason=reason,
                attempts=attempts,
            )
        return Explanation(
            job_id=job_id,
            status=row.status,
            outlook=told.outlook,
            reason=told.reason,
            ahead=told.ahead,
            bound=told.bound,
            done_in_s=told.done_in_s,
            is_guess=told.is_guess,
            candidates=told.candidates,
            attempts=attempts,
        )

    def plan(self, request: JobRequest) -> Plan:
        """What would become of a job that came now. Raises RbeesError INVALID_REQUEST."""
        check_job(request)
        model_ref.parse(request.model)
        now_ms = self._clock.unix_ms()
        try:
            self.check_room()
            facts = self._scheduler.resolve(request.model)
            _check_capable(request, facts)
            newcomer = _newcomer(request, extent_of(request), facts, now_ms)
            self._check_quota(newcomer)
        except RbeesError as error:
            return Plan(outlook="refused", reason=error.message, error=error.body())
        if facts is None:
            return Plan(outlook="waits", reason="No pool has registered yet; the job would wait for one.")
        told = self._scheduler.plan(newcomer, self._clock.monotonic(), now_ms)
        return Plan(
            outlook=told.outlook,
            reason=told.reason,
            model_sha256=facts.sha256,
            ahead=told.ahead,
            done_in_s=told.done_in_s,
            is_guess=told.is_guess,
            candidates=told.candidates,
            error=told.error,
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

    async def _ask_cancel(self, job: LiveJob) -> None:
        durable = self._journal.settled() if job.cancel_asked else self._journal.ask_cancel(job)
        # Not only after the commit: the client may leave before it, and a full disk is no reason to let the job run on.
        self._post(CancelAsked(job.job_id))
        await durable

    # ---- watchers ------------------------------------------------------------------------------------------------------

    def joined(self, row: JobRow) -> None:
        """Somebody begins to watch the job."""
        job = self._journal.live.get(row.job_id)
        if job is not None and job.cancel_on_disconnect and not job.watched:
            self._journal.watched(job)

    def left(self, row: JobRow) -> None:
        """A watcher of the job has left."""
        job = self._journal.live.get(row.job_id)
        if job is not None and job.cancel_on_disconnect:
            self._crew.start(self._cancel_if_unwatched(job, GONE_AFTER_S), "cancel_on_disconnect")

    def expect_watchers(self) -> None:
        """After a restart: whoever watched has to come back, or has gone."""
        for job in self._journal.live.values():
            if job.cancel_on_disconnect and job.watched:
                self._crew.start(self._cancel_if_unwatched(job, BACK_AFTER_S), "cancel_on_disconnect")

    async def _cancel_if_unwatched(self, job: LiveJob, patience_s: float) -> None:
        left_at_s = job.left_at_s = self._clock.monotonic()
        await self._clock.sleep(patience_s)
        still_gone = job.left_at_s == left_at_s and not self._relay.is_watched(job.number)
        if still_gone and job.job_id in self._journal.live and not self.draining:
            await self._ask_cancel(job)


def _check_capable(request: JobRequest, facts: ModelFacts | None) -> None:
    """Refuse what the model's header says that it cannot do; a worker knows of the rest.

    Raises:
        RbeesError: MODEL_INCOMPATIBLE
    """
    if facts is None or not facts.capabilities:
        return
    if request.kind in facts.capabilities:
        if request.messages is not None and "chat" not in facts.capabilities:
            message = "This model has no chat template; send its text as a raw `prompt` (`llorch jobs submit --raw`)."
            raise RbeesError(ErrorCode.MODEL_INCOMPATIBLE, message, model=request.model, capabilities=list(facts.capabilities))
        return
    needs = {"generate": "makes no text", "embed": "makes no embeddings", "rerank": "cannot rank documents"}[request.kind]
    able = ", ".join(f"`{name}`" for name in facts.capabilities if name != "chat") or "nothing that jobs ask for"
    message = f"The model {needs}; by its header it can do {able}. Choose another model."
    raise RbeesError(ErrorCode.MODEL_INCOMPATIBLE, message, model=request.model, capabilities=list(facts.capabilities))


def _check_readable(record: bytes) -> None:
    """Refuse what fits the API by which it came and is more than a job holds: a record that cannot be read would end this process.

    Raises:
        RbeesError: INVALID_REQUEST, with the path in the job.
    """
    try:
        msgspec.json.decode(record, type=JobRequest)
    except msgspec.ValidationError as error:
        from rbees.protocol import validation  # Only a refusal pays for this import.

        message = f"This asks for more than a job holds: {validation.sentence(error, JobRequest)}."
        raise RbeesError(ErrorCode.INVALID_REQUEST, message) from None


def _newcomer(request: JobRequest, extent: Extent, facts: ModelFacts | None, now_ms: int) -> JobSpec:
    """What the scheduler hears of a job, but for what it gets with its acceptance: id and order."""
    return JobSpec(
        job_id="",
        model=request.model,
        model_sha256=facts.sha256 if facts is not None else None,
        priority=request.priority,
        order=0,
        timeout_ms=request.timeout_ms,
        deadline_at_ms=None if request.deadline_ms is None else now_ms + request.deadline_ms,
        choices=request.n,
        prompt_bytes=extent.prompt_bytes,
        max_tokens=request.max_tokens if request.kind == "generate" else 0,
        session_id=request.session_id or "",
        prefixes=extent.names,
    )


def _row(job: LiveJob, new: NewJob) -> JobRow:
    """The job as it is stored right after its acceptance."""
    return JobRow(
        number=job.number,
        job_id=new.job_id,
        kind=new.kind,
        status="queued",
        model=new.model,
        model_sha256=new.model_sha256,
        priority=new.priority,
        session_id=new.session_id,
        seed=new.seed,
        cancel_on_disconnect=new.cancel_on_disconnect,
        erased=False,
        created_at_ms=new.created_at_ms,
        deadline_at_ms=new.deadline_at_ms,
        dispatched_at_ms=None,
        started_at_ms=None,
        ended_at_ms=None,
        outcome=None,
        last_seq=job.stream.last_seq,
    )


def _choice_output(choice: int, texts: dict[Part, list[str]], end: ChoiceEnd | None) -> ChoiceOutput:
    return ChoiceOutput(
        choice=choice,
        text="".join(texts.get("text", ())),
        reasoning="".join(texts.get("reasoning", ())),
        tool_calls=end.tool_calls if end is not None else (),
        finish_reason=end.finish_reason if end is not None else None,
    )


def _accepted(job_id: str, queue_position: int, seed: int) -> JobAccepted:
    return JobAccepted(
        job_id=job_id, status="queued", queue_position=queue_position, events_url=f"/v2/tasks/{job_id}/events", seed=seed
    )


def _fingerprint(request: JobRequest, beside: Beside | None) -> bytes:
    """Of the submitted request and what is kept beside it, whatever the order of its fields and the space between them."""
    return hashlib.sha256(encode(request) + (b"" if beside is None else beside.said)).digest()


def _erased(job_id: str) -> RbeesError:
    message = "The job ended and its content was erased: it was deleted, or the retention setting says so."
    return RbeesError(ErrorCode.OUTPUT_ERASED, message, job_id=job_id)
