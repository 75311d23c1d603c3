"""Clients that are slow on purpose: each is cut off in time, and nobody else notices."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web as http

from rbees.service import sse
from rbees.service.web import LINES, Limits, Route, Server, reply
from tests.support.service_app import ask, serving

FLOOD_BYTES = 32 * 1024 * 1024
SOON_S = 8.0
"""Less than any deadline that these tests do not set: what has ended by then was ended by the one that they have set, however busy
the machine is."""


async def small(_request: http.Request) -> http.Response:
    return reply({"a": 1})


async def large(_request: http.Request) -> http.Response:
    return http.Response(body=b"a" * FLOOD_BYTES)


@asynccontextmanager
async def connection(server: Server) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        yield reader, writer
    finally:
        writer.close()


def narrow_socket(server: Server) -> socket.socket:
    """A connection with the smallest receive buffer that the system gives."""
    narrow = socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
    narrow.connect(("127.0.0.1", server.port))
    return narrow


async def reset_by_the_server(narrow: socket.socket) -> None:
    """Wait, without reading, until the server has thrown the connection away."""
    async with asyncio.timeout(SOON_S):
        while not narrow.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):  # noqa: ASYNC110 - the system's own state
            await asyncio.sleep(0.05)


async def seconds_until_closed(reader: asyncio.StreamReader) -> float:
    begun = time.monotonic()
    async with asyncio.timeout(SOON_S):
        with contextlib.suppress(ConnectionError):
            while await reader.read(65536):
                pass
    return time.monotonic() - begun


@pytest.mark.parametrize("first", [b"", b"G", b"GET /small HTTP/1.1\r\nHost: localhost\r\nX-Slow: "])
async def test_a_head_that_does_not_come_is_not_waited_for(first: bytes) -> None:
    async with serving(limits=Limits(head_s=0.3)) as server, connection(server) as (reader, writer):
        writer.write(first)
        assert await seconds_until_closed(reader) > 0.2


async def test_trickling_bytes_win_no_time() -> None:
    async with serving(limits=Limits(head_s=0.4)) as server, connection(server) as (reader, writer):

        async def trickle() -> None:
            for byte in b"GET /livez HTTP/1.1\r\nHost: localhost\r\n" + b"X-A: b\r\n" * 100:
                writer.write(bytes([byte]))
                await asyncio.sleep(0.05)

        task = asyncio.create_task(trickle())
        assert await seconds_until_closed(reader) > 0.3
        task.cancel()


async def test_the_second_head_on_a_connection_has_its_own_time() -> None:
    request = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with serving(limits=Limits(head_s=0.3)) as server, connection(server) as (reader, writer):
        writer.write(request)
        assert b"200" in await reader.readuntil(b"}")
        await asyncio.sleep(0.6)  # Idle between two requests is keep-alive, not a slow head.
        writer.write(request)
        assert b"200" in await reader.readuntil(b"}")
        writer.write(b"GET /li")
        assert await seconds_until_closed(reader) > 0.2


@pytest.mark.parametrize("body", [b"", b"{}"], ids=["no-body", "body"])
@pytest.mark.parametrize("together", [True, False])
async def test_a_head_that_began_while_a_request_ran_has_its_time_too(body: bytes, together: bool) -> None:
    async def slow(request: http.Request) -> http.Response:
        await request.read()
        await asyncio.sleep(0.3)
        return reply({"a": 1})

    half = b"GET /live"
    request = b"POST /slow HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    route = Route("POST", "/slow", slow, "Slow.")
    async with serving(route, limits=Limits(head_s=0.2)) as server, connection(server) as (reader, writer):
        writer.write(request + half if together and not body else request)
        await asyncio.sleep(0.1)
        if body or not together:
            writer.write(half)
        assert b"200" in await reader.readuntil(b"}")
        assert await seconds_until_closed(reader) > 0.1


async def test_pipelined_requests_that_are_complete_leave_the_connection_open() -> None:
    requests = [b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: y\r\n\r\n"]

    async def talk(server: Server, pieces: list[bytes]) -> None:
        async with connection(server) as (reader, writer):
            for piece in pieces:
                writer.write(piece)
                await asyncio.sleep(0.02)
            for _ in requests:
                assert b"200" in await reader.readuntil(b"}")
            await asyncio.sleep(2.5)  # Longer than a head may take.
            writer.write(requests[0])
            assert b"200" in await reader.readuntil(b"}")

    cut = [requests[0] + requests[1][:9], requests[1][9:-1], requests[1][-1:]]
    async with serving(limits=Limits(head_s=2.0)) as server:
        await asyncio.gather(*(talk(server, pieces) for pieces in (requests, [b"".join(requests)], cut)))


async def test_an_idle_connection_is_kept_only_so_long() -> None:
    async with serving(limits=Limits(keep_alive_s=0.3)) as server, connection(server) as (reader, writer):
        writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200" in await reader.readuntil(b"}")
        assert await seconds_until_closed(reader) > 0.2


async def test_a_slow_handler_has_all_the_time_it_needs() -> None:
    async def slow(_request: http.Request) -> http.Response:
        await asyncio.sleep(0.6)
        return reply({"late": True})

    async with serving(Route("GET", "/slow", slow, "Slow."), limits=Limits(head_s=0.2, write_s=0.2, body_s=0.2)) as server:
        assert (await ask(server, "GET", "/slow")).json == {"late": True}


async def test_an_answer_that_nobody_reads_is_given_up() -> None:
    async with serving(Route("GET", "/large", large, "Large."), limits=Limits(write_s=0.3)) as server:
        with narrow_socket(server) as narrow:
            narrow.sendall(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await ask(server, "GET", "/livez")).status == 200
            await reset_by_the_server(narrow)


async def test_a_large_answer_reaches_a_client_that_reads() -> None:
    async with serving(Route("GET", "/large", large, "Large."), limits=Limits(write_s=0.5)) as server, connection(server) as (r, w):
        w.write(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await r.readuntil(b"\r\n\r\n")
        received = 0
        async with asyncio.timeout(60):
            while received < FLOOD_BYTES:
                received += len(await r.read(1 << 22))


async def test_two_hundred_trickling_clients_hinder_nobody() -> None:
    async with serving(Route("GET", "/small", small, "Small."), limits=Limits(head_s=3.0)) as server:
        slow = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(200)]
        for _, writer in slow:
            writer.write(b"GET /small HTTP/1.1\r\nHost: loc")
        closed = [asyncio.create_task(seconds_until_closed(reader)) for reader, _ in slow]
        for _ in range(3):
            assert (await ask(server, "GET", "/livez")).status == 200
        assert not any(task.done() for task in closed), "it was answered while they were waited for"
        await asyncio.gather(*closed)
        for _, writer in slow:
            writer.close()


class Flood:
    """A handler that streams without end and remembers how it ended."""

    def __init__(self) -> None:
        self.written_bytes = 0
        self.ended_by: BaseException | None = None
        self.over = asyncio.Event()

    async def handle(self, request: http.Request) -> http.StreamResponse:
        event = sse.frame(1, "token", b"{" + b" " * 8000 + b"}")
        try:
            async with sse.SseWriter(request) as out:
                while True:
                    await out.write(event)
                    self.written_bytes += len(event)
            return out.response
        except BaseException as error:
            self.ended_by = error
            raise
        finally:
            self.over.set()


async def test_a_stream_to_a_client_that_never_reads_is_bounded_and_cut() -> None:
    flood = Flood()
    async with serving(Route("GET", "/flood", flood.handle, "Flood.", stream=True), limits=Limits(write_s=0.5)) as server:
        with narrow_socket(server) as narrow:
            narrow.sendall(b"GET /flood HTTP/1.1\r\nHost: localhost\r\n\r\n")
            begun = time.monotonic()
            await asyncio.wait_for(flood.over.wait(), SOON_S)
            assert time.monotonic() - begun > 0.3
            assert flood.written_bytes < 2 * 1024 * 1024
            assert (await ask(server, "GET", "/livez")).status == 200
            await reset_by_the_server(narrow)


async def test_an_idle_stream_to_a_client_that_left_without_a_word_is_ended() -> None:
    waiting, ended = asyncio.Event(), asyncio.Event()

    async def wait(request: http.Request) -> http.StreamResponse:
        try:
            async with sse.SseWriter(request) as out:
                waiting.set()
                await asyncio.Event().wait()
            return out.response
        finally:
            ended.set()

    async with serving(Route("GET", "/wait", wait, "Wait.", stream=True)) as server:
        async with connection(server) as (_, writer):
            writer.write(b"GET /wait HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await asyncio.wait_for(waiting.wait(), SOON_S)
        await asyncio.wait_for(ended.wait(), SOON_S)


async def test_comments_come_while_nothing_happens() -> None:
    heard = asyncio.Event()
    quiet_s = 0.0

    async def quiet(request: http.Request) -> http.StreamResponse:
        async with sse.SseWriter(request, headers={"X-Extra": "1"}, comment_every_s=0.1) as out:
            nonlocal quiet_s
            await out.write(sse.frame(1, "token", b"{}"))
            begun = time.monotonic()
            await heard.wait()
            quiet_s = time.monotonic() - begun
            await out.write(sse.frame(2, "end", b"{}"))
        return out.response

    async with serving(Route("GET", "/quiet", quiet, "Quiet.", stream=True)) as server, connection(server) as (reader, writer):
        writer.write(b"GET /quiet HTTP/1.0\r\nHost: localhost\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        async with asyncio.timeout(10):
            body = await reader.readuntil(sse.COMMENT) + await reader.readuntil(sse.COMMENT)
        heard.set()
        body += await reader.read()
        assert b"Content-Type: text/event-stream; charset=utf-8" in head
        assert b"X-Extra: 1" in head
        assert b"X-Correlation-Id: " in head
        assert body.replace(b":\n\n", b"") == b"id: 1\nevent: token\ndata: {}\n\nid: 2\nevent: end\ndata: {}\n\n"
        assert 2 <= body.count(sse.COMMENT) <= quiet_s / 0.1 + 1


async def test_a_stream_of_another_form_has_what_its_clients_pass_over() -> None:
    heard = asyncio.Event()
    form = sse.StreamForm(LINES, b'{"done":false}\n')

    async def quiet(request: http.Request) -> http.StreamResponse:
        async with sse.SseWriter(request, comment_every_s=0.01, form=form) as out:
            await heard.wait()
            await out.write(b'{"done":true}\n')
        return out.response

    async with serving(Route("GET", "/quiet", quiet, "Quiet.", stream=True)) as server, connection(server) as (reader, writer):
        writer.write(b"GET /quiet HTTP/1.0\r\nHost: localhost\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        async with asyncio.timeout(10):
            body = await reader.readuntil(form.comment)
        heard.set()
        body += await reader.read()
        assert b"Content-Type: application/x-ndjson" in head
        assert body.replace(form.comment, b"") == b'{"done":true}\n'


async def test_the_last_frames_and_the_end_of_a_stream_are_one_and_no_comment_follows() -> None:
    ending = sse.frame(2, "end", b"{" + b" " * (3 * sse.PIECE_BYTES + 7) + b"}")

    async def short(request: http.Request) -> http.StreamResponse:
        async with sse.SseWriter(request, comment_every_s=0.01) as out:
            await out.write(sse.frame(1, "token", b"{}"))
            await out.finish(ending if request.match_info["size"] == "long" else sse.frame(2, "end", b"{}"))
            await asyncio.sleep(0.1)
        return out.response

    async with serving(Route("GET", "/{size}", short, "Short.", stream=True)) as server, connection(server) as (reader, writer):
        for size, last in ((b"short", sse.frame(2, "end", b"{}")), (b"long", ending)):
            writer.write(b"GET /%b HTTP/1.1\r\nHost: localhost\r\n\r\n" % size)
            await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), SOON_S)
            body = b""
            while length := int(await asyncio.wait_for(reader.readuntil(b"\r\n"), SOON_S), 16):
                body += (await asyncio.wait_for(reader.readexactly(length + 2), SOON_S))[:-2]
            assert body.replace(sse.COMMENT, b"") == sse.frame(1, "token", b"{}") + last
            assert body.endswith(last)
            assert await reader.readexactly(2) == b"\r\n"


async def test_the_end_of_a_stream_whose_client_has_left_says_so() -> None:
    told: list[str] = []
    begun, left = asyncio.Event(), asyncio.Event()

    async def ends_late(request: http.Request) -> http.StreamResponse:
        async with sse.SseWriter(request) as out:
            begun.set()
            await left.wait()
            assert request.transport is not None
            # By the loss the handler will be cancelled, but not before its next turn.
            request.transport.abort()
            try:
                await out.finish(sse.frame(1, "end", b"{}"))
            except sse.ClientGone as gone:
                told.append(str(gone))
                raise
        return out.response

    async with serving(Route("GET", "/late", ends_late, "Late.", stream=True)) as server, connection(server) as (_, writer):
        writer.write(b"GET /late HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await asyncio.wait_for(begun.wait(), SOON_S)
        left.set()
        async with asyncio.timeout(SOON_S):
            while not told:  # noqa: ASYNC110 - a list of its own
                await asyncio.sleep(0.01)
    assert told == ["the client left"]


async def test_a_failure_in_mid_stream_cuts_the_stream() -> None:
    async def broken(request: http.Request) -> http.StreamResponse:
        async with sse.SseWriter(request) as out:
            await out.write(sse.frame(1, "token", b"{}"))
            raise ValueError("canary")
        return out.response

    async with serving(Route("GET", "/broken", broken, "Broken.", stream=True)) as server, connection(server) as (reader, writer):
        writer.write(b"GET /broken HTTP/1.1\r\nHost: localhost\r\n\r\n")
        received = b""
        with contextlib.suppress(ConnectionError):
            while piece := await asyncio.wait_for(reader.read(65536), SOON_S):
                received += piece
        # The head ends with an id, which may end with a 0 like the chunk that would tell the client that the stream is whole.
        head, _, body = received.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert b"data: {}" in body
        assert not body.endswith(b"0\r\n\r\n")
        assert b"canary" not in received


async def test_stopping_lets_requests_finish_and_cuts_those_that_do_not() -> None:
    begun = asyncio.Event()

    async def slow(_request: http.Request) -> http.Response:
        begun.set()
        await asyncio.sleep(0.3)
        return reply({"finished": True})

    async def endless(_request: http.Request) -> http.Response:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    routes = (Route("GET", "/slow", slow, "Slow."), Route("GET", "/endless", endless, "Endless."))
    for path, finishes in (("/slow", True), ("/endless", False)):
        begun.clear()
        async with serving(*routes, drain_timeout_s=0.6) as server:
            asking = asyncio.create_task(ask(server, "GET", path))
            await begun.wait()
            started = time.monotonic()
        assert time.monotonic() - started < SOON_S, "an endless one would be waited for"
        if finishes:
            assert (await asking).json == {"finished": True}
        else:
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await asking
