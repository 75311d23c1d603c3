"""What a pool gives to other pools over the LAN: offers of models, the sums of files' pieces, and the bytes."""

from __future__ import annotations

import asyncio
from typing import Annotated, Final

import msgspec
from aiohttp import web

from rbees.host.lending import Lending
from rbees.protocol.downloads import FilePieces, ModelOffer
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.service.file_answer import headers_of, send, span_of
from rbees.service.web import Parameter, argument, reply

SUMMED_WITHIN_S: Final = 5.0
"""Whoever asks for the sums of a file waits so long for them; then they are to ask again."""
QUANTIZATION: Final = Parameter(
    "quantization",
    "Such as Q4_K_M; without it the best one that is here.",
    Annotated[str, msgspec.Meta(min_length=1, max_length=64)],
)
RANGE: Final = Parameter("Range", "One range of bytes, as `bytes=FIRST-LAST`.", where="header")


class Sharing:
    """What the routes about giving do. Files are summed one at a time, beside the event loop, for all who ask together."""

    def __init__(self, lending: Lending) -> None:
        self._lending = lending
        self._summing: dict[str, asyncio.Task[FilePieces]] = {}
        self._one = asyncio.Semaphore(1)

    async def offer(self, request: web.Request) -> web.Response:
        """`GET /models/{name}/offer`."""
        name, quantization = request.match_info["name"], argument(request, QUANTIZATION)
        copied = self._lending.copy_offer(name, quantization)
        return reply(copied if copied is not None else await self._offer(name, quantization))

    async def _offer(self, name: str, quantization: str | None) -> ModelOffer:
        return await asyncio.to_thread(self._lending.offer, name, quantization)

    async def pieces(self, request: web.Request) -> web.Response:
        """`GET /models/{sha256}/pieces`."""
        sha256 = request.match_info["sha256"]
        copied = self._lending.copied(sha256)
        return reply(copied.pieces if copied is not None else await self._pieces(sha256))

    async def _pieces(self, sha256: str) -> FilePieces:
        known = await asyncio.to_thread(self._lending.known_pieces, sha256)
        if known is not None:
            return known
        if sha256 not in self._summing:
            self._summing[sha256] = asyncio.create_task(self._sum(sha256))
            self._summing[sha256].add_done_callback(lambda task: self._summed(sha256, task))
        summing = self._summing[sha256]
        done, _ = await asyncio.wait({summing}, timeout=SUMMED_WITHIN_S)
        if not done:
            message = "The file's pieces are being summed; ask again."
            raise RbeesError(ErrorCode.MODEL_LOADING, message, retry_after_s=1)
        return summing.result()

    def _summed(self, sha256: str, task: asyncio.Task[FilePieces]) -> None:
        del self._summing[sha256]
        if not task.cancelled():
            task.exception()  # Whoever asked may have left without it.

    async def _sum(self, sha256: str) -> FilePieces:
        async with self._one:
            return await asyncio.to_thread(self._lending.pieces, sha256)

    async def blob(self, request: web.Request) -> web.StreamResponse:
        """`GET` and `HEAD` of `/models/{sha256}/blob`."""
        sha256 = request.match_info["sha256"]
        lent = await asyncio.to_thread(self._lending.open, sha256, self._lending.copied(sha256))
        with lent.file:
            span = span_of(request, lent.size_bytes, f'"{sha256}"')
            if request.method != "HEAD" and not lent.has(span.first, span.length):
                message = "This pool fetches the file itself and has not got this part of it yet; see its pieces."
                raise RbeesError(ErrorCode.MODEL_LOADING, message, retry_after_s=1)
            return await send(request, lent.file, span, headers_of(span, sha256))

    def leave(self) -> None:
        """Sum no further, because the daemon ends."""
        self._lending.sums.close()
