"""One peer over HTTP: calls that return a message, and streams of events. Every failure is an `RbeesError`."""

from __future__ import annotations

import gzip
import io
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ssl import SSLContext
from types import TracebackType
from typing import Any, Final, Self, TypeVar, overload

import aiohttp
from yarl import URL

from rbees.clients.dialer import Dialer
from rbees.clients.failures import not_understood, refused, unreachable, without_token
from rbees.protocol import codec
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.service.correlation import HEADER, correlation_id
from rbees.service.sse_parser import SseFrame, SseParser, SseTooLong
from rbees.service.user_agent import USER_AGENT

MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
MAX_REFUSAL_BYTES: Final = 1024 * 1024
WHOLE_BODY_BYTES: Final = 512 * 1024
STREAM_IDLE_S: Final = 30.0
"""Three times the interval in which a silent stream shows a comment."""

PACKING_LEVEL: Final = 1
"""The fastest: what goes in every heartbeat is names and figures that repeat themselves, and shrinks to an eighth by that."""

_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f]")

T = TypeVar("T")
Query = Mapping[str, str | int]


@dataclass(frozen=True, slots=True)
class Packed:
    """A body to be sent compressed (RFC 9110, `Content-Encoding: gzip`), which every daemon of rbees has always read."""

    body: Any


