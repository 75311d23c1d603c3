"""The worker's HTTP face: requests in, event streams out. What the answers mean is decided in `jobs`."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Annotated, Protocol, Self, TypeVar

import msgspec
from aiohttp import web

from rbees.protocol.chat import check_chat
from rbees.protocol.codec import Message, decode, decode_known, encode
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.events import Event
from rbees.protocol.prefix_chain import HASH_PATTERN
from rbees.protocol.vectors import EmbedAnswer, EmbedRequest, RerankAnswer, RerankRequest
from rbees.protocol.workers import (
    AckRequest,
    Beat,
    CancelRequest,
    ExecuteRequest,
    TokenizeAnswer,
    TokenizeRequest,
    WorkerHealth,
)
from rbees.service.sse import SseWriter, frame
from rbees.service.user_agent import is_rbees
from rbees.service.web import Parameter, Route, argument, read, read_json, reply, reply_large
from rbees.workerd.jobs import Attempt, Attempts
from rbees.workerd.prompts import Prompts
from rbees.workerd.vectors import VectorDesk

M = TypeVar("M", bound=Message)

BEAT_EVERY_S = 1.0

EPOCH = Parameter("epoch", "The attempt.", Annotated[int, msgspec.Meta(ge=1)], required=True)
PREFIXES = Parameter(
    "prefixes",
    "Hashes of a `prefix_chain`, separated by commas: tell only which of these are cached.",
    Annotated[str, msgspec.Meta(pattern=f"^{HASH_PATTERN}(,{HASH_PATTERN})*$")],
)
AFTER = Parameter("after", "Number of the last event that the caller has.", Annotated[int, msgspec.Meta(ge=0)])


class Serving(Protocol):
    """What the routes need of the worker once its model is loaded."""

    @property
    def attempts(self) -> Attempts:
        """Running and remembered attempts."""

    @property
    def prompts(self) -> Prompts:
        """The tokenizer's door."""

    @property
    def vectors(self) -> VectorDesk:
        """Embeddings and ranks."""

    @property
    def step(self) -> int:
        """The engine's step counter."""


class Worker(Protocol):
    """The worker as its routes see it, from the first moment the port is open."""

    def serving(self) -> Serving:
        """The loaded model. Raises MODEL_LOADING before."""

    def accepting(self) -> Serving:
        """The loaded model, for new work. Raises MODEL_LOADING before, DRAINING after."""

    async def health(self, asked: frozenset[str] | None) -> WorkerHealth:
        """Facts and figures; of the cached prefixes those asked about, or the newest of all."""

    def shut_down(self) -> None:
        """Begin to drain."""


