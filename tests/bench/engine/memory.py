"""What the processes hold in memory: beside the peer with the same settings, and after thousands of requests."""

from __future__ import annotations

import asyncio
from typing import Final

import psutil

from tests.bench.engine import models
from tests.bench.engine.load import Ask, ask_all
from tests.bench.engine.servers import LlamaServer, Rbees, Settings, llama_server, rbees_worker
from tests.bench.engine.turns import prompt
from tests.bench.rows import Row, at_most

SLOTS: Final = 8
CTX: Final = 1_024
BESIDE_GOAL_MB: Final = 80.0
GROWTH_GOAL_MB: Final = 20.0
REQUESTS: Final = 5_000
WARM_UP: Final = 1_000
AT_ONCE: Final = 32
PROMPT, ANSWER = 24, 6
_MB: Final = 1e6


def measure(short: bool) -> list[Row]:
    """Resident memory of both after the same waves, then how it grew over many requests."""
    ours, theirs = asyncio.run(_beside(3))
    requests, warm_up = (200, 100) if short else (REQUESTS, WARM_UP)
    grown, peer_grown = asyncio.run(_growth(requests, warm_up))
    return [
        at_most(
            "engine.memory_beside_peer", ours - theirs, "MB", BESIDE_GOAL_MB,
            f"resident memory of the worker ({ours:.0f} MB) above llama-server's without its prompt cache ({theirs:.0f} MB), "
            f"0.5 B shape, {SLOTS} slots of {CTX} tokens, after 3 waves of {SLOTS} requests",
        ),
        at_most(
            "engine.memory_growth", grown, "MB", GROWTH_GOAL_MB,
            f"growth of the worker over {requests} requests, {AT_ONCE} at a time, after {warm_up} others "
            f"(llama-server over the same: {peer_grown:.0f} MB)",
        ),
    ]  # fmt: skip


async def _beside(waves: int) -> tuple[float, float]:
    """MB of the worker and of llama-server."""
    settings = Settings(models.path_of(models.HALF_BILLION), SLOTS, CTX)
    async with rbees_worker(settings) as ours, llama_server(settings, "--cache-ram", "0") as theirs:
        for endpoint in (ours, theirs):
            for wave in range(waves):
                await ask_all(endpoint, [Ask(prompt(wave * SLOTS + i, 110), 16, seed=i) for i in range(SLOTS)])
        return _resident_mb(ours), _resident_mb(theirs)


async def _growth(requests: int, warm_up: int) -> tuple[float, float]:
    """MB that the worker and llama-server gained."""
    settings = Settings(models.path_of(models.TINY), AT_ONCE, 128)
    async with rbees_worker(settings) as ours, llama_server(settings, "--cache-ram", "0") as theirs:
        return await _grown_mb(ours, requests, warm_up), await _grown_mb(theirs, requests, warm_up)


async def _grown_mb(endpoint: Rbees | LlamaServer, requests: int, warm_up: int) -> float:
    for number in range(0, warm_up, AT_ONCE):
        await _wave(endpoint, number)
    before = _resident_mb(endpoint)
    for number in range(warm_up, warm_up + requests, AT_ONCE):
        await _wave(endpoint, number)
    return _resident_mb(endpoint) - before


async def _wave(endpoint: Rbees | LlamaServer, number: int) -> None:
    await ask_all(endpoint, [Ask(prompt(number + i, PROMPT), ANSWER, seed=number + i) for i in range(AT_ONCE)])


def _resident_mb(server: Rbees | LlamaServer) -> float:
    """What the process and its children hold."""
    process = psutil.Process(server.pid)
    held: int = sum(one.memory_info().rss for one in (process, *process.children(recursive=True)))
    return held / _MB
