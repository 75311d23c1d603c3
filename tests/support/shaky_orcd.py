"""An orcd for tests of its clients: real HTTP, a fixed job, and every way in which a connection can misbehave."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from rbees.protocol import codec
from rbees.protocol.errors import ErrorBody, ErrorCode, ErrorEnvelope
from rbees.protocol.events import ChoiceEnd, End, Error, Event, Queued, Started, Timings, Token, Usage, event_name
from rbees.protocol.jobs import CancelAnswer, JobAccepted, JobView
from rbees.protocol.pools import PoolView
from rbees.service.sse import frame

JOB_ID = "job-01hzxxxxxxxxxxxxxxxxxxxxxx"
WORDS = ("the ", "quiet ", "pond, ", "a ", "frog")


def finished(words: tuple[str, ...] = WORDS) -> list[Event]:
    """The events of a job that wrote `words`."""
    usage = Usage(prompt_tokens=3, cached_tokens=0, completion_tokens=len(words))
    end = End(choices=(ChoiceEnd(finish_reason="stop"),), usage=usage, timings=Timings(prefill_ms=1, decode_ms=1))
    return [*_begun(words), end]


def failed(code: ErrorCode, message: str) -> list[Event]:
    """The events of a job that ended in an error after a word."""
    return [*_begun(WORDS[:1]), Error(error=ErrorBody(code=code, message=message))]


def _begun(words: tuple[str, ...]) -> list[Event]:
    tokens = [Token(text=word, index=index, token_ids=(index,)) for index, word in enumerate(words)]
    return [Queued(queue_position=1, created_at_ms=1), Started(epoch=1, worker_id="w", model="m", prompt_tokens=3), *tokens]


@dataclass
class ShakyOrcd:
    """Set the attributes, enter it, call `url`, look at what was asked."""

    job: list[Event] = field(default_factory=finished)
    cuts: list[int] = field(default_factory=list)
    """The first connections to the stream are reset after so many events each."""
    holds_after: int | None = None
    """The stream stands still behind this event until the job is cancelled."""
    lost_answers: int = 0
    """So many submissions are accepted and their answers lost."""
    answering: asyncio.Event = field(default_factory=asyncio.Event)
    """A submission is answered once this is set, which it is unless a test clears it."""

    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    """Set with the first submission."""
    asked_after: list[int] = field(default_factory=list)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    named: list[str] = field(default_factory=list)
    """Endpoints of pools that it was told to call."""

    async def __aenter__(self) -> ShakyOrcd:
        self.answering.set()
        app = web.Application()
        app.router.add_post("/v2/tasks", self._accept)
        app.router.add_get("/v2/tasks/{id}/events", self._stream)
        app.router.add_get("/v2/tasks/{id}", self._show)
        app.router.add_delete("/v2/tasks/{id}", self._cancel)
        app.router.add_post("/v2/pools", self._add_pool)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _accept(self, request: web.Request) -> web.Response:
        self.bodies.append(await request.json())
        self.keys.append(request.headers.get("Idempotency-Key"))
        self.asked.set()
        await self.answering.wait()
        if self.lost_answers:
            self.lost_answers -= 1
            _reset(request)
        accepted = JobAccepted(job_id=JOB_ID, status="queued", queue_position=1, events_url=f"/v2/tasks/{JOB_ID}/events", seed=7)
        return web.Response(body=codec.encode(accepted), status=202, content_type="application/json")

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        if request.match_info["id"] != JOB_ID:
            envelope = ErrorEnvelope(error=ErrorBody(code=ErrorCode.JOB_NOT_FOUND, message="No job has this id."))
            return web.Response(body=codec.encode(envelope), status=404, content_type="application/json")
        after = int(request.headers.get("Last-Event-ID", "0"))
        self.asked_after.append(after)
        cut = self.cuts.pop(0) if self.cuts else None
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for seq, event in list(enumerate(self.job, 1))[after:]:
            if cut is not None and seq > after + cut:
                _reset(request)
                return response
            if self.holds_after is not None and seq > self.holds_after:
                await self.cancelled.wait()
                event = Error(error=ErrorBody(code=ErrorCode.CANCELLED, message="The job was cancelled on request."))
                await response.write(frame(seq, "error", codec.encode(event)))
                return response
            await response.write(frame(seq, event_name(event), codec.encode(event)))
        return response

    async def _show(self, request: web.Request) -> web.Response:
        last = self.job[-1]
        shown = JobView(
            job_id=request.match_info["id"],
            status="failed" if isinstance(last, Error) else "completed",
            model="m",
            priority="interactive",
            seed=7,
            created_at_ms=1,
            last_seq=len(self.job),
            error=last.error if isinstance(last, Error) else None,
        )
        return web.Response(body=codec.encode(shown), content_type="application/json")

    async def _cancel(self, request: web.Request) -> web.Response:
        self.cancelled.set()
        answer = CancelAnswer(job_id=request.match_info["id"], status="running")
        return web.Response(body=codec.encode(answer), status=202, content_type="application/json")

    async def _add_pool(self, request: web.Request) -> web.Response:
        endpoint = (await request.json())["endpoint"]
        self.named.append(endpoint)
        nothing: Any = {"devices": (), "models": (), "workers": ()}
        view = PoolView(pool_id="p", endpoint=endpoint, state="live", version="1", last_heartbeat_age_ms=0, **nothing)
        return web.Response(body=codec.encode(view), status=201, content_type="application/json")


def _reset(request: web.Request) -> None:
    assert request.transport is not None
    request.transport.abort()
