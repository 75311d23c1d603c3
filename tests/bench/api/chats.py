"""What a chat through orcd's `/v1/chat/completions` loses against the same worker's own route, 16 streams at once.

Both ways are taken in turns, over connections that are open before. A burst has no pairs of requests, for it is chance which of
its streams comes first, so the first tokens of two bursts are compared by their rank: the soonest with the soonest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from tests.bench.api.ways import Heard, Way, ask_together, chat, site
from tests.bench.engine import models
from tests.bench.engine.turns import in_turns, median_of
from tests.bench.rows import Row, against, at_most
from tests.bench.timing import Samples

RATE_GOAL: Final = 0.97
FIRST_GOAL_MS: Final = 15.0
STREAMS: Final = 16
CTX: Final = 512
_FAR: Final = 1_000_000
"""Numbers of chats that are kept apart from those of others."""


@dataclass(frozen=True)
class Load:
    """Which model, and how much of it."""

    name: str
    reference: str
    tokens: int
    rounds: int
    about: str


def measure(short: bool) -> list[Row]:
    """The embedded model, the tiny one, and one that costs what a real one does."""
    tiny, half = (f"file:{models.path_of(shape)}" for shape in (models.TINY, models.HALF_BILLION))
    loads = (
        Load("haiku", "haiku", 96, 20, "the embedded model"),
        Load("tiny", tiny, 64, 12, "tiny-f16"),
        Load("half_billion", half, 32, 4, "the 0.5 B shape"),
    )
    return [row for load in loads for row in _rows(load, 1 if short else load.rounds)]


def _rows(load: Load, rounds: int) -> list[Row]:
    with site(load.reference, STREAMS, CTX) as place:
        runs = {"orcd": _bursts(place.through_orcd, load, 1), "worker": _bursts(place.bare, load, 2)}
        bursts = asyncio.run(in_turns(runs, rounds))
    rates = {way: median_of([_rate(burst) for burst in taken]) for way, taken in bursts.items()}
    first = {way: [_first_ms(burst) for burst in taken] for way, taken in bursts.items()}
    added = Samples(
        tuple(
            through - straight
            for ours, bare in zip(first["orcd"], first["worker"], strict=True)
            for through, straight in zip(ours, bare, strict=True)
        )
    )
    usual = {way: Samples(tuple(value for burst in taken for value in burst)).median for way, taken in first.items()}
    (rate, spread), (bare_rate, _) = rates["orcd"], rates["worker"]
    return [
        against(
            f"api.chats_{load.name}", rate, bare_rate, "tok/s", RATE_GOAL,
            f"{STREAMS} chats at once as streams of {load.tokens} tokens, {load.about}, {STREAMS} slots: tokens a second of all "
            f"together through orcd's `/v1/chat/completions`, beside the worker's own route, medians of {rounds}",
            least=True, spread=spread,
        ),
        at_most(
            f"api.chats_{load.name}_first", added.percentile(95), "ms", FIRST_GOAL_MS,
            f"the same: by how much the k-th first token of a burst comes later, p95 of {len(added.values)}; median "
            f"{added.median:.1f} ms, first tokens after {usual['orcd']:.0f} and {usual['worker']:.0f} ms",
        ),
    ]  # fmt: skip


def _bursts(way: Way, load: Load, kind: int) -> Callable[[int], Awaitable[list[Heard]]]:
    async def run(turn: int) -> list[Heard]:
        first = kind * _FAR + turn * STREAMS
        return await ask_together(way, [[chat(first + number, load.tokens)] for number in range(STREAMS)])

    return run


def _rate(burst: Sequence[Heard]) -> float:
    return sum(heard.tokens for heard in burst) / (max(heard.ended_s for heard in burst) - min(heard.sent_s for heard in burst))


def _first_ms(burst: Sequence[Heard]) -> list[float]:
    return sorted((heard.first_s - heard.sent_s) * 1000 for heard in burst)
