"""What running streams feel of long prompts that arrive beside them, and how long those wait."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from tests.bench.engine import models
from tests.bench.engine.load import Ask, Endpoint, ask_one
from tests.bench.engine.servers import Settings, llama_server, rbees_worker
from tests.bench.engine.turns import in_turns, median_of, prompt
from tests.bench.rows import Row, against
from tests.bench.timing import Samples

SLOTS: Final = 8
CTX: Final = 2_048
STREAMS: Final = 6
STREAM_TOKENS: Final = 256
LONG_PROMPTS: Final = 3
LONG: Final = 1_100
_FAR: Final = 5_000_000


@dataclass(frozen=True)
class Felt:
    """One run."""

    gap_p95_s: float
    ttft_s: float


def measure(short: bool) -> list[Row]:
    """Gaps of the streams and first tokens of the long prompts."""
    settings = Settings(models.path_of(models.HALF_BILLION), SLOTS, CTX)
    runs = asyncio.run(_measure(settings, 1 if short else 3))
    gaps = {name: median_of([run.gap_p95_s for run in felt]) for name, felt in runs.items()}
    waits = {name: median_of([run.ttft_s for run in felt]) for name, felt in runs.items()}
    load = (
        f"{STREAMS} streams decode while {LONG_PROMPTS} prompts of {LONG} tokens arrive, "
        "each after the one before had its first token"
    )
    gap, wait = gaps["rbees"], waits["rbees"]
    return [
        against(
            "engine.stall_gap", gap[0], gaps["peer"][0], "s", 0.1,
            f"{load}: time between two tokens of a stream meanwhile, p95, beside llama-server", spread=gap[1],
        ),
        against(
            "engine.stall_ttft", wait[0], waits["peer"][0], "s", 1.5, "the same: time to a long prompt's first token, median",
            spread=wait[1],
        ),
    ]  # fmt: skip


async def _measure(settings: Settings, rounds: int) -> dict[str, list[Felt]]:
    async with rbees_worker(settings) as ours, llama_server(settings) as theirs:
        return await in_turns({"rbees": _run(ours), "peer": _run(theirs)}, rounds)


def _run(endpoint: Endpoint) -> Callable[[int], Awaitable[Felt]]:
    async def run(turn: int) -> Felt:
        begun = [asyncio.Event() for _ in range(STREAMS)]
        asks = [Ask(prompt(turn * STREAMS + i, 64), STREAM_TOKENS, seed=i) for i in range(STREAMS)]
        streams = [asyncio.create_task(ask_one(endpoint, ask, event)) for ask, event in zip(asks, begun, strict=True)]
        await asyncio.gather(*(event.wait() for event in begun))
        await asyncio.sleep(1)
        long = [await ask_one(endpoint, Ask(prompt(_FAR + turn * LONG_PROMPTS + i, LONG), 1)) for i in range(LONG_PROMPTS)]
        running = await asyncio.gather(*streams)
        begin, end = long[0].sent_s, long[-1].first_s
        assert all(answer.arrivals[-1][0] > end for answer in running), "the streams ended before the last long prompt"
        gaps = Samples(tuple(gap for answer in running for gap in answer.gaps_s(begin, end)))
        waits = Samples(tuple(answer.ttft_s for answer in long))
        return Felt(gaps.percentile(95), waits.median)

    return run
