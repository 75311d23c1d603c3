"""Every attempt that this worker runs or still remembers: from the request to its acknowledged last event.

A dropped connection is no cancellation: an attempt goes on, its events wait here, and only when nobody has acknowledged
anything for a minute is it given up; sooner where it stands for want of acknowledgements and keeps others from beginning.
Among the attempts of one job the highest epoch wins. All of it runs on the event loop.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, field
from typing import Final, Protocol

import msgspec
from msgspec.structs import replace

from rbees.protocol.chat import ToolCall, check_chat
from rbees.protocol.codec import encode
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.events import ChoiceEnd, End, Error, Event, Speculation, Started, Timings, Token
from rbees.protocol.response_format import ResponseFormat, TextFormat, check_calls, check_response_format
from rbees.protocol.sampling import check_sampling
from rbees.protocol.workers import AckRequest, ExecuteRequest
from rbees.service import logs
from rbees.service.clock import Clock
from rbees.workerd.chat.conversation import call_id
from rbees.workerd.engine.constraint import Constraint
from rbees.workerd.engine.outputs import Admitted, Embedded, Failed, Finished, Grown, Output
from rbees.workerd.engine.refusals import check_fits
from rbees.workerd.engine.sequence import Work
from rbees.workerd.forms import Forms
from rbees.workerd.prompts import Prompt, Prompts
from rbees.workerd.sampling_needs import SamplingNeeds
from rbees.workerd.stream import EventBuffer
from rbees.workerd.vectors import VectorDesk, VectorRequest, usage_of
from rbees.workerd.waking import Waking

FORGET_AFTER_S: Final = 60.0
SWEEP_EVERY_S: Final = 1.0
MAX_ATTEMPTS: Final = 1_024
PAUSE_ABOVE_BYTES: Final = 1024 * 1024
RESUME_BELOW_BYTES: Final = 512 * 1024
LEFT_AFTER_S: Final = 2.0
"""So long a reader of somebody's own program may be gone before it counts as having left for good."""
MAKE_WAY_AFTER_S: Final = 5.0
"""So long an attempt may stand while another cannot begin, because one of them is deterministic and runs with no other."""


class EngineDoor(Protocol):
    """What attempts ask of the engine."""

    def submit(self, work: Work) -> None:
        """Begin."""

    def cancel(self, key: str) -> None:
        """End."""

    def pause(self, key: str, paused: bool) -> None:
        """Stand or go on."""


@dataclass(slots=True)
class Attempt:
    """One (job, epoch) on this worker."""

    job_id: str
    epoch: int
    correlation_id: str | None
    asked: bytes
    """Digest of the request."""
    last_sign_s: float
    """When somebody last showed that they follow this attempt."""
    events: EventBuffer = field(default_factory=EventBuffer)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    readers: int = 0
    delivered_seq: int = 0
    """The highest event that was written to some reader."""
    paused_since_s: float | None = None
    """Since when it stands, because too much of it is not acknowledged; None while it goes on."""
    deterministic: bool = False
    is_orcds: bool = True
    """Whoever asked for it comes back for its events after a break, as an orchestrator does, also as one that was started again."""
    dismissed: bool = False
    """Somebody has cancelled it, and so wants nothing more of it."""
    ending: RbeesError | None = None
    """Why this worker ends it, once it does; None where that was asked for."""
    has_token: bool = False
    """Its first token was made."""
    choices: int = 1
    ends: list[Finished] = field(default_factory=list)
    """Of the answers that are complete."""
    preparing: asyncio.Task[None] | None = None

    @property
    def key(self) -> str:
        """Its name inside the engine."""
        return f"{self.job_id}/{self.epoch}"

    @property
    def waits(self) -> bool:
        """True while the engine has it and has not begun with it."""
        return self.preparing is None and self.events.last_seq == 0

    def add(self, event: Event) -> None:
        """Append an event and wake the readers."""
        self.events.append(event)
        self.changed.set()


