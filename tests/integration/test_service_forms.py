"""Forms with a file (`multipart/form-data`) as clients send them, and what is no such form, over a real socket."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from aiohttp import web

from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.service.forms import MAX_FIELD_BYTES, MAX_FIELDS, ROOM_BYTES, read_form
from rbees.service.web import Limits, Route, Server, reply
from tests.support.service_app import Answer, ask, serving

MOST = 1_000_000
KIND = {"Content-Type": "multipart/form-data; boundary=b"}


def route(most: int = MOST) -> Route:
    """Answers with what it was sent; refuses a file of more than `most` bytes."""

    async def take(request: web.Request) -> web.Response:
        content = bytearray()

        async def write(piece: bytes) -> None:
            content.extend(piece)
            if len(content) > most:
                raise RbeesError(ErrorCode.REQUEST_TOO_LARGE, "The file is too large.")

        form = await read_form(request, "file", most, write)
        sum_ = sum(content) % 65_536
        return reply({"name": form.file_name, "fields": form.fields, "bytes": len(content), "sum": sum_})

    return Route("POST", "/form", take, "Take a form.")


def part(name: str, content: bytes, file: str | None = None, *headers: str) -> bytes:
    disposition = f'Content-Disposition: form-data; name="{name}"' + (f'; filename="{file}"' if file is not None else "")
    return "\r\n".join(("--b", disposition, *headers, "", "")).encode() + content + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--b--\r\n"


async def sent(server: Server, body: bytes, headers: dict[str, str] = KIND) -> Answer:
    return await ask(server, "POST", "/form", headers, body)


async def test_a_file_comes_with_its_fields_in_any_order_and_any_bytes() -> None:
    content = bytes(range(256)) * 3_000 + b"\r\n--c is no boundary\r\n--"
    async with serving(route()) as server:
        for parts in ([part("purpose", "é".encode()), part("file", content, "a.jsonl")], [part("file", content, "a.jsonl")]):
            for ordered in (parts, parts[::-1]):
                answer = await sent(server, form(*ordered))
                assert answer.status == 200, answer.body
                assert answer.json["bytes"] == len(content)
                assert answer.json["sum"] == sum(content) % 65_536
                assert answer.json["name"] == "a.jsonl"
        assert (await sent(server, form(part("file", b"", "empty")))).json["bytes"] == 0


async def test_a_form_of_a_client_library_is_understood() -> None:
    data = aiohttp.FormData()
    data.add_field("file", b"x" * 100_000, filename='ö "quoted"/../.jsonl')
    data.add_field("purpose", "batch")
    async with (
        serving(route()) as server,
        aiohttp.ClientSession() as session,
        session.post(f"{server.url}/form", data=data) as answer,
    ):
        told = await answer.json()
    assert (told["bytes"], told["fields"]) == (100_000, {"purpose": "batch"})
    assert "quoted" in told["name"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no form at all",
        part("file", b"x", "f"),
        part("file", b"x", "f")[:-10],
        b"--b\r\n\r\n--b--\r\n",
        b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n",
        b"--b\r\nX: " + b"y" * 20_000 + b"\r\n\r\nx\r\n--b--\r\n",
        b"--b\r\nContent-Type: multipart/mixed; boundary=c\r\nContent-Disposition: form-data; name=a\r\n\r\n--c--\r\n--b--\r\n",
        form(part("file", b"x", "f", "Content-Transfer-Encoding: base64")),
        form(part("file", b"x", "f", "Content-Encoding: gzip")),
        form(part("file", b"x")),
        form(part("other", b"x", "f")),
        form(part("file", b"x", "f"), part("file", b"x", "f")),
        form(part("a", b"1"), part("a", b"2")),
        form(part("a", b"\xff")),
        form(part("a", b"x" * (MAX_FIELD_BYTES + 1))),
        form(*[part(f"a{number}", b"x") for number in range(MAX_FIELDS + 1)]),
        form(part("_charset_", b"x" * 64), part("file", b"x", "f")),
        form(part("_charset_", b"no-such-charset"), part("a", b"x")),
    ],
)
async def test_what_is_no_such_form_is_refused_in_our_own_words(body: bytes) -> None:
    async with serving(route()) as server:
        answer = await sent(server, body)
        assert (answer.status, answer.code) == (400, "INVALID_REQUEST")
        assert b"boundary=" not in answer.body
        assert (await sent(server, form(part("file", b"x", "f")))).status == 200


@pytest.mark.parametrize(
    "kind", ["application/json", "multipart/form-data", "multipart/mixed; boundary=b", f"multipart/form-data; boundary={'b' * 99}"]
)
async def test_only_a_form_is_one(kind: str) -> None:
    async with serving(route()) as server:
        answer = await sent(server, form(part("file", b"x", "f")), {"Content-Type": kind})
    assert (answer.status, answer.code) == (400, "INVALID_REQUEST")


async def test_a_form_may_be_larger_than_a_body_and_not_than_its_own_limit() -> None:
    async with serving(route(), max_body_bytes=2_000) as server:
        assert (await sent(server, form(part("file", b"x" * MOST, "f")))).status == 200
        assert (await sent(server, form(part("file", b"x" * (MOST + 1), "f")))).status == 413
        told = {**KIND, "Content-Length": str(MOST + ROOM_BYTES + 1)}
        assert (await ask(server, "POST", "/form", told)).status == 413


async def test_a_form_that_trickles_is_given_up() -> None:
    async with serving(route(), limits=Limits(body_s=0.2)) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        head = f"POST /form HTTP/1.1\r\nHost: localhost\r\nContent-Type: {KIND['Content-Type']}\r\nContent-Length: 100000\r\n\r\n"
        writer.write(head.encode() + part("file", b"x", "f"))
        answer = await reader.readuntil(b"\r\n")
        writer.close()
    assert b" 400 " in answer


async def test_a_client_that_leaves_ends_the_reading() -> None:
    left = asyncio.Event()

    async def take(request: web.Request) -> web.Response:
        try:
            await read_form(request, "file", MOST, ignored)
        except BaseException:
            left.set()
            raise
        return reply({})

    async with serving(Route("POST", "/form", take, "Take a form.")) as server:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        head = f"POST /form HTTP/1.1\r\nHost: localhost\r\nContent-Type: {KIND['Content-Type']}\r\nContent-Length: 100000\r\n\r\n"
        writer.write(head.encode() + part("file", b"x" * 5_000, "f"))
        await writer.drain()
        writer.close()
        await asyncio.wait_for(left.wait(), 20)


async def ignored(_piece: bytes) -> None:
    pass
