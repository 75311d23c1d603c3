"""Responses that are kept: found by their ids, taken up as far as they have come, gone on from, cancelled and forgotten.

A response is its job and what is written beside it (`store/responses`); all that it says is made from the two.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from rbees.orcd.door.foreign import refusal
from rbees.orcd.door.runs import Run, Runs
from rbees.orcd.door.streams import each_event
from rbees.orcd.frames import journaled
from rbees.orcd.jobs import Jobs
from rbees.orcd.journal import Beside
from rbees.orcd.responses.answers import Response
from rbees.orcd.responses.course import Course
from rbees.orcd.responses.items import Item, Reference, named
from rbees.orcd.responses.names import job_of, job_of_item, response_id
from rbees.orcd.responses.requests import Asked, Record, conversation_of
from rbees.orcd.store.jobs import JobRow, JobStore
from rbees.orcd.store.responses import KeptRecord, ResponseStore, kept
from rbees.protocol.chat import ChatMessage
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.jobs import JobRequest

EVENTS_AT_ONCE: Final = 100
"""Of a journal that is read for what has come of a response."""


@dataclass(frozen=True, slots=True)
class Found:
    """A response that is kept, and whose content is still there."""

    row: JobRow
    asked: Response
    record: bytes = field(repr=False)

    def begin(self) -> Course:
        """Its course before the first event."""
        return Course(self.asked, self.row.job_id, self.row.created_at_ms)

    @property
    def input(self) -> tuple[Item, ...]:
        """What it was asked, each item with its name."""
        return named(msgspec.json.decode(self.record, type=Record).input, self.row.job_id)


def beside(record: bytes, *, is_kept: bool = True) -> Beside:
    """What is kept of a response beside its job. Of one that is not, nothing but what an idempotency key stands for."""
    return Beside(record, lambda number: (kept(number, record),) if is_kept else ())


async def answered(run: Run, course: Course, within_s: float | None) -> Response:
    """The whole response, which must start within `within_s` where that is given; one that somebody cancelled is a response too.

    Raises:
        RbeesError: it failed, or as `each_event`.
    """
    await each_event(run, course.take, within_s)
    if course.error is not None and course.error.code is not ErrorCode.CANCELLED:
        raise RbeesError.from_body(course.error)
    return course.response


class KeptResponses:
    """What the routes about responses do beyond accepting and following a job."""

    def __init__(self, store: ResponseStore, job_store: JobStore, jobs: Jobs, runs: Runs) -> None:
        self._store = store
        self._job_store = job_store
        self._jobs = jobs
        self._runs = runs

    async def find(self, id_: str, place: str | None = None) -> Found:
        """A response by its id, which stands in the request at `place`. Raises RbeesError JOB_NOT_FOUND, OUTPUT_ERASED."""
        named_by = {} if place is None else {"field": place}
        found, row = await self._look_up(id_, **named_by)
        if found.record is None or row.erased:
            raise _erased(**named_by)
        return Found(row, msgspec.json.decode(found.record, type=Asked).asked, found.record)

    async def _look_up(self, id_: str, **details: str) -> tuple[KeptRecord, JobRow]:
        job_id = job_of(id_)
        found = await self._store.find(job_id)
        if found is None:
            message = "No response has this id: it was deleted, not kept (`store`: false), or never made."
            raise RbeesError(ErrorCode.JOB_NOT_FOUND, message, **details)
        return found, await self._jobs.row(job_id)

    async def course(self, found: Found) -> Course:
        """As far as it is durable. Raises RbeesError OUTPUT_ERASED."""
        course = found.begin()
        events = 0
        async for event in journaled(self._job_store, found.row.number):
            course.take(event)
            events += 1
            if events % EVENTS_AT_ONCE == 0:
                # An answer may have tens of thousands, and whoever polls reads them each time: others' streams go on in between.
                await asyncio.sleep(0)
        if course.last_number < 0:
            raise _erased()  # Between the two looks at it.
        return course

    async def conversation(self, id_: str) -> tuple[ChatMessage, ...]:
        """What was said up to the end of a response, for one that goes on behind it.

        Raises:
            RbeesError: JOB_NOT_FOUND, OUTPUT_ERASED; INVALID_REQUEST where it has not ended, or not well.
        """
        place = "previous_response_id"
        found = await self.find(id_, place)
        response = (await self.course(found)).response
        if response.status in {"queued", "in_progress"}:
            raise refusal("The previous response has not ended yet; ask again once it has.", place)
        if response.status in {"failed", "cancelled"}:
            message = f"The previous response is {response.status}, so nothing can follow it; go on from the one before it."
            raise refusal(message, place)
        request = await self._job_store.request(found.row.number)
        if request is None:
            raise _erased(field=place)
        return conversation_of(msgspec.json.decode(request, type=JobRequest), found.asked, response.output)

    async def resolve(self, items: Sequence[Item | Reference]) -> tuple[Item, ...]:
        """The items, those that are referred to in the place of the references.

        Raises:
            RbeesError: INVALID_REQUEST for a reference to what is not there, by its place.
        """
        known: dict[str, dict[str, Item]] = {}
        resolved: list[Item] = []
        for number, item in enumerate(items):
            if isinstance(item, Reference):
                place = f"input[{number}]"
                job_id = job_of_item(item.id)
                if job_id is not None and job_id not in known:
                    known[job_id] = await self._items_of(job_id, place)
                found = None if job_id is None else known[job_id].get(item.id)
                if found is None or found.status == "in_progress":
                    message = f"`{place}` refers to no whole item of a response that is kept here; send the item itself."
                    raise refusal(message, place)
                resolved.append(found)
            else:
                resolved.append(item)
        return tuple(resolved)

    async def _items_of(self, job_id: str, place: str) -> dict[str, Item]:
        found = await self.find(response_id(job_id), place)
        output = (await self.course(found)).response.output
        return {item.id: item for item in (*found.input, *output)}

    async def cancel(self, found: Found) -> Course:
        """Have a response cancelled; its whole course, once it has ended, however that was.

        Raises:
            RbeesError: DRAINING where this process stops before that.
        """
        await self._jobs.cancel(found.row.job_id)
        course = found.begin()
        async with self._runs.again(found.row) as run:
            await each_event(run, course.take)
        return course

    async def forget(self, id_: str) -> None:
        """Delete a response and erase its job's content and whose it was; one that has not ended is cancelled first.

        Raises:
            RbeesError: JOB_NOT_FOUND, or as `cancel`.
        """
        _, row = await self._look_up(id_)
        if row.ended_at_ms is None:
            await self.cancel(await self.find(id_))
        await self._store.forget(row.number)


def _erased(**details: str) -> RbeesError:
    message = "The response has ended and its content was erased as the retention setting says."
    return RbeesError(ErrorCode.OUTPUT_ERASED, message, **details)