class Attempts:
    """The attempts of one worker."""

    def __init__(
        self,
        *,
        engine: EngineDoor,
        prompts: Prompts,
        forms: Forms,
        needs: SamplingNeeds,
        vectors: VectorDesk,
        clock: Clock,
        ctx: int,
        worker_id: str,
        model_ref: str,
    ) -> None:
        self._engine = engine
        self._prompts = prompts
        self._forms = forms
        self._needs = needs
        self._vectors = vectors
        self._clock = clock
        self._ctx = ctx
        self._worker_id = worker_id
        self._model_ref = model_ref
        self._attempts: dict[str, Attempt] = {}
        self._waking = Waking()

    @property
    def running(self) -> int:
        """Attempts whose last event is not made yet."""
        return sum(1 for a in self._attempts.values() if not a.events.ended)

    @property
    def awaited(self) -> tuple[str, ...]:
        """What the end of this worker would cut off: each attempt by its name, with the reason."""
        now = self._clock.monotonic()
        return tuple(f"{a.key} {reason}" for a in self._attempts.values() if (reason := _unsettled(a, now)) is not None)

    def execute(self, request: ExecuteRequest, *, is_orcds: bool = True) -> Attempt:
        """The attempt of this (job, epoch): begun now, or the one that runs or ran already. `is_orcds`: an orchestrator asks.

        Raises:
            RbeesError: INVALID_REQUEST, QUEUE_FULL, IDEMPOTENCY_CONFLICT
        """
        asked = digest_of(request)
        known = self._attempts.get(f"{request.job_id}/{request.epoch}")
        if known is not None:
            if known.asked != asked:
                sentence = "This `job_id` and `epoch` were used with another body; send another `job_id`, or a higher `epoch`."
                raise RbeesError(ErrorCode.IDEMPOTENCY_CONFLICT, sentence, field="job_id")
            known.is_orcds = known.is_orcds or is_orcds
            return known
        check_request(request)
        if len(self._attempts) >= MAX_ATTEMPTS:
            sentence = f"This worker already remembers {MAX_ATTEMPTS} jobs; send it elsewhere."
            raise RbeesError(ErrorCode.QUEUE_FULL, sentence, retry_after_s=SWEEP_EVERY_S)
        attempt = Attempt(request.job_id, request.epoch, logs.correlation_id.get(), asked, self._clock.monotonic())
        others = self._of_job(request.job_id)
        self._attempts[attempt.key] = attempt
        if any(other.epoch > attempt.epoch for other in others):
            attempt.add(Error(error=_overtaken().body(attempt.correlation_id)))
            return attempt
        for older in others:
            self._end(older, _overtaken())
        attempt.is_orcds = is_orcds
        attempt.deterministic = request.deterministic
        attempt.preparing = asyncio.create_task(self._prepare(attempt, request))
        attempt.preparing.add_done_callback(lambda task: self._check_prepared(attempt, task))
        return attempt

    def find(self, job_id: str, epoch: int) -> Attempt:
        """The attempt by its coordinates.

        Raises:
            RbeesError: JOB_NOT_FOUND
        """
        attempt = self._attempts.get(f"{job_id}/{epoch}")
        if attempt is None:
            raise RbeesError(ErrorCode.JOB_NOT_FOUND, "This worker does not know this job and epoch; it may have forgotten them.")
        return attempt

    def ack(self, job_id: str, request: AckRequest) -> None:
        """Everything up to `seq` is journaled. An attempt whose last event is acknowledged is forgotten.

        Raises:
            RbeesError: JOB_NOT_FOUND, INVALID_REQUEST
        """
        attempt = self.find(job_id, request.epoch)
        attempt.events.ack(request.seq)
        attempt.last_sign_s = self._clock.monotonic()
        attempt.delivered_seq = max(attempt.delivered_seq, request.seq)
        self._balance(attempt)
        if attempt.events.ended and attempt.events.acked_seq == attempt.events.last_seq and not attempt.readers:
            del self._attempts[attempt.key]

    def cancel(self, job_id: str, epoch: int | None) -> None:
        """End one attempt, or all of the job; unknown ones have ended already."""
        for attempt in self._of_job(job_id):
            if epoch in (None, attempt.epoch):
                attempt.dismissed = True
                self._end(attempt)

    def attach(self, attempt: Attempt) -> None:
        """A reader follows this attempt from now on."""
        attempt.readers += 1

    def detach(self, attempt: Attempt) -> None:
        """A reader left; nothing ends by that."""
        attempt.readers -= 1
        attempt.last_sign_s = self._clock.monotonic()
        acked = attempt.events.acked_seq == attempt.events.last_seq
        if attempt.events.ended and acked and not attempt.readers:
            self._attempts.pop(attempt.key, None)

    def deliver(self, outputs: list[Output]) -> None:
        """What came out of the engine, in order."""
        for output in outputs:
            if isinstance(output, Embedded) or (isinstance(output, Failed) and self._vectors.waits_for(output.key)):
                self._vectors.deliver(output)
                continue
            attempt = self._attempts.get(output.key)
            if attempt is None or attempt.events.ended:
                continue
            event = self._event(attempt, output)
            if event is not None:
                self._add(attempt, event)
                self._balance(attempt)

    def sweep(self) -> None:
        """Give up what nobody has acknowledged for a minute or what stands in the way of others; forget what has ended of it."""
        now = self._clock.monotonic()
        for attempt in list(self._attempts.values()):
            everything_acked = attempt.events.acked_seq == attempt.events.last_seq
            if attempt.readers and everything_acked:
                attempt.last_sign_s = now
            if now - attempt.last_sign_s <= FORGET_AFTER_S:
                if self._is_in_the_way(attempt, now):
                    self._end(attempt, _unacknowledged(attempt, MAKE_WAY_AFTER_S, " and others waited for it"))
                continue
            if not attempt.events.ended:
                self._end(attempt, _unacknowledged(attempt, FORGET_AFTER_S))
                attempt.last_sign_s = now
            elif not attempt.readers:
                del self._attempts[attempt.key]

    async def sweep_forever(self) -> None:
        """Sweep every second, until cancelled."""
        while True:
            await self._clock.sleep(SWEEP_EVERY_S)
            self.sweep()

    async def close(self) -> None:
        """Stop making prompts: nobody will compute them, and their tokenizer is about to go."""
        preparing = [attempt.preparing for attempt in self._attempts.values() if attempt.preparing is not None]
        for task in preparing:
            task.cancel()
        await asyncio.gather(*preparing, return_exceptions=True)

    async def _prepare(self, attempt: Attempt, request: ExecuteRequest) -> None:
        """Make token ids and hand the work over; a request that cannot be computed ends the stream with its error."""
        try:
            vectors = request.embed or request.rerank
            if vectors is not None:
                await self._make_vectors(attempt, vectors)
                return
            work = await self._work(attempt, request)
            check_fits(work, self._ctx)
        except RbeesError as error:
            attempt.add(Error(error=error.body(attempt.correlation_id)))
            return
        attempt.preparing = None
        self._engine.submit(work)

    async def _make_vectors(self, attempt: Attempt, request: VectorRequest) -> None:
        """All of an attempt that makes no text; to cancel the task is to cancel it.

        Raises:
            RbeesError: INVALID_REQUEST, CONTEXT_EXCEEDED, MODEL_INCOMPATIBLE, INTERNAL
        """
        inputs = await self._vectors.inputs(request)
        attempt.add(self._started(attempt, inputs.tokens))
        computed = await self._vectors.compute(inputs)
        for event in await self._vectors.results(request, inputs, computed):
            attempt.add(event)
            # To write one takes a millisecond, and a result may have a hundred of them: others' streams go on in between.
            await asyncio.sleep(0)
        timings = Timings(
            prefill_ms=computed.compute_ms,
            decode_ms=0.0,
            queued_ms=computed.queued_ms,
            total_ms=round(computed.queued_ms + computed.compute_ms, 3),
        )
        attempt.add(End(choices=(), usage=usage_of(inputs), timings=timings))

    def _check_prepared(self, attempt: Attempt, task: asyncio.Task[None]) -> None:
        """A defect while preparing ends this attempt alone; the engine never heard of it."""
        if task.cancelled() or task.exception() is None or attempt.events.ended:
            return
        logs.logger().error("preparing failed", action="prepare_defect", job_id=attempt.job_id, exc_info=task.exception())
        defect = RbeesError(ErrorCode.INTERNAL, "A defect of rbees; the worker's log has the details.")
        attempt.add(Error(error=defect.body(attempt.correlation_id)))

    async def _work(self, attempt: Attempt, request: ExecuteRequest) -> Work:
        self._prompts.check_generates()
        generated, *further = [
            self._prompts.checked(ids) if ids else ()
            for ids in ([c.generated_token_ids for c in request.choices] or [request.generated_token_ids])
        ]
        attempt.choices = 1 + len(further)
        given = request.token_ids
        form = request.response_format if not isinstance(request.response_format, TextFormat) else None
        if given is not None:
            prompt = Prompt(self._prompts.checked(given))
        else:
            prompt = await self._prompts.of_source(request, in_form=form is not None)
        prompt, constraint = await self._kept_to(prompt, form)
        return Work(
            attempt.key,
            prompt.token_ids,
            generated,
            _most_tokens(request, prompt, self._ctx),
            request.sampling,
            request.deterministic,
            prompt.format,
            further=tuple(further),
            constraint=constraint,
            breakers=await self._needs.prepared(request.sampling),
            chain=request.prefix_chain,
        )

    async def _kept_to(self, prompt: Prompt, form: ResponseFormat | None) -> tuple[Prompt, Constraint | None]:
        """The prompt as its answer is read then, and what keeps that to a call, a form, or one of both."""
        if prompt.forced is not None:
            # A form is one of the text, and such an answer has none.
            return prompt, await self._forms.forced_call(prompt.forced)
        if form is None:
            return prompt, None
        if prompt.possible is not None:
            return prompt, await self._forms.form_or_call(form, prompt.possible)
        # The form begins with the answer and leaves no room for thoughts or calls.
        return Prompt(prompt.token_ids), await self._forms.constraint(form)

    def _is_in_the_way(self, attempt: Attempt, now: float) -> bool:
        """Whether it has stood for long for want of acknowledgements, and another cannot begin beside it."""
        if attempt.events.ended or attempt.paused_since_s is None or now - attempt.paused_since_s <= MAKE_WAY_AFTER_S:
            return False
        return any(other.waits and (other.deterministic or attempt.deterministic) for other in self._attempts.values())

    def _end(self, attempt: Attempt, reason: RbeesError | None = None) -> None:
        """Cancel an attempt, wherever it is; `reason` where nobody asked for that."""
        if attempt.events.ended:
            return
        attempt.ending = attempt.ending or reason
        if attempt.preparing is not None:
            attempt.preparing.cancel()
            error = attempt.ending or RbeesError(ErrorCode.CANCELLED, "The job was cancelled.")
            attempt.add(Error(error=error.body(attempt.correlation_id)))
            return
        self._engine.cancel(attempt.key)

    def _balance(self, attempt: Attempt) -> None:
        """An attempt whose events pile up stands until they are acknowledged; nothing is ever dropped."""
        held, paused = attempt.events.held_bytes, attempt.paused_since_s is not None
        if (held < RESUME_BELOW_BYTES) if paused else (held > PAUSE_ABOVE_BYTES):
            attempt.paused_since_s = None if paused else self._clock.monotonic()
            self._engine.pause(attempt.key, not paused)

    def _add(self, attempt: Attempt, event: Event) -> None:
        """Append an event; a token that follows another need not be read at once."""
        if isinstance(event, Token) and attempt.has_token:
            attempt.events.append(event)
            self._waking.soon(attempt.changed)
        else:
            attempt.has_token = isinstance(event, Token)
            attempt.add(event)

    def _event(self, attempt: Attempt, output: Admitted | Grown | Finished | Failed) -> Event | None:
        """The output as an event; None for the end of one answer while others go on."""
        match output:
            case Admitted():
                return self._started(attempt, output.prompt_tokens)
            case Grown():
                piece = output.piece
                return Token(
                    choice=output.choice,
                    part=piece.part,
                    text=piece.text,
                    index=piece.index,
                    token_ids=piece.token_ids,
                    logprobs=msgspec.UNSET if output.logprobs is None else output.logprobs,
                )
            case Finished():
                attempt.ends.append(output)
                return end_of(attempt.job_id, attempt.ends) if len(attempt.ends) == attempt.choices else None
            case Failed():
                error = RbeesError.from_body(output.error)
                if error.code is ErrorCode.CANCELLED and attempt.ending is not None:
                    error = attempt.ending
                return Error(error=error.body(attempt.correlation_id))

    def _started(self, attempt: Attempt, prompt_tokens: int) -> Started:
        return Started(epoch=attempt.epoch, worker_id=self._worker_id, model=self._model_ref, prompt_tokens=prompt_tokens)

    def _of_job(self, job_id: str) -> list[Attempt]:
        return [a for a in self._attempts.values() if a.job_id == job_id]


