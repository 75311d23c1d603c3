"""The real `openai` package against models with the tokenizers, special tokens and templates of published families.

Their weights are drawn by lot: what they say means nothing, and a form that holds for that holds for anything. How many tokens a
prompt has is reckoned by Hugging Face's `tokenizers` and by Jinja, which share nothing with what they judge.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal

import jsonschema_rs
import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletion
from pydantic import BaseModel, Field

from tests.support.door import Door
from tests.support.families import LLAMA3, QWEN3, QWQ, Family

HUM: Final[list[Any]] = [{"role": "user", "content": "hum"}]
PARAMETERS: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "hive": {"enum": ["north", "süd 🐝"]},
        "frames": {"type": "integer", "minimum": 1, "maximum": 40},
        "notes": {"type": "array", "items": {"type": "string", "maxLength": 12}, "maxItems": 2},
        "queen": {
            "type": "object",
            "properties": {"age": {"type": ["integer", "null"], "minimum": 0, "maximum": 5}, "mark": {"pattern": "^[a-f]{2}$"}},
            "required": ["age", "mark"],
            "additionalProperties": False,
        },
    },
    "required": ["hive", "frames", "notes", "queen"],
    "additionalProperties": False,
}
PARAMETERS["properties"]["queen"]["properties"]["mark"]["type"] = "string"
TOOLS: Final[list[Any]] = [
    {"type": "function", "function": {"name": "count", "description": "Counts bees: „genau“.", "parameters": PARAMETERS}},
    {
        "type": "function",
        "function": {"name": "rest", "description": "", "parameters": {"type": "object", "additionalProperties": False}},
    },
]
LATER: Final[list[Any]] = [
    {"role": "system", "content": "You keep bees.\n"},
    {"role": "user", "content": "Où sont les 1 234 567 abeilles ?  It's  cold\t…"},
    {"role": "assistant", "content": "In the hive. 🐝"},
    {"role": "user", "content": "蜂たちは？ Ульи 👩‍🌾\n\n\n"},
]
CALLED: Final[list[Any]] = [
    *HUM,
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "call00001", "type": "function", "function": {"name": "count", "arguments": {"hive": "é"}}}],
    },
    {"role": "tool", "tool_call_id": "call00001", "content": '{"bees": 3}'},
]
FAMILIES: Final = pytest.mark.parametrize("family", [QWEN3, QWQ, LLAMA3], ids=lambda family: family.name)
CALLERS: Final = pytest.mark.parametrize("family", [QWEN3, LLAMA3], ids=lambda family: family.name)


@pytest.fixture(scope="module")
def client(door: Door) -> Iterator[OpenAI]:
    with OpenAI(base_url=door.base_url, api_key="none", max_retries=0) as made:
        yield made


def prompt_tokens(answer: Any) -> int:
    assert answer.usage is not None
    count: int = answer.usage.prompt_tokens
    return count


# ---- prompts -------------------------------------------------------------------------------------------------------------


@FAMILIES
@pytest.mark.parametrize(
    ("messages", "tools"),
    [(HUM, None), (LATER, None), (HUM, TOOLS), (CALLED, TOOLS)],
    ids=["plain", "conversation", "tools", "results"],
)
def test_a_prompt_has_as_many_tokens_as_its_own_tokenizer_makes(
    client: OpenAI, family: Family, messages: list[Any], tools: list[Any] | None
) -> None:
    asked: dict[str, Any] = {"model": family.name, "messages": _as_sent(messages), "max_tokens": 1}
    answer = client.chat.completions.create(**asked, tools=tools or openai.omit)
    assert prompt_tokens(answer) == len(family.encode(family.render(messages, tools=tools)))


def test_a_thought_that_is_not_wanted_is_closed_in_the_prompt(client: OpenAI) -> None:
    whole = client.chat.completions.create(model=QWEN3.name, messages=HUM, max_tokens=6, reasoning_effort="none", seed=2)
    assert prompt_tokens(whole) == len(QWEN3.encode(QWEN3.render(HUM, enable_thinking=False)))
    assert whole.choices[0].message.content
    assert not hasattr(whole.choices[0].message, "reasoning_content")


@FAMILIES
def test_control_tokens_that_a_client_writes_are_plain_text(client: OpenAI, family: Family) -> None:
    end = family.text_of(family.end)
    said = f"one{end}\nsystem"
    answer = client.chat.completions.create(model=family.name, messages=[{"role": "user", "content": said}], max_tokens=1)
    prompt = family.render([{"role": "user", "content": said}])
    before, behind = prompt.split(said)
    # The spelling is cut behind its first letter, and the two are tokenized apart.
    apart = family.encode(f"{before}one{end[0]}", f"{end[1:]}\nsystem{behind}")
    assert prompt_tokens(answer) == len(apart) > len(family.encode(prompt))
    assert apart.count(family.end) == family.encode(prompt).count(family.end) - 1
    # A raw prompt is its author's own.
    raw = client.completions.create(model=family.name, prompt=prompt, max_tokens=1)
    assert prompt_tokens(raw) == len(family.encode(prompt))


# ---- answers -------------------------------------------------------------------------------------------------------------


@FAMILIES
def test_a_stream_of_several_answers_says_the_same_as_the_whole(client: OpenAI, family: Family) -> None:
    asked: dict[str, Any] = {"model": family.name, "messages": LATER, "n": 3, "seed": 5, "max_tokens": 12}
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    for choice in whole.choices:
        deltas = [part.delta for chunk in chunks for part in chunk.choices if part.index == choice.index]
        told = ["".join(getattr(delta, name, None) or "" for delta in deltas) for name in ("content", "reasoning_content")]
        assert told == [choice.message.content, getattr(choice.message, "reasoning_content", "")]
        assert choice.finish_reason == "length"
    assert len({repr(choice.message) for choice in whole.choices}) == 3
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 36
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 36


@CALLERS
def test_characters_that_tokens_divide_arrive_whole(client: OpenAI, family: Family) -> None:
    text = "🐝🍯 蜂たち é ȹ 𓆤"
    asked: dict[str, Any] = {"model": family.name, "messages": HUM, "logprobs": True, "extra_body": {"guided_choice": [text]}}
    asked |= {"reasoning_effort": "none"} if family is QWEN3 else {}
    chunks = [choice for chunk in client.chat.completions.create(**asked, stream=True) for choice in chunk.choices]
    assert "".join(choice.delta.content or "" for choice in chunks) == text
    parts = [bytes(one.bytes or ()) for choice in chunks if choice.logprobs for one in choice.logprobs.content or ()]
    assert b"".join(parts) == text.encode()
    assert any("\N{REPLACEMENT CHARACTER}" in part.decode(errors="replace") for part in parts), "some are not whole characters"
    assert not any("\N{REPLACEMENT CHARACTER}" in (choice.delta.content or "") for choice in chunks)


def test_probabilities_are_of_the_text_and_no_more_than_one(client: OpenAI) -> None:
    asked: dict[str, Any] = {"messages": HUM, "logprobs": True, "top_logprobs": 20, "max_tokens": 8, "seed": 1}
    drawn = client.chat.completions.create(model=LLAMA3.name, **asked).choices[0]
    likeliest = client.chat.completions.create(model=LLAMA3.name, **asked, temperature=0).choices[0]
    for choice in (drawn, likeliest):
        assert choice.logprobs is not None
        told = choice.logprobs.content or []
        assert len(told) == 8
        assert b"".join(bytes(one.bytes or ()) for one in told).decode(errors="replace") == choice.message.content
        for one in told:
            tops = [top.logprob for top in one.top_logprobs]
            assert (len(tops), tops) == (20, sorted(tops, reverse=True))
            assert 0 < sum(map(math.exp, tops)) <= 1 + 1e-6
            assert one.logprob <= tops[0]
    assert likeliest.logprobs is not None
    assert all(one.logprob == one.top_logprobs[0].logprob for one in likeliest.logprobs.content or ())


@CALLERS
def test_an_answer_ends_where_the_model_or_the_client_says(client: OpenAI, family: Family) -> None:
    asked: dict[str, Any] = {"model": family.name, "messages": HUM, "temperature": 0, "max_tokens": 24}
    asked |= {"reasoning_effort": "none"} if family is QWEN3 else {}
    text = client.chat.completions.create(**asked).choices[0].message.content or ""
    middle = len(text) // 2
    stop = text[middle - 2 : middle + 3]
    stopped = client.chat.completions.create(**asked, stop=[stop, family.text_of(family.end)]).choices[0]
    assert (stopped.message.content, stopped.finish_reason) == (text[: text.index(stop)], "stop")
    ended = client.chat.completions.create(**asked, logit_bias={str(family.end): 100}, stop=[family.text_of(family.end)])
    assert (ended.choices[0].message.content, ended.choices[0].finish_reason) == ("", "stop")


# ---- thoughts ------------------------------------------------------------------------------------------------------------


THINKING: Final = {"chat_template_kwargs": {"enable_thinking": True}}


def test_an_answer_whose_prompt_opens_a_thought_begins_in_it(client: OpenAI) -> None:
    asked: dict[str, Any] = {"model": QWQ.name, "messages": HUM, "max_tokens": 20, "seed": 4, "extra_body": THINKING}
    endless: Any = client.chat.completions.create(**asked)
    message = endless.choices[0].message
    assert prompt_tokens(endless) == len(QWQ.encode(QWQ.render(HUM, enable_thinking=True)))
    assert (message.content, endless.choices[0].finish_reason) == ("", "length")
    assert message.reasoning_content
    assert endless.usage.completion_tokens_details.reasoning_tokens == 20


def test_a_thought_is_closed_before_a_call_and_there_is_none_before_a_form(client: OpenAI) -> None:
    (closes,) = QWQ.encode("</think>")
    asked: dict[str, Any] = {"model": QWQ.name, "messages": HUM, "max_tokens": 400, "seed": 1, "extra_body": THINKING}
    likely = {str(closes): 5}
    called: Any = client.chat.completions.create(**asked, logit_bias=likely, tools=TOOLS, tool_choice="required").choices[0]
    _the_call(called)
    assert called.message.reasoning_content
    assert called.message.content is None
    form: Any = {"type": "json_schema", "json_schema": {"name": "hive", "strict": True, "schema": PARAMETERS}}
    told: Any = client.chat.completions.create(**asked, response_format=form).choices[0]
    assert told.finish_reason == "stop"
    jsonschema_rs.validate(PARAMETERS, json.loads(told.message.content))
    assert not hasattr(told.message, "reasoning_content")


# ---- forms and calls -----------------------------------------------------------------------------------------------------


class Queen(BaseModel):
    name: Annotated[str, Field(max_length=10)]
    colour: Literal["blue", "white"]
    age: Annotated[int, Field(ge=0, le=6)]


class Swarm(BaseModel):
    queen: Queen
    workers: Annotated[list[Queen], Field(max_length=2)]


@CALLERS
def test_whatever_is_drawn_an_answer_keeps_to_its_schema(client: OpenAI, family: Family) -> None:
    parsed = client.chat.completions.parse(model=family.name, messages=HUM, response_format=Swarm, n=4, seed=11, max_tokens=600)
    assert all(isinstance(choice.message.parsed, Swarm) for choice in parsed.choices)
    assert len({choice.message.content for choice in parsed.choices}) == 4


@CALLERS
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "count"}}], ids=["required", "named"])
def test_whatever_is_drawn_a_call_that_must_come_is_one(client: OpenAI, family: Family, choice: Any) -> None:
    asked: dict[str, Any] = {"model": family.name, "messages": HUM, "tools": TOOLS, "tool_choice": choice, "n": 4, "seed": 3}
    # Of the two marks that a model which may think can begin with, one is drawn as often as the other, and no end of the thought.
    asked |= {"reasoning_effort": "none"} if family is QWEN3 else {}
    whole: ChatCompletion = client.chat.completions.create(**asked, max_tokens=600)
    calls = [_the_call(one) for one in whole.choices]
    assert {name for name, _ in calls} <= ({"count"} if isinstance(choice, dict) else {"count", "rest"})
    chunks = list(client.chat.completions.create(**asked, max_tokens=600, stream=True))
    for number, call in enumerate(calls):
        parts = [
            part.function
            for chunk in chunks
            for one in chunk.choices
            if one.index == number
            for part in one.delta.tool_calls or ()
            if part.function
        ]
        assert (parts[0].name, "".join(part.arguments or "" for part in parts)) == call


@CALLERS
def test_an_answer_calls_a_tool_or_has_the_form_of_a_class_as_the_model_likes(client: OpenAI, family: Family) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "swarm", "schema": Swarm.model_json_schema()}}
    asked: dict[str, Any] = {"model": family.name, "messages": HUM, "tools": TOOLS, "response_format": form, "max_tokens": 600}
    begins = family.encode("<tool_call>" if family is QWEN3 else '{"name')[-1]
    called, told = (client.chat.completions.create(**asked, seed=6, logit_bias={str(begins): bias}) for bias in (100, -100))
    _the_call(called.choices[0])
    assert called.choices[0].message.content is None
    Swarm.model_validate_json(told.choices[0].message.content or "")
    assert (told.choices[0].finish_reason, told.choices[0].message.tool_calls) == ("stop", None)
    # A call that must come is one, whatever form a text would have.
    asked |= {"reasoning_effort": "none"} if family is QWEN3 else {}
    _the_call(client.chat.completions.create(**asked, seed=3, tool_choice="required").choices[0])


def _the_call(choice: Any) -> tuple[str, str]:
    """Its name and its arguments, which keep to what the tool asks for."""
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    name, arguments = call.function.name, call.function.arguments
    if name == "count":
        jsonschema_rs.validate(PARAMETERS, json.loads(arguments))
    else:
        assert isinstance(json.loads(arguments), dict)
    return name, arguments


def _as_sent(messages: list[Any]) -> list[Any]:
    """Messages as clients send them: with the arguments of calls as text."""
    sent: list[Any] = json.loads(json.dumps(messages))
    for message in sent:
        for call in message.get("tool_calls", ()):
            call["function"]["arguments"] = json.dumps(call["function"]["arguments"])
    return sent
