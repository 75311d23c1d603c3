"""Answers in a form through orcd, poold and workers: refused at admission, and the same bytes when a worker dies in the middle."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.home import Home
from tests.support.jobs import check_stream, show, wait_ended
from tests.support.orcd_cluster import Cluster, Follower, fault
from tests.support.raw_http import request

HIT_AT = 30
FORM: dict[str, Any] = {
    "type": "json_schema",
    "schema": {
        "type": "object",
        "properties": {
            "title": {"type": "string", "minLength": 100, "maxLength": 160},
            "notes": {"type": "array", "items": {"type": "string", "minLength": 8, "maxLength": 20}, "minItems": 2, "maxItems": 4},
        },
        "required": ["title", "notes"],
        "additionalProperties": False,
    },
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """One cluster for this file."""
    with Home() as home:
        cluster = Cluster(home)
        cluster.warm()
        yield cluster


def test_a_worker_killed_in_mid_document_changes_no_byte(cluster: Cluster) -> None:
    undisturbed = cluster.text(response_format=FORM)
    assert len(json.loads(undisturbed)["title"]) >= 100
    (worker,) = cluster.home.workers()
    follower = Follower(cluster.url, cluster.submit(response_format=FORM))
    follower.read(until_tokens=HIT_AT)
    fault("worker killed", follower)
    with pytest.raises(json.JSONDecodeError):
        json.loads(follower.text)
    worker.kill()
    follower.read()
    check_stream(follower.frames)
    assert follower.frames[-1].event == "end"
    assert follower.text == undisturbed
    assert len(show(cluster.url, follower.job_id)["attempts"]) == 2


@pytest.mark.parametrize(
    ("form", "hint"),
    [
        ({"type": "yaml"}, "$.response_format.type"),
        ({"type": "regex"}, "pattern"),
        ({"type": "grammar", "syntax": "gbnf", "grammar": "(" * 65_536}, "nested"),
        ({"type": "grammar", "syntax": "lark", "grammar": "x" * 65_537}, "$.response_format.grammar"),
        ({"type": "json_schema", "schema": {"enum": list(range(5_000))}}, "5000 values"),
        ({"type": "json_schema", "schema": json.loads('{"items":' * 60 + "{}" + "}" * 60)}, "60 levels"),
        ({"type": "json_schema", "schema": {"maximum": 1 << 70}}, "64 bits"),
        ({"type": "json_schema", "schema": {"properties": {str(i): {} for i in range(401)}}}, "400 optional"),
        ({"type": "grammar", "syntax": "lark", "grammar": "start: <[5]>"}, "names tokens"),
    ],
)
def test_what_needs_no_tokenizer_is_refused_at_admission(cluster: Cluster, form: dict[str, Any], hint: str) -> None:
    job = {"model": cluster.model, "prompt": "x", "response_format": form}
    answer = request("POST", f"{cluster.url}/v2/tasks", job)
    assert (answer.status, answer.error["code"]) == (400, "INVALID_REQUEST")
    assert hint in answer.error["message"]


def test_what_only_a_worker_can_tell_ends_the_job_at_once(cluster: Cluster) -> None:
    job_id = cluster.submit(response_format={"type": "regex", "pattern": "(?=x)y"})
    shown = wait_ended(cluster.url, job_id)
    assert shown["error"]["code"] == "INVALID_REQUEST"
    assert len(shown["attempts"]) == 1, "another attempt would end the same way"
