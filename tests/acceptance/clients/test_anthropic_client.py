"""The real `anthropic` package against a running cluster: what it asks for, what it makes of the answers, and how it is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Literal

import anthropic
import pytest
from anthropic import Anthropic, beta_tool
from anthropic.types import Message
from pydantic import BaseModel

from tests.support.door import EMBEDDED, SAID, THOUGHT, Door
from tests.support.jobs import show
from tests.support.raw_http import request, stream

HUM: Final[list[Any]] = [{"role": "user", "content": "hum"}]
COUNT: Final[list[Any]] = [
    {"name": "count", "description": "Count bees.", "input_schema": {"type": "object", "properties": {"hive": {"type": "string"}}}}
]
THINKING: Final[Any] = {"type": "adaptive"}
SILENT: Final[Any] = {"type": "disabled"}
VERSION: Final = {"anthropic-version": "2023-06-01"}


@pytest.fixture(scope="module")
def client(door: Door) -> Iterator[Anthropic]:
    with Anthropic(base_url=door.url, api_key="none", max_retries=0) as made:
        yield made


def post(door: Door, path: str, body: dict[str, Any], **headers: str) -> Any:
    return request("POST", f"{door.base_url}{path}", body, headers={**VERSION, **headers})


def text_of(message: Message) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


# ---- messages ------------------------------------------------------------------------------------------------------------


def test_a_conversation_is_answered_whole_and_says_what_it_took(client: Anthropic, door: Door) -> None:
    asked: dict[str, Any] = {
        "model": door.plain,
        "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        "messages": [*HUM, {"role": "user", "content": [{"type": "text", "text": "a tune"}]}],
        "max_tokens": 5,
        "metadata": {"user_id": "ada"},
        "extra_body": {"seed": 1, "temperature": 0.5},
    }
    raw = client.messages.with_raw_response.create(**asked)
    first = raw.parse()
    assert (first.type, first.role, first.model) == ("message", "assistant", door.plain)
    assert (first.stop_reason, first.stop_sequence, first.usage.output_tokens) == ("max_tokens", None, 5)
    assert [block.type for block in first.content] == ["text"]
    assert "x-rbees-ignored" not in raw.headers
    assert first._request_id == raw.headers["x-correlation-id"]
    job = show(door.url, raw.headers["x-rbees-job-id"])
    assert (first.id, job["session_id"], job["priority"]) == (f"msg_{job['job_id']}", "ada", "interactive")
    assert job["output"][0]["text"] == text_of(first)
    again = client.messages.create(**asked)
    assert text_of(again) == text_of(first)
    assert again.usage.cache_read_input_tokens
    assert first.usage.cache_read_input_tokens is not None
    seen = {one.usage.input_tokens + (one.usage.cache_read_input_tokens or 0) for one in (first, again)}
    counted = client.messages.count_tokens(**{name: asked[name] for name in ("model", "system", "messages")})
    assert seen == {counted.input_tokens}


def test_a_stream_says_the_same_as_the_whole_answer(client: Anthropic, door: Door) -> None:
    asked: dict[str, Any] = {"model": door.plain, "messages": HUM, "max_tokens": 50, "extra_body": {"seed": 7}}
    whole = client.messages.create(**asked)
    with client.messages.stream(**asked) as events:
        texts = [event.text for event in events if event.type == "text"]
        final = events.get_final_message()
    assert "".join(texts) == text_of(final) == text_of(whole)
    assert (final.stop_reason, final.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)
    assert final.usage.input_tokens + (final.usage.cache_read_input_tokens or 0) == whole.usage.input_tokens + (
        whole.usage.cache_read_input_tokens or 0
    )


def test_the_events_of_a_stream_have_the_names_and_the_order_of_the_reference(door: Door) -> None:
    body = {"model": door.plain, "messages": HUM, "max_tokens": 3, "stream": True}
    with stream("POST", f"{door.base_url}/messages", body) as frames:
        seen = [(frame.event, frame.data["type"]) for frame in frames if not frame.raw.startswith(b":")]
    assert all(name == type_ for name, type_ in seen)
    names = [name for name, _ in seen if name != "ping"]
    assert names[:2] == ["message_start", "content_block_start"]
    assert names[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(names[2:-3]) == {"content_block_delta"}
    assert ("ping", "ping") in seen


def test_the_embedded_model_answers_the_usual_first_call(client: Anthropic) -> None:
    message = client.messages.create(model=EMBEDDED, max_tokens=4_096, messages=HUM, extra_body={"temperature": 0})
    said: Any = message.content[0]
    assert said.type == "text"
    assert said.text
    assert message.stop_reason in {"end_turn", "model_context_window_exceeded"}


def test_an_answer_may_be_allowed_more_than_the_context_holds(client: Anthropic, door: Door) -> None:
    message = client.messages.create(model=f"{door.plain}:latest", messages=HUM, max_tokens=900_000, timeout=60)
    assert message.stop_reason == "end_turn"


def test_a_prompt_may_be_computed_ahead_of_its_question(client: Anthropic, door: Door) -> None:
    asked: dict[str, Any] = {
        "model": door.plain,
        "system": "Count the bees of each hive, and then those that fly. " * 8,
        "messages": HUM,
    }
    ahead = client.messages.create(**asked, max_tokens=0)
    assert (ahead.content, ahead.stop_reason, ahead.usage.output_tokens) == ([], "max_tokens", 0)
    answer = client.messages.create(**asked, max_tokens=3)
    assert (answer.usage.cache_read_input_tokens or 0) > answer.usage.input_tokens


def test_the_sequence_that_stopped_an_answer_is_named(client: Anthropic, door: Door) -> None:
    asked: dict[str, Any] = {"model": door.plain, "messages": HUM, "max_tokens": 50, "extra_body": {"seed": 3}}
    text = text_of(client.messages.create(**asked))
    stop = text[4:9]
    stopped = client.messages.create(**asked, stop_sequences=["no bee says this", stop])
    assert (stopped.stop_reason, stopped.stop_sequence, text_of(stopped)) == ("stop_sequence", stop, text[: text.index(stop)])
    with client.messages.stream(**asked, stop_sequences=[stop]) as events:
        final = events.get_final_message()
    assert (final.stop_reason, final.stop_sequence) == ("stop_sequence", stop)


def test_thoughts_and_calls_are_blocks(client: Anthropic, door: Door) -> None:
    asked: dict[str, Any] = {"model": door.caller, "messages": HUM, "max_tokens": 2_000, "tools": COUNT}
    whole: Any = client.messages.create(**asked, thinking=THINKING)
    assert whole.stop_reason == "tool_use"
    assert [block.type for block in whole.content] == ["thinking", "text", "tool_use", "tool_use"]
    thought, said, *calls = whole.content
    assert (thought.thinking, thought.signature, said.text) == (THOUGHT, whole.id, SAID)
    assert [(call.name, call.input) for call in calls] == [("count", {"hive": "é"}), ("count", {"hive": "b"})]
    assert whole.usage.output_tokens_details.thinking_tokens
    with client.messages.stream(**asked, thinking=THINKING) as events:
        final = events.get_final_message()
    own = {"id": "its own", "signature": "its own"}
    assert [block.model_dump() | own for block in final.content] == [block.model_dump() | own for block in whole.content]
    # Whoever does not ask for thoughts reads the first block as the answer.
    once: Any = {"type": "auto", "disable_parallel_tool_use": True}
    plain: Any = client.messages.create(**asked, tool_choice=once)
    assert [block.type for block in plain.content] == ["text", "tool_use"]
    never: Any = {"type": "none"}
    without: Any = client.messages.create(**asked, tool_choice=never)
    assert {block.type for block in without.content} == {"text"}
    silent: Any = client.messages.create(**asked, thinking=SILENT)
    assert silent.content[0].type == "text"


def test_a_conversation_with_calls_and_their_results_goes_on(client: Anthropic, door: Door) -> None:
    asked: dict[str, Any] = {"model": door.caller, "max_tokens": 2_000, "tools": COUNT, "thinking": THINKING}
    called: Any = client.messages.create(**asked, messages=HUM)
    results: list[Any] = [
        {"type": "tool_result", "tool_use_id": block.id, "content": [{"type": "text", "text": "3"}], "is_error": number == 0}
        for number, block in enumerate(block for block in called.content if block.type == "tool_use")
    ]
    told: list[Any] = [*HUM, called.to_param(), {"role": "user", "content": [*results, {"type": "text", "text": "and?"}]}]
    assert SAID in text_of(client.messages.create(**asked, messages=told))
    counted = client.messages.count_tokens(model=door.caller, messages=told, tools=COUNT)
    assert counted.input_tokens > client.messages.count_tokens(model=door.caller, messages=HUM).input_tokens


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "count"}])
def test_a_call_can_be_forced(client: Anthropic, door: Door, choice: Any) -> None:
    schema = {"type": "object", "properties": {"hive": {"enum": ["a", "b"]}}, "required": ["hive"], "additionalProperties": False}
    tools: list[Any] = [{"name": "count", "input_schema": schema}]
    # Without thoughts, for a scripted model that may think does so until it has no room left.
    asked: dict[str, Any] = {"model": door.forced, "messages": HUM, "max_tokens": 200, "tools": tools, "thinking": SILENT}
    message: Any = client.messages.create(**asked, tool_choice=choice)
    (call,) = (block for block in message.content if block.type == "tool_use")
    assert (call.name, call.input) in [("count", {"hive": "a"}), ("count", {"hive": "b"})]


@pytest.mark.parametrize("streams", [False, True])
def test_the_packages_own_loop_around_tools_sends_the_whole_conversation(client: Anthropic, door: Door, streams: bool) -> None:
    @beta_tool
    def count(hive: str) -> str:
        """Count bees."""
        return f"three in {hive}"

    # The scripted model calls for ever. The package asks with a thread first, and is told that there are none.
    asked: dict[str, Any] = {"model": door.caller, "messages": HUM, "max_tokens": 2_000, "tools": [count]}
    runner: Any = client.beta.messages.tool_runner(**asked, max_iterations=2, stream=streams)
    first, second = [one.get_final_message() if streams else one for one in runner]
    calls = [block for block in first.content if block.type == "tool_use"]
    results: list[Any] = [
        {"type": "tool_result", "tool_use_id": call.id, "content": f"three in {call.input['hive']}"} for call in calls
    ]
    told: list[Any] = [*HUM, first.to_param(), {"role": "user", "content": results}]
    whole = client.beta.messages.count_tokens(model=door.caller, messages=told, tools=[count.to_dict()])
    assert second.usage.input_tokens + (second.usage.cache_read_input_tokens or 0) == whole.input_tokens


class Hive(BaseModel):
    name: Literal["north", "south"]
    empty: bool


def test_answers_in_a_form_are_read_by_the_package_itself(client: Anthropic) -> None:
    parsed = client.messages.parse(model=EMBEDDED, messages=HUM, max_tokens=200, output_format=Hive)
    assert isinstance(parsed.parsed_output, Hive)


def test_the_same_key_gives_the_same_answer(door: Door) -> None:
    body = {"model": door.plain, "messages": HUM, "max_tokens": 20}
    first, second = (post(door, "/messages", body, **{"Idempotency-Key": "mine again"}) for _ in range(2))
    assert first.json == second.json
    other = post(door, "/messages", {**body, "max_tokens": 2}, **{"Idempotency-Key": "mine again"})
    assert (other.status, other.error["type"], other.headers["x-should-retry"]) == (409, "conflict_error", "false")


def test_a_failure_in_the_midst_is_an_event_of_its_own(client: Anthropic, door: Door) -> None:
    events = client.messages.create(model=door.slow, messages=HUM, max_tokens=4_000, stream=True)
    begun: Any = next(iter(events))
    assert request("DELETE", f"{door.url}/v2/tasks/{begun.message.id.removeprefix('msg_')}").status == 202
    with pytest.raises(anthropic.APIStatusError, match="cancelled") as caught:
        list(events)
    assert caught.value.type == "invalid_request_error"


def test_fields_that_nobody_knows_are_named(client: Anthropic, door: Door) -> None:
    asked: dict[str, Any] = {
        "model": door.caller,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "x", "mood": "blue"}]}],
        "max_tokens": 2_000,
        "tools": [{**COUNT[0], "input_examples": [{"hive": "a"}], "sparkle": 1}],
        "thinking": {"type": "enabled", "budget_tokens": 1_024},
        "extra_body": {"context_management": {}, "priority": "batch"},
    }
    raw: Any = client.messages.with_raw_response.create(**asked)
    assert raw.headers["x-rbees-ignored"] == (
        "context_management, messages[0].content[0].mood, tools[0].sparkle, tools[0].input_examples, thinking.budget_tokens"
    )
    assert raw.parse().usage.service_tier == "batch"
    # Agents say how much is to be thought to every model.
    for thinking, named in ((THINKING, "thinking, output_config.effort"), (SILENT, "output_config.effort")):
        wished: dict[str, Any] = {"thinking": thinking, "output_config": {"effort": "high"}}
        raw = client.messages.with_raw_response.create(model=EMBEDDED, messages=HUM, max_tokens=3, **wished)
        assert raw.headers["x-rbees-ignored"] == named


def test_the_beta_clients_are_answered_too(client: Anthropic, door: Door) -> None:
    message = client.beta.messages.create(model=door.plain, messages=HUM, max_tokens=3, betas=["context-management-2025-06-27"])
    assert message.usage.output_tokens == 3
    assert client.beta.messages.count_tokens(model=f"{door.plain}:latest", messages=HUM).input_tokens > 0


def test_who_would_rather_be_told_than_wait_hears_how_far_the_model_has_loaded(client: Anthropic, door: Door) -> None:
    impatient = {"Prefer": "wait=2"}
    door.unload(door.heavy)
    for ask in (
        lambda: client.messages.count_tokens(model=door.heavy, messages=HUM, extra_headers=impatient),
        lambda: client.messages.create(model=door.heavy, messages=HUM, max_tokens=3, stream=True, extra_headers=impatient),
    ):
        with pytest.raises(anthropic.ServiceUnavailableError, match="loaded") as caught:
            ask()
        assert (caught.value.type, caught.value.response.headers["x-should-retry"]) == ("overloaded_error", "true")
        assert int(caught.value.response.headers["retry-after"]) >= 1
    # Whoever counts for a model that nobody serves has it loaded.
    assert client.messages.count_tokens(model=door.heavy, messages=HUM).input_tokens > 0


# ---- models --------------------------------------------------------------------------------------------------------------


def test_models_are_listed_in_the_shape_of_whoever_asks(client: Anthropic, door: Door) -> None:
    listed = [model.id for model in client.models.list(limit=2)]
    assert {door.plain, door.embedder, EMBEDDED} <= set(listed)
    assert len(listed) == len(set(listed))
    page = client.models.list(limit=2)
    assert ([model.id for model in page.data], page.has_more, page.last_id) == (listed[:2], True, listed[1])
    before = client.models.list(limit=2, before_id=listed[3])
    assert [model.id for model in before.data] == listed[1:3]
    found = client.models.retrieve(door.plain)
    assert (found.id, found.type, found.lifecycle) == (door.plain, "model", "active")
    assert found._request_id
    for path in ("/models?beta=true", f"/models/{door.plain}?beta=true"):
        assert request("GET", f"{door.base_url}{path}", headers=VERSION).status == 200
    theirs = request("GET", f"{door.base_url}/models").json
    assert theirs["object"] == "list"
    assert {model["id"] for model in theirs["data"]} == set(listed)
    with pytest.raises(anthropic.NotFoundError, match="Did you mean"):
        client.models.retrieve("stedy")
    with pytest.raises(anthropic.BadRequestError, match="no model of the list"):
        client.models.list(after_id="stedy")


# ---- what is refused -----------------------------------------------------------------------------------------------------

IMAGE: Final = [
    {"role": "user", "content": [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}]}
]


@pytest.mark.parametrize(
    ("fields", "field", "said"),
    [
        ({"model": 3}, "model", "Expected `str`"),
        ({"max_tokens": None}, "max_tokens", "Expected"),
        ({"max_tokens": -1}, "max_tokens", ">= 0"),
        ({"messages": [{"role": "root", "content": "x"}]}, "messages[0].role", "`assistant`"),
        ({"messages": []}, "messages", "length >= 1"),
        ({"messages": [{"role": "user", "content": "x"}] * 1_025}, "messages", "length <= 1024"),
        ({"messages": IMAGE}, "messages[0].content[0]", "is an image"),
        ({"messages": [*HUM, {"role": "assistant", "content": "It"}]}, "messages[1]", "end with the user's"),
        ({"temperature": 2.5}, "temperature", "<= 2"),
        ({"stop_sequences": ["a"] * 33}, "stop_sequences", "length <= 32"),
        ({"tools": [{"name": "two words", "input_schema": {}}]}, "tools[0].name", "regex"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0].type", "do not know"),
        ({"tool_choice": {"type": "any"}}, "tool_choice", "there are no `tools`"),
        ({"container": "c"}, "container", "not supported"),
        ({"speed": "fast"}, "speed", "not supported"),
        ({"chat_template_kwargs": {"mood": "blue"}}, "chat_template_kwargs.mood", "no variable"),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object", "minProperties": "two"}}}},
            None,
            "schema",
        ),
        ({"messages": [{"role": "user", "content": "x " * 5_000}]}, None, "prompt is too long: "),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else None,
)
@pytest.mark.parametrize("streams", [False, True])
def test_what_does_not_fit_is_refused_in_the_shape_of_the_api(
    door: Door, fields: dict[str, Any], field: str | None, said: str, streams: bool
) -> None:
    answer = post(door, "/messages", {"model": EMBEDDED, "messages": HUM, "max_tokens": 9, "stream": streams, **fields})
    assert answer.status == 400, answer.body
    assert set(answer.json) == {"type", "error", "request_id"}
    assert (answer.json["type"], answer.error["type"]) == ("error", "invalid_request_error")
    assert answer.json["request_id"] == answer.headers["request-id"] == answer.headers["x-correlation-id"]
    assert said in answer.error["message"]
    assert field is None or answer.error["field"] == field
    assert "x-should-retry" not in answer.headers


def test_refusals_become_the_packages_own_exceptions(client: Anthropic, door: Door) -> None:
    with pytest.raises(anthropic.NotFoundError, match="Did you mean `steady`") as unknown:
        client.messages.create(model="stedy", messages=HUM, max_tokens=3)
    assert (unknown.value.type, unknown.value.request_id) == ("not_found_error", unknown.value.response.headers["x-correlation-id"])
    with pytest.raises(anthropic.NotFoundError, match="Did you mean `steady`"):
        client.messages.count_tokens(model="stedy", messages=HUM)
    for ask in (client.beta.files.list, lambda: client.beta.files.upload(file=b"{}"), lambda: client.beta.files.delete("file-1")):
        with pytest.raises(anthropic.NotFoundError, match="Files of Anthropic's API are not supported; send"):
            ask()
    with pytest.raises(anthropic.BadRequestError, match="makes no text"):
        client.messages.create(model=door.embedder, messages=HUM, max_tokens=3)
    with pytest.raises(anthropic.BadRequestError, match="no place for tools"):
        client.messages.count_tokens(model=EMBEDDED, messages=HUM, tools=COUNT)
    with pytest.raises(anthropic.InternalServerError) as crashed:
        client.messages.create(model=door.fragile, messages=[{"role": "user", "content": "boom"}], max_tokens=3)
    assert (crashed.value.status_code, crashed.value.type) == (502, "api_error")
    assert crashed.value.response.headers["x-should-retry"] == "false"


def test_bodies_paths_and_methods_that_do_not_fit_answer_in_the_same_shape(door: Door) -> None:
    large = post(door, "/messages", {"model": door.plain, "messages": [{"role": "user", "content": "x" * 20_000_000}]})
    assert (large.status, large.error["type"]) == (413, "request_too_large")
    for raw in (b"{", b"[]", b"null", b"\xff", b'{"model": ' + b"[" * 100):
        answer = request("POST", f"{door.base_url}/messages", raw=raw)
        assert (answer.status, answer.error["type"]) == (400, "invalid_request_error")
    for method, path, status in (
        ("GET", "/messages/batches", 404),
        ("GET", "/files/f/content", 404),
        ("GET", "/messages", 405),
        ("GET", "/models?limit=n", 400),
    ):
        answer = request(method, f"{door.base_url}{path}", headers=VERSION)
        assert (answer.status, answer.json["type"]) == (status, "error")
        assert answer.error["type"] == ("not_found_error" if status == 404 else "invalid_request_error")