def _unsettled(attempt: Attempt, now: float) -> str | None:
    """Why the worker's end has to wait for it; None where nothing would be lost to anybody.

    An orchestrator's reader may be away and come back, so it is waited for. What it has cancelled it ends by itself.
    """
    if not attempt.events.ended:
        return "runs"
    if attempt.delivered_seq >= attempt.events.last_seq:
        return None
    if attempt.readers:
        return "is being read"
    if attempt.dismissed or (not attempt.is_orcds and now - attempt.last_sign_s > LEFT_AFTER_S):
        return None
    return "has ended and was not read to its end"


def digest_of(request: ExecuteRequest) -> bytes:
    """Tells one request from another.

    Fields that this worker does not know are no part of it, nor are names of beginnings, which change nothing: an orcd that was
    upgraded in between may send them otherwise, and still means the same attempt.
    """
    return hashlib.blake2b(encode(replace(request, prefix_chain=())), digest_size=16).digest()


def check_request(request: ExecuteRequest) -> None:
    """What the types cannot say.

    Raises:
        RbeesError: INVALID_REQUEST
    """
    sources = (request.prompt, request.messages, request.token_ids, request.embed, request.rerank)
    if sum(part is not None for part in sources) != 1:
        sentence = "Send exactly one of `prompt`, `messages`, `token_ids`, `embed` and `rerank`."
        raise RbeesError(ErrorCode.INVALID_REQUEST, sentence, field="prompt")
    check_chat(request.messages, request.tools, request.tool_choice, request.template_options)
    if request.choices and request.generated_token_ids:
        sentence = "Send `generated_token_ids` in each of `choices`, or for a single answer without them."
        raise RbeesError(ErrorCode.INVALID_REQUEST, sentence, field="choices")
    if "/" in request.job_id:
        raise RbeesError(ErrorCode.INVALID_REQUEST, "`job_id` must not hold a slash.", field="job_id")
    ignore_eos = request.sampling.ignore_eos
    check_response_format(request.response_format, ignore_eos=ignore_eos)
    check_calls(request.tools, request.tool_choice, request.response_format, ignore_eos=ignore_eos)
    check_sampling(request.sampling)


