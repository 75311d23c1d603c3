"""Vectors from a real worker process: who leaves ends the computing, who stays is waited for, cancelled attempts stop."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.events import End, Error, Result, Started
from rbees.protocol.vectors import EmbedRequest
from rbees.protocol.workers import ExecuteRequest
from tests.support.raw_http import request
from tests.support.scripted_models import write_script
from tests.support.worker_process import WorkerProcess, running_worker

SLOW = 50.0
"""Tokens a second, at which `LONG` takes longer than any test waits."""
LONG = ["a text that takes its time"] * 200


async def open_embed(worker: WorkerProcess, texts: list[str]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A request for vectors whose answer nobody has read yet."""
    host, _, port = worker.uri.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = json.dumps({"input": texts}).encode()
    lines = ["POST /embed HTTP/1.1", f"Host: {host}:{port}", f"Authorization: Bearer {worker.secret}"]
    lines += ["Content-Type: application/json", f"Content-Length: {len(body)}", "", ""]
    writer.write("\r\n".join(lines).encode() + body)
    await writer.drain()
    return reader, writer


async def test_a_draining_worker_waits_for_vectors_until_nobody_wants_them(tmp_path: Path) -> None:
    script = write_script(tmp_path, pooling="mean", prefill_tokens_per_second=SLOW)
    async with running_worker(script, tmp_path) as worker:
        await worker.ready()
        _, writer = await open_embed(worker, LONG)
        # Answered after the long one was taken up, for requests take turns.
        short = await asyncio.to_thread(request, "POST", f"{worker.uri}/embed", {"input": ["x"]}, headers=worker.headers)
        assert short.status == 200
        worker.process.send_signal(signal.SIGTERM)
        await worker.draining()
        refused = await asyncio.to_thread(request, "POST", f"{worker.uri}/embed", {"input": ["x"]}, headers=worker.headers)
        assert refused.error["code"] == "DRAINING"
        assert worker.process.returncode is None
        writer.close()
        assert await worker.ended() == 0
        assert "drain_timeout" not in worker.log


async def test_a_cancelled_attempt_at_vectors_stops_and_a_repeated_one_is_joined(tmp_path: Path) -> None:
    script = write_script(tmp_path, pooling="mean", prefill_tokens_per_second=SLOW, dimensions=2)
    async with running_worker(script, tmp_path) as worker:
        await worker.ready()
        async with worker.client() as client:
            job = ExecuteRequest(job_id="j", epoch=1, embed=EmbedRequest(input=tuple(LONG)))
            async with client.execute(job) as first, client.execute(job) as second:
                assert isinstance((await anext(first))[1], Started)
                assert isinstance((await anext(second))[1], Started)
                await client.cancel("j", 1)
                events: list[Any] = [event async for _, event in first if isinstance(event, Error | End | Result)]
                assert [event.error.code for event in events] == ["CANCELLED"]
            quick = ExecuteRequest(job_id="k", epoch=1, embed=EmbedRequest(input=("bee", "bee", "moth")))
            async with client.execute(quick) as frames:
                events = [event async for _, event in frames if isinstance(event, Started | Error | End | Result)]
            assert [type(event) for event in events] == [Started, Result, End]
            made = [one.embedding for one in events[1].embeddings]
            assert made[0] == made[1] != made[2]
            with pytest.raises(RbeesError) as caught:
                async with client.execute(ExecuteRequest(job_id="l", epoch=1, prompt="x", embed=EmbedRequest(input=("x",)))):
                    raise AssertionError
            assert caught.value.code is ErrorCode.INVALID_REQUEST
