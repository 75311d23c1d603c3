"""One connection to a client, with the deadlines that aiohttp lacks.

aiohttp bounds slow headers only by its keep-alive time and never bounds a client that does not read. Here a request's head must
be complete `head_s` after its first byte (or after the connection opened), and whatever waits to be sent must make progress
within `write_s`; a connection that misses either is closed.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from dataclasses import dataclass
from typing import Final

from aiohttp import web
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.service.answers import error_response
from rbees.service.clock import SystemClock
from rbees.service.correlation import HEADER, correlation_id
from rbees.service.identity import Identities

LEAST_PROGRESS_BYTES: Final = 16 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a client may take, in seconds."""

    head_s: float = 10.0
    """For the request line and headers."""
    body_s: float = 30.0
    """For the body of a request that a handler reads."""
    write_s: float = 30.0
    """For taking off `LEAST_PROGRESS_BYTES`, or all, of what waits to be sent."""
    keep_alive_s: float = 75.0
    """Between two requests."""
    linger_s: float = 10.0
    """For sending the rest of a body that nobody wants, so that the client gets to read the answer."""


class Connection(web.RequestHandler):
    """aiohttp's connection, plus a timer for a request's head and one for a client that does not read."""

    def __init__(self, manager: web.Server, *, loop: asyncio.AbstractEventLoop, limits: Limits) -> None:
        super().__init__(
            manager,
            loop=loop,
            keepalive_timeout=limits.keep_alive_s,
            lingering_time=limits.linger_s,
            access_log=None,  # type: ignore[arg-type]  # aiohttp takes None for "no access log"; the edge logs requests.
            logger=logging.getLogger("aiohttp.server"),
        )
        self._limits = limits
        self._between_requests = True
        self._body: StreamReader | None = None
        """Of the last request whose head is complete."""
        self._last_bytes = b""
        self._holds_half_head = False
        """Bytes have come that belong to a request behind the last complete one."""
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the first head's time: a connection that never sends one is closed too."""
        super().connection_made(transport)
        self._start_head_timer()

    def connection_lost(self, exc: BaseException | None) -> None:
        """End both timers with the connection."""
        self._stop_head_timer()
        self._stop_write_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Begin the head's time with the first byte that comes between two requests."""
        if data and self._between_requests and self._head_timer is None:
            self._start_head_timer()
        was_complete = self._body is not None and self._body.is_eof()
        super().data_received(data)
        if data:
            self._look_behind_the_last_request(data, was_complete)

    def request_begun(self) -> None:
        """Called by the application once the head is complete."""
        self._between_requests = False
        self._stop_head_timer()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send the answer's rest; whatever comes after it belongs to the next head, and so may what has come already."""
        if isinstance(resp, web.HTTPException):
            # What the application itself refuses has passed the edge and is none; this is aiohttp's own word, quoting the client.
            resp = _refusal(RbeesError(ErrorCode.INVALID_REQUEST, "The request's headers ask for something unknown here."))
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            self._between_requests = True
            if self._holds_half_head and not self._messages and self._head_timer is None and self.transport is not None:
                self._start_head_timer()

    def pause_writing(self) -> None:
        """The client reads slower than rbees writes: from now on it must go on reading."""
        super().pause_writing()
        self._watch_writing()

    def resume_writing(self) -> None:
        """The surplus has gone."""
        self._stop_write_timer()
        super().resume_writing()

    def handle_error(
        self,
        request: web.BaseRequest,  # noqa: ARG002  (the signature is aiohttp's)
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002
    ) -> web.StreamResponse:
        """Answer what is no HTTP with the envelope, and without the parser's words: they quote what was sent."""
        if isinstance(exc, ConnectionError):
            raise exc
        if status == 500:
            self.logger.error("request failed outside of the application", exc_info=exc)
        code = ErrorCode.INVALID_REQUEST if status < 500 else ErrorCode.INTERNAL
        sentence = "The request is not valid HTTP/1.1." if status < 500 else "A defect of rbees; its log has the details."
        return _refusal(RbeesError(code, sentence))

    def _look_behind_the_last_request(self, data: bytes, was_complete: bool) -> None:
        """Learn whether a part of a further head has come. One that came together with the end of a body is not noticed; the time
        between requests bounds it."""
        arrived_complete = bool(self._messages) and self._messages[-1][1] is not self._body
        if arrived_complete:
            self._body = self._messages[-1][1]
        self._last_bytes = (self._last_bytes + data)[-4:]
        if self._body is EMPTY_PAYLOAD:
            self._holds_half_head = self._last_bytes != b"\r\n\r\n"
        else:
            self._holds_half_head = was_complete and not arrived_complete

    def _start_head_timer(self) -> None:
        self._head_timer = asyncio.get_running_loop().call_later(self._limits.head_s, self.force_close)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _watch_writing(self) -> None:
        if self.transport is not None:
            waiting_bytes = self.transport.get_write_buffer_size()
            loop = asyncio.get_running_loop()
            self._write_timer = loop.call_later(self._limits.write_s, self._judge_writing, waiting_bytes)

    def _judge_writing(self, waited_bytes: int) -> None:
        if self.transport is None:
            return
        if waited_bytes - self.transport.get_write_buffer_size() >= LEAST_PROGRESS_BYTES:
            self._watch_writing()
            return
        connected = self.transport.get_extra_info("socket")
        if connected is not None:
            # Otherwise the kernel would keep what it holds for this client, and go on offering it for minutes.
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # close() would wait for the buffer to empty, which is the very thing that does not happen.
        self.transport.abort()

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None


def _refusal(error: RbeesError) -> web.Response:
    """The last answer on a connection, to a request that the edge never saw."""
    made = Identities(SystemClock()).correlation_id()
    correlation_id.set(made)
    response = error_response(error, {HEADER: made, "Server": "rbees"})
    response.force_close()
    return response
