"""How soon a cancelled job gives its slot up while a long prompt is computed, its own or another's."""

from __future__ import annotations

import asyncio
import time
from itertools import count
from typing import Final

from rbees.clients.workerd import WorkerClient
from rbees.protocol.errors import ErrorCode
from rbees.protocol.events import End, Error
from rbees.protocol.sampling import Sampling
from rbees.protocol.workers import ExecuteRequest
from tests.bench.engine import models
from tests.bench.engine.servers import Settings, rbees_worker
from tests.bench.engine.turns import prompt
from tests.bench.rows import Row, at_most
from tests.bench.timing import Samples

CTX: Final = 2_048
LONG: Final = 1_100
SHORT: Final = 8
STREAMS: Final = 2
_STREAMS_BEGIN_S: Final = 1.0
_APART_S: Final = 0.13
"""Later in each round, so that calls are met at different places."""
ROUNDS: Final = 20
GOAL_MS: Final = 200.0
_LEAST_SHARE, _MOST_SHARE = 0.1, 0.8
"""Of the time that the prompt takes: cancellations are spread between these."""


def measure(short: bool) -> list[Row]:
    """The row of a prompt, then that of a stream amid others' prompts."""
    rounds = 5 if short else ROUNDS
    waits, streams = asyncio.run(_measure(rounds)), asyncio.run(_measure_streams(rounds))
    about = (
        f"1 slot, 0.5 B shape: from asking for the end of a job amid its prompt of {LONG} tokens to its `CANCELLED`, which is sent "
        f"when its slot is free, p95 of {rounds}; median {waits.median:.0f} ms"
    )
    amid = (
        f"{STREAMS} streams, 0.5 B shape: from asking for the end of one while two prompts of {LONG} tokens are computed to its "
        f"`CANCELLED`, p95 of {rounds}; median {streams.median:.0f} ms"
    )
    return [
        at_most("engine.cancel", waits.percentile(95), "ms", GOAL_MS, about, spread=waits.spread),
        at_most("engine.cancel_stream", streams.percentile(95), "ms", GOAL_MS, amid, spread=streams.spread),
    ]


async def _measure(rounds: int) -> Samples:
    settings = Settings(models.path_of(models.HALF_BILLION), 1, CTX)
    async with rbees_worker(settings) as worker, worker.client() as client:
        for number in range(2):
            began = time.perf_counter()
            await _run(client, _job(f"whole-{number}", number, LONG))
            whole_s = time.perf_counter() - began
        waits: list[float] = []
        numbers = count()
        while len(waits) < rounds:
            share = _LEAST_SHARE + (_MOST_SHARE - _LEAST_SHARE) * len(waits) / (rounds - 1)
            waited_s = await _cancelled(client, next(numbers), share * whole_s)
            if waited_s is not None:
                waits.append(waited_s * 1000)
        return Samples(tuple(waits))


async def _measure_streams(rounds: int) -> Samples:
    settings = Settings(models.path_of(models.HALF_BILLION), STREAMS + 2, CTX)
    async with rbees_worker(settings) as worker, worker.client() as client:
        waits: list[float] = []
        for number in range(rounds):
            names = [f"stream-{number}-{i}" for i in range(STREAMS)]
            streams = [asyncio.create_task(_run(client, _job(name, 10_000, SHORT, tokens=LONG))) for name in names]
            await asyncio.sleep(_STREAMS_BEGIN_S)
            prompts = [
                asyncio.create_task(_run(client, _job(f"long-{number}-{i}", 20_000 + 2 * number + i, LONG))) for i in range(2)
            ]
            await asyncio.sleep(_STREAMS_BEGIN_S + number * _APART_S)
            began = time.perf_counter()
            await client.cancel(names[0])
            last, ended_s = await streams[0]
            assert isinstance(last, Error), last
            waits.append((ended_s - began) * 1000)
            for name in [*names[1:], f"long-{number}-0", f"long-{number}-1"]:
                await client.cancel(name)
            await asyncio.gather(*streams, *prompts)
        return Samples(tuple(waits))


async def _cancelled(client: WorkerClient, number: int, after_s: float) -> float | None:
    """Seconds from the cancellation to its effect; None where the prompt was complete before it. Another job waits for the slot."""
    long = asyncio.create_task(_run(client, _job(f"long-{number}", 100 + number, LONG)))
    await asyncio.sleep(0.05)
    behind = asyncio.create_task(_run(client, _job(f"behind-{number}", 1_000 + number, SHORT)))
    await asyncio.sleep(after_s)
    began = time.perf_counter()
    await client.cancel(f"long-{number}")
    last, ended_s = await long
    assert isinstance((await behind)[0], End)
    if not isinstance(last, Error):
        return None
    assert last.error.code is ErrorCode.CANCELLED, last
    return ended_s - began


async def _run(client: WorkerClient, job: ExecuteRequest) -> tuple[object, float]:
    """The last event, and when it came."""
    async with client.execute(job) as events:
        last = [event async for _, event in events][-1]
        return last, time.perf_counter()


def _job(job_id: str, number: int, length: int, *, tokens: int = 1) -> ExecuteRequest:
    sampling = Sampling(ignore_eos=True)
    return ExecuteRequest(job_id=job_id, epoch=1, token_ids=prompt(number, length), max_tokens=tokens, sampling=sampling)
