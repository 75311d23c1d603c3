"""Which tokens the next decode call computes. PURE.

Sequences that need one token ride always, so no stream waits for another's prompt. What `Pace` leaves of the step goes to
the prompts, by equal shares: a short prompt gets all it needs, long ones divide the rest, the oldest takes what does not divide.
Guesses ride only where no prompt does, because prompts fill a step up to the time that it may take.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from rbees.workerd.engine.speculation import NO_GUESS, Guess, Seconds, worth


@dataclass(frozen=True, slots=True)
class Demand:
    """What one sequence could compute in the next step."""

    key: str
    pending: int
    """Tokens whose KV is not computed yet, at least 1."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one sequence gets: its next `count` tokens, and behind them a `draft` of what may follow."""

    key: str
    count: int
    draft: tuple[int, ...] = field(default=(), repr=False)

    @property
    def rows(self) -> int:
        """Rows of the decode call, and cells while it runs."""
        return self.count + len(self.draft)


def plan(demands: Iterable[Demand], *, prefill_budget: int, max_rows: int) -> list[Share]:
    """Shares for `demands`, which come oldest first; at most `max_rows` rows, prompts at most `prefill_budget` of them."""
    demands = list(demands)
    riding = [Share(d.key, 1) for d in demands if d.pending == 1][:max_rows]
    waiting = [d for d in demands if d.pending > 1]
    budget = min(prefill_budget, max_rows - len(riding))
    return riding + _divide(waiting, budget)


def add_drafts(shares: list[Share], guesses: Mapping[str, Guess], *, room: int, seconds: Seconds) -> list[Share]:
    """`shares`, each of one row, with as much of the `guesses` by key as makes most tokens a second, in at most `room` rows."""
    offered = [guesses.get(share.key, NO_GUESS) for share in shares]
    taken = worth(offered, room=max(0, room), seconds=seconds)
    return [
        replace(share, draft=guess.tokens[:count]) if count else share
        for share, guess, count in zip(shares, offered, taken, strict=True)
    ]


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
