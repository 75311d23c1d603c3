"""`/v1`: OpenAI's API over the cluster. What it says is translated in `rbees.orcd.openai`, what it does is done by the door."""

from __future__ import annotations

from typing import Annotated, Final, TypeVar

import msgspec
from aiohttp import web

from rbees.orcd.door.foreign import Foreign, read_foreign, told
from rbees.orcd.door.patience import LEAST_S, wait_of
from rbees.orcd.door.runs import Run, Runs
from rbees.orcd.door.streams import stream, whole
from rbees.orcd.openai import errors
from rbees.orcd.openai.answers import Identity, identity
from rbees.orcd.openai.chat import ChatRequest, chat_job
from rbees.orcd.openai.chat_answers import ChatChunks, ChatCompletion, ChatCompletionChunk, chat_answer
from rbees.orcd.openai.completion_answers import Completion, CompletionChunks, completion_answer
from rbees.orcd.openai.completions import CompletionRequest, completion_jobs
from rbees.orcd.openai.models import ModelObject, ModelObjects, model_list, model_object
from rbees.orcd.openai.shared import TextRequest, unmet
from rbees.orcd.openai.vectors import (
    EmbeddingsAnswer,
    EmbeddingsRequest,
    RankAnswer,
    RankRequest,
    embeddings_answer,
    embeddings_job,
    rank_answer,
    rank_job,
)
from rbees.orcd.pools import Pools
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.service.web import ErrorShape, Parameter, Route, WordedError, argument, read_json, reply, reply_large

IGNORED: Final = "X-Rbees-Ignored"
"""Header that names the fields of a request that were passed over."""
JOB: Final = "X-Rbees-Job-Id"
"""Header that names the jobs behind an answer, for `llorch jobs show` and the log."""

F = TypeVar("F", bound=Foreign)

_KEY = Parameter(
    "Idempotency-Key",
    "Any text of up to 190 characters: sending the same body under the same key again gives the same answer, from the same job.",
    Annotated[str, msgspec.Meta(min_length=1, max_length=190)],
    where="header",
)
_PREFER = Parameter(
    "Prefer",
    "`wait=SECONDS`: where the job has not started by then, 503 or 429 with `Retry-After` comes instead of more waiting.",
    Annotated[str, msgspec.Meta(max_length=1_000)],
    where="header",
)


def _worded(error: RbeesError) -> WordedError:
    return WordedError(errors.status_of(error), errors.body_of(error), errors.headers_of(error))


SHAPE: Final = ErrorShape(errors.ErrorAnswer, _worded)


