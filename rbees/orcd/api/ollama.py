"""`/api`: Ollama's API over the cluster. What it says is translated in `rbees.orcd.ollama`, what it does is done by door and pools.

Bodies are read whatever type they are said to have, as Ollama reads them: its own documentation calls it with a bare `curl -d`.
Pages of other origins are kept out by the edge, which looks at the origin and not at the type.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Final, TypeVar

from aiohttp import web

from rbees import __version__
from rbees.orcd.api.asked import ACCEPTING_WITHOUT_A_KEY, PREFER, ignored, names_of, wait_s
from rbees.orcd.door.foreign import read_foreign
from rbees.orcd.door.model_names import Found
from rbees.orcd.door.runs import Run, Runs
from rbees.orcd.door.streams import stream, whole
from rbees.orcd.ollama import errors
from rbees.orcd.ollama.keep_alive import seconds_of
from rbees.orcd.ollama.models import (
    ListAnswer,
    Loaded,
    NamedRequest,
    RunningAnswer,
    ShownModel,
    ShowRequest,
    VersionAnswer,
    loaded_models,
    model_list,
    running,
    shown_model,
)
from rbees.orcd.ollama.options import ModelRequest, TextRequest
from rbees.orcd.ollama.pull import BEGUN, SUCCESS, Progress, PullLines, PullRequest, download_of
from rbees.orcd.ollama.text import Asked, ChatRequest, GenerateRequest, chat_asked, generate_asked, loading_job
from rbees.orcd.ollama.text_answers import (
    ChatLine,
    GenerateLine,
    Spell,
    Stamp,
    TextLines,
    chat_line,
    generate_line,
    line,
    loaded,
    unloaded,
    waiting,
    whole_answer,
)
from rbees.orcd.ollama.vectors import (
    EmbedAnswer,
    EmbeddingAnswer,
    EmbedPrompt,
    EmbedTexts,
    embed_answer,
    embed_job,
    embedding_answer,
    prompt_job,
)
from rbees.orcd.pools import Pools
from rbees.protocol.downloads import DOWNLOAD_ERRORS, DownloadFailed
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.pools import ModelFacts
from rbees.service.clock import Clock
from rbees.service.download_stream import stream_download
from rbees.service.sse import StreamForm
from rbees.service.web import LINES, ErrorShape, Route, WordedError, read_bytes, reply, reply_large

API_VERSION: Final = "0.12.11"
"""Of Ollama: the one that has all that is honoured here. Clients look at it before they ask for tools, thoughts or schemas."""
FOR_GOOD: Final = "9999-12-31T23:59:59Z"
_NOT_HERE: Final = {
    ("POST", "/api/create"): "a model is a file of a pool; put it there, or have it fetched by /api/pull.",
    ("POST", "/api/copy"): "give a model a further name in `models.toml` of its pool.",
    ("POST", "/api/push"): "models go from pool to pool by `llorch models`, and nowhere else.",
    ("POST", "/api/blobs/{digest}"): "a model is a file of a pool; put it there, or have it fetched by /api/pull.",
    ("HEAD", "/api/blobs/{digest}"): "a model is a file of a pool; put it there, or have it fetched by /api/pull.",
}

T = TypeVar("T", bound=TextRequest)
M = TypeVar("M", bound=ModelRequest)
N = TypeVar("N", bound=NamedRequest)


def _worded(error: RbeesError) -> WordedError:
    return WordedError(errors.status_of(error), errors.body_of(error), errors.headers_of(error))


SHAPE: Final = ErrorShape(errors.ErrorAnswer, _worded)


def routes(runs: Runs, pools: Pools, clock: Clock) -> list[Route]:
    """The routes of Ollama's clients."""

    async def chat(request: web.Request) -> web.StreamResponse:
        return await text(request, ChatRequest, chat_asked, chat_line)

    async def generate(request: web.Request) -> web.StreamResponse:
        return await text(request, GenerateRequest, generate_asked, generate_line)

    async def text(request: web.Request, type_: type[T], ask: Callable[[T, Found], Asked], spell: Spell) -> web.StreamResponse:
        asked, passed_over = await _read_for_job(request, type_)
        keep_s, found = seconds_of(asked.keep_alive), pools.meant(asked.model)
        if asked.is_empty:
            headers = ignored(passed_over)
            if keep_s == 0.0:
                _unload(asked.model, found)
                return reply(unloaded(spell, Stamp(asked.model, _written(clock.unix_ms()))), headers=headers)
            async with runs.of([loading_job(found)], keep_s=keep_s) as [run]:
                return reply(
                    loaded(spell, _stamp(asked.model, run), await whole(run, wait_s=wait_s(request))),
                    headers=headers | names_of([run]),
                )
        wish = ask(asked, found)
        async with runs.of([wish.job], keep_s=keep_s) as [run]:
            stamp, headers = _stamp(asked.model, run), ignored((*passed_over, *wish.unmet)) | names_of([run])
            if asked.streams:
                form = StreamForm(LINES, waiting(spell, stamp))
                return await stream(request, [run], TextLines(spell, stamp), headers, wait_s(request), form=form)
            return reply(whole_answer(spell, stamp, await whole(run, wait_s=wait_s(request))), headers=headers)

    async def embed(request: web.Request) -> web.StreamResponse:
        asked, passed_over = await _read_for_job(request, EmbedTexts)
        keep_s, found = seconds_of(asked.keep_alive), pools.meant(asked.model)
        headers = ignored(passed_over)
        if asked.is_empty and keep_s == 0.0:
            _unload(asked.model, found)
            return reply(EmbedAnswer(model=asked.model), headers=headers)
        async with runs.of([loading_job(found) if asked.is_empty else embed_job(asked, found)], keep_s=keep_s) as [run]:
            return await reply_large(
                embed_answer(asked, await whole(run, wait_s=wait_s(request))), headers=headers | names_of([run])
            )

    async def embed_one(request: web.Request) -> web.StreamResponse:
        asked, passed_over = await _read_for_job(request, EmbedPrompt)
        keep_s, found = seconds_of(asked.keep_alive), pools.meant(asked.model)
        headers = ignored(passed_over)
        if asked.is_empty and keep_s == 0.0:
            _unload(asked.model, found)
            return reply(EmbeddingAnswer(), headers=headers)
        async with runs.of([loading_job(found) if asked.is_empty else prompt_job(asked, found)], keep_s=keep_s) as [run]:
            return reply(embedding_answer(asked, await whole(run, wait_s=wait_s(request))), headers=headers | names_of([run]))

    async def list_models(_request: web.Request) -> web.Response:
        return reply(model_list(pools.models(), pools.held_model))

    async def show_model(request: web.Request) -> web.Response:
        asked, passed_over = await _read(request, ShowRequest)
        return reply(shown_model(_held(asked.wanted)), headers=ignored(passed_over))

    async def list_running(_request: web.Request) -> web.Response:
        models = [model.facts for model in pools.models()]
        held = loaded_models(models, pools.workers())
        return reply(running([Loaded(facts, workers, _gone_at(facts)) for facts, workers in held], models, pools.held_model))

    async def pull(request: web.Request) -> web.StreamResponse:
        asked, passed_over = await _read(request, PullRequest)
        events = pools.downloads.where_it_fits(download_of(asked.wanted))
        if asked.streams:
            return await stream_download(request, events, PullLines().take, StreamForm(LINES, line(BEGUN)), ignored(passed_over))
        async with aclosing(events):
            async for event in events:
                if isinstance(event, DownloadFailed):
                    raise RbeesError.from_body(event.error)
        return reply(SUCCESS, headers=ignored(passed_over))

    async def delete(request: web.Request) -> web.Response:
        asked, passed_over = await _read(request, NamedRequest)
        await pools.remove_model(_held(asked.wanted).ref)
        return reply(status=200, headers=ignored(passed_over))

    async def tell_version(_request: web.Request) -> web.Response:
        return reply(VersionAnswer(version=API_VERSION, rbees=__version__))

    async def tell_life(_request: web.Request) -> web.Response:
        return web.Response(text="rbees is running.")

    async def refuse(request: web.Request) -> web.Response:
        resource = request.match_info.route.resource
        assert resource is not None
        why = _NOT_HERE[request.method, resource.canonical]
        raise RbeesError(ErrorCode.INVALID_REQUEST, f"`{resource.canonical}` is not supported: {why}")

    async def _read_for_job(request: web.Request, type_: type[M]) -> tuple[M, tuple[str, ...]]:
        runs.check_room()
        reading = read_foreign(await read_bytes(request), type_)
        return reading.request, reading.passed_over

    async def _read(request: web.Request, type_: type[N]) -> tuple[N, tuple[str, ...]]:
        reading = read_foreign(await read_bytes(request), type_)
        return reading.request, reading.passed_over

    def _held(name: str) -> ModelFacts:
        """The model of this name. Raises RbeesError as `Pools.find_model`."""
        found = pools.meant(name)
        return found.facts if found.facts is not None else pools.find_model(found.reference).facts

    def _unload(name: str, found: Found) -> None:
        pools.let_go((found.facts or _held(name)).sha256)

    def _gone_at(facts: ModelFacts) -> str:
        left_s = pools.kept_for_s(facts.sha256)
        return FOR_GOOD if math.isinf(left_s) else _written(clock.unix_ms() + round(left_s * 1000))

    unknown = (ErrorCode.MODEL_NOT_FOUND,)
    return [
        Route(
            "POST",
            "/api/chat",
            chat,
            "Answer a chat, as lines of JSON or whole; without messages, load or unload a model.",
            request=ChatRequest,
            response=ChatLine,
            events=ChatLine,
            events_type=LINES,
            errors=ACCEPTING_WITHOUT_A_KEY,
            parameters=(PREFER,),
            error_shape=SHAPE,
        ),
        Route(
            "POST",
            "/api/generate",
            generate,
            "Answer a prompt, as lines of JSON or whole; without a prompt, load or unload a model.",
            request=GenerateRequest,
            response=GenerateLine,
            events=GenerateLine,
            events_type=LINES,
            errors=ACCEPTING_WITHOUT_A_KEY,
            parameters=(PREFER,),
            error_shape=SHAPE,
        ),
        Route(
            "POST",
            "/api/embed",
            embed,
            "Make vectors of texts, each of length 1.",
            request=EmbedTexts,
            response=EmbedAnswer,
            errors=ACCEPTING_WITHOUT_A_KEY,
            parameters=(PREFER,),
            error_shape=SHAPE,
        ),
        Route(
            "POST",
            "/api/embeddings",
            embed_one,
            "Make a vector of a text, as older clients ask for it.",
            request=EmbedPrompt,
            response=EmbeddingAnswer,
            errors=ACCEPTING_WITHOUT_A_KEY,
            parameters=(PREFER,),
            error_shape=SHAPE,
        ),
        Route("GET", "/api/tags", list_models, "List the models that pools hold.", response=ListAnswer, error_shape=SHAPE),
        Route(
            "POST",
            "/api/show",
            show_model,
            "Show what is known of a model.",
            request=ShowRequest,
            response=ShownModel,
            errors=unknown,
            error_shape=SHAPE,
        ),
        Route(
            "GET", "/api/ps", list_running, "List the models that workers have loaded.", response=RunningAnswer, error_shape=SHAPE
        ),
        Route(
            "POST",
            "/api/pull",
            pull,
            "Have a model fetched by the pool where it fits best.",
            request=PullRequest,
            response=Progress,
            events=Progress,
            events_type=LINES,
            errors=(ErrorCode.POOL_UNREACHABLE, *DOWNLOAD_ERRORS),
            error_shape=SHAPE,
        ),
        Route(
            "DELETE",
            "/api/delete",
            delete,
            "Have every pool that holds a model remove its files.",
            request=NamedRequest,
            errors=(*unknown, ErrorCode.DEVICE_BUSY, ErrorCode.POOL_UNREACHABLE),
            error_shape=SHAPE,
        ),
        Route(
            "GET",
            "/api/version",
            tell_version,
            "Tell which version of Ollama's API this is.",
            response=VersionAnswer,
            error_shape=SHAPE,
        ),
        *(
            Route(method, "/", tell_life, "Tell that something answers, as Ollama's clients ask first.", content_type="text/plain")
            for method in ("GET", "HEAD")
        ),
        *(
            Route(method, path, refuse, f"Refused: {why}", response=errors.ErrorAnswer, status=400, error_shape=SHAPE)
            for (method, path), why in _NOT_HERE.items()
        ),
    ]


def _stamp(model: str, run: Run) -> Stamp:
    return Stamp(model, _written(run.row.created_at_ms))


def _written(unix_ms: int) -> str:
    return datetime.fromtimestamp(unix_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
