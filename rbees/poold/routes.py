"""The routes of a pool daemon, as the contract lists them."""

from __future__ import annotations

import asyncio
from typing import Annotated, Final

import msgspec
from aiohttp import web

from rbees.host import worker_log
from rbees.poold.pool import Pool
from rbees.poold.sharing import QUANTIZATION, RANGE
from rbees.protocol.downloads import DOWNLOAD_ERRORS, DownloadEvent, DownloadRequest, FilePieces, ModelOffer, ModelRemoved
from rbees.protocol.errors import ErrorCode
from rbees.protocol.fits import FitRequest, FitView
from rbees.protocol.pools import (
    LONGEST_STOPPED_BY,
    STOPPED_BY,
    AnnounceRequest,
    PoolModels,
    PoolStatus,
    RegisterRequest,
    SpawnAnswer,
    SpawnCommand,
    WorkerFacts,
    WorkerList,
)
from rbees.protocol.workers import WorkerReady
from rbees.service.download_stream import stream_download
from rbees.service.web import Parameter, Route, argument, read, reply

FOLLOW: Final = Parameter("follow", "Go on while the log grows, until the worker has ended.", bool)
BY: Final = Parameter(
    STOPPED_BY,
    "Who wants that, and why, as a sentence goes on behind `It was stopped by`.",
    Annotated[str, msgspec.Meta(max_length=LONGEST_STOPPED_BY)],
    where="header",
)
_SPAWN_ERRORS: Final = (
    ErrorCode.INVALID_REQUEST,
    ErrorCode.MODEL_NOT_FOUND,
    ErrorCode.MODEL_INCOMPATIBLE,
    ErrorCode.MODEL_LOADING,
    ErrorCode.INSUFFICIENT_VRAM,
    ErrorCode.DEVICE_BUSY,
    ErrorCode.BACKEND_UNAVAILABLE,
    ErrorCode.ADDRESS_IN_USE,
    ErrorCode.STORAGE_FULL,
    ErrorCode.DRAINING,
)

_LENDING_ERRORS: Final = (ErrorCode.MODEL_NOT_FOUND, ErrorCode.MODEL_LOADING)
_FIT_ERRORS: Final = (
    ErrorCode.INVALID_REQUEST,
    ErrorCode.MODEL_NOT_FOUND,
    ErrorCode.MODEL_INCOMPATIBLE,
    ErrorCode.MODEL_LOADING,
    ErrorCode.BACKEND_UNAVAILABLE,
)


def routes(pool: Pool) -> list[Route]:
    """All routes of the pool."""
    handlers = _Handlers(pool)
    one = (ErrorCode.WORKER_NOT_FOUND,)
    return [
        Route("GET", "/status", handlers.status, "Devices, memory, models, workers, version.", response=PoolStatus),
        Route("GET", "/models", handlers.models, "The models on this host.", response=PoolModels),
        Route(
            "POST",
            "/models/download",
            handlers.download,
            "Fetch a model from the pools that are named, or from the hub; a second request for the same joins the first.",
            request=DownloadRequest,
            response=DownloadEvent,
            errors=DOWNLOAD_ERRORS,
            stream=True,
        ),
        Route(
            "POST",
            "/models/fit",
            handlers.fit,
            "How a model would sit on this host's devices, beside the workers that run; starts nothing.",
            request=FitRequest,
            response=FitView,
            errors=_FIT_ERRORS,
        ),
        Route(
            "POST",
            "/models/search",
            handlers.search_models,
            "Look for new and changed model files now, instead of within ten seconds; answers once the orchestrator knows of them.",
            status=204,
        ),
        Route(
            "DELETE",
            "/models/{name}",
            handlers.remove_model,
            "Remove a model's files; its name or reference, or the path of something unfinished, is one segment of the path.",
            response=ModelRemoved,
            errors=(ErrorCode.MODEL_NOT_FOUND, ErrorCode.FORBIDDEN, ErrorCode.DEVICE_BUSY, ErrorCode.CONFIGURATION),
        ),
        Route(
            "GET",
            "/models/{name}/offer",
            handlers.offer,
            "What another pool needs to fetch a model from here; its name, reference or sha256 is one segment of the path.",
            response=ModelOffer,
            parameters=(QUANTIZATION,),
            errors=(ErrorCode.MODEL_NOT_FOUND, ErrorCode.MODEL_INCOMPATIBLE, ErrorCode.MODEL_LOADING),
        ),
        Route(
            "GET",
            "/models/{sha256}/pieces",
            handlers.pieces,
            "The sums of a file's pieces, by the sha256 of the file, and which of them are here.",
            response=FilePieces,
            errors=_LENDING_ERRORS,
        ),
        *(
            Route(
                method,
                "/models/{sha256}/blob",
                handlers.blob,
                about,
                status=200,
                further_statuses=(206,),
                parameters=(RANGE,),
                errors=(*_LENDING_ERRORS, ErrorCode.RANGE_NOT_SATISFIABLE),
                content_type="application/octet-stream",
            )
            for method, about in (("GET", "A file of a model, whole or a range of it."), ("HEAD", "Its size."))
        ),
        Route(
            "POST",
            "/workers/spawn",
            handlers.spawn,
            "Start a worker after preflight.",
            request=SpawnCommand,
            response=SpawnAnswer,
            status=202,
            errors=_SPAWN_ERRORS,
        ),
        Route("GET", "/workers", handlers.workers, "The workers, with those that ended lately.", response=WorkerList),
        Route("GET", "/workers/{worker_id}", handlers.worker, "One worker.", response=WorkerFacts, errors=one),
        Route(
            "DELETE",
            "/workers/{worker_id}",
            handlers.stop,
            "Drain and end a worker.",
            response=WorkerFacts,
            status=202,
            errors=one,
            parameters=(BY,),
        ),
        Route(
            "GET",
            "/workers/{worker_id}/logs",
            handlers.logs,
            "What the worker wrote.",
            errors=one,
            parameters=(FOLLOW,),
            content_type="text/plain",
        ),
        Route(
            "POST",
            "/register-with",
            handlers.register_with,
            "Belong to the orchestrator that calls.",
            request=AnnounceRequest,
            response=RegisterRequest,
            errors=(ErrorCode.FORBIDDEN,),
        ),
        Route(
            "DELETE",
            "/register-with",
            handlers.dismiss,
            "Belong to no orchestrator any more: the one that calls forgets this pool.",
            status=204,
            errors=(ErrorCode.FORBIDDEN,),
        ),
        Route(
            "POST",
            "/internal/workers/{worker_id}/ready",
            handlers.ready,
            "A worker's own report, proved by the worker's secret instead of the token.",
            request=WorkerReady,
            status=204,
            errors=(ErrorCode.UNAUTHENTICATED,),
            own_proof=True,
        ),
    ]


