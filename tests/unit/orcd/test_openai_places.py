"""What is said of a job, in the words of the request that it was made from."""

from __future__ import annotations

from typing import Any

import pytest

from rbees.orcd.door.foreign import read_foreign
from rbees.orcd.openai import errors
from rbees.orcd.openai.answers import Identity
from rbees.orcd.openai.chat import ChatRequest
from rbees.orcd.openai.chat_answers import ChatChunks
from rbees.orcd.openai.completions import CompletionRequest
from rbees.orcd.openai.places import as_sent, told_as_sent
from rbees.orcd.openai.vectors import EmbeddingsRequest
from rbees.orcd.responses.requests import ResponseRequest
from rbees.protocol.codec import encode
from rbees.protocol.errors import ErrorCode, RbeesError

SAID = "No answer can satisfy `response_format`; its parts contradict each other or never end."


def chat(**fields: Any) -> ChatRequest:
    return read_foreign(encode({"model": "m", "messages": [{"role": "user", "content": "hum"}], **fields}), ChatRequest).request


@pytest.mark.parametrize(
    ("fields", "sent"),
    [
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}}}, "response_format"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"guided_json": {}}, "guided_json"),
        ({"guided_regex": "a"}, "guided_regex"),
        ({"guided_choice": ["a"]}, "guided_choice"),
        ({"guided_grammar": "a"}, "guided_grammar"),
        ({"json_schema": {}}, "json_schema"),
        ({"grammar": "a", "response_format": {"type": "text"}}, "grammar"),
        ({"structured_outputs": {"choice": ["a"]}}, "structured_outputs.choice"),
    ],
)
@pytest.mark.parametrize("field", ["response_format", "response_format.schema", "response_format.pattern"])
def test_a_form_goes_by_the_field_that_asked_for_it(fields: dict[str, Any], sent: str, field: str) -> None:
    asked = chat(**fields)
    with pytest.raises(RbeesError) as caught, told_as_sent(asked):
        raise RbeesError(ErrorCode.INVALID_REQUEST, SAID, field=field)
    told = errors.body_of(caught.value).error
    assert (told.param, told.message) == (sent, SAID.replace("response_format", sent))
    failing = RbeesError(ErrorCode.INVALID_REQUEST, f"`{field}` is wrong.", field=field)
    chunk = ChatChunks(asked, Identity(id="i", created=0, model="m", system_fingerprint=None)).failed(failing)
    assert f"`{sent}` is wrong.".encode() in chunk


@pytest.mark.parametrize(
    ("fields", "variable", "param", "said"),
    [
        ({"reasoning_effort": "low"}, "reasoning_effort", "reasoning_effort", "leave `reasoning_effort` out"),
        ({"reasoning_effort": "none"}, "enable_thinking", "reasoning_effort", "cannot be told not to think"),
        ({"chat_template_kwargs": {"sparkle": 1}}, "sparkle", "chat_template_kwargs.sparkle", "no variable"),
        (
            {"chat_template_kwargs": {"enable_thinking": False}, "reasoning_effort": "none"},
            "enable_thinking",
            "chat_template_kwargs.enable_thinking",
            "no variable",
        ),
        (
            {"template_options": {"enable_thinking": False}, "reasoning_effort": "none"},
            "enable_thinking",
            "chat_template_kwargs.enable_thinking",
            "no variable",
        ),
    ],
)
def test_an_effort_that_a_template_does_not_know_goes_by_its_own_name(
    fields: dict[str, Any], variable: str, param: str, said: str
) -> None:
    error = RbeesError(ErrorCode.INVALID_REQUEST, f"It uses no variable `{variable}`.", field=f"template_options.{variable}")
    told = errors.body_of(as_sent(error, chat(**fields))).error
    assert told.param == param
    assert said in told.message


@pytest.mark.parametrize(
    ("asked", "prompt_tokens", "param"),
    [
        (chat(max_completion_tokens=9), 3, "max_completion_tokens"),
        (chat(max_tokens=9), 3, "max_tokens"),
        (ResponseRequest(model="m", input="p", max_output_tokens=9), 3, "max_output_tokens"),
        (ResponseRequest(model="m", input="p", max_tokens=9), 3, "max_tokens"),
        (ResponseRequest(model="m", input="p", max_output_tokens=9), 30, "input"),
        (chat(max_tokens=9), 30, "messages"),
        (chat(), 3, "messages"),
        (CompletionRequest(model="m", prompt="p", n_predict=9), 3, "n_predict"),
        (CompletionRequest(model="m", prompt="p"), 30, "prompt"),
        (EmbeddingsRequest(model="m", input="p"), 30, "input"),
    ],
)
def test_what_exceeds_the_context_is_named(asked: Any, prompt_tokens: int, param: str) -> None:
    error = RbeesError(ErrorCode.CONTEXT_EXCEEDED, "Lower `max_tokens`.", prompt_tokens=prompt_tokens, ctx_tokens=8)
    told = errors.body_of(as_sent(error, asked)).error
    assert told.param == param
    assert f"`{param}`" in told.message or prompt_tokens > 8 or param == "messages"


def test_other_errors_stay_as_they_are() -> None:
    for error in (RbeesError(ErrorCode.TIMEOUT, "Late."), RbeesError(ErrorCode.INVALID_REQUEST, "No `stop`.", field="stop")):
        message, details = error.message, dict(error.details)
        as_sent(error, chat(guided_regex="a"))
        assert (error.message, error.details) == (message, details)
