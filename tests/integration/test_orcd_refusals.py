"""Bad input and bad circumstances, each with its code, its status or its exit code, and a sentence that says what to do."""

from __future__ import annotations

import json
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.home import Home, taken_port
from tests.support.jobs import show
from tests.support.orcd_cluster import Cluster
from tests.support.raw_http import Answer, request

JOB = {"model": "haiku", "prompt": "hum"}
NO_UTF8 = "\xff"
"""As a header, the one byte 0xff."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """One cluster for this file."""
    with Home() as home:
        yield Cluster(home)


def _refused(answer: Answer, status: int, code: str) -> dict[str, Any]:
    assert (answer.status, answer.error["code"]) == (status, code), answer.body
    assert answer.error["message"].endswith((".", "?")), answer.error
    assert answer.error["correlation_id"] == answer.headers["x-correlation-id"]
    return answer.error


@pytest.mark.parametrize(
    ("body", "hint"),
    [
        (b"{", "JSON"),
        (b'{"model": "haiku", "prompt": 7}', "$.prompt"),
        (b'{"model": "haiku", "prompt": "x", "temperature": NaN}', "JSON"),
        (b'{"model": "haiku", "prompt": "x", "temperature": 1e999}', "JSON"),
        (b'{"model": "haiku", "prompt": "x", "temperature": 3}', "$.temperature"),
        (b'{"model": "haiku", "prompt": "x", "max_tokens": 0}', "$.max_tokens"),
        (b'{"model": "haiku", "prompt": "x", "best_of": 3}', "best_of"),
        (b'{"prompt": "x"}', "model"),
        (b'{"model": "haiku"}', "prompt"),
        (b'{"model": "haiku", "prompt": "x", "messages": [{"role": "user", "content": "x"}]}', "messages"),
        (b'{"model": "haiku", "prompt": "x", "stop": [' + b",".join([b'"a"'] * 33) + b"]}", "$.stop"),
        (b'{"model": "haiku", "prompt": "\xff"}', "UTF-8"),
        (b'{"model": "../../etc/passwd", "prompt": "x"}', "model"),
        (b"[" * 100_000, "nested"),
    ],
    ids=lambda value: value[:48].decode(errors="replace") if isinstance(value, bytes) else value,
)
def test_a_body_that_does_not_fit_is_refused_by_name(cluster: Cluster, body: bytes, hint: str) -> None:
    error = _refused(request("POST", f"{cluster.url}/v2/tasks", raw=body), 400, "INVALID_REQUEST")
    assert hint in error["message"]


def test_a_body_that_is_no_json_by_its_own_word_is_refused(cluster: Cluster) -> None:
    answer = request("POST", f"{cluster.url}/v2/tasks", raw=b"x", headers={"Content-Type": "text/plain"})
    _refused(answer, 400, "INVALID_REQUEST")


def test_twenty_megabytes_are_refused(cluster: Cluster) -> None:
    body = json.dumps({**JOB, "prompt": "x" * 20_000_000}).encode()
    with socket.create_connection(("127.0.0.1", cluster.orcd_port), timeout=10) as connection:
        head = (
            f"POST /v2/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        connection.sendall(head.encode())
        answer = connection.recv(65_536)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"REQUEST_TOO_LARGE" in answer
    assert b"10485760" in answer


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/v2/tasks/job-nope", "JOB_NOT_FOUND"),
        ("DELETE", "/v2/tasks/job-nope", "JOB_NOT_FOUND"),
        ("GET", "/v2/tasks/job-nope/events", "JOB_NOT_FOUND"),
        ("GET", "/v2/tasks/%ff%00", "JOB_NOT_FOUND"),
        ("GET", "/v2/pools/nope", "POOL_NOT_FOUND"),
        ("DELETE", "/v2/pools/nope", "POOL_NOT_FOUND"),
        ("DELETE", "/v2/workers/worker-nope", "WORKER_NOT_FOUND"),
        ("GET", "/v2/nothing", "NOT_FOUND"),
    ],
)
def test_what_does_not_exist_is_said_to(cluster: Cluster, method: str, path: str, code: str) -> None:
    _refused(request(method, cluster.url + path), 404, code)


def test_an_unknown_model_is_refused_with_close_names(cluster: Cluster) -> None:
    close = cluster.model[:-1] + "m"
    error = _refused(request("POST", f"{cluster.url}/v2/tasks", {**JOB, "model": close}), 404, "MODEL_NOT_FOUND")
    assert cluster.model in error["message"]
    fetched = _refused(request("POST", f"{cluster.url}/v2/tasks", {**JOB, "model": "tinyllama"}), 404, "MODEL_NOT_FOUND")
    assert "llorch models download tinyllama" in fetched["message"]


@pytest.mark.parametrize("query", ["status=sleeping", "limit=0", "limit=x", "cursor=-1", "sort=up"])
def test_a_query_that_makes_no_sense_is_refused(cluster: Cluster, query: str) -> None:
    _refused(request("GET", f"{cluster.url}/v2/tasks?{query}"), 400, "INVALID_REQUEST")


def test_an_event_id_that_is_no_number_is_refused(cluster: Cluster) -> None:
    job_id = cluster.submit(max_tokens=1)
    for value in ("x", "-1", "9223372036854775807", "9" * 5000, NO_UTF8):
        answer = request("GET", f"{cluster.url}/v2/tasks/{job_id}/events", headers={"Last-Event-ID": value})
        _refused(answer, 400, "INVALID_REQUEST")


def test_a_key_that_is_no_text_is_refused(cluster: Cluster) -> None:
    for key in ("", "k" * 201, NO_UTF8):
        answer = request(
            "POST", f"{cluster.url}/v2/tasks", {"model": cluster.model, "prompt": "x"}, headers={"Idempotency-Key": key}
        )
        _refused(answer, 400, "INVALID_REQUEST")


@pytest.mark.parametrize(
    "endpoint", ["http://127.0.0.1:1", "http://169.254.169.254", "http://[fe80::1]:9200", "http://100.100.100.200:80"]
)
def test_a_pool_nobody_can_or_may_call_is_refused(cluster: Cluster, endpoint: str) -> None:
    error = _refused(request("POST", f"{cluster.url}/v2/pools", {"endpoint": endpoint}), 502, "POOL_UNREACHABLE")
    assert ("never dialled" in error["message"]) is ("127.0.0.1" not in endpoint)


@pytest.mark.parametrize("endpoint", ["ftp://x:1", "http://user@x:1", "http://x:1/path", "x", "http://a..b:9200"])
def test_an_endpoint_that_is_none_is_refused(cluster: Cluster, endpoint: str) -> None:
    _refused(request("POST", f"{cluster.url}/v2/pools", {"endpoint": endpoint}), 400, "INVALID_REQUEST")


@pytest.mark.parametrize("prefix", ["/v2", ""])
def test_a_slip_in_a_spawn_is_refused_by_name(cluster: Cluster, prefix: str) -> None:
    (pool,) = cluster.pools()
    path = f"{prefix}/pools/{pool['pool_id']}/workers/spawn"
    error = _refused(request("POST", cluster.url + path, {"model_ref": cluster.model, "slot": 3}), 400, "INVALID_REQUEST")
    assert "slot" in error["message"]


def test_device_options_of_a_spawn_reach_the_pool(cluster: Cluster) -> None:
    (pool,) = cluster.pools()
    path = f"/v2/pools/{pool['pool_id']}/workers/spawn"
    error = _refused(request("POST", cluster.url + path, {"model_ref": cluster.model, "gpu_layers": 3}), 400, "INVALID_REQUEST")
    assert error["details"]["field"] == "gpu_layers"


def test_a_second_pool_under_a_live_id_is_refused(cluster: Cluster) -> None:
    (pool,) = cluster.pools()
    rival = {
        "pool_id": pool["pool_id"],
        "endpoint": "http://127.0.0.1:1",
        "version": "1",
        "boot_id": "other",
        "devices": [],
        "models": [],
        "workers": [],
    }
    error = _refused(request("POST", f"{cluster.url}/v2/pools/register", rival), 409, "POOL_ID_TAKEN")
    assert pool["endpoint"] in error["message"]
    unnamable = {**rival, "pool_id": "../x"}
    _refused(request("POST", f"{cluster.url}/v2/pools/register", unnamable), 400, "INVALID_REQUEST")


def test_a_heartbeat_of_a_stranger_asks_it_to_register(cluster: Cluster) -> None:
    beat = {"sent_at_ms": 1, "boot_id": "b", "seq": 1, "devices": [], "models": [], "workers": []}
    _refused(request("POST", f"{cluster.url}/v2/pools/stranger/heartbeat", beat), 404, "POOL_NOT_FOUND")
    (pool,) = cluster.pools()
    _refused(request("POST", f"{cluster.url}/v2/pools/{pool['pool_id']}/heartbeat", beat), 404, "POOL_NOT_FOUND")


def test_an_operator_names_a_pool_and_forgets_it() -> None:
    with Home() as home:
        cluster = Cluster.__new__(Cluster)
        cluster.home = home
        home.serve_orcd()
        orcd_url, home.url = home.url, ""
        poold = home.serve_poold()
        added = request("POST", f"{orcd_url}/v2/pools", {"endpoint": poold.url})
        assert (added.status, added.json["endpoint"]) == (201, poold.url), added.body
        listed = request("GET", f"{orcd_url}/v2/pools").json["pools"]
        assert [pool["pool_id"] for pool in listed] == [added.json["pool_id"]]
        assert request("DELETE", f"{orcd_url}/v2/pools/{added.json['pool_id']}").status == 204


def test_a_second_orcd_on_the_same_state_exits_75(cluster: Cluster) -> None:
    done = cluster.home.run("orcd", "serve", "--port", "0")
    assert done.returncode == 75, done.said
    assert "--state-dir" in done.stderr
    assert str(cluster.orcd_port) in done.stderr, "it says where the first one is"
    assert request("GET", f"{cluster.url}/livez").status == 200


def test_a_taken_port_is_told_with_advice(cluster: Cluster) -> None:
    with taken_port() as port:
        done = cluster.home.run("orcd", "serve", "--port", str(port), "--state-dir", str(cluster.home.folder / "other"))
    assert done.returncode == 75, done.said
    assert f"127.0.0.1:{port}" in done.stderr
    assert "--port" in done.stderr


def test_listening_openly_without_token_and_certificate_exits_78(cluster: Cluster) -> None:
    done = cluster.home.run("orcd", "serve", "--bind", "0.0.0.0", "--port", "0", "--state-dir", str(cluster.home.folder / "open"))
    assert done.returncode == 78, done.said
    assert "token" in done.stderr


def test_the_queue_limit_answers_429_with_a_time(tmp_path: Path) -> None:
    with Home({"RBEES_ORCD_QUEUE_LIMIT": "2"}) as home:
        home.serve_orcd()
        key = {"Idempotency-Key": "once"}
        kept = [request("POST", f"{home.url}/v2/tasks", JOB, headers=key).json["job_id"]]
        kept.append(request("POST", f"{home.url}/v2/tasks", JOB).json["job_id"])
        answer = request("POST", f"{home.url}/v2/tasks", JOB)
        _refused(answer, 429, "QUEUE_FULL")
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        _refused(request("POST", f"{home.url}/v2/tasks", raw=b"no job at all"), 429, "QUEUE_FULL")
        again = request("POST", f"{home.url}/v2/tasks", JOB, headers=key)
        assert (again.status, again.json["job_id"]) == (202, kept[0]), "an answer that was given is given again"
        assert {show(home.url, job_id)["status"] for job_id in kept} == {"queued"}
        assert request("DELETE", f"{home.url}/v2/tasks/{kept[0]}").status == 202
        until = time.monotonic() + 20
        while request("POST", f"{home.url}/v2/tasks", JOB).status != 202:
            assert time.monotonic() < until, "a place that became free was not given to anybody"
            time.sleep(0.05)


def test_every_route_but_livez_asks_for_the_token(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("rbk_" + "a" * 43)
    token.chmod(0o600)
    with Home({"RBEES_ORCD_TOKEN_FILE": str(token)}) as home:
        home.serve_orcd()
        document = request("GET", f"{home.url}/openapi.json", headers={"Authorization": f"Bearer {token.read_text()}"}).json
        calls = [(method, path) for path, methods in document["paths"].items() for method in methods]
        assert len(calls) > 15
        for method, path in calls:
            answer = request(method.upper(), home.url + path.replace("{", "").replace("}", ""))
            assert answer.status == (200 if path == "/livez" else 401), (method, path)


def test_state_and_logs_are_private(cluster: Cluster) -> None:
    canary = "a-prompt-that-must-not-leak"
    cluster.submit(canary, max_tokens=2)
    folder = cluster.home.folder / "orcd"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for path in folder.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path.name
    assert canary not in cluster.orcd.said
    assert canary not in request("GET", f"{cluster.url}/metrics").body.decode()
