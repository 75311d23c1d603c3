"""The real `openai` package and its Responses API: streams that are taken up after whatever broke them, responses that run without
their client, conversations that the server keeps.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, Final, Literal

import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel

from tests.support.door import EMBEDDED, SAID, THOUGHT, Door
from tests.support.examples import ROOT
from tests.support.home import wait_until
from tests.support.jobs import show
from tests.support.orcd_cluster import Cluster, cluster
from tests.support.raw_http import request, stream

COUNT: Final[list[Any]] = [
    {
        "type": "function",
        "name": "count",
        "parameters": {
            "type": "object",
            "properties": {"hive": {"enum": ["a", "b", "é"]}},
            "required": ["hive"],
            "additionalProperties": False,
        },
        "strict": True,
    }
]
IMPOSSIBLE: Final = {"format": {"type": "json_schema", "name": "n", "schema": {"type": "no such type"}}}
IMAGE: Final = [{"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,AA=="}]}]


@pytest.fixture(scope="module")
def client(door: Door) -> Iterator[OpenAI]:
    with OpenAI(base_url=door.base_url, api_key="none", max_retries=0) as made:
        yield made


def post(door: Door, path: str, body: dict[str, Any]) -> Any:
    return request("POST", f"{door.base_url}{path}", body)


def text_of(events: list[Any]) -> str:
    return "".join(event.delta for event in events if event.type == "response.output_text.delta")


def numbers(events: list[Any]) -> list[int]:
    return [event.sequence_number for event in events]


# ---- answers -------------------------------------------------------------------------------------------------------------


def test_a_response_is_answered_whole_and_can_be_asked_for_again(client: OpenAI, door: Door) -> None:
    asked: dict[str, Any] = {"model": door.plain, "input": "hum", "instructions": "Be brief.", "metadata": {"hive": "a"}}
    raw = client.responses.with_raw_response.create(**asked, extra_body={"seed": 1, "sparkle": 1})
    made = raw.parse()
    assert made._request_id == raw.headers["x-correlation-id"]
    assert (made.object, made.status, made.model, made.metadata) == ("response", "completed", door.plain, {"hive": "a"})
    assert made.output_text
    assert made.usage is not None
    assert made.usage.total_tokens == made.usage.input_tokens + made.usage.output_tokens
    assert raw.headers["x-rbees-ignored"] == "sparkle"
    shown = show(door.url, raw.headers["x-rbees-job-id"])
    assert made.id == f"resp_{shown['job_id']}"
    assert made.output_text == shown["output"][0]["text"]
    assert client.responses.retrieve(made.id, include=["message.output_text.logprobs"]).model_dump() == made.model_dump()
    assert client.responses.create(**asked, extra_body={"seed": 1}).output_text == made.output_text


def test_a_stream_says_the_same_as_the_whole_answer(client: OpenAI, door: Door) -> None:
    asked: dict[str, Any] = {"model": door.plain, "input": "hum", "extra_body": {"seed": 7}}
    whole = client.responses.create(**asked)
    events: list[Any] = list(client.responses.create(**asked, stream=True, stream_options={"include_obfuscation": False}))
    assert numbers(events) == list(range(len(events)))
    assert [event.type for event in events[:4]] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    last = events[-1]
    assert last.type == "response.completed"
    assert text_of(events) == last.response.output_text == whole.output_text
    with client.responses.stream(**asked) as helped:
        assert helped.get_final_response().output_text == whole.output_text


def test_the_embedded_model_answers_in_the_form_of_a_class(client: OpenAI) -> None:
    class Haiku(BaseModel):
        season: Literal["spring", "summer", "autumn", "winter"]
        lines: list[str]

    asked: dict[str, Any] = {"model": EMBEDDED, "input": "the sea", "temperature": 0}
    parsed = client.responses.parse(**asked, text_format=Haiku).output_parsed
    assert parsed is not None
    assert parsed.season
    free = client.responses.create(**asked, text={"format": {"type": "json_object"}}, max_output_tokens=200)
    assert free.output_text.startswith("{")


def test_tokens_come_with_their_probabilities(client: OpenAI) -> None:
    asked: dict[str, Any] = {"model": EMBEDDED, "input": "the sea", "max_output_tokens": 4, "temperature": 0}
    made: Any = client.responses.create(**asked, include=["message.output_text.logprobs"], top_logprobs=2)
    assert (made.status, made.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    (part,) = made.output[0].content
    assert "".join(one.token for one in part.logprobs) == part.text
    assert all(one.top_logprobs[0].token == one.token and len(one.top_logprobs) == 2 for one in part.logprobs)


def test_thoughts_and_calls_are_items_of_their_own(client: OpenAI, door: Door) -> None:
    asked: dict[str, Any] = {"model": door.caller, "input": "how many bees?", "tools": COUNT}
    events: list[Any] = list(client.responses.create(**asked, stream=True))
    response = events[-1].response
    thought, said, first, second = response.output
    assert (thought.type, thought.content[0].text) == ("reasoning", THOUGHT)
    assert (said.type, response.output_text) == ("message", SAID)
    assert [(call.type, call.name, call.arguments) for call in (first, second)] == [
        ("function_call", "count", '{"hive":"é"}'),
        ("function_call", "count", '{"hive":"b"}'),
    ]
    thoughts = [event.delta for event in events if event.type == "response.reasoning_text.delta"]
    assert "".join(thoughts) == THOUGHT
    told = [event.arguments for event in events if event.type == "response.function_call_arguments.done"]
    assert told == ['{"hive":"é"}', '{"hive":"b"}']
    assert response.usage.output_tokens_details.reasoning_tokens
    once = client.responses.create(**asked, parallel_tool_calls=False)
    assert [item.type for item in once.output] == ["reasoning", "message", "function_call"]
    silent = client.responses.create(**asked, tool_choice="none")
    assert "function_call" not in [item.type for item in silent.output]


@pytest.mark.parametrize(
    "choice",
    [
        "required",
        {"type": "function", "name": "count"},
        {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "count"}]},
    ],
    ids=["required", "named", "allowed"],
)
def test_a_call_can_be_forced(client: OpenAI, door: Door, choice: Any) -> None:
    # Without an effort to think, for a scripted model that may think does so until it has no room left.
    asked: dict[str, Any] = {"input": "hum", "tools": COUNT, "tool_choice": choice, "reasoning": {"effort": "none"}}
    made: Any = client.responses.create(model=door.forced, **asked)
    (call,) = made.output
    assert (call.type, call.name) == ("function_call", "count")
    assert json.loads(call.arguments)["hive"] in {"a", "b", "é"}


def test_functions_of_a_namespace_are_called_streamed_and_told_by_both_names(client: OpenAI, door: Door) -> None:
    group = {"type": "namespace", "name": "hives", "description": "About hives.", "tools": COUNT}
    fields: dict[str, Any] = {"model": door.forced, "tools": [group, {"type": "web_search"}], "reasoning": {"effort": "none"}}
    choice: dict[str, Any] = {"type": "function", "name": "count", "namespace": "hives"}
    asked: dict[str, Any] = {**fields, "input": "hum", "tool_choice": choice}
    events: list[Any] = list(client.responses.create(**asked, stream=True))
    shown = [event.item for event in events if event.type.startswith("response.output_item.")]
    (call,) = events[-1].response.output
    assert [(item.type, item.name, item.namespace) for item in (*shown, call)] == [("function_call", "count", "hives")] * 3
    assert [tool.type for tool in events[-1].response.tools] == ["namespace", "web_search"]
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "38500"}
    said: list[Any] = [{"role": "user", "content": "hum"}, call, result]
    itself: Any = client.responses.with_raw_response.create(**fields, input=said, max_output_tokens=4)
    assert itself.headers["x-rbees-ignored"] == "tools[0].tools[0].strict, tools[1]"
    id_ = events[-1].response.id
    behind: Any = client.responses.create(**fields, input=[result], previous_response_id=id_, max_output_tokens=4)
    assert itself.parse().usage.input_tokens == behind.usage.input_tokens


# ---- conversations -------------------------------------------------------------------------------------------------------


def test_a_conversation_goes_on_behind_a_response(client: OpenAI, door: Door) -> None:
    asked: dict[str, Any] = {"model": door.plain, "extra_body": {"seed": 5}}
    first = client.responses.create(**asked, input="hum", instructions="Be brief.")
    second = client.responses.create(**asked, input="again", instructions="Sing.", previous_response_id=first.id)
    third = client.responses.create(**asked, input="more", previous_response_id=second.id)
    assert (second.previous_response_id, third.instructions) == (first.id, None)
    said: list[Any] = [
        {"role": "user", "content": "hum"},
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "again"},
    ]
    assert client.responses.create(**asked, input=said, instructions="Sing.").output_text == second.output_text
    said += [{"role": "assistant", "content": second.output_text}, {"role": "user", "content": "more"}]
    again = client.responses.create(**asked, input=said)
    assert again.output_text == third.output_text
    # By reference, and with the items as they came.
    referred: list[Any] = [said[0], {"type": "item_reference", "id": first.output[0].id}, said[2], *second.output, said[4]]
    by_reference = client.responses.create(**asked, input=referred)
    assert by_reference.output_text == third.output_text
    listed: list[Any] = list(client.responses.input_items.list(by_reference.id, order="asc", limit=2))
    assert [item.role for item in listed] == ["user", "assistant", "user", "assistant", "user"]
    assert listed[1].id == first.output[0].id
    newest = client.responses.input_items.list(by_reference.id, limit=1)
    assert (newest.data, newest.has_more) == ([listed[-1]], True)
    client.responses.delete(first.id)
    assert client.responses.create(**asked, input="more", previous_response_id=second.id).output_text == third.output_text


def test_what_came_of_calls_goes_back_behind_the_response_that_called(client: OpenAI, door: Door) -> None:
    first = client.responses.create(model=door.caller, input="how many?", tools=COUNT)
    calls = [item for item in first.output if item.type == "function_call"]
    results: list[Any] = [{"type": "function_call_output", "call_id": call.call_id, "output": "38500"} for call in calls]
    second = client.responses.create(model=door.caller, input=results, previous_response_id=first.id, tools=COUNT)
    assert second.status == "completed"
    said: list[Any] = [{"role": "user", "content": "how many?"}, *first.output, *results]
    itself = client.responses.create(model=door.caller, input=said, tools=COUNT)
    assert second.usage is not None
    assert itself.usage is not None
    assert second.usage.input_tokens == itself.usage.input_tokens
    counted = client.responses.input_tokens.count(model=door.caller, input=results, previous_response_id=first.id, tools=COUNT)
    assert counted.input_tokens == second.usage.input_tokens


# ---- in the background ---------------------------------------------------------------------------------------------------


def test_a_response_in_the_background_goes_on_alone_until_it_is_cancelled(client: OpenAI, door: Door) -> None:
    made = client.responses.create(model=door.lasting, input="hum", background=True)
    assert (made.status, made.background, made.output) == ("queued", True, [])

    def running() -> Any:
        now = client.responses.retrieve(made.id)
        return now if now.output_text else None

    now = wait_until(running, door.cluster.orcd, "answer in the background")
    assert now.status == "in_progress"
    with pytest.raises(openai.BadRequestError, match="has not ended yet") as early:
        client.responses.create(model=door.lasting, input="hum", previous_response_id=made.id)
    assert early.value.param == "previous_response_id"
    cancelled = client.responses.cancel(made.id)
    assert cancelled.status == "cancelled"
    assert cancelled.output_text.startswith(now.output_text)
    assert client.responses.cancel(made.id) == cancelled == client.responses.retrieve(made.id)
    events: list[Any] = list(client.responses.retrieve(made.id, stream=True))
    assert [event.type for event in events[:3]] == ["response.created", "response.queued", "response.in_progress"]
    assert (events[-1].type, events[-1].response.status) == ("response.failed", "cancelled")
    with pytest.raises(openai.BadRequestError, match="is cancelled, so nothing can follow it"):
        client.responses.create(model=door.lasting, input="hum", previous_response_id=made.id)


def test_a_response_in_the_foreground_ends_with_its_client(client: OpenAI, door: Door) -> None:
    with client.responses.create(model=door.lasting, input="hum", stream=True) as events:
        id_ = next(iter(events)).response.id  # type: ignore[union-attr]
    wait_until(lambda: client.responses.retrieve(id_).status == "cancelled", door.cluster.orcd, "cancel the response")


def test_a_failure_is_a_state_and_two_events(client: OpenAI, door: Door) -> None:
    made = client.responses.create(model=door.plain, input="hum", background=True, max_output_tokens=900_000)
    events: list[Any] = list(client.responses.retrieve(made.id, stream=True))
    assert [event.type for event in events[-2:]] == ["error", "response.failed"]
    assert events[-2].code == "context_length_exceeded"
    failed = client.responses.retrieve(made.id)
    assert (failed.status, failed.error.code if failed.error else None) == ("failed", "invalid_prompt")
    for streams in (False, True):
        with pytest.raises(openai.BadRequestError, match="the context holds") as told:
            client.responses.create(model=door.plain, input="hum", max_output_tokens=900_000, stream=streams)
        assert (told.value.code, told.value.param) == ("context_length_exceeded", "max_output_tokens")


# ---- keeping and deleting ------------------------------------------------------------------------------------------------


def test_what_is_deleted_is_gone_and_what_is_not_kept_never_was_there(client: OpenAI, door: Door) -> None:
    made = client.responses.create(model=door.plain, input="hum")
    running = client.responses.create(model=door.lasting, input="hum", background=True)
    for id_ in (made.id, running.id):
        client.responses.delete(id_)
        for ask in (client.responses.retrieve, client.responses.cancel, client.responses.delete, client.responses.input_items.list):
            with pytest.raises(openai.NotFoundError, match="No response has this id"):
                ask(id_)
        job = show(door.url, id_.removeprefix("resp_"))
        assert job["output"] is None, "its content is gone too"
    assert job["status"] == "cancelled"
    with pytest.raises(openai.NotFoundError) as unknown:
        client.responses.create(model=door.plain, input="hum", previous_response_id=made.id)
    assert unknown.value.param == "previous_response_id"
    forgotten = client.responses.create(model=door.plain, input="hum", store=False)
    assert (forgotten.store, bool(forgotten.output_text)) == (False, True)  # type: ignore[attr-defined]
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(forgotten.id)
    chat = client.chat.completions.create(model=door.plain, messages=[{"role": "user", "content": "hum"}])
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(chat.id.replace("chatcmpl-", "resp_"))


def test_the_same_key_is_the_same_response(client: OpenAI, door: Door) -> None:
    once = {"Idempotency-Key": "response-once"}
    asked: dict[str, Any] = {"model": door.plain, "input": "hum", "background": True, "extra_headers": once}
    first = client.responses.create(**asked)
    list(client.responses.retrieve(first.id, stream=True))
    again = client.responses.create(**asked)
    assert (again.id, again.status) == (first.id, "completed")
    with pytest.raises(openai.ConflictError):
        client.responses.create(**asked, metadata={"hive": "b"})


# ---- streams that break --------------------------------------------------------------------------------------------------


def test_a_stream_whose_connection_was_lost_goes_on_behind_what_was_seen(client: OpenAI, door: Door) -> None:
    asked: dict[str, Any] = {"model": door.lasting, "input": "hum", "max_output_tokens": 60, "extra_body": {"seed": 3}}
    seen: list[Any] = []
    with client.responses.create(**asked, stream=True, background=True) as broken:
        _read(broken, seen, 20)
    id_ = seen[0].response.id
    rest: list[Any] = list(client.responses.retrieve(id_, stream=True, starting_after=seen[-1].sequence_number))
    assert numbers([*seen, *rest]) == list(range(len(seen) + len(rest)))
    assert text_of([*seen, *rest]) == rest[-1].response.output_text == client.responses.retrieve(id_).output_text
    assert rest[-1].type == "response.incomplete"


def test_a_stream_goes_on_after_orcd_was_killed(door: Door) -> None:
    del door
    with cluster() as hive, OpenAI(base_url=f"{hive.url}/v1", api_key="none", max_retries=0) as client:
        hive.warm()
        killed = _broken_in_the_midst(hive, client, background=False)
        _example_over_a_kill(hive, client)
        hive.orcd.stop()
        hive.start_orcd(DRAIN_TIMEOUT_S="0.1")
        wait_until(hive.pools, hive.poold, "register again")
        assert _broken_in_the_midst(hive, client, background=True, in_order=True) == killed


def _read(events: Iterator[Any], seen: list[Any], until: int | None = None) -> None:
    for event in events:
        seen.append(event)
        if len(seen) == until:
            return


def _broken_in_the_midst(hive: Cluster, client: OpenAI, *, background: bool, in_order: bool = False) -> str:
    asked: dict[str, Any] = {"model": hive.model, "input": "say something", "background": background, "extra_body": {"seed": 1}}
    seen: list[Any] = []
    with client.responses.create(**asked, stream=True) as broken:
        _read(broken, seen, 30)
        if in_order:
            assert hive.orcd.stop() == 0
            _read(broken, seen)
        else:
            hive.orcd.kill()
            with pytest.raises(openai.APIConnectionError):
                _read(broken, seen)
    assert seen[-1].type == "response.output_text.delta", "it fell in mid-stream"
    hive.start_orcd()
    id_ = seen[0].response.id
    rest: list[Any] = list(client.responses.retrieve(id_, stream=True, starting_after=seen[-1].sequence_number))
    assert rest[-1].type == "response.completed"
    assert numbers([*seen, *rest]) == list(range(len(seen) + len(rest))), "each event once"
    again: list[Any] = list(client.responses.retrieve(id_, stream=True))
    assert [event.to_dict() for event in again] == [event.to_dict() for event in (*seen, *rest)]
    text: str = rest[-1].response.output_text
    assert text_of(again) == text
    return text


def _example_over_a_kill(hive: Cluster, client: OpenAI) -> None:
    """The example that users start from does the same."""
    command = [sys.executable, "-u", str(ROOT / "examples" / "openai_responses.py"), hive.url, hive.model, "say something"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        said = running.stdout.read(20)
        hive.orcd.kill()
        hive.start_orcd()
        said += running.stdout.read()
        id_, broken, *_ = running.stderr.read().splitlines()
    assert broken.startswith("[broken off after event ")
    assert (running.returncode, said) == (0, f"{client.responses.retrieve(id_.strip('[]')).output_text}\n")


def test_a_stream_is_taken_up_in_its_own_bytes_and_not_behind_its_end(client: OpenAI, door: Door) -> None:
    id_ = client.responses.create(model=door.plain, input="hum").id
    url = f"{door.base_url}/responses/{id_}?stream=true"
    with stream("GET", url) as frames:
        whole = [frame.raw for frame in frames]
    last = len(whole) - 1
    for after in (0, 5, last - 1, last):
        with stream("GET", f"{url}&starting_after={after}") as frames:
            assert [frame.raw for frame in frames] == whole[after + 1 :]
    behind = request("GET", f"{url}&starting_after={last + 1}")
    assert (behind.status, behind.error["param"]) == (400, "starting_after")
    assert f"between 0 and {last}" in behind.error["message"]
    alone = request("GET", f"{door.base_url}/responses/{id_}?starting_after=1")
    assert (alone.status, alone.error["param"]) == (400, "starting_after")
    assert request("GET", f"{url}&starting_after=-1").status == 400
    assert request("GET", f"{url}&include_obfuscation=true").error["param"] == "include_obfuscation"


# ---- refusals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"input": None}, "input", "Expected"),
        ({"input": IMAGE}, "input[0].content[0]", "reads text only"),
        ({"input": [{"type": "item_reference", "id": "msg_x"}]}, "input[0]", "refers to no whole item"),
        ({"tools": [{"type": "file_search"}]}, "tools[0].type", "no files are searched here"),
        ({"tool_choice": "required"}, "tool_choice", "`tools` is empty"),
        ({"conversation": "conv_1"}, "conversation", "not supported"),
        ({"truncation": "auto"}, "truncation", "not supported"),
        ({"temperature": 2.5}, "temperature", "<= 2"),
        ({"background": True, "store": False}, "background", "kept"),
        ({"text": IMPOSSIBLE}, None, "schema"),
        ({"model": "stedy"}, "model", "Did you mean `steady"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else None,
)
@pytest.mark.parametrize("streams", [False, True])
def test_what_does_not_fit_is_refused_in_the_shape_of_the_api(
    door: Door, fields: dict[str, Any], param: str | None, said: str, streams: bool
) -> None:
    answer = post(door, "/responses", {"model": EMBEDDED, "input": "hum", "stream": streams, **fields})
    assert answer.status == (404 if "model" in fields else 400), answer.body
    assert set(answer.error) == {"message", "type", "param", "code"}
    assert answer.error["type"] == "invalid_request_error"
    assert said in answer.error["message"]
    assert param is None or answer.error["param"] == param


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "order=up", "after=msg_x", "before=msg_x"])
def test_pages_that_are_not_there_are_refused(client: OpenAI, door: Door, query: str) -> None:
    id_ = client.responses.create(model=door.plain, input="hum").id
    assert request("GET", f"{door.base_url}/responses/{id_}/input_items?{query}").status == 400
