"""Which tokens the next decode call computes. PURE.

Sequences that need one token ride always, so no stream waits for another's prompt. What `Pace` leaves of the step goes to
as few prompts as can use it, because many small pieces cost more than one large one, and prompts that take turns are all ready
late. Who is next follows from what each was given so far: the oldest is entitled to as much as all the others together, these to
the same among themselves. So what is ahead of a prompt is bounded by its own length, whatever arrives beside it. Only what is
ready soon whoever is first is shared equally, because streams that begin together make the fullest steps.

Guesses ride only where no prompt does, because prompts fill a step up to the time that it may take.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from rbees.workerd.engine.speculation import NO_GUESS, Guess, Seconds, worth

LARGE_PIECE: Final = 32
"""Rows of one prompt that are worth computing beside a larger piece of another."""
A_LITTLE_MORE: Final = 1.25
SOON_IN_CALLS: Final = 2
"""Prompts that fill no more calls than this are all ready soon, whoever is first. Ready together, they make the fullest steps."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What one sequence could compute in the next step."""

    key: str
    pending: int
    """Tokens whose KV is not computed yet, at least 1."""
    given: int = 0
    """Tokens that it was given already since it holds its slot."""


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
    """Shares for `demands`, which come oldest first.

    At most `max_rows` rows, prompts about `prefill_budget` of them: a quarter more where that ends one.
    """
    demands = list(demands)
    riding = [Share(d.key, 1) for d in demands if d.pending == 1][:max_rows]
    waiting = [d for d in demands if d.pending > 1]
    most = max_rows - len(riding)
    if sum(d.pending for d in waiting) <= SOON_IN_CALLS * max_rows:
        return riding + _divide_equally(waiting, min(prefill_budget, most))
    return riding + _divide(waiting, prefill_budget, most)


def add_drafts(shares: list[Share], guesses: Mapping[str, Guess], *, room: int, seconds: Seconds) -> list[Share]:
    """`shares`, each of one row, with as much of the `guesses` by key as makes most tokens a second, in at most `room` rows."""
    offered = [guesses.get(share.key, NO_GUESS) for share in shares]
    taken = worth(offered, room=max(0, room), seconds=seconds)
    return [
        replace(share, draft=guess.tokens[:count]) if count else share
        for share, guess, count in zip(shares, offered, taken, strict=True)
    ]


def _divide(waiting: list[Demand], budget: int, most: int) -> list[Share]:
    """`budget` for those who are next, each as much as it needs; the rest for whom it is a large piece, or all of it.

    Where a little more than is left would do, it is given, up to `most` together: the end of a prompt is worth no step.
    """
    if budget <= 0 or not waiting:
        return []
    oldest, weight = waiting[0].key, len(waiting)
    shares: list[Share] = []
    for demand in sorted(waiting, key=lambda d: d.given / weight if d.key == oldest else d.given):
        whole = demand.pending <= min(budget * A_LITTLE_MORE, most)
        count = demand.pending if whole else min(budget, most)
        if whole or not shares or count >= LARGE_PIECE:
            shares.append(Share(demand.key, count))
            budget -= count
            most -= count
        if budget <= 0 or most <= 0:
            break
    return shares


def _divide_equally(waiting: list[Demand], budget: int) -> list[Share]:
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
