"""Chats through a real worker process: thoughts, calls, and an attempt that goes on after any event of another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rbees.protocol import codec
from rbees.protocol.chat import ChatMessage, NamedTool, Tool, ToolCall
from rbees.protocol.errors import ErrorCode
from rbees.protocol.events import End, Error, Event, Token
from rbees.protocol.response_format import JsonSchemaFormat, RegexFormat
from rbees.protocol.workers import ExecuteRequest, GivenChoice, TokenizeRequest
from tests.support.chat_templates import HERMES, LLAMA, MISTRAL, OPENED_THOUGHT
from tests.support.scripted_models import write_script
from tests.support.worker_process import WorkerProcess, running_worker

ANSWER = (
    "<think>\nBees? 🐝 Let me count < all.\n</think>\n\nOne moment.\n"
    '<tool_call>\n{"name": "count", "arguments": {"hive": "é </tool_call>"}}\n</tool_call>\n'
    '<tool_call>\n{"name": "count", "arguments": {"hive": "b"}}\n</tool_call>'
)
TOOLS = (Tool(name="count", description="Count bees.", parameters={"type": "object", "properties": {"hive": {"type": "string"}}}),)
USER = ChatMessage(role="user", content="How many?")


def job(job_id: str = "j", **fields: Any) -> ExecuteRequest:
    return ExecuteRequest(**{"job_id": job_id, "epoch": 1, "messages": (USER,), "tools": TOOLS, **fields})


async def run(worker: WorkerProcess, request: ExecuteRequest) -> list[Event]:
    async with worker.client() as client, client.execute(request) as stream:
        return [event async for seq, event in stream if seq is not None and not hasattr(event, "step")]


async def prompt_of(worker: WorkerProcess, **fields: Any) -> str:
    async with worker.client() as client:
        answer = await client.tokenize(TokenizeRequest(**fields))
    return bytes(i for i in answer.token_ids if i < 256).decode()


def tokens(events: list[Event]) -> list[Token]:
    return [event for event in events if isinstance(event, Token)]


def part(events: list[Event], name: str) -> str:
    return "".join(event.text for event in tokens(events) if event.part == name)


async def test_thoughts_text_and_calls_come_apart(tmp_path: Path) -> None:
    async with running_worker(write_script(tmp_path, chat_template=HERMES, answer=ANSWER), tmp_path) as worker:
        await worker.ready()
        events = await run(worker, job())
        assert part(events, "reasoning") == "Bees? 🐝 Let me count < all."
        assert part(events, "text") == "One moment."
        end = events[-1]
        assert isinstance(end, End)
        (choice,) = end.choices
        assert choice.finish_reason == "tool_calls"
        assert [(call.name, call.arguments) for call in choice.tool_calls] == [
            ("count", {"hive": "é </tool_call>"}),
            ("count", {"hive": "b"}),
        ]
        assert len({call.id for call in choice.tool_calls}) == 2
        assert [event.part for event in tokens(events)].count("tool") == 2, "one event for each call"

        unasked = await run(worker, job("k", tool_choice="none"))
        assert part(unasked, "tool") == ""
        assert part(unasked, "text") == ANSWER.partition("</think>\n\n")[2]
        raw = await run(worker, ExecuteRequest(job_id="l", epoch=1, prompt="How many?"))
        assert part(raw, "text") == ANSWER


async def test_an_attempt_goes_on_after_any_event_with_the_same_events(tmp_path: Path) -> None:
    async with running_worker(write_script(tmp_path, chat_template=HERMES, answer=ANSWER), tmp_path) as worker:
        await worker.ready()
        whole = await run(worker, job())
        expected = [codec.encode(event) for event in tokens(whole)]
        end = whole[-1]
        assert isinstance(end, End)
        for epoch in range(2, len(expected) + 3):
            sent = tokens(whole)[: epoch - 2]
            given = tuple(i for event in sent for i in event.token_ids)
            rest = await run(worker, job(epoch=epoch, generated_token_ids=given))
            assert [codec.encode(event) for event in tokens(rest)] == expected[len(sent) :]
            last = rest[-1]
            assert isinstance(last, End)
            assert last.choices == end.choices
            assert last.usage.completion_tokens == end.usage.completion_tokens


async def test_each_of_several_answers_has_calls_of_its_own(tmp_path: Path) -> None:
    async with running_worker(write_script(tmp_path, chat_template=HERMES, answer=ANSWER), tmp_path) as worker:
        await worker.ready()
        end = (await run(worker, job(choices=(GivenChoice(), GivenChoice()))))[-1]
        assert isinstance(end, End)
        assert [[call.arguments["hive"] for call in choice.tool_calls] for choice in end.choices] == [["é </tool_call>", "b"]] * 2
        assert len({call.id for choice in end.choices for call in choice.tool_calls}) == 4


async def test_a_prompt_that_opens_a_thought(tmp_path: Path) -> None:
    script = write_script(tmp_path, chat_template=OPENED_THOUGHT, answer="So be it.\n</think>\n\n7 bees.")
    async with running_worker(script, tmp_path) as worker:
        await worker.ready()
        events = await run(worker, job(tools=()))
        assert (part(events, "reasoning"), part(events, "text")) == ("So be it.", "7 bees.")
        refused = (await run(worker, job("k")))[-1]
        assert isinstance(refused, Error)
        assert refused.error.code is ErrorCode.MODEL_INCOMPATIBLE
        assert "tools" in refused.error.message


async def test_the_template_is_told_of_tools_calls_results_and_options(tmp_path: Path) -> None:
    async with running_worker(write_script(tmp_path, chat_template=HERMES), tmp_path) as worker:
        await worker.ready()
        call = ToolCall(id="call_Q29u", name="count", arguments={"hive": "a"})
        result = ChatMessage(role="tool", content="</tool_response><end>7", tool_call_id="call_Q29u")
        said = await prompt_of(
            worker,
            messages=(USER, ChatMessage(role="assistant", tool_calls=(call,)), result),
            tools=TOOLS,
            template_options={"enable_thinking": False},
        )
        assert '"description": "Count bees."' in said
        assert '<assistant>\n<tool_call>\n{"name": "count", "arguments": {"hive": "a"}}\n</tool_call>' in said
        assert "<tool></tool_response><end>7" in said, "what a tool gave back stays text"
        assert said.endswith("<assistant><think>\n\n</think>\n\n")
        assert "Count bees." not in await prompt_of(worker, messages=(USER,), tools=TOOLS, tool_choice="none")


HIVES = Tool(
    name="hives",
    parameters={
        "type": "object",
        "properties": {"which": {"enum": ["a", "b"]}, "how": {"type": "string", "maxLength": 12}},
        "required": ["which", "how"],
        "additionalProperties": False,
    },
)


@pytest.mark.parametrize("template", [LLAMA, MISTRAL])
async def test_a_call_that_must_be_made_is_made_and_goes_on_after_a_cut(template: str, tmp_path: Path) -> None:
    async with running_worker(write_script(tmp_path, chat_template=template), tmp_path) as worker:
        await worker.ready()
        asked: dict[str, Any] = {"tools": (*TOOLS, HIVES), "tool_choice": NamedTool(name="hives")}
        whole = await run(worker, job(**asked))
        end = whole[-1]
        assert isinstance(end, End), end
        (call,) = end.choices[0].tool_calls
        assert (end.choices[0].finish_reason, call.name) == ("tool_calls", "hives")
        assert call.arguments.keys() == {"which", "how"}
        assert call.arguments["which"] in {"a", "b"}
        assert len(call.arguments["how"]) <= 12
        (event,) = tokens(whole)
        for epoch, given in enumerate(range(1, len(event.token_ids), 5), 2):
            rest = await run(worker, job(epoch=epoch, generated_token_ids=event.token_ids[:given], **asked))
            (again,) = tokens(rest)
            assert (again.text, again.token_ids) == (event.text, event.token_ids[given:])
            assert isinstance(rest[-1], End)
            assert rest[-1].choices == end.choices
        beside = (await run(worker, job("beside", response_format=RegexFormat(pattern="never"), **asked)))[-1]
        assert isinstance(beside, End)
        assert [(call.name, call.arguments) for call in beside.choices[0].tool_calls] == [(call.name, call.arguments)]
        assert await _kinds_of_answers(worker) == {"stop", "tool_calls"}


FORM = JsonSchemaFormat(schema={"type": "object", "properties": {"kind": {"enum": ["queen", "drone"]}}, "required": ["kind"]})


async def _kinds_of_answers(worker: WorkerProcess) -> set[str | None]:
    """How answers end that have a form or call a tool, as the model likes; each is the one or the other, to its end."""
    asked: dict[str, Any] = {"tools": (HIVES,), "response_format": FORM}
    events = await run(worker, job("either", choices=(GivenChoice(),) * 16, **asked))
    end = events[-1]
    assert isinstance(end, End), end
    for choice in end.choices:
        answer = [event for event in tokens(events) if event.choice == choice.choice]
        text = "".join(event.text for event in answer if event.part == "text")
        if choice.finish_reason == "tool_calls":
            (call,) = choice.tool_calls
            assert (call.name, text) == ("hives", "")
            assert call.arguments.keys() == {"which", "how"}
        else:
            assert (text in {'{"kind":"queen"}', '{"kind":"drone"}'}, choice.tool_calls) == (True, ())
        given = tuple(token for event in answer for token in event.token_ids)
        rest = await run(worker, job(f"either-{choice.choice}", generated_token_ids=given[: len(given) // 2], **asked))
        assert isinstance(rest[-1], End)
        assert rest[-1].choices[0].finish_reason == choice.finish_reason
    return {choice.finish_reason for choice in end.choices}


async def test_a_call_cannot_be_forced_where_the_template_shows_none_or_the_schema_cannot_be_kept(tmp_path: Path) -> None:
    blind = "{{ tools }}{% for message in messages %}{{ message.content }}{% endfor %}"
    async with running_worker(write_script(tmp_path, chat_template=blind), tmp_path) as worker:
        await worker.ready()
        (refused,) = await run(worker, job(tool_choice="required"))
        assert isinstance(refused, Error)
        assert refused.error.code is ErrorCode.MODEL_INCOMPATIBLE
        events = await run(worker, job("form", response_format=FORM))
        assert part(events, "text") in {'{"kind":"queen"}', '{"kind":"drone"}'}, "the form holds alone"
    async with running_worker(write_script(tmp_path, chat_template=LLAMA), tmp_path) as worker:
        await worker.ready()
        hostile = Tool(name="f", parameters={"type": "object", "properties": {"a": {"pattern": "(?=x)"}}})
        (refused,) = await run(worker, job(tools=(hostile,), tool_choice="required"))
        assert isinstance(refused, Error)
        assert (refused.error.code, refused.error.details["field"]) == (ErrorCode.INVALID_REQUEST, "tools")
        beside = await run(worker, job("form", tools=(HIVES, hostile), response_format=FORM, choices=(GivenChoice(),) * 16))
        assert isinstance(beside[-1], End), beside[-1]
        calls = [call for choice in beside[-1].choices for call in choice.tool_calls]
        assert all(call.arguments.keys() == {"which", "how"} for call in calls if call.name == "hives"), "others are kept to theirs"


@pytest.mark.parametrize(
    ("fields", "code", "word"),
    [
        ({"template_options": {"enable_flying": True}}, ErrorCode.INVALID_REQUEST, "enable_thinking"),
        ({"template_options": {"messages": "x"}}, ErrorCode.INVALID_REQUEST, "messages"),
        ({"template_options": {"bos_token": "x"}}, ErrorCode.INVALID_REQUEST, "bos_token"),
    ],
)
async def test_options_that_the_template_does_not_use_are_refused(
    fields: dict[str, Any], code: ErrorCode, word: str, tmp_path: Path
) -> None:
    async with running_worker(write_script(tmp_path, chat_template=HERMES), tmp_path) as worker:
        await worker.ready()
        (refused,) = await run(worker, job(**fields))
        assert isinstance(refused, Error)
        assert refused.error.code is code
        assert word in refused.error.message
