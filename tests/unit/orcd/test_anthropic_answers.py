"""What comes of jobs, as Anthropic's clients read it: whole, in typed events, and as errors."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from anthropic.types import (
    Message,
    MessageTokensCount,
    ModelInfo,
    RawContentBlockDeltaEvent,
    RawContentBlockStartEvent,
    RawContentBlockStopEvent,
    RawMessageDeltaEvent,
    RawMessageStartEvent,
    RawMessageStopEvent,
)
from anthropic.types.shared import error_type
from msgspec.structs import replace

from rbees.orcd.anthropic import errors
from rbees.orcd.anthropic.answers import PING, MessageStream, TokenCount, message_answer, message_id
from rbees.orcd.anthropic.messages import CountRequest, MessagesRequest
from rbees.orcd.anthropic.models import DEFAULT_LIMIT, model_info, model_page
from rbees.orcd.api.anthropic import FORM
from rbees.orcd.door.collected import Collected
from rbees.orcd.door.foreign import read_foreign
from rbees.protocol.chat import ToolCall
from rbees.protocol.codec import encode
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.events import ChoiceEnd, End, Event, Metrics, Queued, Started, Timings, Token, Usage
from rbees.protocol.pools import ModelView
from tests.support.host_facts import model

HUM = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hum"}]}
CALLS = (ToolCall(id="c1", name="count", arguments={"x": 1}), ToolCall(id="c2", name="count", arguments={}))
SHOWN = {"type": "adaptive"}
THEIRS: dict[str, Any] = {
    "message_start": RawMessageStartEvent,
    "content_block_start": RawContentBlockStartEvent,
    "content_block_delta": RawContentBlockDeltaEvent,
    "content_block_stop": RawContentBlockStopEvent,
    "message_delta": RawMessageDeltaEvent,
    "message_stop": RawMessageStopEvent,
}


def ask(**fields: Any) -> MessagesRequest:
    return read_foreign(encode({**HUM, **fields}), MessagesRequest).request


def token(text: str, **fields: Any) -> Token:
    return Token(text=text, index=0, token_ids=(1, 2), **fields)


def end(choice: ChoiceEnd | None = None, completion_tokens: int = 6) -> End:
    return End(
        choices=(choice or ChoiceEnd(finish_reason="stop"),),
        usage=Usage(prompt_tokens=10, cached_tokens=4, completion_tokens=completion_tokens),
        timings=Timings(prefill_ms=1.0, decode_ms=1.0),
    )


STARTED = (
    Queued(queue_position=1, created_at_ms=1),
    Metrics(stage="loading", progress=0.5),
    Started(epoch=1, worker_id="w", model="file:/m", prompt_tokens=10),
)
CALLING: tuple[Event, ...] = (
    *STARTED,
    token("hm", part="reasoning"),
    token("", part="reasoning"),
    token("One "),
    token("moment"),
    token("<call>{}</call>", part="tool"),
    Metrics(stage="attempt_failed"),
    end(ChoiceEnd(finish_reason="tool_calls", tool_calls=CALLS)),
)


def whole(request: MessagesRequest, *events: Event) -> dict[str, Any]:
    collected = Collected(1)
    for event in events:
        collected.take(event)
    answer = encode(message_answer(request, "msg_1", collected))
    Message.model_validate_json(answer, strict=True)
    plain: dict[str, Any] = json.loads(answer)
    return plain


def streamed(request: MessagesRequest, *events: Event) -> list[dict[str, Any]]:
    translation = MessageStream(request, "msg_1")
    sent = b"".join(translation.take(0, event) for event in events) + translation.ended()
    seen = []
    for frame in sent.removesuffix(b"\n\n").split(b"\n\n"):
        name, data = frame.split(b"\n")
        plain = json.loads(data.removeprefix(b"data: "))
        assert name == b"event: " + plain["type"].encode()
        if plain["type"] in THEIRS:
            THEIRS[plain["type"]].model_validate_json(json.dumps(plain), strict=True)
            seen.append(plain)
        else:
            assert plain == {"type": "ping"}
    return seen


USED = {
    "input_tokens": 6,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 4,
    "output_tokens": 6,
    "output_tokens_details": {"thinking_tokens": 4},
    "service_tier": "standard",
}


def test_a_whole_answer_with_thoughts_and_calls() -> None:
    answer = whole(ask(thinking=SHOWN), *CALLING)
    assert (answer["id"], answer["type"], answer["role"], answer["model"]) == ("msg_1", "message", "assistant", "m")
    assert answer["content"] == [
        {"type": "thinking", "thinking": "hm", "signature": "msg_1"},
        {"type": "text", "text": "One moment"},
        {"type": "tool_use", "id": "c1", "name": "count", "input": {"x": 1}},
        {"type": "tool_use", "id": "c2", "name": "count", "input": {}},
    ]
    assert (answer["stop_reason"], answer["stop_sequence"], answer["usage"]) == ("tool_use", None, USED)


def test_thoughts_are_shown_to_whoever_asks_for_them() -> None:
    for hidden in (None, {"type": "disabled"}, {"type": "adaptive", "display": "omitted"}):
        asked = ask(thinking=hidden)
        assert [block["type"] for block in whole(asked, *CALLING)["content"]] == ["text", "tool_use", "tool_use"]
        starts = [event for event in streamed(asked, *CALLING) if event["type"] == "content_block_start"]
        assert [(start["index"], start["content_block"]["type"]) for start in starts] == [
            (0, "text"),
            (1, "tool_use"),
            (2, "tool_use"),
        ]
        assert whole(asked, *CALLING)["usage"] == USED


def test_a_stream_brings_block_after_block() -> None:
    begun, *grown, ended, stopped = streamed(ask(thinking=SHOWN), *CALLING)
    assert (begun["message"]["content"], begun["message"]["stop_reason"], begun["message"]["usage"]["input_tokens"]) == (
        [],
        None,
        10,
    )
    assert grown == [
        {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": "", "signature": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hm"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "msg_1"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "One "}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "moment"}},
        {"type": "content_block_stop", "index": 1},
        {
            "type": "content_block_start",
            "index": 2,
            "content_block": {"type": "tool_use", "id": "c1", "name": "count", "input": {}},
        },
        {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": '{"x":1}'}},
        {"type": "content_block_stop", "index": 2},
        {
            "type": "content_block_start",
            "index": 3,
            "content_block": {"type": "tool_use", "id": "c2", "name": "count", "input": {}},
        },
        {"type": "content_block_delta", "index": 3, "delta": {"type": "input_json_delta", "partial_json": "{}"}},
        {"type": "content_block_stop", "index": 3},
    ]
    assert ended == {"type": "message_delta", "delta": {"stop_reason": "tool_use", "stop_sequence": None}, "usage": USED}
    assert stopped == {"type": "message_stop"}


def test_a_ping_tells_that_the_answer_is_still_to_come() -> None:
    translation = MessageStream(ask(), "msg_1")
    assert translation.take(0, STARTED[0]) == translation.take(0, STARTED[1]) == b""
    assert PING == b'event: ping\ndata: {"type":"ping"}\n\n' == FORM.comment
    assert translation.take(0, STARTED[2]).endswith(PING)


def test_one_call_where_no_more_are_wanted() -> None:
    asked = ask(tools=[{"name": "count", "input_schema": {}}], tool_choice={"type": "auto", "disable_parallel_tool_use": True})
    assert [block["id"] for block in whole(asked, *CALLING)["content"] if block["type"] == "tool_use"] == ["c1"]
    assert len([event for event in streamed(asked, *CALLING) if event["type"] == "content_block_start"]) == 2


@pytest.mark.parametrize(
    ("choice", "completion_tokens", "reason", "sequence"),
    [
        (ChoiceEnd(finish_reason="stop"), 6, "end_turn", None),
        (ChoiceEnd(finish_reason="stop", stop_string="x"), 6, "stop_sequence", "x"),
        (ChoiceEnd(finish_reason="tool_calls", tool_calls=CALLS, stop_string="x"), 6, "tool_use", None),
        (ChoiceEnd(finish_reason="length"), 9, "max_tokens", None),
        (ChoiceEnd(finish_reason="length"), 6, "model_context_window_exceeded", None),
    ],
)
def test_why_an_answer_ended(choice: ChoiceEnd, completion_tokens: int, reason: str, sequence: str | None) -> None:
    events = (*STARTED, token("a"), end(choice, completion_tokens))
    answer = whole(ask(), *events)
    assert (answer["stop_reason"], answer["stop_sequence"]) == (reason, sequence)
    assert streamed(ask(), *events)[-2]["delta"] == {"stop_reason": reason, "stop_sequence": sequence}


def test_an_answer_that_says_nothing_has_no_blocks() -> None:
    assert whole(ask(), *STARTED, end())["content"] == []
    assert [event["type"] for event in streamed(ask(), *STARTED, end())] == ["message_start", "message_delta", "message_stop"]


def test_where_only_the_prompt_is_to_be_computed_nothing_is_said() -> None:
    asked = ask(max_tokens=0, thinking=SHOWN)
    answer = whole(asked, *CALLING)
    used = {**USED, "output_tokens": 0, "output_tokens_details": {"thinking_tokens": 0}}
    assert (answer["content"], answer["stop_reason"], answer["usage"]) == ([], "max_tokens", used)
    _, ended, _ = streamed(asked, *CALLING)
    assert (ended["delta"]["stop_reason"], ended["usage"]) == ("max_tokens", used)


def test_the_tier_that_served_is_told() -> None:
    assert whole(ask(priority="batch"), *CALLING)["usage"]["service_tier"] == "batch"


def test_a_count_is_theirs() -> None:
    assert MessageTokensCount.model_validate_json(encode(TokenCount(input_tokens=3)), strict=True).input_tokens == 3
    assert message_id("job-1") == "msg_job-1"


# ---- models --------------------------------------------------------------------------------------------------------------

HELD = [
    ModelView(facts=replace(model(name), aliases=(name,)), pools=("a",), ready_workers=int(name == "e"))
    for name in ("a", "b", "c", "d", "e")
]


def test_the_context_told_is_the_one_to_be_had() -> None:
    trained = HELD[0].facts.context_length
    assert model_info(HELD[0]).max_input_tokens == trained
    assert model_info(replace(HELD[0], served_ctx=trained // 2)).max_input_tokens == trained // 2


def test_models_come_in_pages_the_ready_first() -> None:
    info = model_info(HELD[0], "sha256:1")
    ModelInfo.model_validate_json(encode(info))
    assert (info.id, info.display_name, info.status) == ("sha256:1", "a", "available")

    def page(
        limit: int | None = None, after: str | None = None, before: str | None = None
    ) -> tuple[str, bool, str | None, str | None]:
        made = model_page(HELD, limit, after, before)
        return "".join(each.id for each in made.data), made.has_more, made.first_id, made.last_id

    assert len(HELD) < DEFAULT_LIMIT
    assert page() == ("eabcd", False, "e", "d")
    assert page(2) == ("ea", True, "e", "a")
    assert page(2, after="a") == ("bc", True, "b", "c")
    assert page(2, after="c") == ("d", False, "d", "d")
    assert page(after="d") == ("", False, None, None)
    assert page(2, before="c") == ("ab", True, "a", "b")
    assert page(9, before="c") == ("eab", False, "e", "b")
    for after, before in (("x", None), (None, "x"), ("a", "b")):
        with pytest.raises(RbeesError) as caught:
            page(None, after, before)
        assert caught.value.code is ErrorCode.INVALID_REQUEST


# ---- errors --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "status", "type_"),
    [
        (ErrorCode.INVALID_REQUEST, 400, "invalid_request_error"),
        (ErrorCode.CONTEXT_EXCEEDED, 400, "invalid_request_error"),
        (ErrorCode.MODEL_INCOMPATIBLE, 400, "invalid_request_error"),
        (ErrorCode.UNAUTHENTICATED, 401, "authentication_error"),
        (ErrorCode.FORBIDDEN, 403, "permission_error"),
        (ErrorCode.MODEL_NOT_FOUND, 404, "not_found_error"),
        (ErrorCode.IDEMPOTENCY_CONFLICT, 409, "conflict_error"),
        (ErrorCode.REQUEST_TOO_LARGE, 413, "request_too_large"),
        (ErrorCode.QUEUE_FULL, 429, "rate_limit_error"),
        (ErrorCode.INTERNAL, 500, "api_error"),
        (ErrorCode.WORKER_CRASHED, 502, "api_error"),
        (ErrorCode.MODEL_LOADING, 503, "overloaded_error"),
        (ErrorCode.TIMEOUT, 504, "timeout_error"),
    ],
)
def test_errors_have_the_shape_and_status_of_the_api(code: ErrorCode, status: int, type_: str) -> None:
    error = RbeesError(code, "What to do.", field="messages[0]")
    assert errors.status_of(error) == status
    plain = json.loads(encode(errors.body_of(error, "r-1")))
    assert plain == {
        "type": "error",
        "error": {"type": type_, "message": "What to do.", "code": code.value, "field": "messages[0]"},
        "request_id": "r-1",
    }
    # The package lists all types but the one that the API reference gives for 413.
    assert type_ in {*get_args(error_type.ErrorType), "request_too_large"}


def test_an_error_names_the_field_as_this_api_does() -> None:
    def field(code: ErrorCode, **details: Any) -> str | None:
        return errors.body_of(RbeesError(code, "What to do.", **details)).error.field

    assert field(ErrorCode.INVALID_REQUEST, field="template_options.x") == "chat_template_kwargs.x"
    assert field(ErrorCode.INVALID_REQUEST, field="stop") == "stop_sequences"
    assert field(ErrorCode.MODEL_NOT_FOUND) == "model"
    assert field(ErrorCode.INTERNAL) is None


def test_programs_that_count_on_kept_conversations_are_told_to_send_them_whole() -> None:
    for thread in ({"type": "create"}, {"type": "continue", "previous_message_id": "msg_1"}):
        for type_ in (MessagesRequest, CountRequest):
            with pytest.raises(RbeesError, match="send all turns in `messages`") as caught:
                read_foreign(encode({**HUM, "thread": thread}), type_)
            plain = json.loads(encode(errors.body_of(caught.value)))["error"]
            assert (plain["type"], plain["field"]) == ("invalid_request_error", "thread")
            assert plain["details"] == {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}
    assert ask(thread=None) == ask()


def test_agents_know_a_prompt_that_is_too_long_by_the_words_of_the_api() -> None:
    error = RbeesError(ErrorCode.CONTEXT_EXCEEDED, "Shorten it.", prompt_tokens=600, ctx_tokens=512, max_tokens=None)
    assert errors.body_of(error).error.message == "prompt is too long: 600 tokens > 512 maximum. Shorten it."
    assert errors.body_of(RbeesError(ErrorCode.CONTEXT_EXCEEDED, "Shorten it.")).error.message == "Shorten it."


def test_a_sentence_speaks_of_the_fields_of_this_api() -> None:
    def said(message: str, code: ErrorCode = ErrorCode.INVALID_REQUEST) -> str:
        return errors.body_of(RbeesError(code, message)).error.message

    assert said("`response_format` is no schema.") == "`output_config.format` is no schema."
    assert said("`response_format.schema` is no schema.") == "`output_config.format.schema` is no schema."
    assert said("It uses no variable `lang`; see `template_options.lang`.") == (
        "It uses no variable `lang`; see `chat_template_kwargs.lang`."
    )
    assert said("Lower `max_tokens`.", ErrorCode.CONTEXT_EXCEEDED) == "Lower `max_tokens`."
    assert said("No model is called `stop`.", ErrorCode.NO_PLACEMENT) == "No model is called `stop`."


@pytest.mark.parametrize("code", ErrorCode)
def test_clients_that_would_ask_again_are_told_whether_to(code: ErrorCode) -> None:
    error = RbeesError(code, "What to do.")
    asked_again = errors.status_of(error) in {408, 409, 429} or errors.status_of(error) >= 500
    assert ("x-should-retry" in errors.headers_of(error)) is asked_again


def test_a_failure_in_the_midst_is_an_event() -> None:
    sent = MessageStream(ask(), "msg_1").failed(RbeesError(ErrorCode.WORKER_CRASHED, "It died."))
    name, data = sent.removesuffix(b"\n\n").split(b"\n")
    assert name == b"event: error"
    assert json.loads(data.removeprefix(b"data: "))["error"]["type"] == "api_error"


def test_no_answer_shows_in_a_log() -> None:
    collected = Collected(1)
    secret = (token("sekret", part="reasoning"), token("sekret"))
    for event in (*STARTED, *secret, end(ChoiceEnd(finish_reason="tool_calls", tool_calls=CALLS, stop_string="sekret"))):
        collected.take(event)
    answer = message_answer(ask(thinking=SHOWN), "msg_1", collected)
    assert "sekret" not in repr(answer.content)
    assert "count" not in repr(answer.content)