def routes(worker: Worker) -> list[Route]:
    """The routes of one worker."""

    async def execute(request: web.Request) -> web.StreamResponse:
        body = await _message(request, ExecuteRequest)
        serving = worker.accepting()
        return await _stream(request, serving, serving.attempts.execute(body, is_orcds=_is_orcds(request)), after=None)

    async def events(request: web.Request) -> web.StreamResponse:
        serving = worker.serving()
        attempt = serving.attempts.find(request.match_info["job_id"], argument(request, EPOCH))
        attempt.is_orcds = attempt.is_orcds or _is_orcds(request)
        return await _stream(request, serving, attempt, after=argument(request, AFTER) or 0)

    async def ack(request: web.Request) -> web.Response:
        worker.serving().attempts.ack(request.match_info["job_id"], await _message(request, AckRequest))
        return reply(status=204)

    async def cancel(request: web.Request) -> web.Response:
        body = await _message(request, CancelRequest)
        worker.serving().attempts.cancel(body.job_id, body.epoch)
        return reply(status=202)

    async def tokenize(request: web.Request) -> web.Response:
        body = await _message(request, TokenizeRequest)
        if (body.prompt is None) == (body.messages is None):
            raise RbeesError(ErrorCode.INVALID_REQUEST, "Send exactly one of `prompt` and `messages`.", field="prompt")
        check_chat(body.messages, body.tools, body.tool_choice, body.template_options)
        return reply(TokenizeAnswer(token_ids=(await worker.serving().prompts.of_source(body)).token_ids))

    async def health(request: web.Request) -> web.Response:
        asked = argument(request, PREFIXES)
        return reply(await worker.health(None if asked is None else frozenset(asked.split(","))))

    async def embed(request: web.Request) -> web.Response:
        body = await read(request, EmbedRequest)
        return await reply_large(await worker.accepting().vectors.embed(body))

    async def rerank(request: web.Request) -> web.Response:
        body = await read(request, RerankRequest)
        return reply(await worker.accepting().vectors.rerank(body))

    async def shutdown(_request: web.Request) -> web.Response:
        worker.shut_down()
        return reply(status=202)

    loading = (ErrorCode.MODEL_LOADING,)
    unknown = (*loading, ErrorCode.JOB_NOT_FOUND)
    refused_vectors = (*loading, ErrorCode.DRAINING, ErrorCode.MODEL_INCOMPATIBLE, ErrorCode.CONTEXT_EXCEEDED)
    return [
        Route(
            "POST",
            "/execute",
            execute,
            "Run one attempt of a job, or join the one that runs or ran; streams its events and a beat every second.",
            request=ExecuteRequest,
            response=Event | Beat,
            stream=True,
            errors=(*loading, ErrorCode.DRAINING, ErrorCode.QUEUE_FULL, ErrorCode.IDEMPOTENCY_CONFLICT),
        ),
        Route(
            "GET",
            "/jobs/{job_id}/events",
            events,
            "Attach to an attempt again, after the last event that the caller has.",
            response=Event | Beat,
            stream=True,
            errors=unknown,
            parameters=(EPOCH, AFTER),
        ),
        Route(
            "POST",
            "/jobs/{job_id}/ack",
            ack,
            "Tell that events are journaled; the worker forgets them.",
            request=AckRequest,
            status=204,
            errors=unknown,
        ),
        Route(
            "POST",
            "/cancel",
            cancel,
            "End an attempt, or all attempts of a job. Idempotent.",
            request=CancelRequest,
            status=202,
            errors=loading,
        ),
        Route(
            "POST",
            "/tokenize",
            tokenize,
            "The token ids of a prompt.",
            request=TokenizeRequest,
            response=TokenizeAnswer,
            errors=(*loading, ErrorCode.MODEL_INCOMPATIBLE),
        ),
        Route(
            "GET",
            "/health",
            health,
            "Model, slots, memory, learned rates, and which prefixes are cached.",
            response=WorkerHealth,
            parameters=(PREFIXES,),
        ),
        Route(
            "POST",
            "/embed",
            embed,
            "One vector for each text. To leave is to cancel.",
            request=EmbedRequest,
            response=EmbedAnswer,
            errors=refused_vectors,
        ),
        Route(
            "POST",
            "/rerank",
            rerank,
            "Documents by how well they answer a query. To leave is to cancel.",
            request=RerankRequest,
            response=RerankAnswer,
            errors=refused_vectors,
        ),
        Route("POST", "/shutdown", shutdown, "Finish what runs, then exit 0.", status=202),
    ]


async def _message(request: web.Request, type_: type[M]) -> M:
    """The body of a route that both orcd and people call.

    An orcd that is newer may send fields of which this worker knows nothing, and its jobs run on. Anybody else misspelt them.
    """
    body = await read_json(request)
    return (decode if _is_orcds(request) else decode_known)(body, type_)


def _is_orcds(request: web.Request) -> bool:
    return is_rbees(request.headers.get("User-Agent"))


async def _stream(request: web.Request, serving: Serving, attempt: Attempt, after: int | None) -> web.StreamResponse:
    """Send the events after `after`; without it, all that are not acknowledged."""
    cursor = attempt.events.acked_seq if after is None else after
    attempt.events.after(cursor)
    serving.attempts.attach(attempt)
    try:
        async with SseWriter(request) as out:
            await _follow(out, serving, attempt, cursor)
        return out.response
    finally:
        serving.attempts.detach(attempt)


async def _follow(out: SseWriter, serving: Serving, attempt: Attempt, cursor: int) -> None:
    """Write events as they come, and a beat every second, until the last event is out."""
    with _Heart(attempt.changed) as heart:
        while True:
            attempt.changed.clear()
            # What was acknowledged meanwhile has reached its journal by another connection.
            cursor = max(cursor, attempt.events.acked_seq)
            frames, is_last = attempt.events.after(cursor), attempt.events.ended
            if frames:
                await (out.finish if is_last else out.write)(b"".join(frames))
                cursor += len(frames)
                attempt.delivered_seq = max(attempt.delivered_seq, cursor)
            if is_last:
                return
            if heart.beat_is_due:
                await out.write(frame(None, "beat", encode(Beat(step=serving.step))))
                heart.start()
            elif not frames:
                await attempt.changed.wait()


class _Heart:
    """Wakes who follows an attempt when a beat is due. One timer for each beat: one for each wait would cost more than the rest."""

    def __init__(self, changed: asyncio.Event) -> None:
        self._changed = changed
        self.beat_is_due = False

    def start(self) -> None:
        """The time to the next beat begins."""
        self.beat_is_due = False
        self._timer = asyncio.get_running_loop().call_later(BEAT_EVERY_S, self._due)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._timer.cancel()

    def _due(self) -> None:
        self.beat_is_due = True
        self._changed.set()
