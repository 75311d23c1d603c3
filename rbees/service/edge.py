"""The edge of every daemon: what happens to each request before its handler and to each answer after it.

Outside in: correlation id, failures to envelopes, figures; then Host and Origin, preflight, token, unknown parameters, which are
refused on rbees' own routes, and passed over and named on those of other APIs, as unknown fields of a body are. A handler
raises `RbeesError` freely; anything else it raises is answered as INTERNAL and described in the log only.
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Iterable
from urllib.parse import urlsplit

from aiohttp import HttpVersion11, web

from rbees.protocol import ids
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.service import logs, misplaced, passed_over
from rbees.service.answers import error_response
from rbees.service.auth import Authenticator
from rbees.service.bodies import FURTHER_HEADERS, MAX_BODY_BYTES, PASSED_OVER, pass_over, too_large
from rbees.service.clock import SystemClock
from rbees.service.connection import Connection
from rbees.service.correlation import HEADER, correlation_id
from rbees.service.identity import Identities
from rbees.service.metrics import Metrics
from rbees.service.routes import EVENT_STREAM, LINES, ErrorShape, Handler, Route, first_word, shown_path

ALWAYS_ALLOWED_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
API_KEY = "X-Api-Key"
"""Header in which some clients of other APIs send their token."""
_STARTED = web.RequestKey("started", bool)


class Edge:
    """The two middlewares of an application, outermost first: `envelope`, `guard`."""

    def __init__(
        self,
        *,
        authenticator: Authenticator,
        metrics: Metrics,
        allowed_hosts: Iterable[str],
        allowed_origins: Iterable[str],
    ) -> None:
        self._authenticator = authenticator
        self._hosts = ALWAYS_ALLOWED_HOSTS | {host.lower() for host in allowed_hosts}
        self._origins = frozenset(origin.lower().rstrip("/") for origin in allowed_origins)
        self._routes: dict[web.AbstractRoute, Route] = {}
        self._shapes: dict[str, ErrorShape] = {}
        """By the first word of a path: how the API that lives there words what none of its routes answers."""
        self._foreign: dict[str, Route] = {}
        """Routes of other APIs, by path: clients that were told a wrong address ask for these at another place."""
        self._signs: dict[str, dict[str, ErrorShape]] = {}
        """The same where several live there, by the header that only the clients of one send."""
        self._identities = Identities(SystemClock())
        self._requests = metrics.counter("http_requests_total", "Requests answered.", ("method", "route", "status"))
        self._seconds = metrics.histogram("http_request_seconds", "Time to the end of the answer; streams left out.", ("route",))

    def register(self, app: web.Application, routes: Iterable[Route]) -> None:
        """Put the routes into the application and remember which route each is."""
        table = list(routes)
        taken = {(route.method, route.path) for route in table}
        for route in table:
            for method, path in ((route.method, route.path), *(place for place in _further_places(route) if place not in taken)):
                self._routes[app.router.add_route(method, path, route.handler, expect_handler=_leave_to_guard)] = route
            if route.error_shape is not None:
                self._foreign.setdefault(route.path, route)
                self._shapes.setdefault(first_word(route.path), route.error_shape)
                if route.error_shape.sign is not None:
                    self._signs.setdefault(first_word(route.path), {})[route.error_shape.sign] = route.error_shape

    @web.middleware
    async def envelope(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Every request gets a correlation id, every failure its envelope."""
        if isinstance(request.protocol, Connection):
            request.protocol.request_begun()
        presented = request.headers.get(HEADER, "")
        correlation_id.set(presented if ids.is_correlation_id(presented) else self._identities.correlation_id())
        begun = time.perf_counter()
        try:
            response = await handler(request)
        except RbeesError as error:
            response = self._refuse(request, error)
        except web.HTTPException as error:
            response = self._translate(request, error)
        except ConnectionError:
            raise
        except Exception as error:  # The one place that answers for defects; everything inside lets them pass.
            logs.logger().error("request failed", action="http_defect", route=self._label(request), exc_info=error)
            response = self._refuse(request, RbeesError(ErrorCode.INTERNAL, "A defect of rbees; the daemon's log has the details."))
        self._record(request, response, time.perf_counter() - begun)
        return response

    @web.middleware
    async def guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Only requests that name this daemon, come from no foreign page and bring the token reach a handler."""
        self._check_host(request)
        origin = self._check_origin(request)
        if origin and request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
            return _preflight(request)
        route = self._routes.get(request.match_info.route)
        if route is None or not (route.public or route.own_proof):
            self._authenticator.check(_proof(request))
        if route is not None:
            _check_parameters(request, route)
            await _meet_expectation(request)
        return await handler(request)

    async def finish(self, request: web.Request, response: web.StreamResponse) -> None:
        """The headers of every answer, streams and refusals included (aiohttp's `on_response_prepare`)."""
        request[_STARTED] = True
        response.headers["Server"] = "rbees"
        response.headers.setdefault("Cache-Control", "no-store")
        response.headers["X-Content-Type-Options"] = "nosniff"
        current = correlation_id.get()
        if current is not None:
            response.headers[HEADER] = current
            shape = self._shape(request)
            if shape is not None and shape.id_header is not None:
                response.headers[shape.id_header] = current
        response.headers.update(request.get(FURTHER_HEADERS, {}))
        ignored = passed_over.together(request.get(PASSED_OVER, ()), response.headers.get(passed_over.HEADER))
        if ignored is not None:
            response.headers[passed_over.HEADER] = ignored
        origin = request.headers.get("Origin")
        if origin and origin.lower() in self._origins:
            response.headers["Access-Control-Allow-Origin"] = origin
            # The wildcard counts, for pages send a token as a header and never a cookie.
            response.headers["Access-Control-Expose-Headers"] = "*"
            response.headers["Vary"] = "Origin"

    def _check_host(self, request: web.Request) -> None:
        named = _host_name(request.headers.get("Host", ""))
        arrived_at = (request.get_extra_info("sockname") or ("",))[0]
        if named not in self._hosts and named != arrived_at:
            raise RbeesError(
                ErrorCode.FORBIDDEN,
                "The Host header does not name this daemon; add the name to `allowed_hosts` in its settings, or start "
                "`rbees up` with `--allow-host`.",
            )

    def _check_origin(self, request: web.Request) -> str | None:
        """The allowed foreign origin of a browser's request; None where the request comes from no other page."""
        origin = request.headers.get("Origin")
        if origin is None or _network_location(origin) == request.headers.get("Host", "").lower():
            return None
        if origin.lower() not in self._origins:
            raise RbeesError(
                ErrorCode.FORBIDDEN,
                "Pages of this origin may not call this daemon; add it to `allowed_origins` in its settings, or start "
                "`rbees up` with `--allow-origin`.",
            )
        return origin

    def _refuse(self, request: web.Request, error: RbeesError, headers: dict[str, str] | None = None) -> web.Response:
        if request.get(_STARTED):
            # The head has gone out as a success; only a cut connection still tells the client that the rest is missing.
            logs.logger().warning("answer broken off", action="http_broken_off", route=self._label(request), code=error.code)
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionResetError("the answer was broken off")
        response = error_response(error, headers, self._shape(request))
        if request.can_read_body and not request.content.is_eof():
            # A body that has come whole, read or not, leaves the connection usable.
            response.force_close()
        return response

    def _translate(self, request: web.Request, error: web.HTTPException) -> web.StreamResponse:
        if isinstance(error, web.HTTPMethodNotAllowed):
            allowed = ", ".join(sorted(error.allowed_methods))
            refusal = RbeesError(ErrorCode.METHOD_NOT_ALLOWED, f"This path answers to {allowed} only; see /docs.", allowed=allowed)
            return self._refuse(request, refusal, {"Allow": allowed})
        if isinstance(error, web.HTTPRequestEntityTooLarge):
            return self._refuse(request, too_large(request.app[MAX_BODY_BYTES]))
        if error.status == 404:
            return self._refuse(request, self._lost(request))
        return self._refuse(request, RbeesError(ErrorCode.INVALID_REQUEST, "The request's headers ask for something unknown here."))

    def _lost(self, request: web.Request) -> RbeesError:
        """For a path that is no route's: the address that was probably meant, else where all routes are described."""
        here = f"{request.scheme}://{request.host}"
        meant = misplaced.meant(request.path, self._foreign)
        if meant is None:
            return RbeesError(ErrorCode.NOT_FOUND, f"No route has this path; see {here}/docs for those that exist.")
        right = f"the address to give your program is {here}{meant.address} then"
        message = f"No route has this path, but `{shown_path(meant.route)}` is one: {right}."
        return RbeesError(ErrorCode.NOT_FOUND, message)

    def _record(self, request: web.Request, response: web.StreamResponse, seconds: float) -> None:
        label, status = self._label(request), response.status
        route = self._routes.get(request.match_info.route)
        self._requests.labels(request.method if route else "other", label, str(status)).inc()
        if route is None or not (route.stream or response.content_type in {EVENT_STREAM, LINES}):
            self._seconds.labels(label).observe(seconds)
        logs.logger().debug(
            "request answered",
            action="http_request",
            method=request.method,
            route=label,
            status=status,
            ms=round(seconds * 1000, 2),
        )

    def _shape(self, request: web.Request) -> ErrorShape | None:
        route = self._routes.get(request.match_info.route)
        if route is not None and route.error_shape is None:
            return None
        signs = self._signs.get(first_word(request.path), {})
        signed = next((shape for sign, shape in signs.items() if sign in request.headers), None)
        if signed is not None or route is not None:
            return signed or (route.error_shape if route else None)
        meant = misplaced.meant(request.path, self._foreign)
        return self._foreign[meant.route].error_shape if meant else self._shapes.get(first_word(request.path))

    def _label(self, request: web.Request) -> str:
        route = self._routes.get(request.match_info.route)
        return route.path if route else "unknown"


def _proof(request: web.Request) -> str | None:
    """What the request brings as its `Authorization`; a key of another name is the same token."""
    sent, key = request.headers.get("Authorization"), request.headers.get(API_KEY)
    return f"Bearer {key}" if sent is None and key is not None else sent


def _further_places(route: Route) -> list[tuple[str, str]]:
    """Where clients of another API look for a route as well: behind a slash more, and by HEAD to see whether it is there."""
    if route.error_shape is None:
        return []
    methods = ["GET", "HEAD"] if route.method == "GET" and route.events is None and not route.stream else [route.method]
    paths = [route.path] if route.path.endswith(("/", "+}")) else [route.path, f"{route.path}/"]
    return [place for method in methods for path in paths if (place := (method, path)) != (route.method, route.path)]


def _host_name(header: str) -> str:
    """The name in a Host header, without port, brackets and case."""
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


async def _leave_to_guard(_request: web.Request) -> None:
    """aiohttp would answer an `Expect` header before any middleware has seen the request."""


async def _meet_expectation(request: web.Request) -> None:
    """Ask for the body where the client waits for that (RFC 9110, section 10.1.1)."""
    expected = request.headers.get("Expect", "") if request.version >= HttpVersion11 else ""
    if expected.lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # Those bytes are no part of the answer whose length is counted.
        request.writer.output_size = 0
    elif expected:
        raise RbeesError(ErrorCode.INVALID_REQUEST, "The Expect header may only say `100-continue`.")


def _network_location(origin: str) -> str | None:
    """Host and port of an Origin header; None, which is no daemon's, where it has no such form."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


def _preflight(request: web.Request) -> web.Response:
    # The origin is one that the settings name: which headers its pages send is their affair, and clients of other APIs have many.
    return web.Response(
        status=204,
        headers={
            "Access-Control-Allow-Methods": request.headers["Access-Control-Request-Method"],
            "Access-Control-Allow-Headers": request.headers.get("Access-Control-Request-Headers", "Content-Type"),
            "Access-Control-Max-Age": "600",
        },
    )


def _check_parameters(request: web.Request, route: Route) -> None:
    known = [parameter.name for parameter in route.parameters if parameter.where == "query"]
    unknown = [name for name in request.query if name not in known]
    if route.error_shape is not None:
        pass_over(request, unknown)
    else:
        for name in unknown:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean `{close[0]}`?" if close else f" Known here: {', '.join(known) or 'none'}."
            raise RbeesError(ErrorCode.INVALID_REQUEST, f"A query parameter of this request is unknown.{hint}", known=known)
