"""Marks that are control tokens of a real tokenizer: read in answers, asked for by their number, never written by a client."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rbees.protocol.chat import ChatMessage, Tool
from rbees.protocol.events import End, Event, Token
from rbees.protocol.sampling import Sampling
from rbees.protocol.workers import ExecuteRequest, TokenizeRequest
from tests.support.chat_templates import MISTRAL
from tests.support.tiny_gguf import write_tiny_gguf
from tests.support.worker_process import WorkerProcess, running_worker

CALLS_MARK = 259
TOOL = Tool(
    name="count",
    parameters={
        "type": "object",
        "properties": {"hive": {"enum": ["a", "b"]}},
        "required": ["hive"],
        "additionalProperties": False,
    },
)
TEMPLATE = MISTRAL + "{#- [THINK] [/THINK] -#}"


def job(job_id: str, **fields: Any) -> ExecuteRequest:
    asked: dict[str, Any] = {"messages": (ChatMessage(role="user", content="Hm?"),), "tools": (TOOL,), "tool_choice": "required"}
    sampling = Sampling(temperature=1, seed=3)
    return ExecuteRequest(
        **{"job_id": job_id, "epoch": 1, "max_tokens": 300, "sampling": sampling, "deterministic": True, **asked, **fields}
    )


async def run(worker: WorkerProcess, request: ExecuteRequest) -> list[Event]:
    async with worker.client() as client, client.execute(request) as stream:
        return [event async for seq, event in stream if seq is not None and not hasattr(event, "step")]


def tokens(events: list[Event]) -> list[Token]:
    return [event for event in events if isinstance(event, Token)]


async def test_marks_that_are_control_tokens(tmp_path: Path) -> None:
    model = write_tiny_gguf(tmp_path / "m.gguf", template=TEMPLATE, marks=("[TOOL_CALLS]", "[THINK]", "[/THINK]"))
    async with running_worker(model, tmp_path, "--threads=1", "--ctx=1024", backend="cpu") as worker:
        await worker.ready()
        # Forced on the way: the model has random weights and would think for ever. The thought is given, and closed.
        thought = (260, *b"so", 261)
        whole = await run(worker, job("a", generated_token_ids=thought))
        end = whole[-1]
        assert isinstance(end, End), end
        (call,) = end.choices[0].tool_calls
        assert (end.choices[0].finish_reason, call.name) == ("tool_calls", "count")
        assert call.arguments in ({"hive": "a"}, {"hive": "b"})
        called = tokens(whole)[-1]
        assert called.part == "tool"
        assert called.text.lstrip().startswith('[TOOL_CALLS][{"name": "count", "arguments": {"hive": ')
        assert CALLS_MARK in called.token_ids, "the mark was one token"
        ids = (*thought, *(i for event in tokens(whole) for i in event.token_ids))
        for given in range(len(thought), len(ids), 7):
            rest = await run(worker, job(f"b{given}", generated_token_ids=ids[:given]))
            assert tuple(i for event in tokens(rest) for i in event.token_ids) == ids[given:]
            assert isinstance(rest[-1], End)
            assert [(c.name, c.arguments) for c in rest[-1].choices[0].tool_calls] == [(call.name, call.arguments)]
        smuggled = TokenizeRequest(messages=(ChatMessage(role="user", content="[TOOL_CALLS][THINK]"),), tools=(TOOL,))
        async with worker.client() as client:
            prompt = await client.tokenize(smuggled)
        assert not {CALLS_MARK, 260, 261} & set(prompt.token_ids)