def end_of(job_id: str, ends: list[Finished]) -> End:
    """One end of all answers: the prompt counts once, what was made of it is added up, the times span all of them."""
    ends = sorted(ends, key=lambda end: end.choice)
    usage, timings = ends[0].usage, ends[0].timings
    if len(ends) > 1:
        usage = replace(
            usage,
            cached_tokens=max(end.usage.cached_tokens for end in ends),
            completion_tokens=sum(end.usage.completion_tokens for end in ends),
        )
        prefill_ms = min(end.timings.prefill_ms for end in ends)
        last_ms = max(end.timings.prefill_ms + end.timings.decode_ms for end in ends)
        last = max(ends, key=lambda end: end.timings.total_ms or 0.0)
        timings = replace(last.timings, prefill_ms=prefill_ms, decode_ms=round(last_ms - prefill_ms, 3))
    drafted, accepted = sum(end.drafted for end in ends), sum(end.accepted for end in ends)
    return End(
        choices=tuple(_choice_end(job_id, end) for end in ends),
        usage=usage,
        timings=timings,
        speculation=Speculation(drafted_tokens=drafted, accepted_tokens=accepted) if drafted else msgspec.UNSET,
    )


def _most_tokens(request: ExecuteRequest, prompt: Prompt, ctx: int) -> int | None:
    """Of each answer; None: what the context leaves."""
    if request.fit_context and len(prompt.token_ids) + (request.max_tokens or 0) > ctx:
        return None
    return request.max_tokens


def _choice_end(job_id: str, output: Finished) -> ChoiceEnd:
    calls = tuple(
        ToolCall(id=call_id(job_id, output.choice, number), name=call.name, arguments=call.arguments)
        for number, call in enumerate(output.calls)
    )
    stop_string = msgspec.UNSET if output.stop_string is None else output.stop_string
    return ChoiceEnd(choice=output.choice, finish_reason=output.reason, tool_calls=calls, stop_string=stop_string)


def _overtaken() -> RbeesError:
    return RbeesError(ErrorCode.CANCELLED, "A later attempt of this job runs here.")


def _unacknowledged(attempt: Attempt, seconds: float, besides: str = "") -> RbeesError:
    """Nobody asked to cancel, but nobody seems to want the events either."""
    return RbeesError(
        ErrorCode.CANCELLED,
        f"The worker gave the job up, because nobody acknowledged its events for {seconds:.0f} s{besides}; "
        "while you read, send the number of the last event to `/jobs/JOB_ID/ack`.",
        acked_seq=attempt.events.acked_seq,
        last_seq=attempt.events.last_seq,
    )
