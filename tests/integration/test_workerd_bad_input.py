"""What a worker is asked in error ends with a code before anything is computed, and the streams beside it never notice."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from rbees.protocol.chat import ChatMessage
from rbees.protocol.errors import ErrorCode
from rbees.protocol.events import End, Event, Token
from rbees.protocol.sampling import Sampling
from rbees.protocol.workers import Beat, ExecuteRequest
from rbees.service.sse_parser import SseParser
from tests.support.scripted_models import write_script
from tests.support.worker_process import WorkerProcess, running_worker

pytestmark = pytest.mark.asyncio(loop_scope="module")

CTX = 512
VOCABULARY = 512
INVALID, TOO_LONG, FAULTY = ErrorCode.INVALID_REQUEST, ErrorCode.CONTEXT_EXCEEDED, ErrorCode.MODEL_INCOMPATIBLE


def schema(value: dict[str, Any]) -> dict[str, Any]:
    return {"prompt": "x", "response_format": {"type": "json_schema", "schema": value}}


def regex(pattern: str) -> dict[str, Any]:
    return {"prompt": "x", "response_format": {"type": "regex", "pattern": pattern}}


def sampled(**fields: Any) -> dict[str, Any]:
    return {"prompt": "x", "sampling": fields}


def nested(levels: int) -> dict[str, Any]:
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        deep = {"items": deep}
    return deep


LINES: dict[str, tuple[ErrorCode, list[dict[str, Any]]]] = {
    "empty prompt": (INVALID, [{}, {"prompt": ""}, {"token_ids": []}, {"messages": []}, {"prompt": None}]),
    "prompt longer than the context": (
        TOO_LONG,
        [
            {"prompt": "x" * CTX},
            {"token_ids": [65] * (CTX + 1)},
            {"messages": [{"role": "user", "content": "x" * 100_000}]},
            {"prompt": "x" * 300, "max_tokens": CTX - 299},
            {"prompt": "x" * 300, "choices": [{}, {"generated_token_ids": [65] * (CTX - 299)}]},
        ],
    ),
    "token ids outside the vocabulary": (
        INVALID,
        [
            {"token_ids": [1, VOCABULARY]},
            {"token_ids": [-1]},
            {"token_ids": [2**31]},
            {"token_ids": [2**70]},
            {"token_ids": [1.5]},
            {"prompt": "x", "generated_token_ids": [VOCABULARY]},
            {"prompt": "x", "choices": [{}, {"generated_token_ids": [-5]}]},
            sampled(logit_bias={str(VOCABULARY): 1.0}),
        ],
    ),
    "extreme or contradictory sampling": (
        INVALID,
        [
            sampled(temperature=2.1),
            sampled(temperature=-0.1),
            sampled(temperature=float("nan")),
            sampled(temperature=float("inf")),
            sampled(top_p=0.0),
            sampled(top_k=-1),
            sampled(min_p=1.1),
            sampled(typical_p=0.0),
            sampled(repetition_penalty=0.0),
            sampled(presence_penalty=1e300),
            sampled(penalty_last_n=-2),
            sampled(dry_sequence_breakers=["x"] * 17),
            sampled(xtc_threshold=0.9),
            sampled(seed=-1),
            sampled(seed=2**60),
            sampled(logit_bias={"-3": 1.0}),
            sampled(logit_bias={str(i): 1.0 for i in range(2_000)}),
            sampled(top_logprobs=3),
            sampled(temprature=1.0),
            {**regex("a+"), "sampling": {"ignore_eos": True}},
            {"prompt": "x", "max_tokens": 0},
            {"prompt": "x", "generated_token_ids": [65], "choices": [{}]},
        ],
    ),
    "schema that is deep, unsatisfiable or enormous": (
        INVALID,
        [
            schema(nested(61)),
            schema(nested(200)),
            schema({"type": "string", "minLength": 5, "maxLength": 2}),
            schema({"type": "integer", "minimum": 5, "maximum": 2}),
            schema({"enum": list(range(6_000))}),
            schema({"const": "x" * 300_000}),
            schema({"$ref": "#"}),
            schema({"not": {"type": "string"}}),
            schema({"type": "bee"}),
        ],
    ),
    "invalid regex": (INVALID, [regex(p) for p in ("(", "[z-a]", "a{9,2}", "(?<=a)b", r"(a)\1", "((a{1000}){1000}){1000}", "")]),
    "stop string that is empty or too long": (
        INVALID,
        [sampled(stop=[""]), sampled(stop=["x" * 257]), sampled(stop=["a"] * 33), sampled(stop=[7])],
    ),
}
HOSTILE = {
    "loops": "{% for i in range(10**9) %}{% for j in range(10**9) %}{% endfor %}{% endfor %}",
    "writes without end": "{% for i in range(99999) %}{{ 'x' * 99999 }}{% endfor %}",
    "calls itself": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "asks for a class": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "asks for globals": "{{ raise_exception.__globals__['datetime'] }}",
    "asks for code": "{{ cycler.__init__.__globals__.os.system('true') }}",
    "formats attributes": "{{ '{0.__class__.__init__.__globals__}'.format(strftime_now) }}",
    "changes the conversation": "{{ messages.clear() }}",
}
"""What a template may try, by what the user's message says."""
TEMPLATE = "".join("{% if messages[0].content == '" + said + "' %}" + tried + "{% endif %}" for said, tried in HOSTILE.items())


