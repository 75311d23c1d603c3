"""Time as an argument: the clock that every part is given, and the one that tests turn by hand.

Monotonic seconds measure leases, timeouts and delays; Unix milliseconds only date things. Nothing decides by the wall clock.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from itertools import count
from typing import Final, Protocol

SETTLE_ROUNDS: Final = 20
"""How often the manual clock lets the loop run after each sleeper it wakes, so that what the sleeper starts has begun."""


class Clock(Protocol):
    """What a part may know about time."""

    def monotonic(self) -> float:
        """Seconds since some fixed moment; never goes back."""
        ...

    def unix_ms(self) -> int:
        """Milliseconds since 1970; may jump."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds` of monotonic time."""
        ...


class SystemClock:
    """The machine's clocks."""

    def monotonic(self) -> float:
        """See `Clock`."""
        return time.monotonic()

    def unix_ms(self) -> int:
        """See `Clock`."""
        return time.time_ns() // 1_000_000

    async def sleep(self, seconds: float) -> None:
        """See `Clock`."""
        await asyncio.sleep(seconds)


class ManualClock:
    """A clock that stands still until `advance` turns it; sleepers wake in the order of their times, then of arrival."""

    def __init__(self, monotonic: float = 0.0, unix_ms: int = 1_700_000_000_000) -> None:
        self._monotonic = monotonic
        self._wall_offset_ms = unix_ms - round(monotonic * 1000)
        self._arrival = count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def monotonic(self) -> float:
        """See `Clock`."""
        return self._monotonic

    def unix_ms(self) -> int:
        """See `Clock`."""
        return self._wall_offset_ms + round(self._monotonic * 1000)

    async def sleep(self, seconds: float) -> None:
        """Return once the clock was advanced by `seconds`; zero or less only lets others run."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._monotonic + seconds, next(self._arrival), woken))
        await woken

    async def advance(self, seconds: float) -> None:
        """Turn the clock, waking each sleeper at its own time and letting it run before the next one wakes."""
        target = self._monotonic + seconds
        await self._settle()
        while self._sleepers and self._sleepers[0][0] <= target:
            due, _, woken = heapq.heappop(self._sleepers)
            if woken.done():
                continue
            self._monotonic = max(self._monotonic, due)
            woken.set_result(None)
            await self._settle()
        self._monotonic = target
        await self._settle()

    def jump_wall_clock(self, milliseconds: int) -> None:
        """Move Unix time alone, as an administrator or NTP would."""
        self._wall_offset_ms += milliseconds

    def next_due(self) -> float | None:
        """Monotonic time of the earliest sleeper, or None where nobody sleeps."""
        return min((due for due, _, woken in self._sleepers if not woken.done()), default=None)

    async def _settle(self) -> None:
        for _ in range(SETTLE_ROUNDS):
            await asyncio.sleep(0)
