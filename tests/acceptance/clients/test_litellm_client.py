"""The real `litellm` package against a running cluster: the library through which many programs reach whatever model there is."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Final, Literal

import pytest
from pydantic import BaseModel

from tests.support.door import EMBEDDED, SAID, THOUGHT, Door
from tests.support.families import QWEN3

HUM: Final[list[Any]] = [{"role": "user", "content": "hum"}]
HIVES: Final = {"type": "object", "properties": {"hive": {"enum": ["a", "é"]}}, "required": ["hive"], "additionalProperties": False}
COUNT: Final[list[Any]] = [{"type": "function", "function": {"name": "count", "description": "Counts.", "parameters": HIVES}}]


# The package's own, and what it leaves open.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Items .* are using the `ReadOnly` qualifier:UserWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def litellm() -> Iterator[ModuleType]:
    """The package; it takes seconds to import, and would otherwise ask the network for prices and read a file of settings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        patch.setenv("LITELLM_MODE", "PRODUCTION")
        import litellm

        yield litellm
    litellm.in_memory_llm_clients_cache.flush_cache()
    gc.collect()  # Here, where warnings of what it left open are none of another test's.


@pytest.fixture(scope="module")
def at(door: Door) -> dict[str, Any]:
    """Where and how every call goes."""
    return {"api_base": door.base_url, "api_key": "none", "num_retries": 0, "max_retries": 0}


def test_a_chat_is_answered_whole_and_as_a_stream(litellm: ModuleType, door: Door, at: dict[str, Any]) -> None:
    asked: dict[str, Any] = {"model": f"openai/{door.plain}", "messages": HUM, "seed": 5, "max_tokens": 8, **at}
    whole = litellm.completion(**asked)
    assert whole.choices[0].message.content
    assert (whole.choices[0].finish_reason, whole.usage.completion_tokens) == ("length", 8)
    chunks = list(litellm.completion(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == whole.choices[0].message.content
    rebuilt = litellm.stream_chunk_builder(chunks, messages=HUM)
    assert rebuilt.choices[0].message.content == whole.choices[0].message.content
    assert rebuilt.usage.completion_tokens == 8


@pytest.mark.parametrize("provider", ["ollama_chat", "anthropic"])
def test_the_other_apis_answer_the_same(litellm: ModuleType, door: Door, provider: str) -> None:
    asked: dict[str, Any] = {"messages": HUM, "max_tokens": 7, "api_key": "none", "num_retries": 0}
    known = litellm.completion(model=f"openai/{door.plain}", temperature=0, api_base=door.base_url, **asked)
    other: dict[str, Any] = {"model": f"{provider}/{door.plain}", "temperature": 0, "api_base": door.url, **asked}
    whole = litellm.completion(**other)
    assert whole.choices[0].message.content == known.choices[0].message.content
    assert whole.usage.completion_tokens == known.usage.completion_tokens == 7
    chunks = list(litellm.completion(**other, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    called: dict[str, Any] = {**other, "model": f"{provider}/{door.caller}", "max_tokens": 300, "tools": COUNT}
    message = litellm.completion(**called).choices[0].message
    told = [(call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls]
    assert told == [("count", {"hive": "é"}), ("count", {"hive": "b"})]
    with pytest.raises(litellm.NotFoundError, match="Did you mean `steady`"):
        litellm.completion(**{**other, "model": f"{provider}/stedy"})


def test_chats_at_once_are_answered_each_with_its_own(litellm: ModuleType, door: Door, at: dict[str, Any]) -> None:
    async def ask() -> list[str]:
        one = [litellm.acompletion(model=f"openai/{door.plain}", messages=HUM, seed=seed, max_tokens=6, **at) for seed in range(6)]
        return [answer.choices[0].message.content for answer in await asyncio.gather(*one)]

    async def read() -> str:
        stream = await litellm.acompletion(model=f"openai/{door.plain}", messages=HUM, seed=3, max_tokens=6, stream=True, **at)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def both() -> tuple[list[str], str]:
        return await ask(), await read()

    answers, streamed = asyncio.run(both())
    assert len(set(answers)) == 6
    assert streamed == answers[3]


def test_thoughts_and_calls_have_their_own_places(litellm: ModuleType, door: Door, at: dict[str, Any]) -> None:
    asked: dict[str, Any] = {"model": f"openai/{door.caller}", "messages": HUM, "tools": COUNT, **at}
    message = litellm.completion(**asked).choices[0].message
    assert (message.content, message.reasoning_content) == (SAID, THOUGHT)
    called = [(call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls]
    assert called == [("count", {"hive": "é"}), ("count", {"hive": "b"})]
    rebuilt = litellm.stream_chunk_builder(list(litellm.completion(**asked, stream=True)), messages=HUM)
    assert rebuilt.choices[0].finish_reason == "tool_calls"
    told = rebuilt.choices[0].message
    assert (told.content, told.reasoning_content) == (SAID, THOUGHT)
    assert [(call.function.name, json.loads(call.function.arguments)) for call in told.tool_calls] == called
    results = [{"role": "tool", "tool_call_id": call.id, "content": "3"} for call in message.tool_calls]
    more = litellm.completion(**{**asked, "messages": [*HUM, message, *results]})
    assert more.choices[0].message.content == SAID


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "count"}}], ids=["required", "named"])
def test_a_call_can_be_forced(litellm: ModuleType, at: dict[str, Any], choice: Any) -> None:
    asked: dict[str, Any] = {"model": f"openai/{QWEN3.name}", "messages": HUM, "tools": COUNT, "tool_choice": choice, **at}
    (call,) = litellm.completion(**asked, extra_body={"reasoning_effort": "none"}).choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)["hive"] in {"a", "é"}) == ("count", True)


