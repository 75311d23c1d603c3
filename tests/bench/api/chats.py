"""What a chat through orcd's `/v1/chat/completions` loses against the same worker's own route: 16 streams at once, and one alone.

Both ways are taken in turns, over connections that are open before. A burst has no pairs of requests, for it is chance which of
its streams comes first, so the first tokens of two bursts are compared by their rank: the soonest with the soonest.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.bench.api.ways import DISK, MEMORY, Heard, Way, ask_together, chat, site
from tests.bench.engine import models
from tests.bench.engine.turns import in_turns, median_of
from tests.bench.rows import Row, against, at_most
from tests.bench.timing import Samples

RATE_GOAL: Final = 0.97
FIRST_GOAL_MS: Final = 15.0
STREAMS: Final = 16
PAIRS: Final = 8
"""Of chats alone, for each burst."""
ALONE_TOKENS: Final = 4
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
    parent: str
    """Of the folder with orcd's state."""


def measure(short: bool) -> list[Row]:
    """The embedded model with and without a disk; without one the tiny model, and one that costs what a real one does."""
    tiny, half = (f"file:{models.path_of(shape)}" for shape in (models.TINY, models.HALF_BILLION))
    loads = (
        Load("haiku", "haiku", 256, 6, "the embedded model", DISK),
        Load("haiku_memory", "haiku", 256, 6, "the embedded model, orcd's state in memory", MEMORY),
        Load("tiny", tiny, 128, 4, "tiny-f16, orcd's state in memory", MEMORY),
        Load("half_billion", half, 48, 2, "the 0.5 B shape, orcd's state in memory", MEMORY),
    )
    return [row for load in loads if Path(load.parent).is_dir() for row in _rows(load, 1 if short else load.rounds)]


def _rows(load: Load, rounds: int) -> list[Row]:
    with site(load.reference, STREAMS, CTX, load.parent) as place:
        ways: dict[str, Way] = {"orcd": place.through_orcd, "worker": place.bare}
        bursts = asyncio.run(in_turns({name: _bursts(way, load, kind) for kind, (name, way) in enumerate(ways.items(), 1)}, rounds))
        alone = asyncio.run(in_turns({name: _alone(way, kind) for kind, (name, way) in enumerate(ways.items(), 3)}, rounds * PAIRS))
    rates = {way: median_of([_rate(burst) for burst in taken]) for way, taken in bursts.items()}
    (rate, spread), (bare_rate, _) = rates["orcd"], rates["worker"]
    return [
        against(
            f"api.chats_{load.name}", rate, bare_rate, "tok/s", RATE_GOAL,
            f"{STREAMS} chats at once as streams of {load.tokens} tokens, {load.about}, {STREAMS} slots: tokens a second of all "
            f"together through orcd's `/v1/chat/completions`, beside the worker's own route, medians of {rounds}",
            least=True, spread=spread,
        ),
        _first_row(f"api.chats_{load.name}_first", bursts, "the same: how much later the k-th first token of a burst comes"),
        _first_row(f"api.chats_{load.name}_alone", alone, f"one chat alone, {load.about}: how much later its first token comes"),
    ]  # fmt: skip


def _first_row(name: str, taken: dict[str, list[list[Heard]]], about: str) -> Row:
    first = {way: [_first_ms(burst) for burst in bursts] for way, bursts in taken.items()}
    ranked = zip(itertools.chain(*first["orcd"]), itertools.chain(*first["worker"]), strict=True)
    added = Samples(tuple(through - straight for through, straight in ranked))
    usual = {way: Samples(tuple(itertools.chain(*bursts))).median for way, bursts in first.items()}
    told = (
        f"{about}, p95 of {len(added.values)}; median {added.median:.1f} ms, first tokens after {usual['orcd']:.0f} ms "
        f"and, of the worker, {usual['worker']:.0f}"
    )
    return at_most(name, added.percentile(95), "ms", FIRST_GOAL_MS, told)


def _bursts(way: Way, load: Load, kind: int) -> Callable[[int], Awaitable[list[Heard]]]:
    async def run(turn: int) -> list[Heard]:
        first = kind * _FAR + turn * STREAMS
        return await ask_together(way, [[chat(first + number, load.tokens)] for number in range(STREAMS)])

    return run


def _alone(way: Way, kind: int) -> Callable[[int], Awaitable[list[Heard]]]:
    async def run(turn: int) -> list[Heard]:
        return await ask_together(way, [[chat(kind * _FAR + turn, ALONE_TOKENS)]])

    return run


def _rate(burst: Sequence[Heard]) -> float:
    return sum(heard.tokens for heard in burst) / (max(heard.ended_s for heard in burst) - min(heard.sent_s for heard in burst))


def _first_ms(burst: Sequence[Heard]) -> list[float]:
    return sorted((heard.first_s - heard.sent_s) * 1000 for heard in burst)
