"""One connection with as little between the socket and the measurement as can be: heads are split off, bodies handed on.

A library for HTTP would cost the load generator more for each event than the orchestrator may spend on it. What is read here was
written by rbees on the same machine, so only the forms that it writes are understood.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, Final

HEAD_END: Final = b"\r\n\r\n"
_LENGTH: Final = b"content-length:"
_NO_BODY: Final = b"HTTP/1.1 204"


class RawPort(asyncio.Protocol):
    """Calls `told(port, head, body)` for each message whose head tells its length, and `flows(data)` for all behind one without."""

    def __init__(self, told: Callable[[RawPort, bytes, bytes], None], flows: Callable[[bytes], None] | None = None) -> None:
        self._told = told
        self._flows = flows
        self._held = b""
        self._streaming = False
        self._transport: asyncio.Transport | None = None
        self.lost: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        """See asyncio."""
        if self.lost is not None:
            self.lost()

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        if self._streaming:
            assert self._flows is not None
            self._flows(data)
            return
        self._held += data
        while (end := self._held.find(HEAD_END)) >= 0:
            head, rest = self._held[:end], self._held[end + len(HEAD_END) :]
            length = _length_of(head)
            if length is None:
                assert self._flows is not None, head
                self._streaming, self._held = True, b""
                self._flows(rest)
                return
            if len(rest) < length:
                return
            self._held = rest[length:]
            self._told(self, head, rest[:length])

    def write(self, data: bytes) -> None:
        """Send."""
        assert self._transport is not None
        self._transport.write(data)

    def close(self) -> None:
        """Leave."""
        if self._transport is not None:
            self._transport.abort()


def _length_of(head: bytes) -> int | None:
    """The length of a message's body; None for one that goes on until it ends."""
    lower = head.lower()
    at = lower.find(_LENGTH)
    if at >= 0:
        return int(lower[at + len(_LENGTH) :].split(b"\r\n", 1)[0])
    return None if head.startswith(b"HTTP/1.1 2") and not head.startswith(_NO_BODY) else 0


class Caller:
    """One kept connection to orcd, for one call at a time."""

    def __init__(self, port: int) -> None:
        self._host = b"127.0.0.1:%d" % port
        self._port = port
        self._raw: RawPort | None = None
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    async def call(self, method: str, path: str, body: bytes = b"") -> tuple[int, Any]:
        """Status and decoded body of the answer."""
        loop = asyncio.get_running_loop()
        if self._raw is None:
            _, self._raw = await loop.create_connection(lambda: RawPort(self._told), "127.0.0.1", self._port)
        self._answer = loop.create_future()
        self._raw.write(head_of(method, path, self._host, len(body)) + body)
        status, content = await self._answer
        return status, json.loads(content) if content else None

    def _told(self, _raw: RawPort, head: bytes, body: bytes) -> None:
        assert self._answer is not None
        if not self._answer.done():
            self._answer.set_result((int(head[9:12]), body))

    def close(self) -> None:
        """Leave."""
        if self._raw is not None:
            self._raw.close()


def head_of(method: str, path: str, host: bytes, length: int) -> bytes:
    """The head of a request with a JSON body of that length."""
    start = f"{method} {path} HTTP/1.1\r\nHost: {host.decode()}\r\n"
    return f"{start}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n".encode()