class _Handlers:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def status(self, _request: web.Request) -> web.Response:
        return reply(self._pool.status())

    async def models(self, _request: web.Request) -> web.Response:
        return reply(self._pool.list_models())

    async def download(self, request: web.Request) -> web.StreamResponse:
        return await stream_download(request, self._pool.downloads.run(await read(request, DownloadRequest)))

    async def search_models(self, _request: web.Request) -> web.Response:
        await self._pool.downloads.search()
        return reply(status=204)

    async def offer(self, request: web.Request) -> web.Response:
        return await self._pool.sharing.offer(request)

    async def pieces(self, request: web.Request) -> web.Response:
        return await self._pool.sharing.pieces(request)

    async def blob(self, request: web.Request) -> web.StreamResponse:
        return await self._pool.sharing.blob(request)

    async def remove_model(self, request: web.Request) -> web.Response:
        return reply(await self._pool.downloads.remove(request.match_info["name"]))

    async def fit(self, request: web.Request) -> web.Response:
        return reply(await self._pool.supervisor.fit(await read(request, FitRequest)))

    async def spawn(self, request: web.Request) -> web.Response:
        worker_id = await self._pool.supervisor.spawn(await read(request, SpawnCommand))
        return reply(SpawnAnswer(worker_id=worker_id), 202)

    async def workers(self, _request: web.Request) -> web.Response:
        return reply(WorkerList(workers=tuple(map(self._pool.measured, self._pool.supervisor.known()))))

    async def worker(self, request: web.Request) -> web.Response:
        return reply(self._pool.measured(self._pool.supervisor.get(request.match_info["worker_id"])))

    async def stop(self, request: web.Request) -> web.Response:
        return reply(self._pool.supervisor.stop(request.match_info["worker_id"], argument(request, BY)), 202)

    async def logs(self, request: web.Request) -> web.StreamResponse:
        supervisor, worker_id = self._pool.supervisor, request.match_info["worker_id"]
        path = supervisor.log_path(worker_id)
        if not argument(request, FOLLOW):
            return web.Response(body=await asyncio.to_thread(worker_log.read_all, path), content_type="text/plain", charset="utf-8")
        response = web.StreamResponse(headers={"Content-Type": "text/plain; charset=utf-8", "X-Accel-Buffering": "no"})
        await response.prepare(request)
        async for chunk in worker_log.follow(path, lambda: supervisor.leaving or not supervisor.is_living(worker_id)):
            await response.write(chunk)
        return response

    async def register_with(self, request: web.Request) -> web.Response:
        return reply(await self._pool.announce((await read(request, AnnounceRequest)).orcd_url))

    async def dismiss(self, _request: web.Request) -> web.Response:
        await self._pool.dismiss()
        return reply(status=204)

    async def ready(self, request: web.Request) -> web.Response:
        worker = await self._pool.supervisor.caller(request.match_info["worker_id"], request.headers.get("Authorization"))
        await worker.call_back(await read(request, WorkerReady))
        return reply(status=204)
