"""How long something took, several times over; medians and percentiles of it."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Samples:
    """Values of one figure."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        """The smallest and the largest."""
        return min(self.values), max(self.values)

    def percentile(self, percent: float) -> float:
        """The smallest value that is not exceeded by `percent` of all (nearest rank)."""
        ordered = sorted(self.values)
        rank = -(-len(ordered) * percent // 100)
        return ordered[max(0, int(rank) - 1)]


def alternately(commands: Sequence[Sequence[str]], rounds: int, environ: Mapping[str, str]) -> list[Samples]:
    """Wall time in ms of each command, the commands taking turns so that all see the same weather; one round warms up.

    The output is thrown away; a command that fails raises.
    """
    taken: list[list[float]] = [[] for _ in commands]
    for turn in range(rounds + 1):
        for command, times in zip(commands, taken, strict=True):
            begun = time.perf_counter()
            subprocess.run(command, env=environ, check=True, stdin=subprocess.DEVNULL, capture_output=True)
            if turn:
                times.append((time.perf_counter() - begun) * 1000)
    return [Samples(tuple(times)) for times in taken]