class HttpClient:
    """Calls one base url. Without a `dialer` it opens, and on `close` ends, connections of its own."""

    def __init__(
        self,
        base_url: str,
        *,
        token: str | None = None,
        ssl: SSLContext | None = None,
        unreachable: ErrorCode,
        connect_timeout_s: float = 5.0,
        dialer: Dialer | None = None,
        role: str | None = None,
    ) -> None:
        self._base = _checked_base(base_url)
        self._token = token
        self._ssl: SSLContext | bool = ssl if ssl is not None else True
        self._unreachable = unreachable
        self._role = role
        self._dialer = dialer or Dialer(connect_timeout_s)
        self._owns_dialer = dialer is None

    @property
    def url(self) -> str:
        """The base url, without a slash at its end."""
        return self._base

    def __repr__(self) -> str:
        return f"HttpClient({self._base!r})"

    @overload
    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        response: type[T] = ...,
        timeout_s: float = 30.0,
        headers: Mapping[str, str] | None = None,
        query: Query | None = None,
        max_bytes: int = ...,
    ) -> T: ...

    @overload
    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        response: None = None,
        timeout_s: float = 30.0,
        headers: Mapping[str, str] | None = None,
        query: Query | None = None,
        max_bytes: int = ...,
    ) -> None: ...

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        response: type[T] | None = None,
        timeout_s: float = 30.0,
        headers: Mapping[str, str] | None = None,
        query: Query | None = None,
        max_bytes: int = MAX_ANSWER_BYTES,
    ) -> T | None:
        """Send `body` as JSON and return the answer as `response` (None: whatever it holds is dropped), if it is no longer than
        `max_bytes`.

        Raises:
            RbeesError: the code the peer answered with, or this client's code for a peer that cannot be reached.
        """
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        async with self._request(method, path, body, headers, query, timeout) as answer:
            try:
                content = await _read_bounded(answer, max_bytes)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                raise unreachable(self._unreachable, self._base, error, self._role) from None
        if response is None:
            return None
        try:
            return codec.decode(content, response)
        except RbeesError:
            raise not_understood(self._base) from None

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        query: Query | None = None,
        idle_timeout_s: float | None = STREAM_IDLE_S,
    ) -> AsyncIterator[AsyncIterator[SseFrame]]:
        """Open a stream of events: `async with client.stream(…) as frames: async for frame in frames`.

        The iterator ends where the peer ends the stream in order; a broken or silent one raises.

        Raises:
            RbeesError: as `call`.
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_read=idle_timeout_s)
        async with self._request(method, path, body, {"Accept": "text/event-stream", **(headers or {})}, query, timeout) as answer:
            yield self._frames(answer)

    @asynccontextmanager
    async def lines(
        self, path: str, query: Query | None = None, idle_timeout_s: float | None = None
    ) -> AsyncIterator[AsyncIterator[str]]:
        """Open a plain text as it grows, line by line. Raises as `stream`."""
        timeout = aiohttp.ClientTimeout(total=None, sock_read=idle_timeout_s)
        async with self._request("GET", path, None, None, query, timeout) as answer:
            yield self._text_lines(answer)

    @asynccontextmanager
    async def body(
        self,
        method: str,
        path: str,
        idle_timeout_s: float | None = STREAM_IDLE_S,
        headers: Mapping[str, str] | None = None,
        read_ahead_bytes: int | None = None,
    ) -> AsyncIterator[tuple[Mapping[str, str], AsyncIterator[bytes]]]:
        """The headers of an answer and its body, piece by piece. One that ends before it is complete raises, as `stream` does."""
        timeout = aiohttp.ClientTimeout(total=None, sock_read=idle_timeout_s)
        sent = {"Accept-Encoding": "identity", **(headers or {})}
        async with self._request(method, path, None, sent, None, timeout, read_ahead_bytes) as answer:
            yield answer.headers, self._pieces(answer)

    async def close(self) -> None:
        """Close this client's own connections; those of a shared dialer stay."""
        if self._owns_dialer:
            await self._dialer.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        path: str,
        body: Any,
        headers: Mapping[str, str] | None,
        query: Query | None,
        timeout: aiohttp.ClientTimeout,
        read_ahead_bytes: int | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A success of the peer, its body not yet read."""
        payload, sent_headers = _payload(body), self._headers(body is not None, headers)
        if isinstance(body, Packed):
            sent_headers["Content-Encoding"] = "gzip"
        try:
            answer = await self._dialer.session().request(
                method,
                URL(self._base + path, encoded=True).update_query(query or {}),
                data=payload,
                headers=sent_headers,
                ssl=self._ssl,
                timeout=timeout,
                allow_redirects=False,
                read_bufsize=read_ahead_bytes,
            )
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            # ValueError is what resolvers and url libraries raise for a name that can be no host's.
            raise unreachable(self._unreachable, self._base, error, self._role) from None
        try:
            if not 200 <= answer.status < 300:
                raise await self._refusal(answer)
            yield answer
        finally:
            # A body that was read to its end leaves the connection usable; any other does not.
            answer.release() if answer.content.at_eof() else answer.close()

    async def _refusal(self, answer: aiohttp.ClientResponse) -> RbeesError:
        try:
            content = await _read_bounded(answer, MAX_REFUSAL_BYTES)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return unreachable(self._unreachable, self._base, error, self._role)
        refusal = refused(self._unreachable, self._base, answer.status, content)
        if refusal.code is ErrorCode.UNAUTHENTICATED and self._token is None and self._role is not None:
            return without_token(self._role)
        return refusal

    async def _frames(self, answer: aiohttp.ClientResponse) -> AsyncIterator[SseFrame]:
        parser = SseParser()
        try:
            async for chunk in answer.content.iter_any():
                for frame in parser.feed(chunk):
                    yield frame
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise unreachable(self._unreachable, self._base, error, self._role) from None
        except SseTooLong:
            raise not_understood(self._base) from None

    async def _pieces(self, answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        try:
            async for chunk in answer.content.iter_any():
                yield chunk
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise unreachable(self._unreachable, self._base, error, self._role) from None

    async def _text_lines(self, answer: aiohttp.ClientResponse) -> AsyncIterator[str]:
        pending = b""
        try:
            async for chunk in answer.content.iter_any():
                *complete, pending = (pending + chunk).split(b"\n")
                for line in complete:
                    yield line.decode(errors="replace")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise unreachable(self._unreachable, self._base, error, self._role) from None
        if pending:
            yield pending.decode(errors="replace")

    def _headers(self, has_body: bool, extra: Mapping[str, str] | None) -> dict[str, str]:
        headers = {"User-Agent": USER_AGENT, **(extra or {})}
        for name, value in headers.items():
            if _CONTROLS.search(value):
                raise RbeesError(ErrorCode.INVALID_REQUEST, f"`{name}` must not hold control characters.", field=name)
        if has_body:
            headers["Content-Type"] = "application/json"
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        current = correlation_id.get()
        if current is not None:
            headers[HEADER] = current
        return headers


def _payload(body: Any) -> bytes | io.BytesIO | None:
    if body is None:
        return None
    if isinstance(body, Packed):
        return gzip.compress(codec.encode(body.body), PACKING_LEVEL, mtime=0)
    encoded = codec.encode(body)
    # Written in one piece, a long body would hold the event loop up; as a file, aiohttp sends it piece by piece.
    return io.BytesIO(encoded) if len(encoded) > WHOLE_BODY_BYTES else encoded


async def _read_bounded(answer: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    content = bytearray()
    async for chunk in answer.content.iter_any():
        content += chunk
        if len(content) > max_bytes:
            raise aiohttp.ClientPayloadError("the answer is too long")
    return bytes(content)


def is_base_url(url: str) -> bool:
    """Whether `url` has the form `http://host:port`, so that a client can be made for it."""
    try:
        parsed = URL(url)
        # What the resolver will do: it refuses empty labels, labels above 63 characters, and what IDNA does not know.
        (parsed.host or "").encode("idna")
    except ValueError:
        return False
    is_named = bool(parsed.host) and not _CONTROLS.search(url) and " " not in url
    return parsed.scheme in {"http", "https"} and is_named and not parsed.query_string and parsed.user is None


def _checked_base(base_url: str) -> str:
    if not is_base_url(base_url):
        # What makes a url unfit may be a password in it, which is then not repeated.
        shown = {} if "@" in base_url else {"url": base_url}
        raise RbeesError(ErrorCode.CONFIGURATION, "The url of a daemon must look like `http://host:port`.", **shown)
    return base_url.rstrip("/")
