"""A file, or a range of it, as the answer to a request: by the kernel's own copying where the connection is not encrypted.

Ranges are those of RFC 9110, section 14, one at a time. A client that does not take off what it asked for is cut off, as anywhere
else (`connection.py`); the copying passes by the buffer that is watched there.
"""

from __future__ import annotations

import asyncio
import os
from base64 import b64encode
from collections.abc import Mapping
from typing import BinaryIO, Final

from aiohttp import web

from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.service.bodies import LIMITS

STEP_BYTES: Final = 4 << 20
"""So much must be taken off within the time for writing."""
_READ_BYTES: Final = 256 << 10


class Span:
    """The part of a file that is sent: `first` and `length` in bytes; `is_part` where the request named a range."""

    def __init__(self, first: int, length: int, size_bytes: int, *, is_part: bool) -> None:
        self.first = first
        self.length = length
        self.size_bytes = size_bytes
        self.is_part = is_part


def span_of(request: web.Request, size_bytes: int, etag: str) -> Span:
    """What a request asks for; only GET knows ranges.

    Raises:
        RbeesError: RANGE_NOT_SATISFIABLE.
    """
    whole = Span(0, size_bytes, size_bytes, is_part=False)
    if request.method != "GET" or "Range" not in request.headers or request.headers.get("If-Range", etag) != etag:
        return whole
    try:
        asked = request.http_range
    except ValueError:
        raise _unsatisfiable(size_bytes) from None
    first, stop, _ = asked.indices(size_bytes)
    if stop <= first:
        raise _unsatisfiable(size_bytes)
    return Span(first, stop - first, size_bytes, is_part=True)


def _unsatisfiable(size_bytes: int) -> RbeesError:
    message = f"The file has {size_bytes} bytes; ask for one range of them as `bytes=FIRST-LAST`."
    return RbeesError(ErrorCode.RANGE_NOT_SATISFIABLE, message, size_bytes=size_bytes)


def headers_of(span: Span, sha256: str) -> Mapping[str, str]:
    """What the answer says of the file, whose bytes never change: its sum is its name."""
    return {**plain_headers(span, sha256), "Repr-Digest": f"sha-256=:{b64encode(bytes.fromhex(sha256)).decode()}:"}


def plain_headers(span: Span, name: str) -> dict[str, str]:
    """The same of a file whose sum nobody made; its bytes never change under this `name`."""
    made = {
        "Content-Type": "application/octet-stream",
        "Content-Length": str(span.length),
        "Accept-Ranges": "bytes",
        "ETag": f'"{name}"',
    }
    if span.is_part:
        made["Content-Range"] = f"bytes {span.first}-{span.first + span.length - 1}/{span.size_bytes}"
    return made


async def send(request: web.Request, file: BinaryIO, span: Span, headers: Mapping[str, str]) -> web.StreamResponse:
    """Send a span of an open file; a HEAD request gets its headers only. A file that turns out shorter breaks the answer off."""
    response = web.StreamResponse(status=206 if span.is_part else 200, headers=headers)
    await response.prepare(request)
    if request.method == "HEAD":
        return response
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file.fileno(), span.first, span.length, os.POSIX_FADV_SEQUENTIAL)
    for position in range(span.first, span.first + span.length, STEP_BYTES):
        count = min(STEP_BYTES, span.first + span.length - position)
        if not _copies(request):
            await _write(response, file, position, count)
            continue
        try:
            async with asyncio.timeout(request.app[LIMITS].write_s):
                await _copy(request, file, position, count)
        except TimeoutError:
            raise _broken_off(request) from None
    await response.write_eof()
    return response


def _copies(request: web.Request) -> bool:
    """Whether the kernel can copy from file to connection: not what is encrypted here, and uvloop has no way to ask for it."""
    encrypted = request.transport is not None and request.transport.get_extra_info("sslcontext") is not None
    return not encrypted and isinstance(asyncio.get_running_loop(), asyncio.BaseEventLoop)


async def _copy(request: web.Request, file: BinaryIO, first: int, count: int) -> None:
    transport = request.transport
    if transport is None or transport.is_closing():
        raise ConnectionResetError("the client has left")
    sent = await asyncio.get_running_loop().sendfile(transport, file, first, count)
    if sent < count:
        raise _broken_off(request)


async def _write(response: web.StreamResponse, file: BinaryIO, first: int, count: int) -> None:
    for position in range(first, first + count, _READ_BYTES):
        length = min(_READ_BYTES, first + count - position)
        content = await asyncio.to_thread(os.pread, file.fileno(), length, position)
        if len(content) < length:
            raise ConnectionResetError("the file is shorter than it was")
        await response.write(content)


def _broken_off(request: web.Request) -> ConnectionResetError:
    if request.transport is not None:
        request.transport.abort()
    return ConnectionResetError("the answer was broken off")
