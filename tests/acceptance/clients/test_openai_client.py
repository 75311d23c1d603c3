"""The real `openai` package against a running cluster: what it asks for, what it makes of the answers, and how it is refused."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator
from typing import Any, Final, Literal
from urllib.parse import quote

import openai
import psutil
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionChunk
from pydantic import BaseModel

from tests.support.door import EMBEDDED, SAID, THOUGHT, Door
from tests.support.home import wait_until
from tests.support.jobs import show
from tests.support.raw_http import request, stream

HUM: Final[list[Any]] = [{"role": "user", "content": "hum"}]
COUNT: Final[list[Any]] = [
    {
        "type": "function",
        "function": {"name": "count", "parameters": {"type": "object", "properties": {"hive": {"type": "string"}}}},
    }
]


@pytest.fixture(scope="module")
def client(door: Door) -> Iterator[OpenAI]:
    with OpenAI(base_url=door.base_url, api_key="none", max_retries=0) as made:
        yield made


def post(door: Door, path: str, body: dict[str, Any], **headers: str) -> Any:
    return request("POST", f"{door.base_url}{path}", body, headers=headers)


# ---- chats ---------------------------------------------------------------------------------------------------------------


def test_a_chat_is_answered_whole_and_says_what_it_took(client: OpenAI, door: Door) -> None:
    told = [{"role": "developer", "content": "Be brief."}, *HUM]
    asked: dict[str, Any] = {"model": door.plain, "messages": told, "seed": 1, "max_tokens": 5, "metadata": {"hive": "a"}}
    raw = client.chat.completions.with_raw_response.create(**asked)
    first = raw.parse()
    assert (first.object, first.model, first.metadata) == ("chat.completion", door.plain, {"hive": "a"})
    (choice,) = first.choices
    assert (choice.finish_reason, choice.message.role, choice.message.refusal) == ("length", "assistant", None)
    assert choice.message.content
    assert first.usage is not None
    assert first.usage.completion_tokens == 5
    assert first.usage.total_tokens == first.usage.prompt_tokens + 5
    assert "x-rbees-ignored" not in raw.headers
    assert first._request_id == raw.headers["x-correlation-id"]
    shown = show(door.url, raw.headers["x-rbees-job-id"])
    assert first.id == f"chatcmpl-{shown['job_id']}"
    assert first.created == shown["created_at_ms"] // 1000
    assert shown["output"][0]["text"] == choice.message.content
    again = client.chat.completions.create(**asked)
    assert again.choices[0].message.content == choice.message.content
    assert again.system_fingerprint == first.system_fingerprint
    assert again.usage is not None
    assert again.usage.prompt_tokens_details is not None
    assert again.usage.prompt_tokens_details.cached_tokens


def test_a_stream_says_the_same_as_the_whole_answer(client: OpenAI, door: Door) -> None:
    asked: dict[str, Any] = {"model": door.plain, "messages": HUM, "seed": 7, "n": 2}
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert len({(chunk.id, chunk.created, chunk.model, chunk.system_fingerprint) for chunk in chunks}) == 1
    for number in (0, 1):
        assert content(chunks, number) == whole.choices[number].message.content
        of_choice = [choice for chunk in chunks for choice in chunk.choices if choice.index == number]
        assert of_choice[0].delta.role == "assistant"
        assert [choice.finish_reason for choice in of_choice if choice.finish_reason] == [whole.choices[number].finish_reason]
    assert whole.choices[0].message.content != whole.choices[1].message.content
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_the_bytes_of_a_stream_are_data_and_end_with_done(door: Door) -> None:
    with stream("POST", f"{door.base_url}/chat/completions", {"model": door.plain, "messages": HUM, "stream": True}) as frames:
        seen = [frame.raw for frame in frames if not frame.raw.startswith(b":")]
    assert all(raw.startswith(b"data: {") for raw in seen[:-1])
    assert seen[-1] == b"data: [DONE]\n\n"


def test_the_embedded_model_answers(client: OpenAI) -> None:
    asked: dict[str, Any] = {"model": EMBEDDED, "messages": [{"role": "user", "content": "about the sea"}], "temperature": 0}
    whole = client.chat.completions.create(**asked)
    assert whole.choices[0].message.content
    assert content(list(client.chat.completions.create(**asked, stream=True)), 0) == whole.choices[0].message.content


def test_thoughts_and_calls_have_their_own_places(client: OpenAI, door: Door) -> None:
    whole = client.chat.completions.create(model=door.caller, messages=HUM, tools=COUNT)
    message: Any = whole.choices[0].message
    assert (message.reasoning_content, message.content) == (THOUGHT, SAID)
    assert whole.choices[0].finish_reason == "tool_calls"
    assert [(call.function.name, call.function.arguments) for call in message.tool_calls] == [
        ("count", '{"hive":"é"}'),
        ("count", '{"hive":"b"}'),
    ]
    assert whole.usage is not None
    assert whole.usage.completion_tokens_details is not None
    assert whole.usage.completion_tokens_details.reasoning_tokens
    one = client.chat.completions.create(model=door.caller, messages=HUM, tools=COUNT, parallel_tool_calls=False)
    assert [call.id for call in one.choices[0].message.tool_calls or ()] == [one.choices[0].message.tool_calls[0].id]  # type: ignore[index]
    without = client.chat.completions.create(model=door.caller, messages=HUM, tools=COUNT, tool_choice="none")
    assert without.choices[0].message.tool_calls is None


def test_calls_in_a_stream_come_with_id_and_name_first(client: OpenAI, door: Door) -> None:
    chunks = list(client.chat.completions.create(model=door.caller, messages=HUM, tools=COUNT, stream=True))
    parts = [part for chunk in chunks for choice in chunk.choices for part in choice.delta.tool_calls or ()]
    assert [part.index for part in parts] == [0, 0, 1, 1]
    assert [bool(part.id and part.type == "function" and part.function and part.function.name) for part in parts] == [
        True,
        False,
        True,
        False,
    ]
    arguments = ["".join(p.function.arguments or "" for p in parts if p.index == i and p.function) for i in (0, 1)]
    assert arguments == ['{"hive":"é"}', '{"hive":"b"}']
    thoughts = [getattr(choice.delta, "reasoning_content", None) or "" for chunk in chunks for choice in chunk.choices]
    assert ("".join(thoughts), content(chunks, 0)) == (THOUGHT, SAID)
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_a_conversation_with_calls_and_their_results_goes_on(client: OpenAI, door: Door) -> None:
    called = client.chat.completions.create(model=door.caller, messages=HUM, tools=COUNT).choices[0].message
    assert called.tool_calls
    results: list[Any] = [{"role": "tool", "tool_call_id": call.id, "content": "3"} for call in called.tool_calls]
    more = client.chat.completions.create(model=door.caller, messages=[*HUM, called, *results], tools=COUNT)  # type: ignore[list-item]
    assert more.choices[0].message.content == SAID


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "count"}}])
def test_a_call_can_be_forced(client: OpenAI, door: Door, choice: Any) -> None:
    hive = {"type": "object", "properties": {"hive": {"enum": ["a", "b"]}}, "required": ["hive"]}
    parameters = {**hive, "additionalProperties": False}
    tools: list[Any] = [{"type": "function", "function": {"name": "count", "parameters": parameters}}]
    # Without an effort to think, for a scripted model that may think does so until it has no room left.
    asked: dict[str, Any] = {"messages": HUM, "tools": tools, "tool_choice": choice, "reasoning_effort": "none"}
    message: Any = client.chat.completions.create(model=door.forced, **asked).choices[0].message
    (call,) = message.tool_calls
    assert (call.function.name, call.function.arguments) in {("count", '{"hive":"a"}'), ("count", '{"hive":"b"}')}


class Hive(BaseModel):
    name: Literal["north", "south"]
    empty: bool


def test_answers_in_a_form_are_read_by_the_package_itself(client: OpenAI, door: Door) -> None:
    parsed = client.chat.completions.parse(model=EMBEDDED, messages=HUM, response_format=Hive, temperature=0)
    assert isinstance(parsed.choices[0].message.parsed, Hive)
    chosen = client.chat.completions.create(model=EMBEDDED, messages=HUM, extra_body={"guided_choice": ["a+b", "c d"]})
    assert chosen.choices[0].message.content in {"a+b", "c d"}


def test_log_probabilities_are_those_of_the_text(client: OpenAI, door: Door) -> None:
    asked: dict[str, Any] = {"model": door.plain, "messages": HUM, "logprobs": True, "top_logprobs": 2, "seed": 3, "max_tokens": 4}
    whole = client.chat.completions.create(**asked).choices[0]
    assert whole.logprobs is not None
    assert whole.logprobs.content is not None
    spelled = bytes(byte for one in whole.logprobs.content for byte in one.bytes or ())
    assert spelled.decode(errors="replace") == whole.message.content
    assert {len(one.top_logprobs) for one in whole.logprobs.content} == {2}
    chunks = client.chat.completions.create(**asked, stream=True)
    streamed = [one for c in chunks for choice in c.choices if choice.logprobs for one in choice.logprobs.content or ()]
    assert streamed == whole.logprobs.content


def test_a_call_of_a_function_that_was_not_offered_is_text(client: OpenAI, door: Door) -> None:
    other: Any = {"type": "function", "function": {"name": "other", "strict": True}}
    raw = client.chat.completions.with_raw_response.create(model=door.caller, messages=HUM, tools=[other])
    (choice,) = raw.parse().choices
    assert (choice.finish_reason, choice.message.tool_calls) == ("stop", None)
    assert (choice.message.content or "").startswith(f"{SAID}\n<tool_call>")
    assert raw.headers["x-rbees-ignored"] == "tools[0].function.strict"


@pytest.mark.parametrize("fields", [{}, {"tools": COUNT}, {"stop": "moment"}], ids=["thought", "calls", "stop"])
def test_log_probabilities_spell_the_content_and_no_mark(client: OpenAI, door: Door, fields: dict[str, Any]) -> None:
    whole = client.chat.completions.create(model=door.caller, messages=HUM, logprobs=True, **fields).choices[0]
    assert whole.logprobs is not None
    spelled = bytes(byte for one in whole.logprobs.content or () for byte in one.bytes or ()).decode()
    # The first and the last token may hold the end of a mark, or the beginning of the next one.
    content = whole.message.content or ""
    assert content in spelled
    assert len(spelled) <= len(content) + 6


def test_fields_that_nobody_knows_are_named_and_extras_are_honoured(client: OpenAI, door: Door) -> None:
    extras = {"top_k": 1, "min_p": 0.1, "ignore_eos": True, "cache_prompt": False, "sparkle": 1, "thinking": {"depth": 2}}
    messages: list[Any] = [{"role": "user", "content": "hum", "mood": "blue"}]
    raw = client.chat.completions.with_raw_response.create(
        model=door.plain, messages=messages, max_tokens=40, service_tier="flex", user="ada", extra_body=extras
    )
    assert raw.headers["x-rbees-ignored"] == "sparkle, thinking, messages[0].mood, cache_prompt"
    answer = raw.parse()
    assert answer.usage is not None
    assert (answer.usage.completion_tokens, answer.service_tier) == (40, "flex")
    shown = show(door.url, raw.headers["x-rbees-job-id"])
    assert (shown["priority"], shown["session_id"]) == ("batch", "ada")


def test_the_same_key_gives_the_same_answer(door: Door) -> None:
    body = {"model": door.plain, "messages": HUM}
    first, second = (post(door, "/chat/completions", body, **{"Idempotency-Key": "again"}) for _ in range(2))
    assert first.body == second.body
    other = post(door, "/chat/completions", {**body, "n": 2}, **{"Idempotency-Key": "again"})
    assert (other.status, other.error["code"], other.headers["x-should-retry"]) == (409, "idempotency_conflict", "false")


def test_a_client_that_leaves_takes_its_job_with_it(client: OpenAI, door: Door) -> None:
    before = jobs_of(door, door.slow)
    with client.chat.completions.create(model=door.slow, messages=HUM, stream=True) as chunks:
        streamed = next(iter(chunks)).id.removeprefix("chatcmpl-")
    with pytest.raises(openai.APITimeoutError):
        client.chat.completions.create(model=door.slow, messages=HUM, timeout=2.0)

    def others() -> set[str]:
        return jobs_of(door, door.slow) - before - {streamed}

    (waited,) = wait_until(others, door.cluster.orcd, "accept the second job")
    for job_id in (streamed, waited):
        wait_until(lambda job_id=job_id: show(door.url, job_id)["status"] == "cancelled", door.cluster.orcd, "cancel the job")  # type: ignore[misc]


def test_who_lost_the_connection_has_the_answer_under_the_same_key(client: OpenAI, door: Door) -> None:
    before = jobs_of(door, door.slow)
    keyed = {"model": door.slow, "messages": HUM, "max_tokens": 200, "extra_headers": {"Idempotency-Key": "lost"}}
    plain = {"model": door.slow, "messages": HUM, "max_tokens": 201}
    left: list[str] = []
    for asked in (keyed, plain):
        with pytest.raises(openai.APITimeoutError):
            client.chat.completions.create(**asked, timeout=1.0)  # type: ignore[call-overload]
        (one,) = wait_until(lambda: jobs_of(door, door.slow) - before - set(left), door.cluster.orcd, "accept the job")
        left.append(one)
    # By the time that the later one is cancelled, for its client has been gone, the earlier would have been.
    wait_until(lambda: show(door.url, left[1])["status"] == "cancelled", door.cluster.orcd, "cancel the job without a key")
    again = client.chat.completions.create(**keyed)  # type: ignore[call-overload]
    assert (again.id, again.usage.completion_tokens) == (f"chatcmpl-{left[0]}", 200)


def test_a_failed_answer_names_its_jobs_and_leaves_none_behind(door: Door) -> None:
    late = post(door, "/chat/completions", {"model": door.slow, "messages": HUM, "timeout_ms": 300, "sparkle": 1})
    assert (late.status, late.headers["x-rbees-ignored"]) == (504, "sparkle")
    assert show(door.url, late.headers["x-rbees-job-id"])["error"]["code"] == "TIMEOUT"
    prompts = ["x" * 100_000, "a", "b"]
    failed = post(door, "/completions", {"model": door.slow, "prompt": prompts, "max_tokens": 900, "ignore_eos": True})
    assert (failed.status, failed.error["code"]) == (400, "context_length_exceeded")
    first, *others = failed.headers["x-rbees-job-id"].split(", ")
    assert show(door.url, first)["status"] == "failed"
    for job_id in others:
        wait_until(lambda job_id=job_id: show(door.url, job_id)["status"] == "cancelled", door.cluster.orcd, "cancel the rest")  # type: ignore[misc]


def test_a_worker_that_dies_shows_in_no_chunk(client: OpenAI, door: Door) -> None:
    asked: dict[str, Any] = {"model": door.slow, "messages": HUM, "seed": 1, "max_tokens": 30}
    undisturbed = client.chat.completions.create(**asked).choices[0].message.content
    chunks = []
    for chunk in client.chat.completions.create(**asked, stream=True):
        chunks.append(chunk)
        if len(chunks) == 6:
            (worker,) = (
                w
                for w in request("GET", f"{door.url}/v2/workers").json["workers"]
                if "slow" in w["model_ref"] and w["state"] == "ready"
            )
            psutil.Process(worker["pid"]).kill()
    assert content(chunks, 0) == undisturbed
    job = show(door.url, chunks[0].id.removeprefix("chatcmpl-"))
    assert len(job["attempts"]) == 2


def test_who_would_rather_be_told_than_wait_hears_how_far_the_model_has_loaded(client: OpenAI, door: Door) -> None:
    impatient = {"Prefer": "wait=2"}
    door.unload(door.heavy)
    before = jobs_of(door, door.heavy)
    with pytest.raises(openai.InternalServerError, match="loaded") as caught:
        client.chat.completions.create(model=door.heavy, messages=HUM, stream=True, extra_headers=impatient)
    told = caught.value.response
    assert (told.status_code, caught.value.code, told.headers["x-should-retry"]) == (503, "model_loading", "true")
    assert int(told.headers["retry-after"]) >= 1
    assert told.headers["preference-applied"] == "wait=2"
    assert 0 <= float(told.headers["x-rbees-progress"]) < 1
    (job_id,) = jobs_of(door, door.heavy) - before
    wait_until(lambda: show(door.url, job_id)["status"] == "cancelled", door.cluster.orcd, "give the job up")
    # Others wait for the same model, which went on loading; once it is there, nobody has to.
    assert client.chat.completions.create(model=door.heavy, messages=HUM).choices[0].message.content
    patient = {"Prefer": "wait=60"}
    assert client.chat.completions.create(model=door.heavy, messages=HUM, extra_headers=patient).choices[0].message.content
    both = post(door, "/chat/completions", {"model": door.heavy, "messages": HUM}, **impatient, **{"Idempotency-Key": "k"})
    assert (both.status, both.error["type"]) == (400, "invalid_request_error")


def test_a_failure_in_the_midst_is_a_chunk_of_its_own(client: OpenAI, door: Door) -> None:
    chunks = client.chat.completions.create(model=door.slow, messages=HUM, stream=True)
    job = next(iter(chunks)).id.removeprefix("chatcmpl-")
    assert request("DELETE", f"{door.url}/v2/tasks/{job}").status == 202
    with pytest.raises(openai.APIError) as caught:
        list(chunks)
    assert (caught.value.code, caught.value.type) == ("cancelled", "invalid_request_error")


# ---- completions ---------------------------------------------------------------------------------------------------------


def test_raw_prompts_of_every_kind_are_gone_on_with(client: OpenAI, door: Door) -> None:
    one = client.completions.create(model=door.plain, prompt="hum", seed=1, temperature=0)
    assert (one.object, len(one.choices)) == ("text_completion", 1)
    ids = client.completions.create(model=door.plain, prompt=list(b"hum"), seed=1, temperature=0)
    several = client.completions.create(model=door.plain, prompt=["hum", "buzz"], n=2, seed=1, temperature=0)
    lists = client.completions.create(model=door.plain, prompt=[list(b"hum"), list(b"buzz")], seed=1, temperature=0)
    assert ids.choices[0].text == one.choices[0].text == several.choices[0].text == lists.choices[0].text
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]
    assert several.choices[2].text == lists.choices[1].text != one.choices[0].text
    assert several.usage is not None
    assert several.usage.prompt_tokens == len("hum") + len("buzz")
    assert client.completions.create(model=door.slow, prompt="x", temperature=0).usage.completion_tokens == 16  # type: ignore[union-attr]


def test_completions_stream_and_echo_and_tell_probabilities(client: OpenAI, door: Door) -> None:
    asked: dict[str, Any] = {"model": door.plain, "prompt": ["hum", "buzz"], "seed": 1, "echo": True}
    whole = client.completions.create(**asked)
    assert [choice.text.startswith(prompt) for choice, prompt in zip(whole.choices, asked["prompt"], strict=True)] == [True, True]
    chunks = list(client.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    for number in (0, 1):
        text = "".join(choice.text for chunk in chunks for choice in chunk.choices if choice.index == number)
        assert text == whole.choices[number].text
    assert chunks[-1].usage == whole.usage
    told = client.completions.create(model=door.plain, prompt="hum", logprobs=2, max_tokens=3).choices[0].logprobs
    assert told is not None
    assert told.tokens is not None
    assert told.text_offset is not None
    assert (len(told.tokens), len(told.token_logprobs or ()), len(told.top_logprobs or ()), told.text_offset[0]) == (3, 3, 3, 0)


# ---- vectors -------------------------------------------------------------------------------------------------------------


def test_vectors_come_in_both_encodings(client: OpenAI, door: Door) -> None:
    texts = ["a bee", "a bear"]
    numbers = client.embeddings.create(model=door.embedder, input=texts, encoding_format="float")
    assert ([one.index for one in numbers.data], len(numbers.data[0].embedding)) == ([0, 1], 16)
    assert numbers.usage.prompt_tokens == numbers.usage.total_tokens == sum(map(len, texts))
    # The package asks for base64 where nobody says otherwise.
    assert client.embeddings.create(model=door.embedder, input=texts).data[1].embedding == pytest.approx(numbers.data[1].embedding)
    packed = post(door, "/embeddings", {"model": door.embedder, "input": "a bee", "encoding_format": "base64"}).json
    unpacked = struct.unpack("<16f", base64.b64decode(packed["data"][0]["embedding"]))
    assert list(unpacked) == pytest.approx(numbers.data[0].embedding)
    ids = client.embeddings.create(model=door.embedder, input=[list(b"a bee"), list(b"a bear")])
    assert ids.data[0].embedding == pytest.approx(numbers.data[0].embedding)
    alone = client.embeddings.create(model=door.embedder, input=list(b"a bee"), dimensions=4)
    assert len(alone.data[0].embedding) == 4


def test_documents_are_ranked(door: Door) -> None:
    body = {"model": door.ranker, "query": "bee", "documents": ["x", {"text": "y"}, "z"], "return_documents": True, "top_n": 2}
    answer = post(door, "/rerank", {**body, "user": "ada"}).json
    scores = [one["relevance_score"] for one in answer["results"]]
    assert (len(scores), scores) == (2, sorted(scores, reverse=True))
    assert all(0 < score < 1 for score in scores)
    assert [one["document"]["text"] for one in answer["results"]] == ["xyz"[one["index"]] for one in answer["results"]]
    assert answer["usage"]["total_tokens"] > 0


# ---- models --------------------------------------------------------------------------------------------------------------


def test_models_are_listed_and_found_by_every_name(client: OpenAI, door: Door) -> None:
    client.chat.completions.create(model=door.plain, messages=HUM, max_tokens=1)

    def is_ready() -> bool:
        found: Any = client.models.retrieve(door.plain)
        return bool(found.status == "ready")

    wait_until(is_ready, door.cluster.orcd, "hear that the model is served")
    listed = {model.id: model for model in client.models.list()}
    assert {door.plain, door.embedder, EMBEDDED} <= listed.keys()
    steady: Any = listed[door.plain]
    assert (steady.status, steady.object, steady.owned_by) == ("ready", "model", "rbees")
    for name in (door.plain, steady.reference, f"sha256:{steady.sha256}", "steady.scripted.json", f"{door.plain}:latest"):
        found: Any = client.models.retrieve(name)
        assert (found.id, found.sha256) == (name, steady.sha256)
        assert post(door, "/chat/completions", {"model": name, "messages": HUM, "max_tokens": 1}).status == 200, name


def test_what_clients_send_beside_is_passed_over_and_named(door: Door) -> None:
    body = {"model": door.plain, "messages": HUM, "max_tokens": 1}
    for method, path, sent, ignored in (
        ("GET", "/models?client_version=0.5&limit=1", None, "client_version, limit"),
        ("GET", f"/models/{door.plain}?x=1", None, "x"),
        ("POST", "/chat/completions?api-version=2024-10-21", {**body, "sparkle": 1}, "api-version, sparkle"),
        ("POST", "/chat/completions/?api-version=2024-10-21", {**body, "stream": True}, "api-version"),
    ):
        answer = request(method, f"{door.base_url}{path}", sent)
        assert (answer.status, answer.headers["x-rbees-ignored"]) == (200, ignored), path
    assert len(request("GET", f"{door.base_url}/models/?limit=1").json["data"]) > 1


# ---- what is refused -----------------------------------------------------------------------------------------------------

MANY: Final = [{"role": "user", "content": "x"}] * 1_025
IMAGE: Final = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]}]
NO_SCHEMA: Final = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object", "minProperties": "two"}}}
IMPOSSIBLE: Final = {"type": "object", "properties": {"a": False}, "required": ["a"], "additionalProperties": False}
UNMET: Final = {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": IMPOSSIBLE}}


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"model": 3}, "model", "Expected `str`"),
        ({"messages": [{"role": "root", "content": "x"}]}, "messages[0].role", "`system`"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "missing"),
        ({"messages": []}, "messages", "length >= 1"),
        ({"messages": None}, "messages", "Expected"),
        ({"messages": MANY}, "messages", "length <= 1024"),
        ({"messages": IMAGE}, "messages[0].content[0]", "models here read text only"),
        ({"temperature": 2.5}, "temperature", "<= 2"),
        ({"temperature": "hot"}, "temperature", "Expected"),
        ({"n": 17}, "n", "<= 16"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "Expected `int`"),
        ({"logit_bias": {"5": 200}}, "logit_bias", "<= 100"),
        ({"metadata": {"a": 1}}, "metadata", "Expected `str`"),
        ({"max_tokens": 0}, "max_tokens", "at least 1, or -1"),
        ({"stop": ["a"] * 33}, "stop", "length <= 32"),
        ({"top_logprobs": 3}, "top_logprobs", "needs `logprobs`"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_completion_tokens", "differ"),
        ({"tools": [{"type": "function", "function": {"name": "two words"}}]}, "tools[0].function.name", "regex"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type", "not supported"),
        ({"tool_choice": "required"}, "tool_choice", "`tools` is empty"),
        ({"audio": {"voice": "bee"}}, "audio", "not supported"),
        ({"store": True}, "store", "not supported"),
        ({"response_format": NO_SCHEMA}, "response_format", "schema"),
        ({"response_format": UNMET}, "response_format", "No answer can satisfy `response_format`"),
        ({"json_schema": IMPOSSIBLE}, "json_schema", "No answer can satisfy `json_schema`"),
        ({"guided_json": {"type": "wizard"}}, "guided_json", "`guided_json` is not a valid schema"),
        ({"guided_regex": "[a-"}, "guided_regex", "`guided_regex`"),
        ({"structured_outputs": {"grammar": "start: nowhere"}}, "structured_outputs.grammar", "`structured_outputs.grammar`"),
        ({"reasoning_effort": "low"}, "reasoning_effort", "leave `reasoning_effort` out"),
        ({"chat_template_kwargs": {"sparkle": True}}, "chat_template_kwargs.sparkle", "no variable"),
        ({"max_tokens": 900_000}, "max_tokens", "900000, but the context holds"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else None,
)
@pytest.mark.parametrize("streams", [False, True])
def test_what_does_not_fit_is_refused_in_the_shape_of_the_api(
    door: Door, fields: dict[str, Any], param: str, said: str, streams: bool
) -> None:
    answer = post(door, "/chat/completions", {"model": EMBEDDED, "messages": HUM, "stream": streams, **fields})
    assert answer.status == 400, answer.body
    assert set(answer.json) == {"error"}
    assert set(answer.error) == {"message", "type", "param", "code"}
    assert answer.error["type"] == "invalid_request_error"
    assert said in answer.error["message"]
    assert answer.error["param"] == param
    assert "x-should-retry" not in answer.headers


def test_refusals_become_the_packages_own_exceptions(client: OpenAI, door: Door) -> None:
    with pytest.raises(openai.NotFoundError, match="Did you mean `steady`") as unknown:
        client.chat.completions.create(model="stedy", messages=HUM)
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    assert unknown.value.request_id == unknown.value.response.headers["x-correlation-id"]
    with pytest.raises(openai.BadRequestError, match=r"has \d+ tokens and .* 900000, but the context holds \d+") as long:
        client.chat.completions.create(model=door.plain, messages=HUM, max_tokens=900_000)
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="makes no embeddings"):
        client.embeddings.create(model=door.plain, input="x")
    with pytest.raises(openai.BadRequestError, match="makes no text"):
        client.chat.completions.create(model=door.embedder, messages=HUM)
    with pytest.raises(openai.NotFoundError, match="Did you mean"):
        client.models.retrieve("stedy")


@pytest.mark.parametrize("name", ["STEADY", "openai/steady", "steädy", " steady"])
def test_a_name_in_any_form_is_an_unknown_model_with_names_that_work(door: Door, name: str) -> None:
    for path, body in (
        ("/chat/completions", {"messages": HUM}),
        ("/completions", {"prompt": "a"}),
        ("/embeddings", {"input": "a"}),
    ):
        answer = post(door, path, {"model": name, **body})
        assert (answer.status, answer.error["code"], answer.error["param"]) == (404, "model_not_found", "model")
        assert "Did you mean `steady`" in answer.error["message"]
        assert "`GET /v1/models`" in answer.error["message"]
    shown = request("GET", f"{door.base_url}/models/{quote(name)}")
    assert (shown.status, shown.error["code"]) == (404, "model_not_found")
    generated = request("POST", f"{door.url}/api/generate", {"model": name, "prompt": "a", "stream": False})
    assert (generated.status, "`steady`" in generated.json["error"]) == (404, True)
    asked = {"model": name, "max_tokens": 1, "messages": HUM}
    assert request("POST", f"{door.base_url}/messages", asked, headers={"anthropic-version": "2023-06-01"}).status == 404


def test_a_body_of_twenty_megabytes_and_what_is_no_json_are_refused(door: Door) -> None:
    url = f"{door.base_url}/chat/completions"
    large = request("POST", url, {"model": door.plain, "messages": [{"role": "user", "content": "x" * 20_000_000}]})
    assert (large.status, large.error["code"], large.error["type"]) == (413, "request_too_large", "invalid_request_error")
    for raw in (b"{", b"[]", b"null", b"\xff", b'{"model": ' + b"[" * 100):
        answer = request("POST", url, raw=raw)
        assert (answer.status, answer.error["type"]) == (400, "invalid_request_error")


def test_paths_and_methods_that_do_not_exist_answer_in_the_same_shape(door: Door) -> None:
    for method, path, status, param in (
        ("GET", "/audio/speech", 404, None),
        ("GET", "/chat/completions", 405, None),
        ("GET", "/models?limit=n", 400, "limit"),
    ):
        answer = request(method, f"{door.base_url}{path}")
        assert (answer.status, answer.error["type"], answer.error["param"]) == (status, "invalid_request_error", param)


def test_a_wrong_address_is_answered_with_the_right_one(door: Door) -> None:
    for path, kind, address in (
        ("/chat/completions", "invalid_request_error", door.base_url),
        ("/api/chat/completions", "invalid_request_error", door.base_url),
        ("/v1/v1/messages", "not_found_error", door.url),
    ):
        answer = request("POST", f"{door.url}{path}", {})
        assert (answer.status, answer.error["type"]) == (404, kind), path
        assert f"give your program is {address} then" in answer.error["message"]
    assert request("GET", f"{door.url}/nowhere").error["message"].endswith(f"see {door.url}/docs for those that exist.")
    for path in ("/v1", "/v1/"):
        assert b"address for clients of OpenAI" in request("GET", f"{door.url}{path}").body


def test_a_job_that_kills_its_worker_is_not_asked_for_again(client: OpenAI, door: Door) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model=door.fragile, messages=[{"role": "user", "content": "boom"}])
    assert (caught.value.code, caught.value.status_code) == ("worker_crashed", 502)
    assert caught.value.response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    ("path", "fields", "param", "said"),
    [
        ("/completions", {"prompt": ["a", 1]}, "prompt", "mixes"),
        ("/completions", {"prompt": []}, "prompt", "length >= 1"),
        ("/completions", {"prompt": ["x"] * 129}, "prompt", "at most 128"),
        ("/completions", {"prompt": [-1]}, "prompt[0]", ">= 0"),
        ("/completions", {"prompt": [99_999]}, "prompt", "between 0 and"),
        ("/completions", {"prompt": "a", "best_of": 3}, "best_of", "not supported"),
        ("/completions", {"prompt": "a", "suffix": "b"}, "suffix", "not supported"),
        ("/completions", {"prompt": [1], "echo": True}, "echo", "goes with texts"),
        ("/embeddings", {"input": []}, "input", "length >= 1"),
        ("/embeddings", {"input": ["a", 1]}, "input", "mixes"),
        ("/embeddings", {"input": ["x"] * 2_049}, "input", "at most 2048"),
        ("/embeddings", {"input": "a", "encoding_format": "int8"}, "encoding_format", "`base64`"),
        ("/rerank", {"query": "a"}, "documents", "missing"),
        ("/rerank", {"query": "a", "documents": [1]}, "documents[0]", "Expected"),
        ("/rerank", {"query": "a", "documents": ["x"], "top_n": 0}, "top_n", ">= 1"),
    ],
)
def test_the_other_routes_refuse_in_the_same_way(door: Door, path: str, fields: dict[str, Any], param: str, said: str) -> None:
    model = {"/completions": door.plain, "/embeddings": door.embedder, "/rerank": door.ranker}[path]
    answer = post(door, path, {"model": model, **fields})
    assert (answer.status, answer.error["type"], answer.error["param"]) == (400, "invalid_request_error", param), answer.body
    assert said in answer.error["message"]


def content(chunks: list[ChatCompletionChunk], number: int) -> str:
    return "".join(c.delta.content or "" for chunk in chunks for c in chunk.choices if c.index == number)


def jobs_of(door: Door, model: str) -> set[str]:
    return {job["job_id"] for job in request("GET", f"{door.url}/v2/tasks?model={model}").json["jobs"]}
