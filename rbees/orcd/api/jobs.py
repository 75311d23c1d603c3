"""`/v2/tasks`: submit, list, show, explain, cancel and watch jobs; `/v2/plan`."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from aiohttp import web

from rbees.orcd.jobs import Jobs
from rbees.orcd.relay import Relay
from rbees.protocol.decisions import Explanation, Plan
from rbees.protocol.errors import ErrorCode
from rbees.protocol.events import Event
from rbees.protocol.jobs import TERMINAL_STATUSES, CancelAnswer, JobAccepted, JobList, JobRequest, JobView, StatusFilter
from rbees.protocol.vectors import Embeddings
from rbees.service.sse import SseWriter
from rbees.service.web import Parameter, Route, argument, read, reply, reply_large

DEFAULT_PAGE: Final = 50
LARGEST_NUMBER: Final = (1 << 63) - 1

_IDEMPOTENCY_KEY = Parameter(
    "Idempotency-Key",
    "Any text of up to 200 characters: sending the same body under the same key again gives the same job.",
    Annotated[str, msgspec.Meta(min_length=1, max_length=200)],
    where="header",
)
_STATUS = Parameter("status", "Only jobs with this status; `unfinished` for all that have not ended.", StatusFilter)
_MODEL = Parameter("model", "Only jobs for this model, as it was written.", Annotated[str, msgspec.Meta(max_length=1024)])
_LIMIT = Parameter("limit", f"Jobs per page, {DEFAULT_PAGE} by default.", Annotated[int, msgspec.Meta(ge=1, le=1000)])
_CURSOR = Parameter("cursor", "`next_cursor` of the page before.", Annotated[int, msgspec.Meta(ge=1, le=LARGEST_NUMBER)])
# The event after it must still be a number that the store can compare with.
_SEQ = Annotated[int, msgspec.Meta(ge=0, lt=LARGEST_NUMBER)]
_LAST_EVENT_ID = Parameter("Last-Event-ID", "Go on after this event; stronger than `after`.", _SEQ, where="header")
_AFTER = Parameter("after", "Go on after this event.", _SEQ)


def routes(jobs: Jobs, relay: Relay) -> list[Route]:
    """The routes about jobs."""

    async def submit(request: web.Request) -> web.Response:
        key = argument(request, _IDEMPOTENCY_KEY)
        if key is None:
            # Before anything of the body is read. Under a key there may be an answer to give again, room or not.
            jobs.check_room()
        accepted = await jobs.submit(await read(request, JobRequest), key)
        return reply(accepted, 202, {"Location": f"/v2/tasks/{accepted.job_id}"})

    async def list_jobs(request: web.Request) -> web.Response:
        page = await jobs.list(
            status=argument(request, _STATUS),
            model=argument(request, _MODEL),
            limit=argument(request, _LIMIT) or DEFAULT_PAGE,
            below=argument(request, _CURSOR) or LARGEST_NUMBER,
        )
        return reply(page)

    async def show(request: web.Request) -> web.Response:
        view = await jobs.view(request.match_info["job_id"])
        return await reply_large(view) if isinstance(view.output, Embeddings) else reply(view)

    async def explain(request: web.Request) -> web.Response:
        return reply(await jobs.explain(request.match_info["job_id"]))

    async def plan(request: web.Request) -> web.Response:
        return reply(jobs.plan(await read(request, JobRequest)))

    async def cancel(request: web.Request) -> web.Response:
        answer = await jobs.cancel(request.match_info["job_id"])
        return reply(answer, 200 if answer.status in TERMINAL_STATUSES else 202)

    async def events(request: web.Request) -> web.StreamResponse:
        last_event_id, after = argument(request, _LAST_EVENT_ID), argument(request, _AFTER)
        position = last_event_id if last_event_id is not None else after or 0
        row = await jobs.row_for_events(request.match_info["job_id"], position)
        writer = SseWriter(request)
        jobs.joined(row)
        try:
            async with relay.watch(row.number, position, lambda: jobs.is_live(row.job_id)) as pieces, writer as out:
                async for piece in pieces:
                    await out.write(piece)
        finally:
            jobs.left(row)
        return writer.response

    not_found = ErrorCode.JOB_NOT_FOUND
    refusals = (
        ErrorCode.MODEL_NOT_FOUND,
        ErrorCode.MODEL_INCOMPATIBLE,
        ErrorCode.IDEMPOTENCY_CONFLICT,
        ErrorCode.OUTPUT_ERASED,
        ErrorCode.REQUEST_TOO_LARGE,
        ErrorCode.QUEUE_FULL,
        ErrorCode.QUOTA_EXCEEDED,
        ErrorCode.DEADLINE_EXCEEDED,
        ErrorCode.DRAINING,
        ErrorCode.STORAGE_FULL,
    )
    return [
        Route(
            "POST",
            "/v2/tasks",
            submit,
            "Accept a job; it is durable once this has answered.",
            request=JobRequest,
            response=JobAccepted,
            status=202,
            errors=refusals,
            parameters=(_IDEMPOTENCY_KEY,),
        ),
        Route(
            "GET",
            "/v2/tasks",
            list_jobs,
            "List jobs, newest first.",
            response=JobList,
            parameters=(_STATUS, _MODEL, _LIMIT, _CURSOR),
        ),
        Route(
            "GET",
            "/v2/tasks/{job_id}",
            show,
            "Show a job, with its output once it has ended.",
            response=JobView,
            errors=(not_found,),
        ),
        Route(
            "GET",
            "/v2/tasks/{job_id}/explain",
            explain,
            "Why a job is where it is, or what it waits for: every place that could run it, with what is expected there.",
            response=Explanation,
            errors=(not_found,),
        ),
        Route(
            "POST",
            "/v2/plan",
            plan,
            "What would become of a job that came now; nothing is accepted or changed.",
            request=JobRequest,
            response=Plan,
            errors=(ErrorCode.REQUEST_TOO_LARGE,),
        ),
        Route(
            "DELETE",
            "/v2/tasks/{job_id}",
            cancel,
            "Cancel a job: 202 while that takes effect, 200 if it had ended.",
            response=CancelAnswer,
            status=202,
            further_statuses=(200,),
            errors=(not_found,),
        ),
        Route(
            "GET",
            "/v2/tasks/{job_id}/events",
            events,
            "Stream a job's events; every replay has the same bytes.",
            response=Event,
            errors=(not_found, ErrorCode.OUTPUT_ERASED),
            stream=True,
            parameters=(_LAST_EVENT_ID, _AFTER),
        ),
    ]
