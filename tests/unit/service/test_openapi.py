"""OpenAPI from the route table, and the page made from it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import jsonschema_rs
import msgspec
import pytest
from aiohttp import web

from rbees.protocol.errors import ErrorCode
from rbees.protocol.events import Event
from rbees.protocol.jobs import JobAccepted, JobList, JobRequest
from rbees.service import docs_page, openapi
from rbees.service.routes import LINES, ErrorShape, Parameter, Route, WordedError

STATUS = Parameter("status", "Only these.", Literal["queued", "running"])
LIMIT = Parameter("limit", "At most so many.", Annotated[int, msgspec.Meta(ge=1, le=100)])


async def handler(_request: web.Request) -> web.StreamResponse:
    raise NotImplementedError


ROUTES = [
    Route(
        "POST",
        "/v2/tasks",
        handler,
        "Accept <a> job & more.",
        request=JobRequest,
        response=JobAccepted,
        status=202,
        errors=(ErrorCode.QUEUE_FULL, ErrorCode.DRAINING),
        parameters=(Parameter("Idempotency-Key", "Sent again, starts nothing new.", where="header"),),
    ),
    Route("GET", "/v2/tasks", handler, "List.", response=JobList, parameters=(STATUS, LIMIT)),
    Route("GET", "/v2/tasks/{job_id}/events", handler, "Follow.", response=Event, stream=True),
    Route("GET", "/livez", handler, "Live.", response=dict[str, Any], public=True),
]


@pytest.fixture
def document() -> dict[str, Any]:
    return openapi.document("orcd", "1.2.3", ROUTES)


def test_the_envelope_of_the_document(document: dict[str, Any]) -> None:
    assert document["openapi"] == "3.1.0"
    assert document["info"]["version"] == "1.2.3"
    assert list(document["paths"]) == ["/v2/tasks", "/v2/tasks/{job_id}/events", "/livez"]


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    def references(value: Any) -> list[str]:
        if isinstance(value, dict):
            return [*([value["$ref"]] if "$ref" in value else []), *(ref for part in value.values() for ref in references(part))]
        return [ref for part in value for ref in references(part)] if isinstance(value, list) else []

    found = references(document)
    assert found
    assert all(ref.removeprefix("#/components/schemas/") in document["components"]["schemas"] for ref in found)


def test_schemas_judge_as_the_codec_does(document: dict[str, Any]) -> None:
    root = {"$ref": "#/components/schemas/JobRequest", "components": document["components"]}
    jsonschema_rs.meta.validate(root)
    judge = jsonschema_rs.validator_for(root)
    assert judge.is_valid({"model": "haiku", "prompt": "p"})
    for wrong in ({"prompt": "p"}, {"model": "haiku", "unknown": 1}, {"model": "haiku", "temperature": 3}, {"model": ""}):
        assert not judge.is_valid(wrong)


def test_operations_have_unique_names(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for methods in document["paths"].values() for operation in methods.values()]
    assert len(names) == len(set(names)) == len(ROUTES)


def test_errors_stand_under_their_status(document: dict[str, Any]) -> None:
    answers = document["paths"]["/v2/tasks"]["post"]["responses"]
    assert {"202", "400", "401", "403", "413", "429", "500", "503"} == set(answers)
    assert "`QUEUE_FULL`" in answers["429"]["description"]
    assert answers["503"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/ErrorEnvelope"}


def test_an_answer_may_come_under_several_statuses() -> None:
    route = Route("DELETE", "/x", handler, "End.", response=dict[str, Any], status=202, further_statuses=(200, 503))
    answers = openapi.document("orcd", "1.2.3", [route])["paths"]["/x"]["delete"]["responses"]
    assert answers["202"] == answers["200"] == answers["503"]


def test_a_route_with_a_proof_of_its_own_is_not_open() -> None:
    described = openapi.document("poold", "1.2.3", [Route("POST", "/x", handler, "Report.", own_proof=True)])["paths"]["/x"]["post"]
    assert described["security"]
    assert "401" in described["responses"]


def test_only_public_routes_need_no_token(document: dict[str, Any]) -> None:
    assert document["paths"]["/livez"]["get"]["security"] == []
    assert "401" not in document["paths"]["/livez"]["get"]["responses"]
    assert document["paths"]["/v2/tasks"]["get"]["security"] == [{"token": []}]


def test_parameters(document: dict[str, Any]) -> None:
    status, limit = document["paths"]["/v2/tasks"]["get"]["parameters"]
    assert status["schema"] == {"enum": ["queued", "running"]}
    assert (limit["schema"]["minimum"], limit["required"], limit["in"]) == (1, False, "query")
    (job_id,) = document["paths"]["/v2/tasks/{job_id}/events"]["get"]["parameters"]
    assert (job_id["name"], job_id["in"], job_id["required"]) == ("job_id", "path", True)


def test_streams_say_so(document: dict[str, Any]) -> None:
    answer = document["paths"]["/v2/tasks/{job_id}/events"]["get"]["responses"]["200"]
    assert list(answer["content"]) == ["text/event-stream"]


def test_what_may_be_a_stream_says_of_which_type() -> None:
    routes = [
        Route("GET", "/events", handler, "Events.", response=JobList, events=Event),
        Route("GET", "/lines", handler, "Lines.", response=JobList, events=Event, events_type=LINES),
    ]
    paths = openapi.document("orcd", "1.2.3", routes)["paths"]
    assert list(paths["/events"]["get"]["responses"]["200"]["content"]) == ["application/json", "text/event-stream"]
    assert list(paths["/lines"]["get"]["responses"]["200"]["content"]) == ["application/json", "application/x-ndjson"]


def test_the_page_loads_nothing_and_runs_nothing(document: dict[str, Any]) -> None:
    page = docs_page.render(document)
    assert "Accept &lt;a&gt; job &amp; more." in page.html
    for word in ("<script", "src=", "http://", "https://", "@import", "url("):
        assert word not in page.html, word
    assert page.policy.startswith("default-src 'none'; style-src 'sha256-")
    assert all(path in page.html for path in document["paths"])


class Complaint(msgspec.Struct, frozen=True):
    """A failure in the words of another API."""

    complaint: str


def test_failures_of_another_api_have_its_shape_and_its_status() -> None:
    shape = ErrorShape(Complaint, lambda error: WordedError(418 if error.code is ErrorCode.DRAINING else 400, Complaint("x")))
    foreign = Route("GET", "/tea", handler, "Tea.", errors=(ErrorCode.DRAINING,), error_shape=shape)
    made = openapi.document("orcd", "1.2.3", [*ROUTES, foreign])
    answers = made["paths"]["/tea"]["get"]["responses"]
    assert set(answers) == {"200", "400", "418"}
    schema = answers["418"]["content"]["application/json"]["schema"]
    assert schema == {"$ref": "#/components/schemas/Complaint"}
    assert made["components"]["schemas"]["Complaint"]["required"] == ["complaint"]


class Groan(msgspec.Struct, frozen=True):
    """A failure in the words of a third."""

    groan: str


def refer(*names: str) -> dict[str, Any]:
    """A schema of one of these components."""
    found = [{"$ref": f"#/components/schemas/{name}"} for name in names]
    return found[0] if len(found) == 1 else {"anyOf": found}


def test_where_clients_of_two_apis_ask_the_answers_of_both_are_told() -> None:
    plain = ErrorShape(Complaint, lambda _: WordedError(400, Complaint("x")))
    signed = ErrorShape(Groan, lambda _: WordedError(406, Groan("x")), sign="groans")
    routes = [
        Route("GET", "/v1/tea", handler, "Tea.", response=JobList, signed={"groans": JobAccepted}, error_shape=plain),
        Route("GET", "/v1/milk", handler, "Milk.", response=JobList, error_shape=signed),
        Route("GET", "/v3/water", handler, "Water.", response=JobList, error_shape=plain),
        Route("GET", "/v1", handler, "All.", response=JobList),
    ]
    described = openapi.document("orcd", "1.2.3", routes)["paths"]
    told = {
        path: [methods["get"]["responses"][status]["content"]["application/json"]["schema"] for status in ("200", "400")]
        for path, methods in described.items()
        if "400" in methods["get"]["responses"]
    }
    assert told == {
        "/v1/tea": [refer("JobList", "JobAccepted"), refer("Complaint", "Groan")],
        "/v3/water": [refer("JobList"), refer("Complaint")],
        "/v1": [refer("JobList"), refer("ErrorEnvelope")],
    }
    assert "406" in described["/v1/tea"]["get"]["responses"]


def test_a_stream_of_another_api_may_hold_a_failure() -> None:
    shape = ErrorShape(Complaint, lambda _: WordedError(400, Complaint("x")))
    route = Route("GET", "/tea", handler, "Tea.", response=JobList, events=JobAccepted, error_shape=shape)
    content = openapi.document("orcd", "1.2.3", [route])["paths"]["/tea"]["get"]["responses"]["200"]["content"]
    assert content["text/event-stream"]["schema"] == refer("JobAccepted", "Complaint")
    assert content["application/json"]["schema"] == refer("JobList")


def test_a_flag_needs_no_value() -> None:
    route = Route("GET", "/x", handler, "X.", parameters=(Parameter("verbose", "More.", bool),))
    (flag,) = openapi.document("orcd", "1.2.3", [route])["paths"]["/x"]["get"]["parameters"]
    judge = jsonschema_rs.validator_for(flag["schema"])
    assert [judge.is_valid(value) for value in (True, "", "yes")] == [True, True, False]
