"""Whether orcd stays as it is: many chats over kept connections, half of them streams, none may fail and nothing may pile up."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import psutil

from tests.bench.api.kept import Kept, closing
from tests.bench.api.ways import Way, ask_in_turn, chat, site
from tests.bench.rows import Row, at_most

CONNECTIONS: Final = 64
CHATS: Final = 2_000
WARM: Final = 500
"""So many are answered before the first look at the memory."""
TOKENS: Final = 8
SLOTS, CTX = 32, 512
GROWTH_GOAL_MIB: Final = 1.0
"""For each 1 000 chats; what is kept of a single one would be more."""
_MIB: Final = 1 << 20


@dataclass
class Course:
    """What was seen on the way."""

    process: psutil.Process
    answered: int = 0
    failures: list[str] = field(default_factory=list)
    memory_mib: dict[int, float] = field(default_factory=dict)
    """By how many had been answered."""

    def count(self) -> None:
        """One more."""
        self.answered += 1
        if self.answered in {WARM, CHATS}:
            self.memory_mib[self.answered] = self.process.memory_info().rss / _MIB


def measure(short: bool) -> list[Row]:
    """A fresh orcd; a short look goes the whole way too, for it has a beginning and an end."""
    with site("haiku", SLOTS, CTX) as place:
        course = Course(psutil.Process(place.orcd_pid))
        asyncio.run(_all(course, place.through_orcd))
    before, after = course.memory_mib[WARM], course.memory_mib[CHATS]
    growth = (after - before) / (CHATS - WARM) * 1_000
    form = f"{CHATS} chats of {TOKENS} tokens over {CONNECTIONS} kept connections, every second one a stream"
    return [
        at_most("api.steady_errors", float(len(course.failures)), "errors", 0.0, f"{form}, {SLOTS} slots, the embedded model"),
        at_most(
            "api.steady_growth", growth, "MiB", GROWTH_GOAL_MIB,
            f"the same: by how much orcd grows with each 1 000; resident after {WARM} {before:.1f} MiB, after {CHATS} {after:.1f}",
        ),
    ]  # fmt: skip


async def _all(course: Course, way: Way) -> None:
    numbers = iter(range(CHATS))
    with closing([Kept(way.port) for _ in range(CONNECTIONS)]) as connections:
        await asyncio.gather(*(_over(kept, course, way, numbers) for kept in connections))


async def _over(kept: Kept, course: Course, way: Way, numbers: Iterator[int]) -> None:
    for number in numbers:
        try:
            await ask_in_turn(way, kept, [chat(number, TOKENS, streams=number % 2 == 0)])
        except (AssertionError, ConnectionError) as error:
            course.failures.append(f"{type(error).__name__}: {error}")
            kept.close()
        course.count()
