"""What a conversation may hold, beyond what the types say."""

from __future__ import annotations

import pytest

from rbees.protocol import codec
from rbees.protocol.chat import MAX_MESSAGES, ChatMessage, check_chat
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.jobs import JobRequest, check_job
from rbees.protocol.workers import ExecuteRequest, TokenizeRequest

CALL = {"id": "a", "name": "f", "arguments": {"x": [1]}}
USER = {"role": "user", "content": "x"}


def check(**fields: object) -> None:
    check_job(codec.decode(codec.encode({"model": "m", "messages": [USER], **fields}), JobRequest))


def test_a_whole_round_of_tools_is_taken() -> None:
    check(
        messages=[
            USER,
            {"role": "assistant", "reasoning": "hm", "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "a", "name": "f", "content": [{"type": "text", "text": "42"}]},
        ],
        tools=[{"name": "f", "description": "d", "parameters": {"type": "object"}}],
        tool_choice="none",
        template_options={"enable_thinking": False, "date_string": "today", "budget": 3},
    )


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"messages": [{"role": "user"}]}, "messages[0]"),
        ({"messages": [USER, {"role": "assistant"}]}, "messages[1]"),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": [CALL]}]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": "x", "reasoning": "hm"}]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": "x", "tool_call_id": "a"}]}, "messages[0]"),
        ({"messages": [{"role": "assistant", "tool_calls": [CALL, CALL]}]}, "messages[0]"),
        ({"tools": [{"name": "f"}, {"name": "f"}]}, "tools"),
        ({"messages": None, "prompt": "x", "tools": [{"name": "f"}]}, "tools"),
        ({"messages": None, "prompt": "x", "tool_choice": "none"}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [{"name": "f"}], "tool_choice": {"name": "g"}}, "tool_choice"),
        ({"tools": [{"name": "f"}], "tool_choice": "required", "ignore_eos": True}, "ignore_eos"),
        ({"tools": [{"name": "f", "parameters": {"x-guidance": {}}}], "response_format": {"type": "json_object"}}, "tools"),
        ({"tools": [{"name": "f", "parameters": {"x-guidance": {}}}], "tool_choice": "required"}, "tools"),
        ({"tools": [{"name": "f", "parameters": {"enum": list(range(6_000))}}], "tool_choice": "required"}, "tools"),
        (
            {"tools": [{"name": "f", "parameters": {"properties": {str(i): {} for i in range(401)}}}], "tool_choice": "required"},
            "tools",
        ),
        ({"messages": None, "prompt": "x", "template_options": {"a": 1}}, "tools"),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(fields: dict[str, object], field: str) -> None:
    with pytest.raises(RbeesError) as caught:
        check(**fields)
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    assert caught.value.details["field"] == field


def test_a_conversation_in_which_nothing_was_said_is_refused() -> None:
    with pytest.raises(RbeesError) as caught:
        check_chat((), (), "auto", {})
    assert caught.value.details["field"] == "messages"


def test_a_tool_can_be_forced_by_name() -> None:
    check(tools=[{"name": "f"}, {"name": "g"}], tool_choice={"name": "g"})
    check(tools=[{"name": "f", "parameters": {"x-guidance": {}}}, {"name": "g"}], tool_choice={"name": "g"})


def test_the_parts_of_a_message_are_lines() -> None:
    message = codec.decode(b'{"role":"user","content":[{"type":"text","text":"a"},{"text":"b"}]}', ChatMessage)
    assert message.text == "a\nb"


def test_what_was_said_does_not_show_in_a_log() -> None:
    message = codec.decode(
        codec.encode({"role": "assistant", "content": "psst", "reasoning": "psst", "tool_calls": [CALL]}), ChatMessage
    )
    assert "psst" not in repr(message)
    assert "'x'" not in repr(message)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [(JobRequest, {"model": "m"}), (ExecuteRequest, {"job_id": "a", "epoch": 1}), (TokenizeRequest, {})],
    ids=["orcd", "execute", "tokenize"],
)
def test_orcd_and_workers_take_equally_many_messages(kind: type, fields: dict[str, object]) -> None:
    codec.decode(codec.encode({**fields, "messages": [USER] * MAX_MESSAGES}), kind)
    for count in (0, MAX_MESSAGES + 1):
        with pytest.raises(RbeesError, match="messages"):
            codec.decode(codec.encode({**fields, "messages": [USER] * count}), kind)


@pytest.mark.parametrize("choice", ["required", {"name": "f"}, "auto", "none"])
def test_tools_go_with_a_form_whatever_is_chosen(choice: object) -> None:
    check(tools=[{"name": "f"}], tool_choice=choice, response_format={"type": "json_object"})


@pytest.mark.parametrize("form", [None, {"type": "text"}])
def test_a_call_that_nothing_keeps_to_its_schema_may_have_any(form: object) -> None:
    check(tools=[{"name": "f", "parameters": {"x-guidance": {}}}], response_format=form)
