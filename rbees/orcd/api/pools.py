"""`/v2/pools`, `/v2/workers`, `/v2/models`: what the cluster consists of, and how an operator changes that."""

from __future__ import annotations

from aiohttp import web

from rbees.orcd.pools import OwnUrl, Pools
from rbees.protocol.downloads import DOWNLOAD_ERRORS, DownloadEvent, DownloadRequest
from rbees.protocol.errors import ErrorCode
from rbees.protocol.pools import AddPoolRequest, ModelList, PoolList, PoolView, SpawnAnswer, SpawnRequest, WorkerList
from rbees.service.download_stream import stream_download
from rbees.service.web import Route, read, reply


def routes(pools: Pools, own_url: OwnUrl) -> list[Route]:
    """The routes about pools; `own_url(endpoint)` is this daemon's url as seen from there."""

    async def list_pools(_request: web.Request) -> web.Response:
        return reply(PoolList(pools=pools.views()))

    async def show_pool(request: web.Request) -> web.Response:
        return reply(pools.view(request.match_info["pool_id"]))

    async def add_pool(request: web.Request) -> web.Response:
        asked = await read(request, AddPoolRequest)
        return reply(await pools.add(asked.endpoint, own_url), 201)

    async def forget_pool(request: web.Request) -> web.Response:
        await pools.forget(request.match_info["pool_id"])
        return reply(status=204)

    async def drain(request: web.Request) -> web.Response:
        await pools.drain(request.match_info["pool_id"])
        return reply(status=204)

    async def resume(request: web.Request) -> web.Response:
        await pools.resume(request.match_info["pool_id"])
        return reply(status=204)

    async def spawn(request: web.Request) -> web.Response:
        return reply(await pools.spawn(request.match_info["pool_id"], await read(request, SpawnRequest)), 202)

    async def download(request: web.Request) -> web.StreamResponse:
        asked = await read(request, DownloadRequest)
        return await stream_download(request, pools.downloads.to_pool(request.match_info["pool_id"], asked))

    async def download_where_it_fits(request: web.Request) -> web.StreamResponse:
        return await stream_download(request, pools.downloads.where_it_fits(await read(request, DownloadRequest)))

    async def list_workers(_request: web.Request) -> web.Response:
        return reply(WorkerList(workers=pools.workers()))

    async def stop_worker(request: web.Request) -> web.Response:
        await pools.stop_worker(request.match_info["worker_id"])
        return reply(status=204)

    async def list_models(_request: web.Request) -> web.Response:
        return reply(ModelList(models=pools.models()))

    no_pool = ErrorCode.POOL_NOT_FOUND
    spawning = {
        "handler": spawn,
        "summary": "Have a pool start a worker.",
        "request": SpawnRequest,
        "response": SpawnAnswer,
        "status": 202,
        "errors": (
            no_pool,
            ErrorCode.POOL_UNREACHABLE,
            ErrorCode.MODEL_NOT_FOUND,
            ErrorCode.INSUFFICIENT_VRAM,
            ErrorCode.MODEL_INCOMPATIBLE,
            ErrorCode.DEVICE_BUSY,
            ErrorCode.BACKEND_UNAVAILABLE,
        ),
    }
    return [
        Route("GET", "/v2/pools", list_pools, "List pools with their devices, models and workers.", response=PoolList),
        Route("GET", "/v2/pools/{pool_id}", show_pool, "Show a pool.", response=PoolView, errors=(no_pool,)),
        Route(
            "POST",
            "/v2/pools",
            add_pool,
            "Name a pool host: it is called and taken in.",
            request=AddPoolRequest,
            response=PoolView,
            status=201,
            errors=(ErrorCode.POOL_UNREACHABLE, ErrorCode.POOL_ID_TAKEN),
        ),
        Route(
            "DELETE",
            "/v2/pools/{pool_id}",
            forget_pool,
            "Forget a pool and tell it so; jobs go on elsewhere. One whose settings name this orchestrator registers again.",
            status=204,
            errors=(no_pool,),
        ),
        Route(
            "POST",
            "/v2/pools/{pool_id}/drain",
            drain,
            "Give a pool no new work; what runs there goes on.",
            status=204,
            errors=(no_pool,),
        ),
        Route("POST", "/v2/pools/{pool_id}/resume", resume, "Give a pool work again.", status=204, errors=(no_pool,)),
        Route("POST", "/v2/pools/{pool_id}/workers/spawn", **spawning),  # type: ignore[arg-type]
        Route("POST", "/pools/{pool_id}/workers/spawn", **spawning),  # type: ignore[arg-type]
        Route(
            "POST",
            "/v2/pools/{pool_id}/models/download",
            download,
            "Have a pool fetch a model, from other pools where they hold it; a second request for the same joins the first.",
            request=DownloadRequest,
            response=DownloadEvent,
            errors=(no_pool, ErrorCode.POOL_UNREACHABLE, *DOWNLOAD_ERRORS),
            stream=True,
        ),
        Route(
            "POST",
            "/v2/models/download",
            download_where_it_fits,
            "The same on the pool where the model fits best; the first event, `chosen`, says which and why.",
            request=DownloadRequest,
            response=DownloadEvent,
            errors=(no_pool, ErrorCode.POOL_UNREACHABLE, *DOWNLOAD_ERRORS),
            stream=True,
        ),
        Route("GET", "/v2/workers", list_workers, "List workers of all pools.", response=WorkerList),
        Route(
            "DELETE",
            "/v2/workers/{worker_id}",
            stop_worker,
            "Stop a worker: it takes nothing new and finishes what it can in its drain time; the rest goes on elsewhere.",
            status=204,
            errors=(ErrorCode.WORKER_NOT_FOUND, ErrorCode.POOL_UNREACHABLE),
        ),
        Route("GET", "/v2/models", list_models, "List the models that pools hold.", response=ModelList),
    ]
