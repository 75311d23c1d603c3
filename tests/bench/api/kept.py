"""A kept connection, on which one request follows the other: what came back, and when.

As in the engine's load generator nothing is read while a run goes on, because it shares the machine with what it measures.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from tests.bench.engine.load import Chunks

HOST: Final = "127.0.0.1"
_HEAD_END: Final = b"\r\n\r\n"
_LENGTH: Final = b"\r\ncontent-length:"
_LAST_CHUNK: Final = b"\r\n0\r\n\r\n"


class Kept(asyncio.Protocol):
    """A connection for one request at a time; made anew for each where the server closes it anyhow."""

    def __init__(self, port: int, *, keeps: bool = True) -> None:
        self._port = port
        self._keeps = keeps
        self._transport: asyncio.Transport | None = None
        self._answered: asyncio.Future[None] | None = None
        self._chunks: Chunks = []
        self._body_at = 0
        self._length: int | None = None
        self._size = 0
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        """See asyncio."""
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(error or ConnectionResetError("the server closed the connection"))

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        self._chunks.append((time.perf_counter(), data))
        self._size += len(data)
        if not self._body_at:
            self._tail += data
            self._read_head()
        else:
            self._tail = (self._tail + data)[-len(_LAST_CHUNK) :]
        if self._body_at and self._is_whole() and self._answered is not None and not self._answered.done():
            self._answered.set_result(None)

    async def exchange(self, request: bytes) -> tuple[float, Chunks]:
        """When the request was sent, and all that came back. Raises ConnectionError where the connection breaks."""
        if self._transport is None:
            await self.open()
        assert self._transport is not None
        self._answered = asyncio.get_running_loop().create_future()
        self._chunks, self._body_at, self._length, self._size, self._tail = [], 0, None, 0, b""
        sent_s = time.perf_counter()
        self._transport.write(request)
        await self._answered
        if not self._keeps:
            self.close()
        return sent_s, self._chunks

    async def open(self) -> None:
        """Connect."""
        await asyncio.get_running_loop().create_connection(lambda: self, HOST, self._port)

    def close(self) -> None:
        """Leave."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def _read_head(self) -> None:
        end = self._tail.find(_HEAD_END)
        if end < 0:
            return
        self._body_at = end + len(_HEAD_END)
        head = self._tail[:end].lower()
        at = head.find(_LENGTH)
        if at >= 0:
            self._length = int(head[at + len(_LENGTH) :].split(b"\r\n", 1)[0])
        elif head.split(b" ", 2)[1] == b"204":
            self._length = 0
        # The blank line before the first chunk stands for the end of a chunk before it.
        self._tail = b"\r\n" + self._tail[self._body_at :]

    def _is_whole(self) -> bool:
        return self._size >= self._body_at + self._length if self._length is not None else self._tail.endswith(_LAST_CHUNK)


@contextmanager
def closing(connections: list[Kept]) -> Iterator[list[Kept]]:
    """The connections, closed at the end."""
    try:
        yield connections
    finally:
        for kept in connections:
            kept.close()


def posted(port: int, path: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> bytes:
    """The bytes of a request."""
    content = json.dumps(body).encode()
    said = {"Host": f"{HOST}:{port}", "Content-Type": "application/json", "Content-Length": str(len(content)), **headers}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in said.items()), "", ""]
    return "\r\n".join(lines).encode() + content
