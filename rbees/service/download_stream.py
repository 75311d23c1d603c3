"""A download as a stream of events: the same in a pool and in the orchestrator that passes it on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Final

from aiohttp import web

from rbees.protocol import codec
from rbees.protocol.downloads import (
    DownloadDone,
    DownloadEvent,
    DownloadFailed,
    DownloadPlanned,
    DownloadProgress,
    PoolChosen,
    SourceDropped,
)
from rbees.protocol.errors import RbeesError
from rbees.service.correlation import correlation_id
from rbees.service.sse import EVENTS, SseWriter, StreamForm, frame

ANSWER_WITHIN_S: Final = 5.0
"""So long a refusal can still have a status of its own; then the stream begins, which keeps the connection alive."""
_NAMES: Final = {
    PoolChosen: "chosen",
    DownloadPlanned: "planned",
    DownloadProgress: "progress",
    SourceDropped: "source_dropped",
    DownloadDone: "done",
    DownloadFailed: "failed",
}


async def stream_download(
    request: web.Request,
    events: AsyncGenerator[DownloadEvent],
    spelled: Callable[[DownloadEvent], bytes] | None = None,
    form: StreamForm = EVENTS,
    headers: Mapping[str, str] | None = None,
) -> web.StreamResponse:
    """Send the events; what ends them is the last one. A client that leaves ends the download.

    Another API spells them otherwise.

    Raises:
        RbeesError: what refused the download before anything was sent.
    """
    spell = spelled or _frame
    writer = SseWriter(request, headers, form=form)
    async with aclosing(events):
        first = asyncio.ensure_future(anext(events))
        try:
            await asyncio.wait({first}, timeout=ANSWER_WITHIN_S)
            if first.done():
                first.result()  # Raises what refuses it, while that can be an answer of its own.
            async with writer as out:
                try:
                    await out.write(spell(await first))
                    async for event in events:
                        await out.write(spell(event))
                except RbeesError as error:
                    await out.write(spell(DownloadFailed(error=error.body(correlation_id.get()))))
        finally:
            # The iterator can only be closed once nobody waits for its next event any more.
            first.cancel()
            await asyncio.wait({first})
            if not first.cancelled():
                first.exception()
    return writer.response


def _frame(event: DownloadEvent) -> bytes:
    return frame(None, _NAMES[type(event)], codec.encode(event))
