"""How soon a cancelled job gives its slot up while its long prompt is computed."""

from __future__ import annotations

import asyncio
import time
from itertools import count
from typing import Final

from rbees.clients.workerd import WorkerClient
from rbees.protocol.errors import ErrorCode
from rbees.protocol.events import End, Error
from rbees.protocol.workers import ExecuteRequest
from tests.bench.engine import models
from tests.bench.engine.servers import Settings, rbees_worker
from tests.bench.engine.turns import prompt
from tests.bench.rows import Row, at_most
from tests.bench.timing import Samples

CTX: Final = 2_048
LONG: Final = 1_100
SHORT: Final = 8
ROUNDS: Final = 20
GOAL_MS: Final = 200.0
_LEAST_SHARE, _MOST_SHARE = 0.1, 0.8
"""Of the time that the prompt takes: cancellations are spread between these."""


def measure(short: bool) -> list[Row]:
    """The one row."""
    rounds = 5 if short else ROUNDS
    waits = asyncio.run(_measure(rounds))
    about = (
        f"1 slot, 0.5 B shape: from asking for the end of a job amid its prompt of {LONG} tokens to its `CANCELLED`, which is sent "
        f"when its slot is free, p95 of {rounds}; median {waits.median:.0f} ms"
    )
    return [at_most("engine.cancel", waits.percentile(95), "ms", GOAL_MS, about, spread=waits.spread)]


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


def _job(job_id: str, number: int, length: int) -> ExecuteRequest:
    return ExecuteRequest(job_id=job_id, epoch=1, token_ids=prompt(number, length), max_tokens=1)
