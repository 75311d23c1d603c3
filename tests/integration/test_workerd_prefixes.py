"""What a worker tells of its cached prefixes over HTTP, with the names that its callers gave them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest

from rbees.protocol import codec
from rbees.protocol.errors import ErrorCode, ErrorEnvelope
from rbees.protocol.events import End
from rbees.protocol.prefix_chain import chain_of
from rbees.protocol.workers import ExecuteRequest, WorkerHealth
from tests.support.scripted_models import write_script
from tests.support.worker_process import WorkerProcess, running_worker

SYSTEM = "You are a bee. Answer in the words of the hive, and never of honey that is not there. " * 12


def job(job_id: str, prompt: str, max_tokens: int = 4) -> ExecuteRequest:
    request = ExecuteRequest(job_id=job_id, epoch=1, prompt=prompt, max_tokens=max_tokens)
    return ExecuteRequest(job_id=job_id, epoch=1, prompt=prompt, max_tokens=max_tokens, prefix_chain=chain_of(request))


async def run(worker: WorkerProcess, request: ExecuteRequest) -> None:
    async with worker.client() as client, client.execute(request) as stream:
        events = [event async for _, event in stream]
    assert isinstance(events[-1], End)


async def get(worker: WorkerProcess, query: str) -> tuple[int, bytes]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{worker.uri}/health{query}", headers=worker.headers) as answer,
    ):
        return answer.status, await answer.read()


async def test_all_that_is_cached_or_what_was_asked_about(tmp_path: Path) -> None:
    async with running_worker(write_script(tmp_path), tmp_path) as worker:
        await worker.ready()
        first, second = job("a", SYSTEM + "bee " * 150), job("b", SYSTEM + "moth " * 150)
        await run(worker, first)
        shared = [name for name in _names(second) if name in _names(first)]
        async with worker.client() as client:
            assert (await client.health()).cached_prefixes == _names(first)
            told = (await client.health(prefixes=_names(second))).cached_prefixes
            assert list(told) == shared
            assert 0 < len(told) < len(second.prefix_chain)
            assert (await client.health(prefixes=["0" * 16])).cached_prefixes == ()
        await run(worker, second)
        async with worker.client() as client:
            everything = (await client.health()).cached_prefixes
        assert everything[: len(second.prefix_chain)] == _names(second)
        assert set(everything) == {*_names(first), *_names(second)}
        log = worker.log
        assert not [name for name in everything if name in log]


async def test_a_caller_without_names_is_told_of_none(tmp_path: Path) -> None:
    async with running_worker(write_script(tmp_path), tmp_path) as worker:
        await worker.ready()
        await run(worker, ExecuteRequest(job_id="a", epoch=1, prompt=SYSTEM, max_tokens=4))
        async with worker.client() as client:
            assert (await client.health()).cached_prefixes == ()


async def test_health_answers_while_the_model_loads_and_while_a_prompt_is_computed(tmp_path: Path) -> None:
    script = write_script(tmp_path, load_seconds=1.0, prefill_tokens_per_second=400)
    async with running_worker(script, tmp_path) as worker:
        await worker.listening()
        status, body = await get(worker, "?prefixes=" + "0" * 16)
        assert (status, codec.decode(body, WorkerHealth).cached_prefixes) == (200, ())
        await worker.ready()
        request = job("a", SYSTEM)
        running = asyncio.create_task(run(worker, request))
        seen: list[int] = []
        async with worker.client() as client:
            while not running.done():
                seen.append(len((await client.health()).cached_prefixes))
        await running
        assert seen == sorted(seen), "more and more of it is there"
        assert len(set(seen)) > 1


@pytest.mark.parametrize("query", ["?prefixes=", "?prefixes=bees", "?prefixes=0123456789abcdef,", "?prefixes=0123456789ABCDEF"])
async def test_what_is_no_hash_is_refused(tmp_path: Path, query: str) -> None:
    async with running_worker(write_script(tmp_path), tmp_path) as worker:
        await worker.ready()
        status, body = await get(worker, query)
        assert (status, codec.decode(body, ErrorEnvelope).error.code) == (400, ErrorCode.INVALID_REQUEST)


def _names(request: ExecuteRequest) -> tuple[str, ...]:
    return tuple(link.hash for link in request.prefix_chain)
