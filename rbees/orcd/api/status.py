"""`/v2/status`: the cluster at a glance, once or as it changes."""

from __future__ import annotations

from contextlib import aclosing

from aiohttp import web

from rbees.orcd.watch import Watch
from rbees.protocol.cluster import LONGEST_WATCH_S, SHORTEST_WATCH_S, ClusterStatus, StatusEvent, WatchSeconds
from rbees.service.sse import SseWriter
from rbees.service.web import Parameter, Route, argument, reply

_WATCH = Parameter(
    "watch",
    f"Go on, as events: every pool (`pool`) and an `overview` at once, then every so many seconds ({SHORTEST_WATCH_S:g} to "
    f"{LONGEST_WATCH_S:g}) the pools that have changed, those that are `gone`, and an `overview`, which ends each round.",
    WatchSeconds,
)


def routes(watch: Watch) -> list[Route]:
    """The route about the cluster."""

    async def status(request: web.Request) -> web.StreamResponse:
        every_s = argument(request, _WATCH)
        if every_s is None:
            return reply(watch.status())
        writer = SseWriter(request)
        async with aclosing(watch.changes(every_s)) as pieces, writer as out:
            async for piece in pieces:
                await out.write(piece)
        return writer.response

    return [
        Route(
            "GET",
            "/v2/status",
            status,
            "Show the cluster at a glance: pools with devices and workers, what waits and what runs, rates.",
            response=ClusterStatus,
            events=StatusEvent,
            parameters=(_WATCH,),
        )
    ]
