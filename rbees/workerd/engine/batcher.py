"""Which tokens the next decode call computes. PURE.

Sequences that need one token ride always, so no stream waits for another's prompt. What `Pace` leaves of the step goes to
the prompts, by equal shares: a short prompt gets all it needs, long ones divide the rest, the oldest takes what does not divide.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Demand:
    """What one sequence could compute in the next step."""

    key: str
    pending: int
    """Tokens whose KV is not computed yet, at least 1."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one sequence gets: its next `count` tokens."""

    key: str
    count: int


def plan(demands: Iterable[Demand], *, prefill_budget: int, max_rows: int) -> list[Share]:
    """Shares for `demands`, which come oldest first; at most `max_rows` rows, prompts at most `prefill_budget` of them."""
    demands = list(demands)
    riding = [Share(d.key, 1) for d in demands if d.pending == 1][:max_rows]
    waiting = [d for d in demands if d.pending > 1]
    budget = min(prefill_budget, max_rows - len(riding))
    return riding + _divide(waiting, budget)


def _divide(waiting: list[Demand], budget: int) -> list[Share]:
    """Equal shares of `budget`, none larger than its demand, the remainder to the oldest (max-min fairness)."""
    granted = dict.fromkeys((d.key for d in waiting), 0)
    open_demands = waiting
    while budget > 0 and open_demands:
        share = max(1, budget // len(open_demands))
        for demand in open_demands:
            count = min(share, demand.pending - granted[demand.key], budget)
            granted[demand.key] += count
            budget -= count
        open_demands = [d for d in open_demands if d.pending > granted[d.key]]
    return [Share(key, count) for key, count in granted.items() if count]
