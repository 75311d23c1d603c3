"""A daemon's web application: its routes behind the edge, beside the five that every daemon has.

This is also the one door to the parts: `Route`, `read`, `reply`, `Server` and the authenticators are taken from here.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
from aiohttp import web

from rbees.service import docs_page, metrics, openapi
from rbees.service.answers import error_response, reply, reply_large
from rbees.service.auth import Authenticator, BearerAuth, NoAuth, is_loopback
from rbees.service.bodies import LIMITS, MAX_BODY_BYTES, argument, pass_over, read, read_bytes, read_json, tell
from rbees.service.connection import Limits
from rbees.service.edge import Edge
from rbees.service.routes import LINES, ErrorShape, Handler, Parameter, Route, WordedError
from rbees.service.server import Server, check_can_listen

__all__ = [
    "LINES",
    "Authenticator",
    "BearerAuth",
    "ErrorShape",
    "Handler",
    "Limits",
    "NoAuth",
    "Parameter",
    "Readiness",
    "Route",
    "Server",
    "WordedError",
    "argument",
    "build_app",
    "check_can_listen",
    "error_response",
    "pass_over",
    "read",
    "read_bytes",
    "read_json",
    "reply",
    "reply_large",
    "tell",
]

Readiness = Callable[[], Mapping[str, str | None]]
"""Each check's name, with the problem in one sentence or None."""


class Alive(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /livez`: the process answers."""

    alive: bool = True


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /readyz`: 200 where every check passes, else 503."""

    ready: bool
    checks: dict[str, str | None] = {}
    """With `verbose`: each check's problem, null where there is none."""


def build_app(
    *,
    role: str,
    version: str,
    routes: Sequence[Route],
    authenticator: Authenticator,
    metrics: metrics.Metrics,
    readiness: Readiness,
    allowed_hosts: Iterable[str] = (),
    allowed_origins: Iterable[str] = (),
    max_body_bytes: int = 10 * 1024 * 1024,
    limits: Limits | None = None,
    bind: str = "127.0.0.1",
) -> web.Application:
    """The application of a role. `bind` only widens what the Host header may say: the bound address, and the machine's own
    name where others can reach it."""
    own_name = socket.gethostname().lower()
    hosts = {bind.strip("[]"), *allowed_hosts} | (set() if is_loopback(bind) else {own_name, f"{own_name}.local"})
    edge = Edge(authenticator=authenticator, metrics=metrics, allowed_hosts=hosts, allowed_origins=allowed_origins)
    app = web.Application(middlewares=[edge.envelope, edge.guard], client_max_size=max_body_bytes)
    app[MAX_BODY_BYTES] = max_body_bytes
    app[LIMITS] = limits or Limits()
    app.on_response_prepare.append(edge.finish)
    table = [*routes, *_operations(role, version, routes, metrics, readiness)]
    edge.register(app, table)
    return app


def _operations(role: str, version: str, routes: Sequence[Route], figures: metrics.Metrics, readiness: Readiness) -> list[Route]:
    verbose = Parameter("verbose", "Show each check.", bool)

    async def livez(_request: web.Request) -> web.Response:
        return reply(Alive())

    async def readyz(request: web.Request) -> web.Response:
        checks = dict(readiness())
        ready = not any(checks.values())
        return reply(Ready(ready=ready, checks=checks if argument(request, verbose) else {}), 200 if ready else 503)

    async def show_metrics(_request: web.Request) -> web.Response:
        return web.Response(body=figures.render(), headers={"Content-Type": metrics.CONTENT_TYPE})

    async def show_openapi(_request: web.Request) -> web.Response:
        return reply(openapi.document(role, version, table))

    async def show_docs(_request: web.Request) -> web.Response:
        page = docs_page.render(openapi.document(role, version, table))
        return web.Response(text=page.html, content_type="text/html", headers={"Content-Security-Policy": page.policy})

    own = [
        Route("GET", "/livez", livez, "Tell that the process answers.", response=Alive, public=True),
        Route(
            "GET",
            "/readyz",
            readyz,
            "Tell whether the daemon can do its work: 200 if so, else 503.",
            response=Ready,
            further_statuses=(503,),
            parameters=(verbose,),
        ),
        Route("GET", "/metrics", show_metrics, "Figures for Prometheus.", content_type="text/plain"),
        Route("GET", "/openapi.json", show_openapi, "This interface as OpenAPI 3.1.", response=dict[str, Any]),
        Route("GET", "/docs", show_docs, "This interface as a page.", content_type="text/html"),
    ]
    table = [*routes, *own]
    return own
