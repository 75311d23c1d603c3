"""Answers with what becomes of jobs: whole, or translated event by event.

A stream's head goes out when the first job starts, so that a refusal which only a worker can speak still has its HTTP status; but
it waits no longer than `HEAD_S`, and from then on comments keep the connection alive while a model loads.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final, Protocol

from aiohttp import web

from rbees.orcd.door.collected import Collected
from rbees.orcd.door.runs import Run
from rbees.protocol.errors import RbeesError
from rbees.protocol.events import Error, Event, Started
from rbees.service.sse import SseWriter

HEAD_S: Final = 3.0
"""Some clients and what stands between give up on an answer whose head does not come."""


class Translation(Protocol):
    """What an API makes of the events. All of it is pure."""

    def take(self, number: int, event: Event) -> bytes:
        """Frames for an event of the job with this number, for any but an error."""

    def ended(self) -> bytes:
        """Frames after the last job has ended well."""

    def failed(self, error: RbeesError) -> bytes:
        """Frames that tell of a failure in the midst of the stream, its last ones."""


async def whole(run: Run, choices: int = 1) -> Collected:
    """What came of a job. Raises RbeesError where it failed."""
    collected = Collected(choices)
    async for events in run.events():
        for event in events:
            collected.take(event)
    return collected


async def stream(
    request: web.Request, runs: Sequence[Run], translation: Translation, headers: Mapping[str, str], head_s: float = HEAD_S
) -> web.StreamResponse:
    """Answer `request` with the jobs' events, one job after the other; the head waits for `head_s` at most.

    Raises:
        RbeesError: the first job failed before anything was sent.
    """
    streams = [run.events() for run in runs]
    opening = asyncio.create_task(_opening(streams[0]))
    try:
        await asyncio.wait([opening], timeout=head_s)
        if opening.done():
            _raise_failure(opening.result())
        writer = SseWriter(request, headers)
        async with writer as out:
            try:
                await _send(out, translation, 0, await opening)
                for number, batches in enumerate(streams):
                    async for events in batches:
                        await _send(out, translation, number, events)
                await out.write(translation.ended())
            except RbeesError as error:
                await out.write(translation.failed(error))
        return writer.response
    finally:
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)


async def _opening(batches: AsyncIterator[list[Event]]) -> list[Event]:
    """The events up to the one that says whether the job runs, and those that came together with it."""
    opening: list[Event] = []
    async for events in batches:
        opening += events
        if any(isinstance(event, Started | Error) for event in events):
            break
    return opening


async def _send(out: SseWriter, translation: Translation, number: int, events: Sequence[Event]) -> None:
    """What these events are in the other API. Raises RbeesError where the job failed."""
    frames = b"".join(translation.take(number, event) for event in events if not isinstance(event, Error))
    if frames:
        await out.write(frames)
    _raise_failure(events)


def _raise_failure(events: Sequence[Event]) -> None:
    for event in events:
        if isinstance(event, Error):
            raise RbeesError.from_body(event.error)
