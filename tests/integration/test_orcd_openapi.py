"""Every route that orcd documents, asked for whatever its document allows and for what it does not: each answer is one that the
document names, in its form, and none is a failure of orcd's own.

Schemathesis makes the requests up and judges the answers. Events and lines, for which OpenAPI 3.1 has no words, are judged here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import jsonschema_rs
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi import checks

from tests.support.home import Home, taken_port
from tests.support.jobs import read_frames
from tests.support.orcd_cluster import Cluster
from tests.support.raw_http import request
from tests.support.scripted_models import write_script

EXAMPLES: Final = 12
TIMEOUT_S: Final = 60.0
GROUPS: Final = ("/v1/messages", "/v1/", "/api/", "/v2/tasks", "/v2/pools", "/v2/", "/")
"""Of routes: each is in the first whose beginning it has."""
LONGEST_URL: Final = 8_000
"""That is taken; a name of a thousand characters may need more."""
STREAMS: Final = ("text/event-stream", "application/x-ndjson")
MODELS: Final = {
    **dict.fromkeys(("/v1/embeddings", "/api/embed", "/api/embeddings"), "embedder"),
    "/v1/rerank": "ranker",
    **dict.fromkeys(("/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/messages/count_tokens"), "steady"),
    **dict.fromkeys(("/api/chat", "/api/generate", "/api/show"), "steady"),
}
"""What a body asks for in a third of the requests, since nobody makes up the name of a model that is there."""
JOBS: Final = ("/v2/tasks", "/v2/plan")
INSTEAD: Final = ("kind", "messages", "token_ids", "embed", "rerank", "tools", "tool_choice", "template_options")
"""Fields of a job that do not go together with a prompt."""
POOL: Final = {"pool_id": "made-up", "endpoint": "http://127.0.0.1:1", "boot_id": "b"}
"""A pool that comes up with whatever devices, models and workers, and beats."""
POOLS: Final = ("/v2/pools/register", "/v2/pools/{pool_id}/heartbeat")
CHECKS: Final = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
]

Case = schemathesis.Case[Any]


@dataclass
class Documented:
    """A running orcd, what it says of itself, and something to ask for by its name."""

    url: str
    operations: dict[str, Any]
    """By method and path."""
    events: dict[str, jsonschema_rs.Draft202012Validator]
    """Of each event or line, by method and path, where the answer may be a stream."""
    names: dict[str, str]
    """For the parameters in a path."""


@pytest.fixture(scope="module")
def orcd() -> Iterator[Documented]:
    # No hub: what asks for a model that is not here is refused a connection at once.
    with taken_port() as port, Home({"HF_ENDPOINT": f"http://127.0.0.1:{port}"}) as home:
        write_script(home.folder / "models", "embedder", pooling="mean", dimensions=16, generates=False)
        write_script(home.folder / "models", "ranker", pooling="rank", generates=False)
        cluster = Cluster(home, answer_tokens=3, tokens_per_second=None)
        job = cluster.submit()
        read_frames(cluster.url, job)
        names = {"job_id": job, "pool_id": cluster.pools()[0]["pool_id"], "model": "steady"}
        document = request("GET", f"{cluster.url}/openapi.json").json
        events = dict(_events(document))
        for path in document["paths"].values():
            for operation in path.values():
                operation["security"] = []  # On loopback nobody needs a token.
        loaded = schemathesis.openapi.from_dict(document)
        found = [operation for path in loaded for operation in loaded[path].values()]
        operations = {f"{operation.method.upper()} {operation.path}": operation for operation in found}
        yield Documented(cluster.url, operations, events, names)
        checked = home.run("orcd", "db", "check")
        assert checked.returncode == 0, checked.said


@pytest.mark.parametrize("group", GROUPS)
def test_whatever_is_asked_is_answered_as_the_document_says(orcd: Documented, group: str, subtests: pytest.Subtests) -> None:
    of_group = [name for name, operation in orcd.operations.items() if next(filter(operation.path.startswith, GROUPS)) == group]
    assert of_group
    for name in of_group:
        with subtests.test(name):
            _ask(orcd, name)


def _ask(orcd: Documented, name: str) -> None:
    operation = orcd.operations[name]
    allowed = operation.as_strategy()
    refused = operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE)

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
    @given(st.one_of(allowed.map(lambda case: _aimed(orcd, case)), allowed, refused))
    def judge(case: Case) -> None:
        if operation.path == "/v2/status":
            case.query.pop("watch", None)  # That never ends.
        answer = case.call(base_url=orcd.url, timeout=TIMEOUT_S)
        assert answer.status_code != 500, answer.text
        if len(answer.request.url or "") > LONGEST_URL:
            assert answer.status_code == 400, "refused before anybody looks at its path"
            return
        kind = answer.headers.get("content-type", [""])[0].partition(";")[0]
        if answer.status_code == 200 and kind in STREAMS:
            for said in _told(kind, answer.content):
                orcd.events[name].validate(said)
        else:
            case.validate_response(answer, checks=CHECKS)

    judge()


def _aimed(orcd: Documented, case: Case) -> Case:
    """The same for something that is there, where nothing is taken away by it."""
    known = POOL if case.path in POOLS else orcd.names if case.method.upper() == "GET" else {}
    case.path_parameters.update({name: known[name] for name in case.path_parameters if name in known})
    case.headers.pop("Idempotency-Key", None)  # Mostly the one of an earlier request, which asked for something else.
    if isinstance(case.body, dict):
        if case.path in MODELS:
            case.body["model"] = MODELS[case.path]
        elif case.path in JOBS:
            left = {name: value for name, value in case.body.items() if name not in INSTEAD}
            case.body = {**left, "model": "steady", "prompt": "hum"}
        elif case.path in POOLS:
            case.body.update({name: value for name, value in POOL.items() if name in case.body})
    return case


def _events(document: dict[str, Any]) -> Iterator[tuple[str, jsonschema_rs.Draft202012Validator]]:
    """Validators of what streams consist of; the document then says nothing of it any more."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            for answer in operation["responses"].values():
                for kind in STREAMS:
                    if kind in answer.get("content", {}):
                        schema = {**answer["content"][kind].pop("schema"), "components": document["components"]}
                        yield f"{method.upper()} {path}", jsonschema_rs.Draft202012Validator(schema)


def _told(kind: str, body: bytes) -> Iterator[Any]:
    """The events or lines of a stream, but for the mark of its end."""
    lines = body.splitlines()
    if kind == STREAMS[0]:
        lines = [line.removeprefix(b"data: ") for line in lines if line.startswith(b"data: ") and line != b"data: [DONE]"]
    yield from (json.loads(line) for line in lines)
