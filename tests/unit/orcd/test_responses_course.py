"""What comes of a response, event by event of its job, as OpenAI's clients read it; always the same, however it is read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.responses import Response as TheirResponse
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from rbees.orcd.door.foreign import read_foreign
from rbees.orcd.responses.answers import Response
from rbees.orcd.responses.course import Course, Frames
from rbees.orcd.responses.items import Reference, read_items, turns_of
from rbees.orcd.responses.requests import Record, ResponseRequest, record_of, response_job
from rbees.protocol.chat import ToolCall
from rbees.protocol.codec import decode, encode
from rbees.protocol.errors import ErrorBody, ErrorCode, RbeesError
from rbees.protocol.events import (
    ChoiceEnd,
    End,
    Error,
    Event,
    Metrics,
    Queued,
    Started,
    Timings,
    Token,
    TokenLogprob,
    TopLogprob,
    Usage,
)

JOB_ID = "job-0123456789abcdefghjkmnpqrs"
CREATED_AT_MS = 1_700_500
CALLS = (ToolCall(id="c1", name="count", arguments={"x": 1}), ToolCall(id="c2", name="count", arguments={}))
THEIRS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def record(**fields: Any) -> Record:
    request = read_foreign(encode({"model": "m", "input": "hum", **fields}), ResponseRequest).request
    items = tuple(item for item in read_items(request.input, request.model) if not isinstance(item, Reference))
    return record_of(request, response_job(request, (), items, None), items)


def begin(**fields: Any) -> Course:
    # As it is read from the disk.
    return Course(decode(encode(record(**fields)), Record).asked, JOB_ID, CREATED_AT_MS)


def token(text: str, **fields: Any) -> Token:
    return Token(text=text, index=0, token_ids=(1, 2), **fields)


def end(reason: Any = "stop", calls: tuple[ToolCall, ...] = ()) -> End:
    return End(
        choices=(ChoiceEnd(finish_reason=reason, tool_calls=calls),),
        usage=Usage(prompt_tokens=10, cached_tokens=4, completion_tokens=6),
        timings=Timings(prefill_ms=1.0, decode_ms=1.0, total_ms=2_000.0),
    )


QUEUED = Queued(queue_position=1, created_at_ms=CREATED_AT_MS)
STARTED: tuple[Event, ...] = (
    QUEUED,
    Metrics(stage="loading", progress=0.5),
    Started(epoch=1, worker_id="w", model="file:/m", prompt_tokens=10),
)
CALLING: tuple[Event, ...] = (
    *STARTED,
    token("hm", part="reasoning"),
    token(", bees", part="reasoning"),
    token("One "),
    token("moment"),
    token("<call>{}</call>", part="tool"),
    Metrics(stage="attempt_failed"),
    end("tool_calls", CALLS),
)


def read(course: Course, *events: Event) -> list[dict[str, Any]]:
    frames = Frames(course)
    data = b"".join(frames.take(0, event) for event in events)
    told = []
    for one in data.split(b"\n\n")[:-1]:
        name, _, content = one.partition(b"\n")
        told.append(json.loads(content.removeprefix(b"data: ")))
        assert name == b"event: " + told[-1]["type"].encode()
        THEIRS.validate_json(content.removeprefix(b"data: "), strict=True)
    assert [one["sequence_number"] for one in told] == list(range(len(told)))
    return told


def plain(response: Response) -> dict[str, Any]:
    data = encode(response)
    TheirResponse.model_validate_json(data, strict=True)
    told: dict[str, Any] = json.loads(data)
    return told


def types(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


def test_thoughts_text_and_calls_are_items_one_after_the_other() -> None:
    course = begin()
    events = read(course, *CALLING)
    part = ["output_item.added", "content_part.added"], ["content_part.done", "output_item.done"]
    call = ["output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done"]
    assert types(events) == [
        "created",
        "in_progress",
        *part[0],
        *["reasoning_text.delta"] * 2,
        "reasoning_text.done",
        *part[1],
        *part[0],
        *["output_text.delta"] * 2,
        "output_text.done",
        *part[1],
        *call,
        *call,
        "completed",
    ]
    response = events[-1]["response"]
    assert response == plain(course.response)
    thought, said, first, second = response["output"]
    assert (thought["type"], thought["summary"], thought["content"][0]["text"]) == ("reasoning", [], "hm, bees")
    assert (said["role"], said["status"], said["content"][0]["text"]) == ("assistant", "completed", "One moment")
    assert (first["call_id"], first["name"], first["arguments"]) == ("c1", "count", '{"x":1}')
    assert (second["call_id"], second["arguments"]) == ("c2", "{}")
    assert [item["id"] for item in response["output"]] == [
        f"{kind}_{JOB_ID}_{n}" for n, kind in enumerate(("rs", "msg", "fc", "fc"))
    ]
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == response["output"]
    for event in events:
        if event["type"] in {"response.output_text.delta", "response.reasoning_text.delta"}:
            assert event["item_id"] == response["output"][event["output_index"]]["id"]
    assert response["usage"] == {
        "input_tokens": 10,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
        "output_tokens": 6,
        "output_tokens_details": {"reasoning_tokens": 4},
        "total_tokens": 16,
    }
    assert (response["created_at"], response["completed_at"]) == (1_700, 1_702)


def test_a_call_of_a_namespace_is_told_by_both_names_wherever_it_is_shown() -> None:
    group = {"type": "namespace", "name": "crm", "description": "d", "tools": [{"type": "function", "name": "find"}]}
    plainly = {"type": "function", "name": "find"}
    course = begin(tools=[group, plainly])
    calls = (ToolCall(id="c1", name="crm__find", arguments={"x": 1}), ToolCall(id="c2", name="find", arguments={}))
    events = read(course, *STARTED, end("tool_calls", calls))
    shown = [event["item"] for event in events if "item" in event]
    names = [(item["name"], item.get("namespace")) for item in shown]
    assert names == [("find", "crm"), ("find", "crm"), ("find", None), ("find", None)]
    assert plain(course.response)["output"] == events[-1]["response"]["output"] == [shown[1], shown[3]]
    assert "namespace" not in shown[3]
    assert [turn.name for turn in turns_of(course.response.output)[0].tool_calls] == ["crm__find", "find"]
    functions = [{**plainly, "description": None, "parameters": None, "strict": None}]
    assert plain(course.response)["tools"] == [{**group, "tools": functions}, *functions]


def test_without_parallel_calls_the_first_is_the_only_one() -> None:
    course = begin(parallel_tool_calls=False)
    read(course, *CALLING)
    assert [item["call_id"] for item in plain(course.response)["output"] if item["type"] == "function_call"] == ["c1"]


def test_an_answer_that_was_cut_off_is_incomplete() -> None:
    course = begin(max_output_tokens=2)
    events = read(course, *STARTED, token("One "), end("length"))
    assert types(events)[-4:] == ["output_text.done", "content_part.done", "output_item.done", "incomplete"]
    told = plain(course.response)
    assert (told["status"], told["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert (told["output"][0]["status"], told["completed_at"]) == ("incomplete", None)
    thinking = begin()
    read(thinking, *STARTED, token("hm", part="reasoning"), end("length"))
    assert [item["type"] for item in plain(thinking.response)["output"]] == ["reasoning"]


def test_an_answer_without_words_is_an_empty_message() -> None:
    course = begin()
    events = read(course, *STARTED, token(""), end())
    assert types(events)[2:5] == ["output_item.added", "content_part.added", "output_text.done"]
    assert types(events)[5:] == ["content_part.done", "output_item.done", "completed"]
    assert plain(course.response)["output"][0]["content"] == [{"type": "output_text", "text": "", "annotations": []}]


def test_in_the_background_it_is_queued_first() -> None:
    course = begin(background=True)
    assert plain(course.response)["status"] == "queued"
    events = read(course, *STARTED)
    assert types(events) == ["created", "queued", "in_progress"]
    assert [event["response"]["status"] for event in events] == ["queued", "queued", "in_progress"]
    assert begin().response.status == "in_progress"


def test_what_is_under_way_shows_as_far_as_it_has_come() -> None:
    course = begin()
    read(course, *STARTED, token("hm", part="reasoning"), token("One "))
    thought, said = plain(course.response)["output"]
    assert (thought["status"], said["status"], said["content"][0]["text"]) == ("completed", "in_progress", "One ")


def test_a_failure_is_told_in_the_names_of_a_response() -> None:
    course = begin(max_output_tokens=9)
    failure = ErrorBody(code=ErrorCode.CONTEXT_EXCEEDED, message="Lower `max_tokens`.")
    events = read(course, *STARTED, Error(error=failure))
    assert [event["message"] for event in events if event["type"] == "error"] == ["Lower `max_output_tokens`."]
    refused = ErrorBody(code=ErrorCode.INVALID_REQUEST, message="`response_format` is not a valid schema.")
    course = begin()
    read(course, *STARTED, Error(error=refused))
    assert course.response.error is not None
    assert course.response.error.message == "`text.format` is not a valid schema."


def test_a_failure_is_told_twice_and_keeps_what_had_come() -> None:
    course = begin()
    failure = ErrorBody(code=ErrorCode.CONTEXT_EXCEEDED, message="too long")
    events = read(course, *STARTED, token("One "), Error(error=failure))
    assert types(events)[-2:] == ["error", "failed"]
    assert {"code": "context_length_exceeded", "message": "too long"}.items() <= events[-2].items()
    told = plain(course.response)
    assert (told["status"], told["error"]) == ("failed", {"code": "invalid_prompt", "message": "too long"})
    assert told["output"][0]["status"] == "incomplete"
    assert course.error == failure


@pytest.mark.parametrize(
    ("code", "told"),
    [(ErrorCode.WORKER_CRASHED, "server_error"), (ErrorCode.QUEUE_FULL, "rate_limit_exceeded")],
)
def test_each_failure_has_a_code_that_the_api_knows(code: ErrorCode, told: str) -> None:
    course = begin()
    read(course, QUEUED, Error(error=ErrorBody(code=code, message="no")))
    assert plain(course.response)["error"]["code"] == told


def test_a_response_that_was_cancelled_says_so_in_its_last_event() -> None:
    course = begin(background=True)
    events = read(course, *STARTED, Error(error=ErrorBody(code=ErrorCode.CANCELLED, message="by its client")))
    assert types(events)[-1] == "failed"
    assert "error" not in types(events)
    assert (events[-1]["response"]["status"], events[-1]["response"]["error"]) == ("cancelled", None)


def test_logprobs_stand_with_the_text() -> None:
    one = TokenLogprob(token_id=1, text="One ", logprob=-0.5, top=(TopLogprob(token_id=2, text="é", bytes=(195,), logprob=-1.0),))
    course = begin(include=["message.output_text.logprobs"], top_logprobs=1)
    events = read(course, *STARTED, token("One ", logprobs=(one,)), token("", logprobs=(one,)), end())
    deltas = [event["logprobs"] for event in events if event["type"] == "response.output_text.delta"]
    told = {
        "token": "One ",
        "bytes": [79, 110, 101, 32],
        "logprob": -0.5,
        "top_logprobs": [{"token": "é", "bytes": [195], "logprob": -1.0}],
    }
    assert deltas == [[told], [told]]
    assert plain(course.response)["output"][0]["content"][0]["logprobs"] == [told, told]


def test_an_answer_repeats_what_was_asked() -> None:
    schema = {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}
    count = {"type": "function", "name": "count", "parameters": {"type": "object"}, "strict": True}
    fields: dict[str, Any] = {
        "instructions": "Sing.",
        "max_output_tokens": 9,
        "max_tool_calls": 3,
        "metadata": {"a": "b"},
        "previous_response_id": "resp_x",
        "prompt_cache_key": "k",
        "safety_identifier": "s",
        "service_tier": "flex",
        "temperature": 0.25,
        "top_logprobs": 2,
        "top_p": 0.5,
        "user": "u",
        "background": True,
        "parallel_tool_calls": False,
    }
    told = plain(begin(**fields, text={"format": schema}, tools=[count], reasoning={"effort": "low"}).response)
    assert fields.items() <= told.items()
    assert told["text"]["format"] == {**schema, "description": None}
    assert told["tools"] == [{**count, "description": None}]
    assert (told["reasoning"]["effort"], told["truncation"], told["store"]) == ("low", "disabled", True)
    default = plain(begin(store=False).response)
    assert (default["temperature"], default["top_p"], default["service_tier"]) == (0.7, 0.95, "default")
    assert (default["text"], default["store"], default["metadata"]) == ({"format": {"type": "text"}}, False, {})


def test_a_stream_is_taken_up_behind_any_of_its_events() -> None:
    whole = Frames(begin())
    frames = [one + b"\n\n" for one in b"".join(whole.take(0, event) for event in CALLING).split(b"\n\n")[:-1]]
    for after in range(-1, len(frames) + 1):
        rest = Frames(begin(), after)
        assert b"".join(rest.take(0, event) for event in CALLING) == b"".join(frames[after + 1 :])
    assert whole.ended() == b""


def test_it_begins_the_same_whether_or_not_its_job_was_heard_to_be_queued() -> None:
    heard, told, silent = Frames(begin(background=True)), Frames(begin(background=True)), Frames(begin(background=True))
    whole = b"".join(heard.take(0, event) for event in CALLING)
    assert told.begin() + b"".join(told.take(0, event) for event in CALLING) == whole
    assert b"".join(silent.take(0, event) for event in CALLING[1:]) == whole
    assert silent.begin() == b""


def test_an_end_of_the_process_is_no_event() -> None:
    frames = Frames(begin())
    assert frames.failed(RbeesError(ErrorCode.DRAINING, "come back")) == b""
    failure = RbeesError(ErrorCode.WORKER_CRASHED, "no")
    journaled = Frames(begin()).take(0, Error(error=failure.body()))
    assert frames.failed(failure) == journaled


def test_nothing_said_shows_in_a_repr() -> None:
    group = {"type": "namespace", "name": "secret", "description": "secret", "tools": [{"type": "function", "name": "secret"}]}
    search = {"type": "web_search", "user_location": "secret", "filters": "secret"}
    course = begin(instructions="secret", input="secret", metadata={"secret": "secret"}, tools=[group, search])
    for event in (*STARTED, token("secret", part="reasoning"), token("secret"), end("tool_calls", (secret_call(),))):
        assert "secret" not in repr(course.take(event))
    assert "secret" not in repr(course.response)
    assert "secret" not in repr(record(instructions="secret", input="secret"))


def secret_call() -> ToolCall:
    return ToolCall(id="c", name="secret__secret", arguments={"secret": "secret"})
