"""What every daemon does with a request before its handler and with an answer after it, over real sockets."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from aiohttp import web as http

from rbees.protocol.codec import Request
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.ids import CORRELATION_ID_PATTERN
from rbees.service import logs
from rbees.service.auth import BearerAuth, Token
from rbees.service.metrics import Metrics
from rbees.service.web import (
    ErrorShape,
    Limits,
    NoAuth,
    Parameter,
    Route,
    Server,
    WordedError,
    argument,
    build_app,
    pass_over,
    read,
    reply,
)
from tests.support.service_app import ask, read_answer, send_raw, serving

SECRET = "rbk_" + "a" * 43
CANARY = "the-canary-sings"


class Order(Request, frozen=True, kw_only=True):
    text: str
    number: float = 0.0


async def take(request: http.Request) -> http.Response:
    order = await read(request, Order)
    return reply({"length": len(order.text)}, 202)


async def fail(_request: http.Request) -> http.Response:
    raise ValueError(CANARY)


async def refuse(_request: http.Request) -> http.Response:
    raise RbeesError(ErrorCode.QUEUE_FULL, "Full.", retry_after_s=3.2)


async def page(request: http.Request) -> http.Response:
    return reply({"limit": argument(request, LIMIT), "correlation_id": logs.correlation_id.get()})


LIMIT = Parameter("limit", "At most so many.", int)
CUPS = Parameter("cups", "So many.", int)
ROUTES = (
    Route("POST", "/orders", take, "Take an order.", request=Order, response=dict[str, Any], status=202),
    Route("GET", "/orders", page, "List orders.", response=dict[str, Any], parameters=(LIMIT,)),
    Route("GET", "/fail", fail, "Fail."),
    Route("GET", "/refuse", refuse, "Refuse.", errors=(ErrorCode.QUEUE_FULL,)),
    Route("POST", "/refuse", refuse, "Refuse before the body is read.", errors=(ErrorCode.QUEUE_FULL,)),
)
JSON = {"Content-Type": "application/json"}


async def post(body: bytes, headers: Mapping[str, str] = JSON, **options: Any) -> Any:
    async with serving(*ROUTES, **options) as server:
        return await ask(server, "POST", "/orders", headers, body)


async def test_a_request_is_answered_under_its_correlation_id() -> None:
    async with serving(*ROUTES) as server:
        answer = await ask(server, "GET", "/orders?limit=3", {"X-Correlation-Id": "mine-1"})
        assert answer.json == {"limit": 3, "correlation_id": "mine-1"}
        assert answer.headers["x-correlation-id"] == "mine-1"
        assert answer.headers["server"] == "rbees"
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("given", ["", "a b", "a" * 65, "ü", "a_b"])
async def test_a_correlation_id_of_another_form_is_replaced(given: str) -> None:
    async with serving(*ROUTES) as server:
        answer = await ask(server, "GET", "/nowhere", {"X-Correlation-Id": given})
        made = answer.headers["x-correlation-id"]
        assert made != given
        assert re.match(CORRELATION_ID_PATTERN, made)
        assert answer.json["error"]["correlation_id"] == made


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "NOT_FOUND"),
        ("GET", "/orders/", 404, "NOT_FOUND"),
        ("DELETE", "/orders", 405, "METHOD_NOT_ALLOWED"),
        ("PATCH", "/orders", 405, "METHOD_NOT_ALLOWED"),
        ("GET", "/fail", 500, "INTERNAL"),
        ("GET", "/refuse", 429, "QUEUE_FULL"),
        ("GET", "/orders?limit=x", 400, "INVALID_REQUEST"),
        ("GET", "/orders?limti=3", 400, "INVALID_REQUEST"),
    ],
)
async def test_failures_have_the_envelope(method: str, path: str, status: int, code: str) -> None:
    async with serving(*ROUTES) as server:
        answer = await ask(server, method, path)
        assert (answer.status, answer.code) == (status, code)
        assert set(answer.json["error"]) == {"code", "message", "details", "correlation_id"}


async def test_headers_that_go_with_failures() -> None:
    async with serving(*ROUTES) as server:
        assert (await ask(server, "PUT", "/orders")).headers["allow"] == "GET, POST"
        assert (await ask(server, "GET", "/refuse")).headers["retry-after"] == "4"
        hint = (await ask(server, "GET", "/orders?limti=3")).json["error"]["message"]
        assert "Did you mean `limit`?" in hint


async def test_a_defect_shows_in_the_log_and_nowhere_else(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("test", "info", "json")
    async with serving(*ROUTES) as server:
        answer = await ask(server, "GET", "/fail", {"X-Correlation-Id": "find-me"})
        assert CANARY not in answer.body.decode()
        assert "Traceback" not in answer.body.decode()
    (line,) = [json.loads(text) for text in capsys.readouterr().err.splitlines()]
    assert (line["action"], line["correlation_id"], line["exception"][0]["type"]) == ("http_defect", "find-me", "ValueError")
    assert CANARY not in json.dumps(line)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"number": 1}',
        b'{"text": 1}',
        b'{"text": "a", "more": 1}',
        b'{"text": "a", "number": NaN}',
        b'{"text": "a", "number": Infinity}',
        b'{"text": "a", "number": 1e999}',
        b'{"text": "\xff"}',
        b"[" * 100_000,
    ],
    ids=lambda body: repr(body[:30]),
)
async def test_bodies_that_do_not_fit(body: bytes) -> None:
    answer = await post(body)
    assert (answer.status, answer.code) == (400, "INVALID_REQUEST")


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1", None])
async def test_content_types_that_do_not_fit(kind: str | None) -> None:
    answer = await post(b'{"text": "a"}', {"Content-Type": kind} if kind else {})
    assert (answer.status, answer.code) == (400, "INVALID_REQUEST")
    assert "application/json" in answer.json["error"]["message"]


async def test_a_body_within_the_limit_is_taken() -> None:
    answer = await post(msgspec.json.encode({"text": "a" * 900_000}), max_body_bytes=1_000_000)
    assert (answer.status, answer.json) == (202, {"length": 900_000})
    assert (await post(b'{"text": "a"}', {"Content-Type": "application/json; charset=UTF-8"})).status == 202


async def test_twenty_megabytes_are_refused_by_their_announcement() -> None:
    async with serving(*ROUTES, max_body_bytes=10 * 1024 * 1024) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(
            b"POST /orders HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 20971520\r\n\r\n"
        )
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 25)  # Not a byte of the body was sent.
        assert b"413" in answer
        assert b"10485760 bytes" in await reader.readuntil(b"}}")
        writer.close()


async def test_a_client_that_sends_it_all_still_reads_the_answer() -> None:
    body = b'{"text": "' + b"a" * 20_000_000 + b'"}'
    answer = await post(body, max_body_bytes=100_000)
    assert (answer.status, answer.code) == (413, "REQUEST_TOO_LARGE")
    assert answer.json["error"]["details"] == {"limit_bytes": 100_000}


async def test_a_refusal_before_the_body_keeps_the_connection_where_the_body_has_come() -> None:
    head = b"POST /refuse HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
    async with serving(*ROUTES) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        for _ in range(2):
            writer.write(head + b"a" * 1000)
            answer = await read_answer(reader)
            assert (answer.status, answer.code) == (429, "QUEUE_FULL")
            assert "connection" not in answer.headers
        writer.write(head)  # And of this one nothing comes.
        answer = await read_answer(reader)
        assert (answer.status, answer.headers["connection"]) == (429, "close")
        writer.close()


async def test_a_body_of_unknown_length_is_counted_as_it_comes() -> None:
    async with serving(*ROUTES, max_body_bytes=100_000) as server:
        head = b"POST /orders HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        piece = b"10000\r\n" + b"a" * 0x10000 + b"\r\n"
        answer = await send_raw(server, head + piece * 3)
        assert (answer.status, answer.code) == (413, "REQUEST_TOO_LARGE")


async def test_a_compressed_body_counts_as_what_it_becomes() -> None:
    body = gzip.compress(b'{"text": "' + b"a" * 50_000_000 + b'"}')
    assert len(body) < 100_000
    answer = await post(body, {**JSON, "Content-Encoding": "gzip"}, max_body_bytes=1_000_000)
    assert (answer.status, answer.code) == (413, "REQUEST_TOO_LARGE")
    assert (await post(gzip.compress(b'{"text": "a"}'), {**JSON, "Content-Encoding": "gzip"})).status == 202
    broken = await post(b"no gzip at all", {**JSON, "Content-Encoding": "gzip"})
    assert (broken.status, broken.code) == (400, "INVALID_REQUEST")


@pytest.mark.parametrize(
    "data",
    [
        b"BREW /the-canary-sings HTTP/1.1\r\n\r\n",
        b"the-canary-sings\r\n\r\n",
        b"\x16\x03\x01\x02\x00the-canary-sings\r\n\r\n",
        b"GET / HTTP/1.1\r\nthe canary sings\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
        b"POST /orders HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /orders HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
    ids=lambda data: repr(data[:20]),
)
async def test_what_is_no_http_gets_the_envelope_without_being_quoted(data: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("test", "info", "json")
    async with serving(*ROUTES) as server:
        answer = await send_raw(server, data)
        assert (answer.status, answer.code) == (400, "INVALID_REQUEST")
        assert b"canary" not in answer.body
        assert answer.headers["server"] == "rbees"
        assert answer.headers["x-correlation-id"] == answer.json["error"]["correlation_id"]
    assert "canary" not in capsys.readouterr().err


GOOD_HOSTS = ["localhost", "LOCALHOST:1", "127.0.0.1", "127.0.0.1:8080", "[::1]", "[::1]:99", "gpu1.lab", "gpu1.lab:1"]
BAD_HOSTS = [
    None,
    "",
    "evil.example",
    "evil.example:8080",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "192.168.0.1",
    "a b",
    "[::",
]


@pytest.mark.parametrize("host", GOOD_HOSTS)
async def test_hosts_that_name_this_daemon(host: str) -> None:
    async with serving(*ROUTES, allowed_hosts=["GPU1.lab"]) as server:
        assert (await ask(server, "GET", "/livez", host=host)).status == 200


@pytest.mark.parametrize("host", BAD_HOSTS)
async def test_hosts_that_do_not(host: str | None) -> None:
    async with serving(*ROUTES, allowed_hosts=["gpu1.lab"]) as server:
        for path in ("/livez", "/orders", "/nowhere"):
            answer = await ask(server, "GET", path, host=host)
            assert (answer.status, answer.code) in {(403, "FORBIDDEN"), (400, "INVALID_REQUEST")}, path
            assert host is None or "allowed_hosts" in answer.json["error"]["message"] or answer.status == 400


async def test_the_address_at_which_a_request_arrived_names_this_daemon() -> None:
    async with serving(*ROUTES, bind="127.0.0.2") as server:
        reader, writer = await asyncio.open_connection("127.0.0.2", server.port)
        writer.write(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.2:1\r\n\r\n")
        assert b"200 OK" in await reader.readline()
        writer.close()


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://localhost:3000", "https://evil.example:80", "x", "http://["]
)
async def test_pages_of_other_origins_may_not_call(origin: str) -> None:
    async with serving(*ROUTES) as server:
        answer = await ask(server, "POST", "/orders", {"Origin": origin, **JSON}, b'{"text": "a"}')
        assert (answer.status, answer.code) == (403, "FORBIDDEN")
        assert "access-control-allow-origin" not in answer.headers
        preflight = await ask(server, "OPTIONS", "/orders", {"Origin": origin, "Access-Control-Request-Method": "POST"})
        assert preflight.status == 403


async def test_an_expectation_passes_the_edge_like_everything_else() -> None:
    token = {"Authorization": f"Bearer {SECRET}"}
    async with serving(*ROUTES, authenticator=BearerAuth(Token(SECRET))) as server:
        assert (await ask(server, "GET", "/orders", {"Expect": CANARY})).status == 401
        assert (await ask(server, "GET", "/orders", {"Expect": "100-continue"})).status == 401, "nobody else is asked for a body"
        assert (await ask(server, "GET", "/orders", {"Expect": CANARY}, host="evil.example")).status == 403
        for path, headers in (("/orders", token), ("/nowhere", token), ("/nowhere", {})):
            answer = await ask(server, "GET", path, {"Expect": CANARY, **headers})
            assert (answer.status, answer.code) == (400, "INVALID_REQUEST"), path
            assert CANARY.encode() not in answer.body
            assert answer.headers["x-correlation-id"] == answer.json["error"]["correlation_id"]


async def test_a_client_that_waits_is_asked_for_its_body() -> None:
    async with serving(*ROUTES) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        head = "POST /orders HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 13\r\n"
        writer.write(f"{head}Expect: 100-Continue\r\n\r\n".encode())
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b'{"text": "a"}')
        assert (await read_answer(reader)).status == (await ask(server, "POST", "/orders", JSON, b'{"text": "a"}')).status
        writer.close()


async def test_own_pages_and_configured_ones_may() -> None:
    async with serving(*ROUTES, allowed_origins=["https://dash.example"]) as server:
        own = await ask(server, "GET", "/orders", {"Origin": "http://localhost"})
        assert own.status == 200
        assert "access-control-allow-origin" not in own.headers
        foreign = await ask(server, "GET", "/orders", {"Origin": "https://dash.example"})
        assert (foreign.status, foreign.headers["access-control-allow-origin"]) == (200, "https://dash.example")
        assert foreign.headers["access-control-expose-headers"] == "*"


async def test_a_page_that_may_call_may_send_what_clients_of_other_apis_send() -> None:
    sent = "authorization,content-type,prefer,x-stainless-arch,x-stainless-retry-count"
    async with serving(*ROUTES, allowed_origins=["https://dash.example"]) as server:
        asked = {"Origin": "https://dash.example", "Access-Control-Request-Method": "POST"}
        preflight = await ask(server, "OPTIONS", "/orders", {**asked, "Access-Control-Request-Headers": sent})
        assert (preflight.status, preflight.headers["access-control-allow-methods"]) == (204, "POST")
        assert preflight.headers["access-control-allow-headers"] == sent


async def test_with_a_token_only_livez_answers_without_it() -> None:
    async with serving(*ROUTES, authenticator=BearerAuth(Token(SECRET))) as server:
        assert (await ask(server, "GET", "/livez")).status == 200
        for route in ("/orders", "/fail", "/readyz", "/metrics", "/openapi.json", "/docs", "/nowhere"):
            for headers in ({}, {"Authorization": "Bearer rbk_" + "b" * 43}):
                answer = await ask(server, "GET", route, headers)
                assert (answer.status, answer.code) == (401, "UNAUTHENTICATED"), route
                assert answer.headers["www-authenticate"].startswith("Bearer")
        right = {"Authorization": f"Bearer {SECRET}"}
        for route in ("/orders", "/readyz", "/metrics", "/openapi.json", "/docs"):
            assert (await ask(server, "GET", route, right)).status == 200, route


async def test_a_token_may_come_as_a_key_where_nothing_else_is_sent() -> None:
    async with serving(*ROUTES, authenticator=BearerAuth(Token(SECRET))) as server:
        wrong, bearer = {"X-Api-Key": "rbk_" + "b" * 43}, {"Authorization": "Bearer rbk_" + "b" * 43}
        for headers, status in (({"x-api-key": SECRET}, 200), (wrong, 401), ({"X-Api-Key": ""}, 401), ({"X-Api-Key": "ü"}, 401)):
            assert (await ask(server, "GET", "/orders", headers)).status == status, headers
        assert (await ask(server, "GET", "/orders", {"X-Api-Key": SECRET, **bearer})).status == 401
        assert (await ask(server, "GET", "/orders", {"Authorization": f"Bearer {SECRET}", **wrong})).status == 200


async def test_readiness_names_what_is_wrong() -> None:
    checks: dict[str, str | None] = {"database": None, "pools": "No pool has registered."}
    async with serving(*ROUTES, readiness=lambda: checks) as server:
        answer = await ask(server, "GET", "/readyz?verbose")
        assert (answer.status, answer.json) == (503, {"ready": False, "checks": checks})
        assert (await ask(server, "GET", "/readyz")).json == {"ready": False, "checks": {}}
        checks["pools"] = None
        assert (await ask(server, "GET", "/readyz")).status == 200


async def test_metrics_count_by_route_and_never_by_path() -> None:
    async with serving(*ROUTES) as server:
        await ask(server, "GET", "/orders?limit=1")
        await ask(server, "GET", f"/{CANARY}")
        text = (await ask(server, "GET", "/metrics")).body.decode()
        assert 'rbees_http_requests_total{method="GET",route="/orders",status="200"} 1.0' in text
        assert 'route="unknown",status="404"' in text
        assert CANARY not in text


async def test_the_interface_describes_itself_offline() -> None:
    async with serving(*ROUTES) as server:
        described = (await ask(server, "GET", "/openapi.json")).json
        assert {"/orders", "/livez", "/readyz", "/metrics", "/docs", "/openapi.json"} <= set(described["paths"])
        page = await ask(server, "GET", "/docs")
        assert page.headers["content-type"].startswith("text/html")
        assert page.headers["content-security-policy"].startswith("default-src 'none'")
        assert b"Take an order." in page.body


async def test_a_port_that_is_taken_has_its_own_code() -> None:
    async with serving() as first:

        def server(bind: str, port: int) -> Server:
            app = build_app(role="t", version="0", routes=[], authenticator=NoAuth(), metrics=Metrics("t"), readiness=dict)
            return Server(app, bind=bind, port=port)

        with pytest.raises(RbeesError) as caught:
            await server("127.0.0.1", first.port).start()
        assert caught.value.code is ErrorCode.ADDRESS_IN_USE
        assert "--port" in caught.value.message
        for bind in ("192.0.2.1", "no.such.name.invalid"):
            with pytest.raises(RbeesError) as caught:
                await server(bind, 0).start()
            assert caught.value.code is ErrorCode.CONFIGURATION
        assert first.url == f"http://127.0.0.1:{first.port}"


async def test_a_slow_body_is_given_up() -> None:
    async with serving(*ROUTES, limits=Limits(body_s=0.2)) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"POST /orders HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{")
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 25)
        assert b" 400 " in head
        assert b"did not arrive within 0.2 s" in await reader.readuntil(b"}}")
        writer.close()


class Complaint(msgspec.Struct, frozen=True):
    """A failure in the words of another API."""

    complaint: str


SHAPE = ErrorShape(Complaint, lambda error: WordedError(418, Complaint(error.code.lower()), {"X-Again": "no"}))


async def test_routes_of_another_api_fail_in_its_own_words() -> None:
    foreign = (
        Route("GET", "/tea/refuse", refuse, "Refuse.", error_shape=SHAPE),
        Route("GET", "/tea/fail", fail, "Fail.", error_shape=SHAPE),
    )
    async with serving(*ROUTES, *foreign, authenticator=BearerAuth(Token(SECRET))) as server:
        assert (await ask(server, "GET", "/tea/refuse")).json == {"complaint": "unauthenticated"}
        signed = {"Authorization": f"Bearer {SECRET}"}
        for method, path, code in (
            ("GET", "/tea/refuse", "queue_full"),
            ("GET", "/tea/fail", "internal"),
            ("GET", "/tea/refuse?x=1", "queue_full"),
            ("POST", "/tea/refuse", "method_not_allowed"),
            ("GET", "/tea/none", "not_found"),
        ):
            answer = await ask(server, method, path, signed)
            assert (answer.status, answer.json, answer.headers["x-again"]) == (418, {"complaint": code}, "no")
        assert (await ask(server, "GET", "/tea/refuse", signed)).headers["retry-after"] == "4"
        assert (await ask(server, "GET", "/refuse", signed)).code == "QUEUE_FULL"
        assert (await ask(server, "GET", "/none", signed)).code == "NOT_FOUND"


async def test_where_several_apis_live_a_clients_own_header_tells_which_words_it_reads() -> None:
    def word(error: RbeesError) -> WordedError:
        return WordedError(419, Complaint(f"other {error.code.lower()}"))

    async def pour(_request: http.Request) -> http.Response:
        return reply({"cups": 1})

    other = ErrorShape(Complaint, word, sign="tea-version", id_header="Tea-Id")
    foreign = (
        Route("GET", "/tea/refuse", refuse, "Refuse.", error_shape=SHAPE),
        Route("GET", "/tea/other", refuse, "Refuse.", error_shape=other),
        Route("GET", "/tea/pour", pour, "Pour.", error_shape=other),
    )
    async with serving(*ROUTES, *foreign) as server:
        for path, headers, status in (
            ("/tea/refuse", {}, 418),
            ("/tea/none", {}, 418),
            ("/tea/other", {}, 419),
            ("/tea/pour", {}, 200),
            ("/tea/refuse", {"Tea-Version": "1"}, 419),
            ("/tea/none", {"Tea-Version": "1"}, 419),
            ("/refuse", {"Tea-Version": "1"}, 429),
            ("/none", {"Tea-Version": "1"}, 404),
        ):
            answer = await ask(server, "GET", path, headers)
            assert answer.status == status, (path, headers)
            theirs = status in {200, 419}
            assert answer.headers.get("tea-id") == (answer.headers["x-correlation-id"] if theirs else None), (path, headers)


async def test_what_clients_of_other_apis_send_beside_is_passed_over_and_named_by_every_answer() -> None:
    async def pour(request: http.Request) -> http.Response:
        pass_over(request, ["milk"])
        return reply({"cups": argument(request, CUPS)}, headers={"X-Rbees-Ignored": "milk, honey"})

    foreign = (
        Route("GET", "/tea/pour", pour, "Pour.", parameters=(CUPS,), error_shape=SHAPE),
        Route("GET", "/tea/refuse", refuse, "Refuse.", error_shape=SHAPE),
    )
    async with serving(*ROUTES, *foreign) as server:
        for path, status, ignored in (
            ("/tea/pour?cups=2", 200, "milk, honey"),
            ("/tea/pour?api-version=1&cups=2&api-version=2", 200, "api-version, milk, honey"),
            ("/tea/pour?cups=x&%0d%0a=1", 418, "?, milk"),
            ("/tea/refuse?client_version=0.5", 418, "client_version"),
        ):
            answer = await ask(server, "GET", path)
            assert (answer.status, answer.headers["x-rbees-ignored"]) == (status, ignored), path
        assert "x-rbees-ignored" not in (await ask(server, "GET", "/tea/refuse")).headers
        own = await ask(server, "GET", "/orders?client_version=0.5")
        assert (own.status, own.code) == (400, "INVALID_REQUEST")


async def test_routes_of_another_api_answer_head_and_behind_a_slash_more() -> None:
    async def tell(request: http.Request) -> http.Response:
        return reply({"path": request.path, "name": request.match_info.get("name")})

    foreign = (
        Route("GET", "/tea", tell, "Tell.", error_shape=SHAPE),
        Route("HEAD", "/tea", refuse, "Refuse.", error_shape=SHAPE),
        Route("GET", "/tea/{name:.+}", tell, "Tell.", error_shape=SHAPE),
        Route("POST", "/tea", tell, "Tell.", error_shape=SHAPE),
        Route("GET", "/milk", tell, "Tell."),
    )
    async with serving(*foreign) as server:
        for method, path, status in (
            ("GET", "/tea/", 200),
            ("POST", "/tea/", 200),
            ("HEAD", "/tea/", 200),
            ("HEAD", "/tea", 418),
            ("HEAD", "/tea/green/leaf", 200),
            ("PUT", "/tea/", 418),
            ("GET", "/milk/", 404),
            ("HEAD", "/milk", 405),
        ):
            head = (await ask_head(server, method, path)).split(b"\r\n")[0]
            assert b" %d " % status in head, (method, path)
        assert (await ask(server, "GET", "/tea/green/leaf")).json["name"] == "green/leaf"


async def ask_head(server: Server, method: str, path: str) -> bytes:
    """The head of an answer, whose body may be missing as it is in one to HEAD."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    return head
