"""Writing server-sent events: the exact bytes of a frame, and a writer that a slow client cannot hold up for ever.

The parser is next door (`sse_parser`), free of the web framework, for clients that only read.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from aiohttp import web

from rbees.service.routes import EVENT_STREAM
from rbees.service.sse_parser import SseFrame, SseParser, SseTooLong

__all__ = ["COMMENT", "EVENTS", "ClientGone", "SseFrame", "SseParser", "SseTooLong", "SseWriter", "StreamForm", "frame"]

COMMENT: Final = b":\n\n"
"""Keeps a connection alive and shows to no client."""
BUFFER_BYTES: Final = 64 * 1024
"""What may wait in this process for one client."""
KERNEL_BUFFER_BYTES: Final = 256 * 1024
PIECE_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class StreamForm:
    """What a stream is on the wire: server-sent events, or what another API has in their place."""

    content_type: str = EVENT_STREAM
    comment: bytes = COMMENT
    """What clients pass over; sent while there is nothing else to send."""


EVENTS: Final = StreamForm()


class ClientGone(ConnectionError):
    """The client closed the connection, or was cut off because it did not read."""


def frame(id_: int | None, event: str, data: bytes) -> bytes:
    """The bytes of one event. `data` is JSON on one line, so it needs no splitting."""
    assert len(data.splitlines()) == 1, "the data of an event is one line"
    number = b"" if id_ is None else b"id: %d\n" % id_
    return b"%bevent: %b\ndata: %b\n\n" % (number, event.encode(), data)


class SseWriter:
    """An open stream to one client, used as a context manager; afterwards return `response` from the handler.

    `write` waits while more than `BUFFER_BYTES` are under way. A client that takes nothing for the server's write limit is cut
    off: `write` raises `ClientGone`, or the handler is cancelled where it waits for something else. Leaving the context by
    `ClientGone` is no failure and raises nothing.
    """

    def __init__(
        self,
        request: web.Request,
        headers: Mapping[str, str] | None = None,
        comment_every_s: float = 10.0,
        form: StreamForm = EVENTS,
    ) -> None:
        self._request = request
        self._comment = form.comment
        self.response = web.StreamResponse(headers={"X-Accel-Buffering": "no", **(headers or {})})
        self.response.content_type = form.content_type
        self.response.charset = "utf-8"
        self._comment_every_s = comment_every_s
        self._one_at_a_time = asyncio.Lock()
        self._last_write = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._comments: asyncio.Task[None] | None = None
        """Writes a comment; on its way only while there is nothing else to send, for a stream seldom needs one."""

    async def __aenter__(self) -> Self:
        _bound_buffers(self._request.transport)
        try:
            await self.response.prepare(self._request)
        except ConnectionError:
            raise ClientGone("the client left before the stream began") from None
        self._last_write = asyncio.get_running_loop().time()
        self._look_again()
        return self

    async def write(self, data: bytes) -> None:
        """Send whole frames.

        Raises:
            ClientGone: nobody reads any more.
        """
        async with self._one_at_a_time:
            await self._send_pieces(data)

    async def finish(self, data: bytes) -> None:
        """Send the last frames together with the end of the stream, so that its reader keeps the connection. Raises as `write`."""
        self._end_comments()
        async with self._one_at_a_time:
            rest = len(data) % PIECE_BYTES
            await self._send_pieces(data[: len(data) - rest])
            try:
                await self.response.write_eof(data[len(data) - rest :])
            except ConnectionError:
                raise ClientGone("the client left") from None

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        self._end_comments()
        if self._comments is not None:
            await asyncio.wait([self._comments])
            if not self._comments.cancelled():
                self._comments.exception()  # Only a client that left ends it badly, which the handler learns by itself.
        return isinstance(error, ClientGone)

    def _end_comments(self) -> None:
        assert self._timer is not None
        self._timer.cancel()
        if self._comments is not None:
            self._comments.cancel()

    async def _send_pieces(self, data: bytes) -> None:
        for start in range(0, len(data), PIECE_BYTES):
            await self._send(data[start : start + PIECE_BYTES])
        self._last_write = asyncio.get_running_loop().time()

    async def _send(self, piece: bytes) -> None:
        transport = self._request.transport
        if transport is None or transport.is_closing():
            raise ClientGone("the client left")
        try:
            await self.response.write(piece)
        except ConnectionError:
            raise ClientGone("the client left") from None

    def _look_again(self) -> None:
        self._timer = asyncio.get_running_loop().call_at(self._last_write + self._comment_every_s, self._comment_if_idle)

    def _comment_if_idle(self) -> None:
        if asyncio.get_running_loop().time() < self._last_write + self._comment_every_s:
            self._look_again()
        else:
            self._comments = asyncio.create_task(self._write_comment())

    async def _write_comment(self) -> None:
        await self.write(self._comment)
        self._look_again()


def _bound_buffers(transport: asyncio.Transport | None) -> None:
    if transport is None:
        raise ClientGone("the client left before the stream began")
    transport.set_write_buffer_limits(high=BUFFER_BYTES)
    connected = transport.get_extra_info("socket")
    if connected is not None:
        # Left alone, the kernel would let its own buffer grow to megabytes for a client that does not read.
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BUFFER_BYTES)
