"""Frames of a stream back into events. Kinds that only a newer peer knows are passed over."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from rbees.clients.failures import not_understood
from rbees.protocol import codec
from rbees.protocol.errors import RbeesError
from rbees.protocol.events import Event
from rbees.protocol.workers import Beat
from rbees.service.sse_parser import SseFrame

LONGEST_NUMBER: Final = 18
"""Digits; a stream that could reach a number beyond is none of ours."""
EVENT_NAMES = frozenset({"queued", "started", "token", "result", "metrics", "end", "error"})


async def numbered_events(url: str, frames: AsyncIterator[SseFrame]) -> AsyncIterator[tuple[int, Event]]:
    """The events of orcd's stream with their numbers."""
    async for frame in frames:
        if frame.event in EVENT_NAMES:
            yield number(url, frame), decode_event(url, frame)


async def worker_events(url: str, frames: AsyncIterator[SseFrame]) -> AsyncIterator[tuple[int | None, Event | Beat]]:
    """The events of a worker's stream; beats have no number."""
    async for frame in frames:
        if frame.event == "beat":
            yield None, decode_beat(url, frame)
        elif frame.event in EVENT_NAMES:
            yield number(url, frame), decode_event(url, frame)


def number(url: str, frame: SseFrame) -> int:
    """The frame's number, from 1. Raises INTERNAL where it has none."""
    if frame.id is None or not frame.id.isascii() or not frame.id.isdigit() or len(frame.id) > LONGEST_NUMBER:
        raise not_understood(url)
    return int(frame.id)


def decode_event(url: str, frame: SseFrame) -> Event:
    """The frame's event. Raises INTERNAL where its data has another form."""
    try:
        event: Event = codec.decode(frame.data, Event)  # type: ignore[arg-type]  # A union is no type to mypy.
    except RbeesError:
        raise not_understood(url) from None
    return event


def decode_beat(url: str, frame: SseFrame) -> Beat:
    """The frame's beat. Raises INTERNAL where its data has another form."""
    try:
        return codec.decode(frame.data, Beat)
    except RbeesError:
        raise not_understood(url) from None
