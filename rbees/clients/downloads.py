"""Frames of a download's stream back into events. Kinds that only a newer peer knows are passed over."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final

from rbees.clients.failures import not_understood
from rbees.protocol import codec
from rbees.protocol.downloads import DownloadDone, DownloadEvent, DownloadFailed
from rbees.protocol.errors import RbeesError
from rbees.service.sse_parser import SseFrame

EVENT_NAMES: Final = frozenset({"chosen", "planned", "progress", "source_dropped", "done", "failed"})


async def download_events(url: str, frames: AsyncIterator[SseFrame]) -> AsyncGenerator[DownloadEvent]:
    """The events, to the one that says that all is here.

    Raises:
        RbeesError: what the last event says went wrong; INTERNAL where there is no last event.
    """
    async for frame in frames:
        if frame.event not in EVENT_NAMES:
            continue
        event = _decode(url, frame)
        if isinstance(event, DownloadFailed):
            raise RbeesError.from_body(event.error)
        yield event
        if isinstance(event, DownloadDone):
            return
    raise not_understood(url)


def _decode(url: str, frame: SseFrame) -> DownloadEvent:
    try:
        event: DownloadEvent = codec.decode(frame.data, DownloadEvent)  # type: ignore[arg-type]  # A union is no type to mypy.
    except RbeesError:
        raise not_understood(url) from None
    return event
