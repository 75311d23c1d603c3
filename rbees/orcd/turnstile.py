"""How fast pools are let in: after an outage all call at once, each with its whole state, and clients want answers as well."""

from __future__ import annotations

from typing import Final

from rbees.service.clock import Clock

PER_S: Final = 100.0
AT_ONCE: Final = 50
WORTH_WAITING_S: Final = 0.001
KEPT_S: Final = 30.0
"""How long a turn is kept for a pool that does not come back for it."""


class Turnstile:
    """Lets `AT_ONCE` in at once and `PER_S` each second; everybody else is given a turn of his own, in the order of coming."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._turns: dict[str, float] = {}
        """By pool that was told to come back: when."""
        self._next_s = -AT_ONCE / PER_S + clock.monotonic()
        """When the next that comes would be let in, were there no limit on how many come at once."""

    def wait_s(self, pool_id: str) -> float:
        """0 where the pool may come in now, which counts; else in how many seconds its turn is."""
        now_s = self._clock.monotonic()
        turn_s = self._turns.pop(pool_id, None)
        if turn_s is None:
            self._next_s = max(self._next_s, now_s - AT_ONCE / PER_S)
            turn_s = self._next_s
            self._next_s += 1 / PER_S
        if turn_s - now_s < WORTH_WAITING_S:
            return 0.0
        self._forget_stale(now_s)
        self._turns[pool_id] = turn_s
        return turn_s - now_s

    def _forget_stale(self, now_s: float) -> None:
        """The oldest turns come first."""
        for pool_id in [pool_id for pool_id, turn_s in self._turns.items() if turn_s < now_s - KEPT_S]:
            del self._turns[pool_id]
