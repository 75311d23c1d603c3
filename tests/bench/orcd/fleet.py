"""How long jobs take in a mixed fleet under rbees' own rules and under simpler ones; the world is `tests/simulation/fleet.py`.

All rules get the same jobs of the same seeds, on the same scheduler shell with the same facts (`tests/simulation/rivals.py`).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import nullcontext
from typing import Final

from tests.bench.rows import Row, against
from tests.bench.timing import Samples
from tests.simulation import rivals
from tests.simulation.fleet import Fleet

SEEDS: Final = 20
MINUTES: Final = 30.0
FIGURES: Final[dict[str, Callable[[Samples], float]]] = {
    "mean": lambda samples: statistics.mean(samples.values),
    "p95": lambda samples: samples.percentile(95),
}


def completion_times(rule: str | None, seeds: range, minutes: float = MINUTES) -> list[Samples]:
    """For each seed, the seconds from acceptance to completion of every job; `rule` None is rbees."""
    found = []
    for seed in seeds:
        with nullcontext() if rule is None else rivals.in_force(rivals.RIVALS[rule]()):
            found.append(Samples(tuple(Fleet(seed, minutes=minutes).run())))
    return found


def measure(short: bool) -> list[Row]:
    """Mean and p95 of all jobs of all seeds against each rival."""
    seeds = range(3 if short else SEEDS)
    ours = completion_times(None, seeds)
    where = "in a simulated fleet of two fast hosts and one ten times slower"
    return [row for name in rivals.RIVALS for row in against_rival("orcd.fleet", where, name, ours, completion_times(name, seeds))]


def against_rival(prefix: str, where: str, name: str, ours: list[Samples], theirs: list[Samples]) -> list[Row]:
    """Mean and p95 beside one rival on the same jobs; `ours` and `theirs` are by seed, from 0."""
    words = name.replace("_", "-")
    rows = []
    for figure, value in FIGURES.items():
        won = sum(value(one) < value(other) for one, other in zip(ours, theirs, strict=True))
        pooled = [Samples(tuple(second for one in side for second in one.values)) for side in (ours, theirs)]
        about = (
            f"completion time {where}, {figure} of {len(pooled[0].values)} jobs of seeds 0–{len(ours) - 1}, beside {words} on the "
            f"same jobs; better in {won} of {len(ours)} seeds, longest {max(pooled[0].values):.0f} s beside "
            f"{max(pooled[1].values):.0f} s"
        )
        # A little below 1, so that a draw is not called a win.
        rows.append(against(f"{prefix}_{figure}_{name}", value(pooled[0]), value(pooled[1]), "s", 0.99, about))
    return rows
