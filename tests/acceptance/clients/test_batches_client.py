"""The real `openai` package with files and batches: what goes up, what comes back, and what is left where something breaks."""

from __future__ import annotations

import contextlib
import json
import socket
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import openai
import pytest
from openai import OpenAI
from openai.types import Batch

from rbees.orcd.batches.lines import MAX_LINES
from rbees.service.passed_over import HEADER
from tests.support.door import Door
from tests.support.home import Home, wait_until
from tests.support.jobs import show
from tests.support.orcd_cluster import Cluster
from tests.support.raw_http import request

CHATS: Final = "/v1/chat/completions"
OVER: Final = {"completed", "failed", "expired", "cancelled"}
LINES: Final = 120
KILLS: Final = 2


@pytest.fixture(scope="module")
def client(door: Door) -> Iterator[OpenAI]:
    with OpenAI(base_url=door.base_url, api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Whose orcd the tests kill."""
    with Home() as home:
        yield Cluster(home, answer_tokens=4, tokens_per_second=60.0)
        checked = home.run("orcd", "db", "check")
        assert checked.returncode == 0, checked.said


def chat(custom_id: str, model: str, **body: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": custom_id}]
    return {"custom_id": custom_id, "method": "POST", "url": CHATS, "body": {"model": model, "messages": messages, **body}}


def jsonl(*lines: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def upload(client: OpenAI, content: bytes) -> str:
    return client.files.create(file=("in.jsonl", content), purpose="batch").id


def begin(client: OpenAI, content: bytes, endpoint: Any = CHATS, **fields: Any) -> Batch:
    return client.batches.create(input_file_id=upload(client, content), endpoint=endpoint, completion_window="24h", **fields)


def ended(client: OpenAI, batch: Batch) -> Batch:
    """The batch once it is over."""

    def look() -> Batch | None:
        seen = client.batches.retrieve(batch.id)
        return seen if seen.status in OVER else None

    seen = wait_until(look, what="come to its end", timeout_s=120.0)
    assert seen is not None
    return seen


def run(client: OpenAI, content: bytes, endpoint: Any = CHATS) -> Batch:
    return ended(client, begin(client, content, endpoint))


def written(client: OpenAI, file_id: str | None) -> dict[str, dict[str, Any]]:
    """The lines of a file by `custom_id`, of which none is there twice."""
    if file_id is None:
        return {}
    lines = [json.loads(line) for line in client.files.content(file_id).text.splitlines()]
    assert len({line["custom_id"] for line in lines}) == len({line["id"] for line in lines}) == len(lines)
    return {line["custom_id"]: line for line in lines}


def text(line: dict[str, Any]) -> str:
    said: str = line["response"]["body"]["choices"][0]["message"]["content"]
    return said


# ---- batches that go well ------------------------------------------------------------------------------------------------


def test_every_line_comes_back_answered_or_refused(client: OpenAI, door: Door) -> None:
    good = [chat(f"good-{number}", door.plain, seed=number, max_tokens=4) for number in range(20)]
    strange = chat("strange", door.plain, seed=1, max_tokens=4, wings=2)
    bad = {
        "nobody": chat("nobody", "no-such-model"),
        "hot": chat("hot", door.plain, temperature=9),
        "streams": chat("streams", door.plain, stream=True),
        "long": chat("long", door.plain, max_tokens=10**6),
    }
    begun = begin(client, jsonl(*good, strange, *bad.values()), metadata={"hive": "a"})
    assert (begun.status, begun.metadata, begun.endpoint) == ("validating", {"hive": "a"}, CHATS)
    assert begun.expires_at == begun.created_at + 24 * 3600
    batch = ended(client, begun)
    assert batch.status == "completed"
    assert batch.request_counts is not None
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (25, 21, 4)
    answers, failures = written(client, batch.output_file_id), written(client, batch.error_file_id)
    assert set(answers) == {*(line["custom_id"] for line in good), "strange"}
    assert set(failures) == set(bad)
    told = [failures[name]["response"] for name in bad]
    assert [response["status_code"] for response in told] == [404, 400, 400, 400]
    assert [response["body"]["error"]["code"] for response in told[:3]] == ["model_not_found", "invalid_request", "invalid_request"]
    assert told[2]["body"]["error"]["param"] == "stream"
    for name in ("nobody", "hot", "long"):
        by_itself = request("POST", f"{door.url}{CHATS}", bad[name]["body"])
        assert (by_itself.status, by_itself.json) == tuple(failures[name]["response"][part] for part in ("status_code", "body"))
    assert answers["strange"]["response"]["ignored"] == "wings"
    line = answers["good-7"]
    assert (line["error"], line["response"]["status_code"]) == (None, 200)
    live = client.chat.completions.create(**good[7]["body"])
    assert text(line) == live.choices[0].message.content
    job = show(door.url, line["response"]["request_id"])
    assert (job["priority"], job["session_id"]) == ("batch", batch.id)
    assert batch.usage is not None
    assert batch.usage.output_tokens == sum(one["response"]["body"]["usage"]["completion_tokens"] for one in answers.values())
    assert batch.usage.total_tokens == batch.usage.input_tokens + batch.usage.output_tokens
    assert batch.id in [one.id for one in client.batches.list(limit=2)]
    with pytest.raises(openai.ConflictError) as refused:
        client.batches.cancel(batch.id)
    assert refused.value.response.headers["x-should-retry"] == "false"


def test_the_other_routes_answer_in_a_batch_as_by_themselves(client: OpenAI, door: Door) -> None:
    vectors = {"model": door.embedder, "input": ["a hive", "a bee"]}
    ranks = {"model": door.ranker, "query": "bees", "documents": ["hive", "sea"], "return_documents": True}
    prompts = {"model": door.plain, "prompt": ["one", "two"], "seed": 3, "max_tokens": 3}
    for path, body, model in (
        ("/v1/embeddings", vectors, door.embedder),
        ("/v1/rerank", ranks, door.ranker),
        ("/v1/completions", prompts, door.plain),
    ):
        line = {"custom_id": "only", "method": "POST", "url": path, "body": body}
        batch = run(client, jsonl(line), path)
        assert batch.model == model
        answer = written(client, batch.output_file_id)["only"]["response"]["body"]
        live = request("POST", f"{door.url}{path}", body).json
        for one in (answer, live):
            one.pop("id", None)
            one.pop("created", None)
            one["usage"].pop("prompt_tokens_details", None)
        assert answer == live


@pytest.mark.parametrize(
    "dressed",
    [
        pytest.param(lambda content: content.rstrip(b"\n"), id="no last line break"),
        pytest.param(lambda content: content.replace(b"\n", b"\r\n"), id="CRLF"),
        pytest.param(lambda content: b"\xef\xbb\xbf" + content, id="byte order mark"),
        pytest.param(lambda content: b"\n\n" + content.replace(b"\n", b"\n \n"), id="blank lines"),
    ],
)
def test_how_a_file_is_written_does_not_matter(client: OpenAI, door: Door, dressed: Any) -> None:
    batch = run(client, dressed(jsonl(chat("a", door.plain, max_tokens=1), chat("b 🐝", door.plain, max_tokens=1))))
    assert set(written(client, batch.output_file_id)) == {"a", "b 🐝"}


def test_a_batch_that_is_cancelled_keeps_what_it_has(client: OpenAI, door: Door) -> None:
    quick = [chat(f"quick-{number}", door.slow, max_tokens=1) for number in range(3)]
    slow = [chat(f"slow-{number}", door.slow) for number in range(9)]
    begun = begin(client, jsonl(*quick, *slow))

    def completed() -> bool:
        counts = client.batches.retrieve(begun.id).request_counts
        return counts is not None and counts.completed == len(quick)

    wait_until(completed, what="answer the quick lines")
    with pytest.raises(openai.ConflictError, match="cancel the batch"):
        client.files.delete(begun.input_file_id)
    # Who waits comes first: every slot has a line that goes on for minutes, and one of them gives way.
    assert client.chat.completions.create(**{**slow[0]["body"], "max_tokens": 1}).choices[0].finish_reason == "length"
    asked = client.batches.cancel(begun.id)
    assert asked.status in {"cancelling", "cancelled"}
    batch = ended(client, begun)
    assert batch.status == "cancelled"
    assert batch.cancelled_at is not None
    assert set(written(client, batch.output_file_id)) == {line["custom_id"] for line in quick}
    failures = written(client, batch.error_file_id)
    assert set(failures) == {line["custom_id"] for line in slow}
    assert {line["error"]["code"] for line in failures.values()} == {"batch_cancelled"}
    assert client.batches.cancel(begun.id).status == "cancelled"
    assert client.files.delete(begun.input_file_id).deleted

    def left() -> list[Any]:
        jobs: list[Any] = request("GET", f"{door.url}/v2/tasks?status=unfinished&limit=1000").json["jobs"]
        return [job for job in jobs if job["session_id"] == batch.id]

    wait_until(lambda: not left(), what="cancel the jobs of the batch")


# ---- files that are not sound --------------------------------------------------------------------------------------------


def line(**fields: Any) -> bytes:
    made = {"custom_id": "a", "method": "POST", "url": CHATS, "body": {"model": "steady"}, **fields}
    return json.dumps({name: value for name, value in made.items() if value is not None}).encode()


@pytest.mark.parametrize(
    ("content", "code", "number"),
    [
        (b"", "empty_file", None),
        (b"\n \n", "empty_file", None),
        (line() + b"\n{'custom_id'", "invalid_line", 2),
        (b"\n" + b"[1]\n", "invalid_line", 2),
        (line(custom_id="\udcff").replace(b"\\udcff", b"\xff"), "invalid_encoding", 1),
        (line(custom_id=None), "invalid_line", 1),
        (line(custom_id=7), "invalid_line", 1),
        (line(custom_id=""), "invalid_line", 1),
        (line(method="GET"), "invalid_method", 1),
        (line() + b"\n" + line(custom_id="b", url="/v1/embeddings"), "mismatched_endpoint", 2),
        (line() + b"\n\n" + line(), "duplicate_custom_id", 3),
        (line(body=[]), "invalid_body", 1),
        (line(body={"messages": []}), "missing_model", 1),
        (b"\n".join(line(custom_id=str(number)) for number in range(MAX_LINES + 1)), "too_many_requests", None),
        (line(body={"model": "steady", "prompt": "x" * (11 << 20)}), "line_too_long", 1),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_that_is_not_sound_fails_its_batch_by_the_line(
    client: OpenAI, content: bytes, code: str, number: int | None
) -> None:
    batch = run(client, content)
    assert (batch.status, batch.output_file_id, batch.error_file_id) == ("failed", None, None)
    assert batch.failed_at is not None
    assert batch.errors is not None
    assert batch.errors.data is not None
    assert [(error.code, error.line) for error in batch.errors.data] == [(code, number)]
    assert batch.errors.data[0].message


def test_no_more_errors_are_told_than_somebody_reads(client: OpenAI) -> None:
    batch = run(client, b"no json\n" * 1_000)
    assert batch.errors is not None
    assert [error.line for error in batch.errors.data or ()] == list(range(1, 101))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"endpoint": "/v1/images/generations"}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 5}}, "output_expires_after.seconds"),
        ({"metadata": {"a": "b" * 600}}, "metadata"),
    ],
)
def test_a_batch_that_nobody_runs_is_refused_by_the_field(client: OpenAI, fields: dict[str, Any], param: str) -> None:
    asked: dict[str, Any] = {"input_file_id": upload(client, line()), "endpoint": CHATS, "completion_window": "24h", **fields}
    with pytest.raises(openai.BadRequestError) as refused:
        client.batches.create(**asked)
    assert refused.value.param is not None
    assert refused.value.param.startswith(param)


def test_what_is_not_there_is_not_found(client: OpenAI) -> None:
    for asked in (
        lambda: client.files.retrieve("file-none"),
        lambda: client.files.content("../../orcd.db"),
        lambda: client.files.delete("file-none"),
        lambda: client.batches.retrieve("batch_none"),
        lambda: client.batches.cancel("batch_none"),
        lambda: client.batches.create(input_file_id="file-none", endpoint=CHATS, completion_window="24h"),
    ):
        with pytest.raises(openai.NotFoundError):
            asked()


def test_a_key_makes_one_batch_and_is_told_to_be_of_no_use_for_a_file(client: OpenAI, door: Door) -> None:
    headers = {"Idempotency-Key": "swarm"}
    content = ("in.jsonl", jsonl(chat("a", door.plain)))
    raw = client.files.with_raw_response.create(file=content, purpose="batch", extra_headers=headers)
    assert raw.headers[HEADER] == "Idempotency-Key"
    file_id = raw.parse().id
    made = [
        client.batches.create(input_file_id=file_id, endpoint=CHATS, completion_window="24h", extra_headers=headers)
        for _ in range(2)
    ]
    assert made[0].id == made[1].id
    with pytest.raises(openai.ConflictError):
        client.batches.create(
            input_file_id=file_id, endpoint=CHATS, completion_window="24h", metadata={"a": "b"}, extra_headers=headers
        )


# ---- files ---------------------------------------------------------------------------------------------------------------


def test_a_file_is_listed_read_in_parts_and_deleted(client: OpenAI, door: Door) -> None:
    content = bytes(range(256)) * 9_000
    name = '../"é\n🐝.jsonl'
    kept = client.files.create(file=(name, content), purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600})
    assert (kept.bytes, kept.purpose, kept.status) == (len(content), "batch", "processed")
    assert "🐝.jsonl" in kept.filename
    assert kept.expires_at == kept.created_at + 3600
    assert client.files.wait_for_processing(kept.id, poll_interval=0.01).id == kept.id
    assert client.files.content(kept.id).read() == content
    part = request("GET", f"{door.base_url}/files/{kept.id}/content", headers={"Range": "bytes=300-309"})
    assert (part.status, part.body) == (206, content[300:310])
    later = client.files.create(file=b"{}", purpose="batch")
    assert [one.id for one in client.files.list(limit=1)][:2] == [later.id, kept.id]  # Page by page.
    assert [one.id for one in client.files.list(order="asc", after=kept.id)] == [later.id]
    assert {one.purpose for one in client.files.list(purpose="batch")} == {"batch"}
    for one in (kept, later):
        assert client.files.delete(one.id).deleted
    assert not {kept.id, later.id}.intersection(one.id for one in client.files.list())
    assert not (folder_of(door.cluster.home) / kept.id).exists()


@pytest.mark.parametrize("purpose", ["assistants", "fine-tune", "user_data", "vision", "batch_output"])
def test_files_for_other_purposes_are_refused_by_name(client: OpenAI, purpose: Any) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.files.create(file=b"{}", purpose=purpose)
    assert refused.value.param == "purpose"


def test_an_upload_that_is_cut_off_leaves_nothing(client: OpenAI, door: Door) -> None:
    before, there = {one.id for one in client.files.list()}, set(folder_of(door.cluster.home).iterdir())
    half = (
        b"--b\r\nContent-Disposition: form-data; name=purpose\r\n\r\nbatch\r\n"
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n' + b"x" * (3 << 20)
    )
    head = (
        f"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: {9 << 20}"
    )
    address = urlsplit(door.url)
    with socket.create_connection((address.hostname, address.port)) as connected:
        connected.sendall(head.encode() + b"\r\n\r\n" + half)
        wait_until(lambda: set(folder_of(door.cluster.home).iterdir()) != there, what="begin to write")
    wait_until(lambda: set(folder_of(door.cluster.home).iterdir()) == there, what="remove the half of it")
    assert {one.id for one in client.files.list()} == before


# ---- what breaks ---------------------------------------------------------------------------------------------------------


def test_orcd_killed_again_and_again_runs_every_line_once(cluster: Cluster) -> None:
    lines = [chat(f"line-{number}", cluster.model, seed=number) for number in range(LINES)]
    with OpenAI(base_url=f"{cluster.url}/v1", api_key="none", max_retries=0) as client:
        begun = begin(client, jsonl(*lines))
        for kill in range(1, KILLS + 1):
            await_answers(client, begun, kill * LINES // (KILLS + 2))
            assert answered(client, begun) < LINES
            cluster.orcd.kill()
            (folder_of(cluster.home) / f"half-{kill}").write_bytes(b"of an upload")
            cluster.start_orcd()
        batch = ended(client, begun)
        assert batch.status == "completed"
        answers = written(client, batch.output_file_id)
        assert set(answers) == {line["custom_id"] for line in lines}
        assert batch.error_file_id is None
        assert batch.request_counts is not None
        assert (batch.request_counts.completed, batch.request_counts.total) == (LINES, LINES)
        # One job for each line, and none that nobody asked for.
        jobs = [job for job in everything(cluster.url) if job["session_id"] == batch.id]
        assert len(jobs) == LINES
        assert {line["response"]["request_id"] for line in answers.values()} == {job["job_id"] for job in jobs}
        for number in (0, LINES // 2, LINES - 1):
            live = client.chat.completions.create(**lines[number]["body"])
            assert text(answers[f"line-{number}"]) == live.choices[0].message.content
        known = {one.id for one in client.files.list()}
        assert {path.name for path in folder_of(cluster.home).iterdir()} == known


def test_a_batch_whose_time_is_over_says_which_lines_it_did_not_run(cluster: Cluster) -> None:
    lines = [chat(f"line-{number}", cluster.model, seed=number) for number in range(LINES)]
    with OpenAI(base_url=f"{cluster.url}/v1", api_key="none", max_retries=0) as client:
        begun = begin(client, jsonl(*lines), output_expires_after={"anchor": "created_at", "seconds": 7200})
        await_answers(client, begun, 1)
        cluster.orcd.kill()
        with contextlib.closing(sqlite3.connect(cluster.home.folder / "orcd" / "orcd.db")) as database, database:
            database.execute("UPDATE batches SET expires_at_ms = ? WHERE batch_id = ?", (int(time.time() * 1000), begun.id))
        cluster.start_orcd()
        batch = ended(client, begun)
        assert batch.status == "expired"
        assert batch.expired_at is not None
        answers, failures = written(client, batch.output_file_id), written(client, batch.error_file_id)
        assert answers
        assert answers.keys().isdisjoint(failures)
        assert answers.keys() | failures.keys() == {line["custom_id"] for line in lines}
        assert {line["error"]["code"] for line in failures.values()} == {"batch_expired"}
        assert batch.output_file_id is not None
        output = client.files.retrieve(batch.output_file_id)
        assert output.expires_at == output.created_at + 7200
        assert output.purpose == "batch_output"


def test_a_file_above_the_limit_is_refused_and_leaves_nothing(cluster: Cluster) -> None:
    cluster.orcd.stop()
    cluster.start_orcd(MAX_FILE_BYTES="100000")
    there = set(folder_of(cluster.home).iterdir())
    with OpenAI(base_url=f"{cluster.url}/v1", api_key="none", max_retries=0) as client:
        client.files.delete(upload(client, b"x" * 100_000))
        for size in (100_001, 5_000_000):
            with pytest.raises(openai.APIStatusError) as refused:
                upload(client, b"x" * size)
            assert refused.value.status_code == 413
    assert set(folder_of(cluster.home).iterdir()) == there


def await_answers(client: OpenAI, batch: Batch, count: int) -> None:
    wait_until(lambda: answered(client, batch) >= count, what=f"answer {count} lines", timeout_s=120.0)


def answered(client: OpenAI, batch: Batch) -> int:
    counts = client.batches.retrieve(batch.id).request_counts
    return counts.completed if counts is not None else 0


def everything(url: str) -> list[dict[str, Any]]:
    """All jobs, page by page."""
    jobs: list[dict[str, Any]] = []
    cursor = ""
    while True:
        page = request("GET", f"{url}/v2/tasks?limit=1000{cursor}").json
        jobs += page["jobs"]
        if page["next_cursor"] is None:
            return jobs
        cursor = f"&cursor={page['next_cursor']}"


def folder_of(home: Home) -> Path:
    return home.folder / "orcd" / "files"