def witness(job_id: str, seed: int, max_tokens: int = 60) -> ExecuteRequest:
    return ExecuteRequest(
        job_id=job_id, epoch=1, prompt="tell me of bees", max_tokens=max_tokens, sampling=Sampling(seed=seed, ignore_eos=True)
    )


async def ids(worker: WorkerProcess, request: ExecuteRequest) -> list[int]:
    """The tokens of an answer that was made to its end."""
    events: list[Event | Beat] = []
    async with worker.client() as client, client.execute(request) as stream:
        events = [event async for _, event in stream]
    assert isinstance(events[-1], End), events[-1]
    return [token for event in events if isinstance(event, Token) for token in event.token_ids]


async def refusal(worker: WorkerProcess, job_id: str, body: dict[str, Any]) -> dict[str, Any]:
    """The error that a body is answered with, be it at once or as all that its stream holds."""
    data = json.dumps({"job_id": job_id, "epoch": 1, **body})
    headers = {**worker.headers, "Content-Type": "application/json"}
    async with aiohttp.ClientSession() as session, session.post(f"{worker.uri}/execute", data=data, headers=headers) as answer:
        raw = await answer.read()
    if answer.status != 200:
        error: dict[str, Any] = json.loads(raw)["error"]
        return error
    frames = [frame for frame in SseParser().feed(raw) if frame.event != "beat"]
    assert [frame.event for frame in frames] == ["error"], "nothing was taken up"
    streamed: dict[str, Any] = json.loads(frames[0].data)["error"]
    return streamed


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def worker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[WorkerProcess]:
    folder = tmp_path_factory.mktemp("bad-input")
    template = TEMPLATE + "{{ messages[0].content }}"
    script = write_script(folder, tokens_per_second=100, vocabulary_size=VOCABULARY, chat_template=template)
    async with running_worker(script, folder, f"--ctx={CTX}") as worker:
        await worker.ready()
        yield worker


@pytest.mark.parametrize("line", LINES)
async def test_it_is_refused_and_the_other_streams_go_on_as_if_alone(worker: WorkerProcess, line: str) -> None:
    code, bodies = LINES[line]
    alone = [await ids(worker, witness(f"{line}-alone-{seed}", seed)) for seed in range(2)]
    others = [asyncio.create_task(ids(worker, witness(f"{line}-beside-{seed}", seed))) for seed in range(2)]
    await asyncio.sleep(0.1)
    refused = await asyncio.gather(*(refusal(worker, f"{line}-{number}", body) for number, body in enumerate(bodies)))
    for body, error in zip(bodies, refused, strict=True):
        assert error["code"] == code, (str(body)[:100], error)
        assert error["message"].endswith("."), error
        assert error["correlation_id"]
        if code is TOO_LONG:
            assert error["details"]["ctx_tokens"] == CTX < error["details"]["prompt_tokens"] + (body.get("max_tokens") or CTX)
    assert await asyncio.gather(*others) == alone
    assert worker.process.returncode is None
    assert "Traceback" not in worker.log


@pytest.mark.parametrize("kind", HOSTILE)
async def test_a_hostile_template_costs_its_own_chats_alone(worker: WorkerProcess, kind: str) -> None:
    tokens = 400 if kind == "loops" else 60
    alone = await ids(worker, witness(f"{kind}-alone", 1, tokens))
    other = asyncio.create_task(ids(worker, witness(f"{kind}-beside", 1, tokens)))
    error = await refusal(worker, kind, {"messages": [{"role": "user", "content": kind}]})
    assert error["code"] == FAULTY, error
    assert "raw `prompt`" in error["message"]
    assert await other == alone
    harmless = ExecuteRequest(job_id=f"{kind}-next", epoch=1, messages=(ChatMessage(role="user", content="hum"),), max_tokens=2)
    assert len(await ids(worker, harmless)) == 2, "the next chat is rendered"


async def test_what_is_no_template_costs_its_own_chats_alone(tmp_path: Path) -> None:
    async with running_worker(write_script(tmp_path, chat_template="{% for %}"), tmp_path) as worker:
        await worker.ready()
        error = await refusal(worker, "chat", {"messages": [{"role": "user", "content": "hum"}]})
        assert error["code"] == FAULTY
        assert len(await ids(worker, witness("raw", 1))) == 60
