"""What pools call: registration, heartbeats, and news of single workers."""

from __future__ import annotations

from aiohttp import web

from rbees.orcd.pools import Pools
from rbees.protocol.errors import ErrorCode
from rbees.protocol.pools import Heartbeat, RegisterAnswer, RegisterRequest, WorkerFailedReport, WorkerReadyReport
from rbees.service.web import Route, read, reply


def routes(pools: Pools) -> list[Route]:
    """The routes for pools."""

    async def register(request: web.Request) -> web.Response:
        return reply(pools.register(await read(request, RegisterRequest)))

    async def heartbeat(request: web.Request) -> web.Response:
        pools.heartbeat(request.match_info["pool_id"], await read(request, Heartbeat))
        return reply(status=204)

    async def ready(request: web.Request) -> web.Response:
        pools.worker_ready(await read(request, WorkerReadyReport))
        return reply(status=204)

    async def failed(request: web.Request) -> web.Response:
        pools.worker_failed(await read(request, WorkerFailedReport))
        return reply(status=204)

    no_pool = (ErrorCode.POOL_NOT_FOUND,)
    return [
        Route(
            "POST",
            "/v2/pools/register",
            register,
            "A pool introduces itself.",
            request=RegisterRequest,
            response=RegisterAnswer,
            errors=(ErrorCode.POOL_ID_TAKEN, ErrorCode.QUEUE_FULL),
        ),
        Route(
            "POST",
            "/v2/pools/{pool_id}/heartbeat",
            heartbeat,
            "A pool reports its whole state; 404 asks it to register again.",
            request=Heartbeat,
            status=204,
            errors=no_pool,
        ),
        Route(
            "POST",
            "/v2/internal/workers/ready",
            ready,
            "A worker has loaded its model.",
            request=WorkerReadyReport,
            status=204,
            errors=no_pool,
        ),
        Route(
            "POST",
            "/v2/internal/workers/failed",
            failed,
            "A worker has ended without being asked to.",
            request=WorkerFailedReport,
            status=204,
            errors=no_pool,
        ),
    ]
