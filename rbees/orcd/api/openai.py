"""`/v1`: OpenAI's API over the cluster. What it says is translated in `rbees.orcd.openai`, what it does is done by the door."""

from __future__ import annotations

from typing import Final, TypeVar

from aiohttp import web

from rbees.orcd.anthropic.models import ModelInfo, ModelPage
from rbees.orcd.api import anthropic
from rbees.orcd.api.asked import ACCEPTING, KEY, PREFER, names_of, read_asked, wait_s
from rbees.orcd.door.foreign import Foreign
from rbees.orcd.door.runs import Run, Runs
from rbees.orcd.door.streams import stream, whole
from rbees.orcd.openai import errors
from rbees.orcd.openai.answers import Identity, identity
from rbees.orcd.openai.chat import ChatRequest, chat_job, unmet_of_chat
from rbees.orcd.openai.chat_answers import ChatChunks, ChatCompletion, ChatCompletionChunk, chat_answer
from rbees.orcd.openai.completion_answers import Completion, CompletionChunks, completion_answer
from rbees.orcd.openai.completions import CompletionRequest, completion_jobs, unmet_of_completion
from rbees.orcd.openai.models import ModelObject, ModelObjects, model_list, model_object
from rbees.orcd.openai.places import told_as_sent
from rbees.orcd.openai.vectors import (
    EmbeddingsAnswer,
    EmbeddingsRequest,
    RankAnswer,
    RankRequest,
    VectorRequest,
    embeddings_answer,
    embeddings_job,
    rank_answer,
    rank_job,
    unmet_of_vectors,
)
from rbees.orcd.pools import Pools
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.service.web import ErrorShape, Route, WordedError, argument, pass_over, reply, reply_large

F = TypeVar("F", bound=Foreign)


def _worded(error: RbeesError) -> WordedError:
    return WordedError(errors.status_of(error), errors.body_of(error), errors.headers_of(error))


REQUEST_ID: Final = "x-request-id"
"""Header by which this API's clients know a request; here it is the correlation id."""
SHAPE: Final = ErrorShape(errors.ErrorAnswer, _worded, id_header=REQUEST_ID)


def routes(runs: Runs, pools: Pools) -> list[Route]:
    """The routes of OpenAI's clients."""

    async def chat(request: web.Request) -> web.StreamResponse:
        asked, headers = await _read(request, ChatRequest)
        job = chat_job(asked)
        with told_as_sent(asked):
            async with runs.of([job], argument(request, KEY)) as [run]:
                made, headers = _identity("chatcmpl", run, asked.model), headers | names_of([run])
                if asked.streams:
                    return await stream(request, [run], ChatChunks(asked, made), headers, wait_s(request))
                return reply(chat_answer(asked, made, await whole(run, asked.n or 1, wait_s(request))), headers=headers)

    async def complete(request: web.Request) -> web.StreamResponse:
        asked, headers = await _read(request, CompletionRequest)
        jobs = completion_jobs(asked)
        with told_as_sent(asked):
            async with runs.of(jobs, argument(request, KEY)) as followed:
                made, headers = _identity("cmpl", followed[0], asked.model), headers | names_of(followed)
                if asked.streams:
                    return await stream(request, followed, CompletionChunks(asked, made), headers, wait_s(request))
                first, *others = followed
                collected = [await whole(first, asked.n or 1, wait_s(request)), *[await whole(run, asked.n or 1) for run in others]]
                return reply(completion_answer(asked, made, collected), headers=headers)

    async def embed(request: web.Request) -> web.StreamResponse:
        asked, headers = await _read(request, EmbeddingsRequest)
        job = embeddings_job(asked)
        with told_as_sent(asked):
            async with runs.of([job], argument(request, KEY)) as [run]:
                return await reply_large(
                    embeddings_answer(asked, await whole(run, wait_s=wait_s(request))), headers=headers | names_of([run])
                )

    async def rank(request: web.Request) -> web.StreamResponse:
        asked, headers = await _read(request, RankRequest)
        job = rank_job(asked)
        with told_as_sent(asked):
            async with runs.of([job], argument(request, KEY)) as [run]:
                id_ = _identity("rerank", run, asked.model).id
                return reply(rank_answer(asked, id_, await whole(run, wait_s=wait_s(request))), headers=headers | names_of([run]))

    async def list_models(request: web.Request) -> web.Response:
        page = anthropic.list_models(request, pools)  # What it is asked with must fit, whoever asks.
        if anthropic.is_client(request):
            return reply(page)
        pass_over(request, (parameter.name for parameter in anthropic.PAGES if parameter.name in request.query))
        return reply(model_list(pools.models()))

    async def show_model(request: web.Request) -> web.Response:
        name = request.match_info["model"]
        if anthropic.is_client(request):
            return reply(anthropic.show_model(name, pools))
        found = pools.find_model(pools.meant(name).reference)
        return reply(model_object(found, name))

    async def tell_address(_request: web.Request) -> web.Response:
        return web.Response(
            text="rbees is running. This is the address for clients of OpenAI's API; those of others leave out `/v1`."
        )

    async def _read(request: web.Request, type_: type[F]) -> tuple[F, dict[str, str]]:
        return await read_asked(request, type_, runs, _unmet)

    return [
        Route(
            "POST",
            "/v1/chat/completions",
            chat,
            "Answer a chat, whole or as a stream of chunks.",
            request=ChatRequest,
            response=ChatCompletion,
            events=ChatCompletionChunk,
            errors=ACCEPTING,
            parameters=(KEY, PREFER),
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
            errors=ACCEPTING,
            parameters=(KEY, PREFER),
            error_shape=SHAPE,
        ),
        Route(
            "POST",
            "/v1/embeddings",
            embed,
            "Make vectors of texts.",
            request=EmbeddingsRequest,
            response=EmbeddingsAnswer,
            errors=ACCEPTING,
            parameters=(KEY, PREFER),
            error_shape=SHAPE,
        ),
        Route(
            "POST",
            "/v1/rerank",
            rank,
            "Order documents by how well they answer a query.",
            request=RankRequest,
            response=RankAnswer,
            errors=ACCEPTING,
            parameters=(KEY, PREFER),
            error_shape=SHAPE,
        ),
        Route(
            "GET",
            "/v1",
            tell_address,
            "Tell whose clients' address this is.",
            content_type="text/plain",
            error_shape=SHAPE,
        ),
        Route(
            "GET",
            "/v1/models",
            list_models,
            "List the models that are ready and those that would be started for the first who asks.",
            response=ModelObjects,
            signed={anthropic.VERSION.name: ModelPage},
            parameters=(anthropic.VERSION, *anthropic.PAGES, anthropic.BETA),
            error_shape=SHAPE,
        ),
        Route(
            "GET",
            "/v1/models/{model:.+}",
            show_model,
            "Show a model by any of its names.",
            response=ModelObject,
            signed={anthropic.VERSION.name: ModelInfo},
            errors=(ErrorCode.MODEL_NOT_FOUND,),
            parameters=(anthropic.VERSION, anthropic.BETA),
            error_shape=SHAPE,
        ),
    ]


def _unmet(asked: Foreign) -> tuple[str, ...]:
    """Fields that ask for what nobody does."""
    match asked:
        case ChatRequest():
            return unmet_of_chat(asked)
        case CompletionRequest():
            return unmet_of_completion(asked)
        case VectorRequest():
            return unmet_of_vectors(asked)
        case _:
            return ()


def _identity(prefix: str, run: Run, model: str) -> Identity:
    return identity(prefix, run.row.job_id, run.row.created_at_ms, model, run.row.model_sha256)
