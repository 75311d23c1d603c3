"""The ledger of slots alone: sequences are admitted, computed, cancelled, finished, preempted and forgotten at random."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from dataclasses import dataclass, field

import numpy as np
import pytest

from rbees.workerd.engine.keep_budget import KeepBudget
from rbees.workerd.engine.slots import Slots
from rbees.workerd.engine.spill import Spill, State

SEQUENCES = 3_000
SLOTS, CELLS, KEPT, AT_ONCE = 8, 120, 60, 4
SPILLED_BYTES = 2 * CELLS * 4


@dataclass(eq=False)
class Cell:
    """What one position was computed from."""

    tokens: tuple[int, ...]


class Cells:
    """A store that knows what is in each cell and counts those that somebody holds."""

    def __init__(self, divisible: bool, rng: random.Random) -> None:
        self.divisible = divisible
        self.rng = rng
        self.restored = 0
        self.held: defaultdict[int, list[Cell]] = defaultdict(list)

    @property
    def used(self) -> int:
        return len({id(cell) for cells in self.held.values() for cell in cells})

    def compute(self, slot: int, tokens: list[int]) -> None:
        """All of `tokens` that are not there yet."""
        cells = self.held[slot]
        cells += [Cell(tuple(tokens[: place + 1])) for place in range(len(cells), len(tokens))]

    def remove(self, slot: int, start: int) -> bool:
        if not self.divisible and 0 < start < len(self.held[slot]):
            return False
        del self.held[slot][start:]
        return True

    def share(self, source: int, target: int, start: int, stop: int) -> None:
        assert self.divisible
        assert start <= len(self.held[target])
        assert stop <= len(self.held[source])
        self.held[target][start:stop] = self.held[source][start:stop]

    def state_bytes(self, slot: int) -> int:
        return 4 * len(self.held[slot])

    def save(self, slot: int) -> State:
        return np.array(self.held[slot][-1].tokens, dtype=np.int32).view(np.uint8)

    def restore(self, slot: int, state: State) -> bool:
        assert not self.held[slot]
        tokens = state.view(np.int32).tolist()
        assert self.used + len(tokens) <= CELLS, "room was made for it"
        if self.rng.random() < 0.1:
            return False
        self.compute(slot, tokens)
        self.restored += 1
        return True

    def clear(self) -> None:
        self.held.clear()


@dataclass
class Running:
    """A sequence with a slot."""

    name: str
    tokens: list[int]
    slot: int
    computed: int


@dataclass
class Walk:
    """Random sequences over few slots and fewer cells than they want."""

    seed: int
    divisible: bool
    running: list[Running] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.cells = Cells(self.divisible, self.rng)
        budget = KeepBudget(first=KEPT, least=KEPT // 2, most=CELLS)
        spill = Spill(most_bytes=SPILLED_BYTES, divisible=self.divisible)
        self.slots = Slots(self.cells, count=SLOTS, cells=CELLS, divisible=self.divisible, budget=budget, spill=spill)
        self.histories: list[list[int]] = [[1, 2, 3]]

    def turn(self) -> None:
        action = self.rng.choices(
            (self.admit, self.compute, self.finish, self.cancel, self.fail, self.evict, self.interrupt, self.start_over),
            (20, 90, 10, 4, 1, 3, 3, 0.2),
        )[0]
        action()
        self.check()

    def admit(self) -> None:
        if len(self.running) == AT_ONCE:
            return
        history = self.rng.choice(self.histories[-6:])
        beginning = history if len(history) < 60 and self.rng.random() < 0.5 else history[: self.rng.randrange(2, 50)]
        tokens = [*beginning, *(self.rng.randrange(4) for _ in range(self.rng.randrange(1, 9)))]
        name = f"s{self.done['admitted']}"
        known, restored = self.slots.known(tokens), self.cells.restored
        slot, computed = self.slots.begin(name, tokens)
        assert computed <= known < len(tokens)
        self.done["known"] += computed == known
        self.done["restored"] += self.cells.restored > restored
        self.running.append(Running(name, tokens, slot, computed))
        self.done["admitted"] += 1
        self.done["shared"] += computed > 0

    def compute(self) -> None:
        if not self.running:
            return
        one = self.rng.choice(self.running)
        if one.computed == len(one.tokens):
            one.tokens.append(self.rng.randrange(4))
        count = self.rng.randint(1, len(one.tokens) - one.computed)
        while not self.slots.make_room(count):
            if len(self.running) == 1 and one.computed + count > CELLS:
                self.leave(one, keep=True)
                return
            youngest = self.running[-1]
            self.leave(youngest, keep=True)
            self.done["preempted"] += 1
            if youngest is one:
                return
        one.computed += count
        self.cells.compute(one.slot, one.tokens[: one.computed])
        self.slots.set_length(one.slot, one.computed)
        if count > 1:
            self.slots.publish(one.slot, one.tokens)

    def finish(self) -> None:
        if self.running:
            one = self.rng.choice(self.running)
            self.histories.append(list(one.tokens))
            self.leave(one, keep=True)
            self.done["finished"] += 1

    def cancel(self) -> None:
        if self.running:
            self.leave(self.rng.choice(self.running), keep=True)
            self.done["cancelled"] += 1

    def fail(self) -> None:
        if self.running:
            self.leave(self.rng.choice(self.running), keep=False)
            self.done["failed"] += 1

    def evict(self) -> None:
        before = self.slots.cells_kept
        self.slots.make_room(self.slots.cells_free + self.rng.randrange(1, 40))
        self.done["evicted"] += self.slots.cells_kept < before

    def interrupt(self) -> None:
        """A call broke off: some rows are there, and the last of them are taken back."""
        if not self.running:
            return
        one = self.rng.choice(self.running)
        there = self.rng.randint(one.computed, len(one.tokens))
        if self.slots.make_room(there - one.computed):
            self.cells.compute(one.slot, one.tokens[:there])
            one.computed = self.slots.cut(one.slot, one.computed) if there > one.computed else one.computed

    def start_over(self) -> None:
        """As for the deterministic lane."""
        while self.running:
            self.leave(self.running[0], keep=True)
        self.slots.clear()

    def leave(self, one: Running, *, keep: bool) -> None:
        if keep:
            self.slots.keep(one.slot, one.tokens)
        else:
            self.slots.drop(one.slot)
        self.running.remove(one)

    def check(self) -> None:
        self.slots.check_integrity()
        assert self.slots.cells_used == self.cells.used <= CELLS
        assert self.slots.owners() == {one.slot: one.name for one in self.running}
        for one in self.running:
            held = self.cells.held[one.slot]
            assert self.slots.length(one.slot) == one.computed == len(held)
            assert all(cell.tokens == tuple(one.tokens[: place + 1]) for place, cell in enumerate(held)), "of its own tokens"


@pytest.mark.parametrize("divisible", [True, False])
def test_thousands_of_sequences_leave_the_ledger_whole(divisible: bool) -> None:
    walk = Walk(11, divisible)
    while walk.done["admitted"] < SEQUENCES:
        walk.turn()
    for what in ("finished", "cancelled", "preempted", "evicted", "shared"):
        assert walk.done[what] > SEQUENCES // 50, (what, walk.done)
    assert walk.done["failed"] > 20
    assert walk.done["restored"] > 20
    assert walk.done["known"] > walk.done["admitted"] * 0.9, "where cells can be had, what is known is there"
