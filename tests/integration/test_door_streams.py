"""Streams of foreign APIs over real sockets: when their head goes out, and what becomes of a failure before and after it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

from aiohttp import ClientSession
from aiohttp import web as http

from rbees.orcd.door.runs import Run
from rbees.orcd.door.streams import HEAD_S, stream
from rbees.protocol.codec import encode
from rbees.protocol.errors import ErrorBody, ErrorCode, RbeesError
from rbees.protocol.events import Error, Event, Metrics, Queued, event_name
from rbees.service.sse import frame
from rbees.service.web import Route
from tests.support.orcd_parts import end, started, token
from tests.support.service_app import serving

QUEUED = Queued(queue_position=1, created_at_ms=1)
FAILED = Error(error=ErrorBody(code=ErrorCode.CONTEXT_EXCEEDED, message="Too long."))
HEADERS = {"X-Own": "yes"}


class Spelled:
    """Each event as its number and name."""

    def take(self, number: int, event: Event) -> bytes:
        return f"data: {number} {event_name(event)}\n\n".encode()

    def ended(self) -> bytes:
        return b"data: done\n\n"

    def failed(self, error: RbeesError) -> bytes:
        return f"data: {error.code}\n\n".encode()


class Told:
    """What jobs say is put in by the test."""

    def __init__(self, jobs: int = 1, head_s: float = HEAD_S, wait_s: float | None = None) -> None:
        self._queues: list[asyncio.Queue[bytes]] = [asyncio.Queue() for _ in range(jobs)]
        self._head_s = head_s
        self._wait_s = wait_s
        self.given_up = 0
        self._seq = 0

    def say(self, *events: Event, job: int = 0) -> None:
        """They become durable together."""
        self._queues[job].put_nowait(b"".join(frame(n, event_name(e), encode(e)) for n, e in enumerate(events, 1)))

    async def _pieces(self, queue: asyncio.Queue[bytes]) -> AsyncIterator[bytes]:
        while True:
            yield await queue.get()

    async def answer(self, request: http.Request) -> http.StreamResponse:
        row = cast("Any", SimpleNamespace(cancel_on_disconnect=True))
        runs = [Run(row, self._pieces(queue), self._give_up) for queue in self._queues]
        return await stream(request, runs, Spelled(), HEADERS, self._wait_s, self._head_s)

    async def _give_up(self) -> None:
        self.given_up += 1

    @asynccontextmanager
    async def asked(self) -> AsyncIterator[Any]:
        """The answer, once its head has come."""
        async with (
            serving(Route("GET", "/s", self.answer, "Stream.")) as server,
            ClientSession() as session,
            session.get(f"{server.url}/s") as response,
        ):
            yield response


def lines(body: bytes) -> list[str]:
    return [line.removeprefix("data: ") for line in body.decode().split("\n\n") if line.startswith("data: ")]


async def test_a_failure_before_the_start_has_a_status_of_its_own() -> None:
    told = Told()
    told.say(QUEUED)
    told.say(FAILED)
    async with told.asked() as response:
        assert (response.status, (await response.json())["error"]["code"]) == (422, "CONTEXT_EXCEEDED")


async def test_the_head_does_not_wait_for_ever_and_then_a_failure_is_part_of_the_stream() -> None:
    told = Told(head_s=0.01)
    told.say(QUEUED)
    async with told.asked() as response:
        assert (response.status, response.content_type, response.headers["X-Own"]) == (200, "text/event-stream", "yes")
        told.say(FAILED)
        assert lines(await response.read()) == ["0 queued", "CONTEXT_EXCEEDED"]


async def test_what_happens_before_the_start_is_told_as_it_comes() -> None:
    told = Told(head_s=0.01)
    told.say(QUEUED)
    async with told.asked() as response:
        assert lines(await response.content.readuntil(b"\n\n")) == ["0 queued"]
        told.say(Metrics(stage="loading", progress=0.5))
        assert lines(await response.content.readuntil(b"\n\n")) == ["0 metrics"]
        told.say(started(), token(0))
        told.say(end())
        assert lines(await response.read()) == ["0 started", "0 token", "0 end", "done"]


async def test_what_came_before_a_failure_is_not_lost_with_it() -> None:
    told = Told()
    told.say(QUEUED, started())
    async with told.asked() as response:
        told.say(token(0), FAILED)
        assert lines(await response.read()) == ["0 queued", "0 started", "0 token", "CONTEXT_EXCEEDED"]


async def test_several_jobs_come_one_after_the_other() -> None:
    told = Told(jobs=2)
    told.say(QUEUED, started(), token(0), end(), job=1)
    told.say(QUEUED, started(), end())
    async with told.asked() as response:
        first, second = (["queued", "started", *more, "end"] for more in ([], ["token"]))
        assert lines(await response.read()) == [*(f"0 {name}" for name in first), *(f"1 {name}" for name in second), "done"]


async def test_where_one_of_several_fails_in_the_midst_the_others_are_given_up() -> None:
    told = Told(jobs=2)
    told.say(QUEUED, started())
    told.say(QUEUED, started(), job=1)
    async with told.asked() as response:
        told.say(FAILED)
        assert lines(await response.read()) == ["0 queued", "0 started", "CONTEXT_EXCEEDED"]
    assert told.given_up == 2


async def test_who_would_rather_be_told_than_wait_is_told() -> None:
    told = Told(jobs=2, wait_s=0.01)
    told.say(QUEUED, Metrics(stage="waiting", reason="x"), Metrics(stage="loading", progress=0.25))
    async with told.asked() as response:
        said = (await response.json())["error"]
        assert (response.status, said["code"], said["details"]["progress"]) == (503, "MODEL_LOADING", 0.25)
        assert response.headers["Retry-After"]
    assert told.given_up == 2


async def test_when_to_ask_again_follows_the_pace_of_the_load_and_not_what_was_waited() -> None:
    told = Told(wait_s=0.5)
    for progress in (0.1, 0.2):
        told.say(Metrics(stage="loading", progress=progress))
    async with told.asked() as response:
        # A tenth in next to no time. By what was waited it would be 2 s.
        assert (await response.json())["error"]["details"]["retry_after_s"] == 1.0


async def test_patience_that_suffices_changes_nothing() -> None:
    told = Told(wait_s=60)
    told.say(QUEUED, started(), token(0), end())
    async with told.asked() as response:
        assert lines(await response.read()) == ["0 queued", "0 started", "0 token", "0 end", "done"]
    failing = Told(wait_s=60)
    failing.say(QUEUED, FAILED)
    async with failing.asked() as response:
        assert response.status == 422
    assert told.given_up == failing.given_up == 0
