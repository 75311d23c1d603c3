"""Answers with what becomes of jobs: whole, or translated event by event.

A stream's head goes out when the first job starts, so that a refusal which only a worker can speak still has its HTTP status; but
it waits no longer than `HEAD_S`, and from then on comments keep the connection alive while a model loads. Who would rather be told
than wait says how long (`patience`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final, Protocol

from aiohttp import web

from rbees.orcd.door.collected import Collected
from rbees.orcd.door.patience import Pace, not_started
from rbees.orcd.door.runs import Run, give_up_rest
from rbees.protocol.errors import RbeesError
from rbees.protocol.events import End, Error, Event, Started
from rbees.service.sse import EVENTS, SseWriter, StreamForm

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


async def whole(run: Run, choices: int = 1, wait_s: float | None = None) -> Collected:
    """What came of a job, which must start within `wait_s` where that is given.

    Raises:
        RbeesError: it failed, or as `patience.not_started`.
    """
    collected = Collected(choices)
    await each_event(run, collected.take, wait_s)
    return collected


async def each_event(run: Run, take: Callable[[Event], object], wait_s: float | None = None) -> None:
    """Have everything taken that comes of a job, an error too; it must start within `wait_s` where that is given.

    Raises:
        RbeesError: as `patience.not_started` or `Run.events`.
    """
    batches = run.events()
    if wait_s is not None:
        async with _opening(batches, wait_s) as opening:
            for event in await opening.in_time([run]):
                take(event)
    async for events in batches:
        for event in events:
            take(event)


async def stream(
    request: web.Request,
    runs: Sequence[Run],
    translation: Translation,
    headers: Mapping[str, str],
    wait_s: float | None = None,
    head_s: float = HEAD_S,
    form: StreamForm = EVENTS,
) -> web.StreamResponse:
    """Answer `request` with the jobs' events, one job after the other.

    The first job must start within `wait_s` where that is given; else the head waits for that no longer than `head_s`.

    Raises:
        RbeesError: the first job failed before anything was sent, or as `patience.not_started`.
    """
    streams = [run.events() for run in runs]
    async with _opening(streams[0], head_s if wait_s is None else wait_s) as opening:
        if wait_s is not None or opening.is_over:
            _raise_failure(await opening.in_time(runs))
        writer = SseWriter(request, headers, form=form)
        async with writer as out:
            try:
                async for events in opening.events():
                    await _send(out, translation, 0, events, is_last=len(runs) == 1)
                for number, batches in enumerate(streams):
                    async for events in batches:
                        await _send(out, translation, number, events, is_last=number == len(runs) - 1)
            except RbeesError as error:
                await out.finish(translation.failed(error))
                await give_up_rest(runs, error)
        return writer.response


class _Opening:
    """The events of a job up to the one that says whether it runs, and those that came together with it."""

    def __init__(self, batches: AsyncIterator[list[Event]], waited_s: float) -> None:
        self._seen: list[Event] = []
        self._waited_s = waited_s
        self._news = asyncio.Event()
        self._pace = Pace()
        self.reading = asyncio.create_task(self._read(batches))
        self.reading.add_done_callback(lambda _: self._news.set())

    @property
    def is_over(self) -> bool:
        """Whether all of them have come."""
        return self.reading.done()

    async def events(self) -> AsyncIterator[list[Event]]:
        """All of them as they come, however long that takes."""
        given = 0
        while not self.is_over or given < len(self._seen):
            self._news.clear()
            if len(self._seen) > given:
                fresh, given = self._seen[given:], len(self._seen)
                yield fresh
            elif not self.is_over:
                await self._news.wait()
        await self.reading  # Which may have failed.

    async def in_time(self, runs: Sequence[Run]) -> list[Event]:
        """All of them, if they have come by now; if not, the jobs are given up. Raises RbeesError as `patience.not_started`."""
        if self.is_over:
            return await self.reading
        for run in runs:
            await run.give_up()
        raise not_started(self._seen, self._waited_s, self._pace.left_s(asyncio.get_running_loop().time()))

    async def _read(self, batches: AsyncIterator[list[Event]]) -> list[Event]:
        async for events in batches:
            self._seen += events
            self._pace.take(events, asyncio.get_running_loop().time())
            self._news.set()
            if any(isinstance(event, Started | Error) for event in events):
                break
        return self._seen


@asynccontextmanager
async def _opening(batches: AsyncIterator[list[Event]], wait_s: float) -> AsyncIterator[_Opening]:
    """The opening of a job, once it is over or `wait_s` have passed."""
    opening = _Opening(batches, wait_s)
    try:
        await asyncio.wait([opening.reading], timeout=wait_s)
        yield opening
    finally:
        opening.reading.cancel()
        await asyncio.gather(opening.reading, return_exceptions=True)


async def _send(out: SseWriter, translation: Translation, number: int, events: Sequence[Event], *, is_last: bool) -> None:
    """What these events are in the other API, with its end behind those that end the last job.

    Raises:
        RbeesError: a job failed.
    """
    frames = b"".join(translation.take(number, event) for event in events if not isinstance(event, Error))
    if is_last and isinstance(events[-1], End):
        await out.finish(frames + translation.ended())
    elif frames:
        await out.write(frames)
    _raise_failure(events)


def _raise_failure(events: Sequence[Event]) -> None:
    for event in events:
        if isinstance(event, Error):
            raise RbeesError.from_body(event.error)
