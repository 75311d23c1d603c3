"""The document that a daemon serves is OpenAPI 3.1 to somebody else's reader, and what that reader makes up breaks nothing."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import msgspec
import schemathesis
from aiohttp import web as http
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rbees.protocol.errors import ErrorEnvelope
from rbees.protocol.jobs import JobAccepted, JobRequest, check_job
from rbees.service.web import Parameter, Route, argument, read, reply
from tests.support.service_app import ask, serving

LIMIT = Parameter("limit", "At most so many.", Annotated[int, msgspec.Meta(ge=1, le=100)])


async def submit(request: http.Request) -> http.Response:
    check_job(await read(request, JobRequest))
    return reply(JobAccepted(job_id="j", status="queued", queue_position=1, events_url="/e", seed=1), 202)


async def page(request: http.Request) -> http.Response:
    return reply({"limit": argument(request, LIMIT)})


ROUTES = (
    Route("POST", "/v2/tasks", submit, "Submit.", request=JobRequest, response=JobAccepted, status=202),
    Route("GET", "/v2/tasks", page, "List.", response=dict[str, Any], parameters=(LIMIT,)),
)


async def document() -> dict[str, Any]:
    async with serving(*ROUTES) as server:
        described: dict[str, Any] = (await ask(server, "GET", "/openapi.json")).json
        return described


async def test_another_reader_accepts_the_document() -> None:
    schema = schemathesis.openapi.from_dict(await document())
    schema.validate()
    found = {f"{operation.method.upper()} {operation.path}" for path in schema for operation in schema[path].values()}
    assert {"POST /v2/tasks", "GET /v2/tasks", "GET /livez", "GET /docs"} <= found


def test_whatever_is_made_from_the_document_or_against_it_gets_an_answer_of_its_own() -> None:
    operation = schemathesis.openapi.from_dict(asyncio.run(document()))["/v2/tasks"]["POST"]
    cases = st.one_of(operation.as_strategy(), operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE))

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(cases)
    def judge(case: schemathesis.Case[Any]) -> None:
        body = case.body if isinstance(case.body, bytes) else msgspec.json.encode(case.body) if _is_json(case.body) else b"null"

        async def send() -> tuple[int, bytes]:
            async with serving(*ROUTES) as server:
                answer = await ask(server, "POST", "/v2/tasks", {"Content-Type": "application/json"}, body or b"null")
                return answer.status, answer.body

        status, answered = asyncio.run(send())
        assert status in {202, 400}
        if status == 400:
            msgspec.json.decode(answered, type=ErrorEnvelope)

    judge()


def _is_json(value: object) -> bool:
    try:
        msgspec.json.encode(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return True
