"""A daemon's web application in the test's own loop, on a port that the system chose, and raw bytes to and from it."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from rbees.service.metrics import Metrics
from rbees.service.web import Authenticator, Limits, NoAuth, Readiness, Route, Server, build_app


@dataclass(frozen=True)
class Answer:
    """A parsed HTTP answer with a body of known length."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The error code of the envelope."""
        code: str = self.json["error"]["code"]
        return code


@asynccontextmanager
async def serving(
    *routes: Route,
    authenticator: Authenticator | None = None,
    readiness: Readiness = dict,
    tls: ssl.SSLContext | None = None,
    bind: str = "127.0.0.1",
    drain_timeout_s: float = 5.0,
    limits: Limits | None = None,
    **options: Any,
) -> AsyncIterator[Server]:
    """Serve `routes` behind the edge."""
    app = build_app(
        role="test",
        version="0.0.0",
        routes=routes,
        authenticator=authenticator or NoAuth(),
        metrics=Metrics("test"),
        readiness=readiness,
        bind=bind,
        limits=limits,
        **options,
    )
    server = Server(app, bind=bind, port=0, ssl=tls, drain_timeout_s=drain_timeout_s)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def ask(
    server: Server,
    method: str,
    path: str,
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    host: str | None = "localhost",
) -> Answer:
    """Send one request, byte by byte as written here, and read the whole answer."""
    sent = {
        **({"Host": host} if host is not None else {}),
        **({"Content-Length": str(len(body))} if body else {}),
        **(headers or {}),
    }
    head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in sent.items()) + "\r\n"
    return await send_raw(server, head.encode() + body)


async def send_raw(server: Server, data: bytes) -> Answer:
    """Send bytes and read one answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        writer.write(data)
        return await read_answer(reader)
    finally:
        writer.close()


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    """One answer with a Content-Length, or none and no body."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Answer(int(head[0].split()[1]), headers, body)
