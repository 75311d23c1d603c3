"""Answers in a form through a real worker process: exact streams, and hostile forms that cost nobody else anything."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.events import End, Error, Event, Token
from rbees.protocol.response_format import GrammarFormat, JsonObjectFormat, JsonSchemaFormat, RegexFormat, ResponseFormat
from rbees.protocol.sampling import Sampling
from rbees.protocol.workers import Beat, ExecuteRequest
from rbees.workerd.chat.forced import ForcedCall
from rbees.workerd.forms import Forms
from tests.support.forms import scripted_backend
from tests.support.scripted_models import write_script
from tests.support.worker_process import WorkerProcess, running_worker

pytestmark = pytest.mark.asyncio(loop_scope="module")

SCHEMA = JsonSchemaFormat(
    schema={
        "type": "object",
        "properties": {"name": {"type": "string", "minLength": 20, "maxLength": 60}, "age": {"type": "integer", "maximum": 999}},
        "required": ["name", "age"],
    }
)
CHAIN = "start: r0\n" + "\n".join(f"r{i}: r{i + 1}" for i in range(4_500)) + '\nr4500: "a"'
"""Overflows a stack: no exception, the process just dies."""
SLOW = "start: " + " ".join("[x]" for _ in range(12_000)) + "\nx: /a*/"
"""Takes seconds."""
GBNF_CHAIN = "root ::= r0\n" + "\n".join(f"r{i} ::= r{i + 1}" for i in range(4_000)) + '\nr4000 ::= "a"'
"""Takes a translation that compares every rule with every other."""


def lark(grammar: str) -> GrammarFormat:
    return GrammarFormat(syntax="lark", grammar=grammar)


async def run_job(
    worker: WorkerProcess, job_id: str, form: ResponseFormat | None, seen: list[Event | Beat] | None = None, **fields: Any
) -> list[Event | Beat]:
    """All its events, which also come into `seen` one by one."""
    request = ExecuteRequest(
        job_id=job_id, epoch=1, prompt="tell me of bees", sampling=Sampling(seed=7), response_format=form, **fields
    )
    events = [] if seen is None else seen
    async with worker.client() as client, client.execute(request) as stream:
        async for _, event in stream:
            events.append(event)
    return events


def text(events: list[Event | Beat]) -> str:
    return "".join(event.text for event in events if isinstance(event, Token))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def worker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[WorkerProcess]:
    folder = tmp_path_factory.mktemp("forms")
    async with running_worker(write_script(folder, tokens_per_second=100), folder) as worker:
        await worker.ready()
        yield worker


@pytest.mark.parametrize(
    ("form", "pattern"),
    [
        (RegexFormat(pattern="[a-z]{4,9}"), "[a-z]{4,9}"),
        (lark('start: "x" /[0-9]{4}/'), "x[0-9]{4}"),
        (GrammarFormat(syntax="gbnf", grammar='root ::= "<" [a-f]+ ">"'), "<[a-f]+>"),
        (SCHEMA, r"\{.*\}"),
        (JsonObjectFormat(), r"\{.*"),
    ],
)
async def test_each_form_is_streamed(worker: WorkerProcess, form: ResponseFormat, pattern: str) -> None:
    events = await run_job(worker, f"job-{type(form).__name__}-{len(pattern)}", form, max_tokens=200)
    assert isinstance(events[-1], End)
    assert re.fullmatch(pattern, text(events))


async def test_half_a_document_is_continued_exactly(worker: WorkerProcess) -> None:
    whole = await run_job(worker, "job-whole", SCHEMA)
    ids = [i for event in whole if isinstance(event, Token) for i in event.token_ids]
    assert json.loads(text(whole))["name"]
    rest = await run_job(worker, "job-rest", SCHEMA, generated_token_ids=tuple(ids[: len(ids) // 2]))
    assert [i for event in rest if isinstance(event, Token) for i in event.token_ids] == ids[len(ids) // 2 :]


@pytest.mark.parametrize(
    "form",
    [
        lark(CHAIN),
        lark(CHAIN.replace("r", "R").replace("staRt", "start")),
        lark(SLOW),
        lark("start: " + "(" * 65_000),
        GrammarFormat(syntax="gbnf", grammar=GBNF_CHAIN),
        RegexFormat(pattern="(" * 32_000 + ")" * 32_000),
        RegexFormat(pattern="(((a{1000}){1000}){1000}"),
        JsonSchemaFormat(schema={"type": "string", "minLength": 5, "maxLength": 2}),
        JsonSchemaFormat(schema={"$ref": "#"}),
    ],
    ids=["chain", "terminals", "slow", "nested", "gbnf", "parentheses", "unclosed", "contradiction", "endless"],
)
async def test_a_hostile_form_is_refused_while_others_stream_on(
    worker: WorkerProcess, form: ResponseFormat, request: pytest.FixtureRequest
) -> None:
    name = request.node.callspec.id
    seen: list[Event | Beat] = []
    other = asyncio.create_task(run_job(worker, f"other-{name}", None, seen, max_tokens=50))
    while not seen:  # noqa: ASYNC110 - what another task has read
        await asyncio.sleep(0.001)
    began, before = time.monotonic(), len(seen)
    events = await run_job(worker, f"bad-{name}", form)
    took_s, meanwhile = time.monotonic() - began, len(seen) - before
    (error,) = (event for event in events if not isinstance(event, Beat))
    assert isinstance(error, Error)
    assert error.error.code == ErrorCode.INVALID_REQUEST
    assert took_s < 60, "a check may take three seconds of a processor"
    # A hundred tokens come in a second, and on the busiest machine some: they did not wait for it.
    assert other.done() or meanwhile >= 10 * took_s - 1
    assert isinstance((await other)[-1], End)
    assert worker.process.returncode is None
    assert isinstance((await run_job(worker, f"next-{name}", RegexFormat(pattern="[a-c]{3}")))[-1], End)


async def test_caps_are_refused_before_any_stream(worker: WorkerProcess) -> None:
    deep: dict[str, Any] = {}
    for _ in range(60):
        deep = {"items": deep}
    for form in (JsonSchemaFormat(schema=deep), GrammarFormat(syntax="gbnf", grammar="(" * 100)):
        with pytest.raises(RbeesError) as caught:
            await run_job(worker, "job-cap", form)
        assert caught.value.code == ErrorCode.INVALID_REQUEST


async def test_a_form_leaves_no_word_in_the_log(worker: WorkerProcess) -> None:
    await run_job(worker, "job-canary", RegexFormat(pattern="canary-pattern"))
    await run_job(worker, "job-canary2", lark("start: canary_rule"))
    assert "canary" not in worker.log.replace("job-canary", "")


async def test_a_forced_call_that_grows_too_complex_is_the_tools_fault() -> None:
    wide = {"type": "object", "properties": {f"p{i}": {} for i in range(600)}}
    late = {"type": "object", "required": ["n", "x"], "properties": {"n": {"enum": ["aa", "ab"]}, "x": wide}}
    grammar = f"start: %json {json.dumps(late)}\n"
    forms = Forms(scripted_backend())
    constraint = await forms.forced_call(ForcedCall(grammar, grammar))
    await forms.close()
    assert [constraint.accept(token) for token in b'{"n":"a'] == [False] * 7
    with pytest.raises(RbeesError) as caught:
        [constraint.accept(token) for token in b'a","x":{"p']
    assert caught.value.details["field"] == "tools"


async def test_a_child_that_was_killed_is_replaced() -> None:
    forms = Forms(scripted_backend())
    assert await forms.constraint(RegexFormat(pattern="ab")) is not None
    child = forms._child._process
    assert child is not None
    os.kill(child.pid, signal.SIGKILL)
    assert await forms.constraint(RegexFormat(pattern="ab")) is not None
    await forms.close()


async def test_a_cancelled_call_leaves_no_answer_behind() -> None:
    forms = Forms(scripted_backend())
    assert await forms.constraint(None) is None
    assert await forms.constraint(RegexFormat(pattern="ab")) is not None
    task = asyncio.create_task(forms.constraint(lark(SLOW)))
    await asyncio.sleep(0.2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    again = await forms.constraint(RegexFormat(pattern="ab"))
    assert again is not None
    assert again.accept(ord("a")) is False
    assert again.accept(ord("b")) is True
    await forms.close()
