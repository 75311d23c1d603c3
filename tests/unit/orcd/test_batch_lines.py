"""Lines of batches: what is wrong with one, what its body asks for, what is written of it, and how many may wait."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from openai.types import Batch as TheirBatch
from openai.types import FileDeleted as TheirDeleted
from openai.types import FileObject as TheirFile
from openai.types import batch_create_params
from openai.types.batch_error import BatchError as TheirError
from openai.types.batch_request_counts import BatchRequestCounts
from openai.types.batch_usage import BatchUsage as TheirUsage
from pydantic import BaseModel

from rbees.orcd.batches import lines, reading
from rbees.orcd.batches.batches import batch_object
from rbees.orcd.batches.endpoints import ENDPOINTS
from rbees.orcd.batches.lines import Validation, answered, not_run, read_line, refused
from rbees.orcd.batches.objects import (
    WINDOW,
    BatchError,
    BatchObject,
    BatchRequest,
    BatchUsage,
    FileDeleted,
    FileObject,
    RequestCounts,
)
from rbees.orcd.batches.pace import LEAST, MOST, OF_QUEUE, WITHIN_S, Pace
from rbees.orcd.store.batches import BatchRow, Recorded
from rbees.protocol.codec import Message, encode
from rbees.protocol.errors import ErrorCode, RbeesError

CHATS = "/v1/chat/completions"


class Hum(Message, frozen=True, kw_only=True):
    """Some answer."""

    hum: str = "di"


def line(**fields: Any) -> bytes:
    body = {"model": "bees", "messages": [{"role": "user", "content": "hum"}]}
    return json.dumps({"custom_id": "a", "method": "POST", "url": CHATS, "body": body, **fields}).encode()


def validated(*all_lines: bytes) -> Validation:
    validation = Validation(CHATS)
    for number, one in enumerate(all_lines, 1):
        validation.take(number, one)
    return validation


# ---- as the package has it -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (BatchObject, TheirBatch),
        (BatchError, TheirError),
        (BatchUsage, TheirUsage),
        (RequestCounts, BatchRequestCounts),
        (FileObject, TheirFile),
        (FileDeleted, TheirDeleted),
    ],
)
def test_every_field_that_the_package_knows_is_told(ours: type[Message], theirs: type[BaseModel]) -> None:
    assert set(ours.__struct_fields__) == set(theirs.model_fields)


def test_every_field_that_the_package_sends_is_honoured() -> None:
    assert set(BatchRequest.__struct_fields__) == set(get_type_hints(batch_create_params.BatchCreateParams))
    window = get_type_hints(batch_create_params.BatchCreateParams)["completion_window"]
    assert get_args(window) == (WINDOW,)


def test_a_batch_is_one_to_the_package() -> None:
    row = BatchRow(
        batch_id="batch_a",
        status="expired",
        input_file_id="file-i",
        endpoint=CHATS,
        metadata=b'{"hive":"a"}',
        output_expires_after_s=None,
        correlation_id=None,
        created_at_ms=1_500,
        expires_at_ms=9_000,
        in_progress_at_ms=2_000,
        finalizing_at_ms=9_100,
        cancelling_at_ms=None,
        ended_at_ms=9_900,
        model="bees",
        total=3,
        output_file_id="file-o",
        error_file_id="file-e",
        errors=encode((BatchError(code="x", line=1, message="y"),)),
        idempotency_key=None,
        request_sha256=None,
        so_far=Recorded(1, 2, 10, 4, 5, 1, 100, 0, None),
    )
    read = TheirBatch.model_validate_json(encode(batch_object(row)))
    assert (read.status, read.expired_at, read.completed_at, read.finalizing_at) == ("expired", 9, None, 9)
    assert (read.output_file_id, read.error_file_id) == ("file-o", None)
    assert read.usage is not None
    assert (read.usage.total_tokens, read.usage.input_tokens_details.cached_tokens) == (15, 4)
    assert read.errors is not None
    assert read.errors.data is not None
    assert read.errors.data[0].line == 1


# ---- reading -------------------------------------------------------------------------------------------------------------


def test_sound_lines_are_counted_and_their_model_is_known() -> None:
    validation = validated(line(), line(custom_id="b", extra=1))
    assert (validation.errors, validation.total, validation.model) == ((), 2, "bees")
    assert validated(line(), line(custom_id="b", body={"model": "wasps"})).model is None


def test_an_error_names_the_line_and_the_field() -> None:
    (error,) = validated(line(), line(method="GET", custom_id="b")).errors
    assert (error.code, error.line, error.param) == ("invalid_method", 2, "method")
    (error,) = validated(line(custom_id=5)).errors
    assert (error.code, error.param) == ("invalid_line", "custom_id")


def test_what_a_line_holds_is_never_told() -> None:
    for content in (line(body={"model": 7, "prompt": "canary"}), b'{"canary', line(custom_id=["canary"]), line(url="canary")):
        assert "canary" not in repr(validated(content).errors)
    assert "canary" not in repr(read_line(line(body={"model": "canary"})))


def test_a_validation_is_over_when_nothing_more_would_be_told() -> None:
    validation = validated(*[b"x"] * lines.MAX_ERRORS)
    assert validation.is_over
    assert len(validation.errors) == lines.MAX_ERRORS


@pytest.mark.parametrize("chunk_bytes", [1, 40, 10_000])
async def test_a_file_is_read_in_pieces_whatever_its_line_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int
) -> None:
    monkeypatch.setattr(reading, "CHUNK_BYTES", chunk_bytes)
    path = tmp_path / "in"
    path.write_bytes(lines.BOM + line() + b"\r\n\n  \n" + line(custom_id="b") + b"\n" + line(custom_id="c"))
    assert [read_line(one).custom_id async for one in reading.lines(path, 1_000)] == ["a", "b", "c"]
    validation = await reading.validate(path, CHATS, 1_000)
    assert (validation.errors, validation.total) == ((), 3)


async def test_a_line_may_be_as_long_as_a_request_and_no_longer(tmp_path: Path) -> None:
    path = tmp_path / "in"
    for end in (b"", b"\n"):
        path.write_bytes(line() + end)
        assert (await reading.validate(path, CHATS, len(line()))).errors == ()
        (error,) = (await reading.validate(path, CHATS, len(line()) - 2)).errors
        assert (error.code, error.line) == ("line_too_long", 1)


# ---- asking --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHATS, {"model": "bees", "messages": [{"role": "user", "content": "hum"}], "n": 2}),
        ("/v1/completions", {"model": "bees", "prompt": ["a", "b"], "n": 2}),
        ("/v1/embeddings", {"model": "bees", "input": "a"}),
        ("/v1/rerank", {"model": "bees", "query": "a", "documents": ["b"]}),
    ],
)
def test_a_body_is_read_as_its_route_reads_it(path: str, body: dict[str, Any]) -> None:
    asked = ENDPOINTS[path](json.dumps({**body, "wings": 2}).encode())
    assert (asked.model, asked.passed_over) == ("bees", "wings")
    assert [job.model for job in asked.jobs] == ["bees"] * (2 if path == "/v1/completions" else 1)
    assert asked.choices == body.get("n", 1)


def test_a_line_has_no_stream() -> None:
    body = {"model": "bees", "messages": [{"role": "user", "content": "hum"}], "stream": True}
    with pytest.raises(RbeesError, match="stream"):
        ENDPOINTS[CHATS](json.dumps(body).encode())


# ---- writing -------------------------------------------------------------------------------------------------------------


def test_what_came_of_a_line_is_written_as_one() -> None:
    error = RbeesError(ErrorCode.MODEL_NOT_FOUND, "No\nsuch model.")
    made = [
        answered("r1", "a\n🐝", "job-1", Hum(), None),
        answered("r2", "b", "job-2", Hum(), "wings"),
        refused("r3", "c", None, error),
        not_run("r4", "d", "expired"),
        not_run("r5", "e", "cancelled"),
    ]
    assert all(content.count(b"\n") == 1 and content.endswith(b"\n") for content in made)
    read = [json.loads(content) for content in made]
    assert [one["custom_id"] for one in read] == ["a\n🐝", "b", "c", "d", "e"]
    assert read[0]["response"] == {"status_code": 200, "request_id": "job-1", "body": {"hum": "di"}}
    assert read[1]["response"]["ignored"] == "wings"
    assert (read[2]["response"]["status_code"], read[2]["error"]) == (404, None)
    assert read[2]["response"]["body"]["error"]["code"] == "model_not_found"
    assert [one["error"]["code"] for one in read[3:]] == ["batch_expired", "batch_cancelled"]
    assert [one["response"] for one in read[3:]] == [None, None]


# ---- pace ----------------------------------------------------------------------------------------------------------------


def test_as_many_lines_wait_as_have_begun_lately() -> None:
    pace = Pace(queue_limit=0)
    assert pace.may_wait(0.0, 1) == LEAST
    for _ in range(20):
        pace.begun(1.0)
    assert pace.may_wait(2.0, 1) == 20
    assert pace.may_wait(2.0, 3) == 6
    assert pace.may_wait(2.0, 100) == 1
    assert pace.may_wait(1.0 + WITHIN_S, 1) == LEAST
    for _ in range(2 * MOST):
        pace.begun(60.0)
    assert pace.may_wait(61.0, 1) == MOST


@pytest.mark.parametrize("limit", [1, 3, 40])
def test_a_queue_with_a_limit_keeps_room_for_others(limit: int) -> None:
    pace = Pace(queue_limit=limit)
    for _ in range(MOST):
        pace.begun(1.0)
    assert pace.may_wait(2.0, 1) == max(1, limit // OF_QUEUE)
