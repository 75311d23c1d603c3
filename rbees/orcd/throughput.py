"""How much came lately: tokens by worker, jobs that ended. Counted along, so that a figure is there whenever somebody looks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

WINDOW_S: Final = 5.0


class Lately:
    """Counts by name over the last `WINDOW_S`; names of which nothing came for two windows are forgotten.

    Two buckets, this window's and the one before, of which as much is taken as still lies within reach. So counting costs the same
    however much comes, and a steady stream shows as what it is.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._began_s = monotonic()
        self._now: Counter[str] = Counter()
        self._before: Counter[str] = Counter()

    def add(self, name: str, count: int = 1) -> None:
        """So much came just now."""
        self._turn()
        self._now[name] += count

    def per_s(self, name: str) -> float:
        """How much of one name came in a second."""
        share = self._turn()
        return (self._before.get(name, 0) * share + self._now.get(name, 0)) / WINDOW_S

    def total_per_s(self) -> float:
        """How much came in a second in all."""
        share = self._turn()
        return (self._before.total() * share + self._now.total()) / WINDOW_S

    def _turn(self) -> float:
        """Begin a new window where this one is over; how much of the one before lies within the last `WINDOW_S`."""
        age_s = self._monotonic() - self._began_s
        if age_s >= WINDOW_S:
            self._before = self._now if age_s < 2 * WINDOW_S else Counter()
            self._now = Counter()
            self._began_s += WINDOW_S * (age_s // WINDOW_S)
            age_s %= WINDOW_S
        return 1.0 - age_s / WINDOW_S
