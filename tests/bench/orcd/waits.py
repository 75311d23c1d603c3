"""How long jobs wait for their turn under sieges, beside the bound that is stated; the sieges are `tests/simulation/siege.py`."""

from __future__ import annotations

from typing import Final

from tests.bench.rows import Row, at_most
from tests.simulation.siege import SHAPES, at_random, planned

SEEDS: Final = 60
DIGITS: Final = 6
"""Beyond these a share is the rounding of a clock."""


def measure(short: bool) -> list[Row]:
    """The longest wait of all jobs as a share of its bound, and the least that any planned siege makes its victim wait."""
    seeds = range(10 if short else SEEDS)
    plans = [planned(sessions, backlog).finish() for sessions, backlog in SHAPES]
    waits = [wait for siege in [*plans, *(at_random(seed).finish() for seed in seeds)] for wait in siege]
    longest = round(max(max(wait.share, wait.share_of_time) for wait in waits), DIGITS)
    victims = [max(waits, key=lambda wait: wait.order) for waits in plans]
    reached = round(min(min(victim.share, victim.share_of_time) for victim in victims), DIGITS)
    shapes = f"F up to {max(sessions for sessions, _ in SHAPES)} and up to {max(backlog for _, backlog in SHAPES)} own jobs before"
    return [
        at_most(
            "orcd.longest_wait",
            longest,
            "of the bound",
            1.0,
            f"longest wait for a turn over its bound (R + (F w + 2 (F - 1) c) s) / m, or, where that is more, the work dispatched "
            f"before over F w + 2 (F - 1) c: of {len(waits)} jobs in {len(SHAPES)} planned sieges and random ones of seeds "
            f"0–{seeds[-1]}, the whole scheduler in virtual time",
        ),
        Row(
            name="orcd.longest_wait_reached",
            value=reached,
            unit="of the bound",
            goal=0.5,
            least=True,
            holds=reached >= 0.5,
            about=f"the same of the victim of a planned siege, the least of all of them: {shapes}",
        ),
    ]