class Hive(BaseModel):
    name: Literal["north", "south"]
    empty: bool


def test_answers_keep_to_a_form(litellm: ModuleType, at: dict[str, Any]) -> None:
    answer = litellm.completion(model=f"openai/{EMBEDDED}", messages=HUM, response_format=Hive, temperature=0, **at)
    Hive.model_validate_json(answer.choices[0].message.content)


def test_raw_prompts_are_gone_on_with(litellm: ModuleType, door: Door, at: dict[str, Any]) -> None:
    asked: dict[str, Any] = {"model": f"text-completion-openai/{door.plain}", "prompt": "hum", "seed": 1, "max_tokens": 5, **at}
    whole = litellm.text_completion(**asked)
    assert whole.choices[0].text
    assert whole.usage.completion_tokens == 5
    chunks = litellm.text_completion(**asked, stream=True)
    assert "".join(chunk.choices[0].text or "" for chunk in chunks if chunk.choices) == whole.choices[0].text


def test_vectors_and_ranks(litellm: ModuleType, door: Door, at: dict[str, Any]) -> None:
    made = litellm.embedding(model=f"openai/{door.embedder}", input=["a bee", "a bear"], **at)
    assert [(one["index"], len(one["embedding"])) for one in made.data] == [(0, 16), (1, 16)]
    short = litellm.embedding(model=f"hosted_vllm/{door.embedder}", input=["a bee"], dimensions=4, **at)
    assert len(short.data[0]["embedding"]) == 4
    for provider in ("hosted_vllm", "jina_ai"):
        asked: dict[str, Any] = {"model": f"{provider}/{door.ranker}", "query": "bee", "documents": ["x", "y", "z"], "top_n": 2}
        ranked = litellm.rerank(**asked, api_base=door.base_url, api_key="none")
        scores = [one["relevance_score"] for one in ranked.results]
        assert (len(scores), scores) == (2, sorted(scores, reverse=True)), provider


def test_refusals_become_the_packages_own_exceptions(litellm: ModuleType, door: Door, at: dict[str, Any]) -> None:
    with pytest.raises(litellm.NotFoundError, match="Did you mean `steady`"):
        litellm.completion(model="openai/stedy", messages=HUM, **at)
    with pytest.raises(litellm.ContextWindowExceededError, match="900000"):
        litellm.completion(model=f"openai/{door.plain}", messages=HUM, max_tokens=900_000, **at)
    with pytest.raises(litellm.BadRequestError, match="makes no embeddings"):
        litellm.embedding(model=f"openai/{door.plain}", input=["x"], **at)
    with pytest.raises(litellm.BadGatewayError, match="is not tried again"):
        litellm.completion(model=f"openai/{door.fragile}", messages=[{"role": "user", "content": "boom"}], **at)