def routes(runs: Runs, pools: Pools) -> list[Route]:
    """The routes of OpenAI's clients."""

    async def chat(request: web.Request) -> web.StreamResponse:
        asked, headers = await _read(request, ChatRequest)
        async with runs.of([chat_job(asked)], argument(request, _KEY)) as [run]:
            made, headers = _identity("chatcmpl", run, asked.model), headers | _jobs([run])
            if asked.streams:
                return await stream(request, [run], ChatChunks(asked, made), headers, _wait_s(request))
            return reply(chat_answer(asked, made, await whole(run, asked.n or 1, _wait_s(request))), headers=headers)

    async def complete(request: web.Request) -> web.StreamResponse:
        asked, headers = await _read(request, CompletionRequest)
        async with runs.of(completion_jobs(asked), argument(request, _KEY)) as followed:
            made, headers = _identity("cmpl", followed[0], asked.model), headers | _jobs(followed)
            if asked.streams:
                return await stream(request, followed, CompletionChunks(asked, made), headers, _wait_s(request))
            first, *others = followed
            collected = [await whole(first, asked.n or 1, _wait_s(request)), *[await whole(run, asked.n or 1) for run in others]]
            return reply(completion_answer(asked, made, collected), headers=headers)

    async def embed(request: web.Request) -> web.StreamResponse:
        asked, headers = await _read(request, EmbeddingsRequest)
        async with runs.of([embeddings_job(asked)], argument(request, _KEY)) as [run]:
            return await reply_large(
                embeddings_answer(asked, await whole(run, wait_s=_wait_s(request))), headers=headers | _jobs([run])
            )

    async def rank(request: web.Request) -> web.StreamResponse:
        asked, headers = await _read(request, RankRequest)
        async with runs.of([rank_job(asked)], argument(request, _KEY)) as [run]:
            id_ = _identity("rerank", run, asked.model).id
            return reply(rank_answer(asked, id_, await whole(run, wait_s=_wait_s(request))), headers=headers | _jobs([run]))

    async def list_models(_request: web.Request) -> web.Response:
        return reply(model_list(pools.models()))

    async def show_model(request: web.Request) -> web.Response:
        name = request.match_info["model"]
        found = pools.find_model(name)
        return reply(model_object(found.facts, ready=found.ready_workers > 0, name=name))

    async def _read(request: web.Request, type_: type[F]) -> tuple[F, dict[str, str]]:
        """What is asked for, and the headers of the answer that tell of what was passed over."""
        if argument(request, _KEY) is None:
            runs.check_room()
        elif _wait_s(request) is not None:
            message = "`Prefer: wait` gives a job up, and the key would give that job again; send one of them."
            raise RbeesError(ErrorCode.INVALID_REQUEST, message)
        reading = read_foreign(await read_json(request), type_)
        asked = reading.request
        said = told((*reading.passed_over, *(unmet(asked) if isinstance(asked, TextRequest) else ())))
        return asked, {} if said is None else {IGNORED: said}

    accepting = (
        ErrorCode.MODEL_NOT_FOUND,
        ErrorCode.MODEL_INCOMPATIBLE,
        ErrorCode.CONTEXT_EXCEEDED,
        ErrorCode.IDEMPOTENCY_CONFLICT,
        ErrorCode.OUTPUT_ERASED,
        ErrorCode.REQUEST_TOO_LARGE,
        ErrorCode.QUEUE_FULL,
        ErrorCode.QUOTA_EXCEEDED,
        ErrorCode.CANCELLED,
        ErrorCode.WORKER_CRASHED,
        ErrorCode.NO_PLACEMENT,
        ErrorCode.MODEL_LOADING,
        ErrorCode.DRAINING,
        ErrorCode.TIMEOUT,
        ErrorCode.DEADLINE_EXCEEDED,
        ErrorCode.STORAGE_FULL,
    )
    return [
        Route(
            "POST",
            "/v1/chat/completions",
            chat,
            "Answer a chat, whole or as a stream of chunks.",
            request=ChatRequest,
            response=ChatCompletion,
            events=ChatCompletionChunk,
            errors=accepting,
            parameters=(_KEY, _PREFER),
            error_shape=SHAPE,
        ),
        Route(
            "POST",
            "/v1/completions",
            complete,
            "Go on with raw prompts, whole or as a stream of chunks.",
            request=CompletionRequest,
            response=Completion,
            events=Completion,
            errors=accepting,
            parameters=(_KEY, _PREFER),
            error_shape=SHAPE,
        ),
        Route(
            "POST",
            "/v1/embeddings",
            embed,
            "Make vectors of texts.",
            request=EmbeddingsRequest,
            response=EmbeddingsAnswer,
            errors=accepting,
            parameters=(_KEY, _PREFER),
            error_shape=SHAPE,
        ),
        Route(
            "POST",
            "/v1/rerank",
            rank,
            "Order documents by how well they answer a query.",
            request=RankRequest,
            response=RankAnswer,
            errors=accepting,
            parameters=(_KEY, _PREFER),
            error_shape=SHAPE,
        ),
        Route(
            "GET",
            "/v1/models",
            list_models,
            "List the models that are ready and those that would be started for the first who asks.",
            response=ModelObjects,
            error_shape=SHAPE,
        ),
        Route(
            "GET",
            "/v1/models/{model:.+}",
            show_model,
            "Show a model by any of its names.",
            response=ModelObject,
            errors=(ErrorCode.MODEL_NOT_FOUND,),
            error_shape=SHAPE,
        ),
    ]


def _identity(prefix: str, run: Run, model: str) -> Identity:
    return identity(prefix, run.row.job_id, run.row.created_at_ms, model, run.row.model_sha256)


def _wait_s(request: web.Request) -> float | None:
    """How long the client waits for the start, where it says so."""
    asked = wait_of(argument(request, _PREFER))
    return None if asked is None else max(asked, LEAST_S)


def _jobs(runs: list[Run]) -> dict[str, str]:
    return {JOB: ", ".join(run.row.job_id for run in runs)}
