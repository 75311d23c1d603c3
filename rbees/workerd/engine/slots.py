"""Who holds which slot, which KV cells it has, and what is kept of those who left. PURE: a ledger that directs the cells.

A slot is a KV sequence id. Cells come from one pool that all slots share, and slots share cells where their tokens are equal, so
a cell counts once. There are more slots than sequences run at once: the others keep what finished sequences computed, until
their cells or the slot itself are needed. What a running sequence has computed since its prompt is its own until it leaves.
What is forgotten goes to the spill first, and comes back into a slot that keeps it when a sequence begins with it.
"""

from __future__ import annotations

import contextlib
from typing import Final, Protocol

from rbees.workerd.engine.keep_budget import KeepBudget
from rbees.workerd.engine.prefix_cache import Match, Oldest, PrefixCache
from rbees.workerd.engine.spill import WORTH_SPILLING, Spill, State
from rbees.workerd.engine.whole_prefixes import WholePrefixes

TRIM_CELLS: Final = 64
"""Least cells forgotten at a time where that many are there: each time costs a pass over the ledger of the backend."""


class CellStore(Protocol):
    """The part of a backend that a ledger directs."""

    def remove(self, slot: int, start: int) -> bool:
        """Forget positions `start` and after; False where that is not possible."""

    def share(self, source: int, target: int, start: int, stop: int) -> None:
        """Positions `start` to `stop` of `target` become the cells that `source` has there."""

    def clear(self) -> None:
        """Forget everything."""

    def state_bytes(self, slot: int) -> int:
        """Size of what `save` would return; 0 where the slot's state cannot be had now."""

    def save(self, slot: int) -> State:
        """A copy of all that is held of `slot`, outside of the cells. Raises MemoryError."""

    def restore(self, slot: int, state: State) -> bool:
        """Have `slot`, which is empty, hold again what `save` returned; False where that is not possible now."""


class Prefixes(Protocol):
    """What `PrefixCache` and `WholePrefixes` have in common; see there."""

    @property
    def cells(self) -> int: ...

    @property
    def cells_idle(self) -> int: ...

    @property
    def idle(self) -> frozenset[int]: ...

    def length(self, slot: int) -> int: ...

    def match(self, tokens: list[int], limit: int) -> Match | None: ...

    def reach(self, tokens: list[int]) -> int: ...

    def share(self, slot: int, tokens: list[int], length: int) -> None: ...

    def grow(self, slot: int, tokens: list[int]) -> Match | None: ...

    def cut(self, slot: int, length: int) -> None: ...

    def drop(self, slot: int) -> None: ...

    def rest(self, slot: int) -> None: ...

    def resume(self, slot: int) -> None: ...

    def redundant(self) -> list[int]: ...

    def tokens(self, slot: int) -> list[int]: ...

    def oldest(self, spared: int | None = None) -> Oldest | None: ...

    def check_integrity(self) -> None: ...


class Slots:
    """A ledger of `count` slots over `cells` KV cells of `store`, of which those may be kept that `budget` allows."""

    def __init__(
        self, store: CellStore, *, count: int, cells: int, divisible: bool, budget: KeepBudget, spill: Spill | None = None
    ) -> None:
        self._store = store
        self._count = count
        self._cells = cells
        self._divisible = divisible
        self._budget = budget
        self._spill = spill or Spill(most_bytes=0, divisible=divisible)
        self._forget()

    @property
    def cells_total(self) -> int:
        """All KV cells."""
        return self._cells

    @property
    def cells_used(self) -> int:
        """KV cells that hold something."""
        return self._known.cells + sum(self._lengths[slot] - self._known.length(slot) for slot in self._owners)

    @property
    def cells_kept(self) -> int:
        """Of these, what only sequences computed that have left: it can be forgotten whenever cells are needed."""
        return self._known.cells_idle

    @property
    def cells_free(self) -> int:
        """KV cells that hold nothing."""
        return self._cells - self.cells_used

    @property
    def spilled_bytes(self) -> int:
        """Ordinary memory that holds what the cells had no room for."""
        return self._spill.bytes

    def known(self, tokens: list[int]) -> int:
        """How many of `tokens` a sequence that begins with them would not need to compute: at most all but the last."""
        spilled = self._of_use(tokens)
        return spilled.length if spilled else self._in_cells(tokens)

    def reach(self, tokens: list[int]) -> int:
        """How many of `tokens`, an earlier prompt, are held for prompts that begin with it."""
        return max(self._known.reach(tokens), self._spill.reach(tokens))

    def begin(self, owner: str, tokens: list[int], *, afresh: bool = False) -> tuple[int, int]:
        """A slot for `owner`, and how many of its `tokens` it holds already: `known`, or less where the spill gives nothing back.

        Args:
            afresh: Leave the spill alone.
        """
        if not afresh:
            self._bring_back(tokens)
        slot, length = self._take(tokens)
        self._spill.asked(tokens, length)
        self._owners[slot] = owner
        self._lengths[slot] = length
        return slot, length

    def set_length(self, slot: int, length: int) -> None:
        """Record that `slot` now holds `length` cells, no fewer than are known of it. AssertionError beyond the pool."""
        assert slot in self._owners, "a free slot holds no cells"
        assert self._known.length(slot) <= length <= self._cells, "a slot cannot hold more than the pool"
        self._lengths[slot] = length

    def publish(self, slot: int, tokens: list[int]) -> None:
        """Let others share what `slot` has computed so far of `tokens`. What others had computed too, is from now on held once."""
        known, length = self._known.length(slot), self._lengths[slot]
        match = self._known.grow(slot, tokens[known:length])
        if match is not None:
            self._store.share(match.source, slot, known, known + match.length)
            self._drop_redundant()

    def cut(self, slot: int, length: int) -> int:
        """Have `slot` hold no more than its first `length` cells; how many it holds now, 0 where it cannot be cut there."""
        if not self._store.remove(slot, length):
            self._store.remove(slot, 0)
            length = 0
        self._known.cut(slot, min(length, self._known.length(slot)))
        self._lengths[slot] = length
        return length

    def keep(self, slot: int, tokens: list[int]) -> None:
        """Its owner leaves; what it computed of `tokens` stays for those who begin alike.

        Every cell that is kept costs each row a look at it, so no more are kept than pays.
        """
        self.publish(slot, tokens)
        del self._owners[slot]
        self._known.rest(slot)
        self._drop_redundant()
        allowed = self._budget.cells
        while (excess := self.cells_kept - allowed) > 0 and (oldest := self._known.oldest()) is not None:
            self._forget_end(oldest, excess, for_budget=True)

    def drop(self, slot: int) -> None:
        """Its owner leaves, and nothing of what it holds alone is of use."""
        del self._owners[slot]
        self._release(slot)

    def settle(self) -> dict[str, int]:
        """The new slot of each owner that had to be moved before the next call; in a pool nobody has to."""
        return {}

    def make_room(self, cells: int) -> bool:
        """Forget what was kept, the least recently used first, until `cells` are free; False if that is not enough."""
        while (short := cells - self.cells_free) > 0:
            oldest = self._known.oldest()
            if oldest is None:
                return False
            self._forget_end(oldest, short, for_budget=False)
        return True

    def clear(self) -> None:
        """Forget everything that was kept, and have the store begin anew. AssertionError while somebody holds a slot."""
        assert not self._owners, "what runs cannot be forgotten"
        for slot in self._known.idle:
            self._set_aside(slot)
        self._store.clear()
        self._forget()

    def length(self, slot: int) -> int:
        """Cells that `slot` holds, shared ones included; 0 for a free one."""
        return self._lengths.get(slot, 0)

    def owners(self) -> dict[int, str]:
        """Slot to owner, for those held."""
        return dict(self._owners)

    def check_integrity(self) -> None:
        """AssertionError if the ledger contradicts itself."""
        self._known.check_integrity()
        self._spill.check_integrity()
        assert sorted([*self._free, *self._owners, *self._known.idle]) == list(range(self._count)), (
            "every slot is free, held or kept"
        )
        assert self._lengths.keys() == self._owners.keys() | self._known.idle, "exactly the slots in use have a length"
        assert len(set(self._owners.values())) == len(self._owners), "no owner holds two slots"
        assert all(self._lengths[slot] == self._known.length(slot) for slot in self._known.idle)
        assert self.cells_used <= self._cells, "more cells held than there are"

    # --- slots ---

    def _in_cells(self, tokens: list[int]) -> int:
        """How many of `tokens`, all but the last at most, slots hold."""
        match = self._known.match(tokens, len(tokens) - 1)
        return match.length if match else 0

    def _take(self, tokens: list[int]) -> tuple[int, int]:
        """A slot for a sequence, and how many of its tokens it holds already: `_in_cells`."""
        match = self._known.match(tokens, len(tokens) - 1)
        self._budget.asked(tokens, match.length if match else 0)
        if match is None:
            slot = self._vacant()
            assert slot is not None, "more sequences than slots"
            self._known.share(slot, tokens, 0)
            return slot, 0
        if match.whole:
            self._known.resume(match.source)
            return match.source, match.length
        return self._share(match, tokens), match.length

    def _share(self, match: Match, tokens: list[int]) -> int:
        """A slot that begins as `match.source` does; that one itself where no other is to be had."""
        slot = self._vacant(spared=match.source)
        if slot is None:
            self._store.remove(match.source, match.length)
            self._known.cut(match.source, match.length)
            self._known.resume(match.source)
            return match.source
        self._store.share(match.source, slot, 0, match.length)
        self._known.share(slot, tokens, match.length)
        return slot

    def _vacant(self, spared: int | None = None) -> int | None:
        """The lowest free slot, else one that is kept, the least recently used first; None if only `spared` is left."""
        if not self._free:
            kept = self._known.oldest(spared)
            if kept is None:
                return None
            self._budget.forgotten(self._known.tokens(kept.slot), kept.start, for_budget=False)
            self._set_aside(kept.slot)
            self._release(kept.slot)
        slot = min(self._free)
        self._free.remove(slot)
        return slot

    def _forget_end(self, oldest: Oldest, cells: int, *, for_budget: bool) -> None:
        start = max(oldest.start, oldest.length - max(cells, TRIM_CELLS)) if self._divisible else 0
        self._budget.forgotten(self._known.tokens(oldest.slot), start, for_budget=for_budget)
        self._set_aside(oldest.slot)
        self._store.remove(oldest.slot, start)
        self._known.cut(oldest.slot, start)
        self._lengths[oldest.slot] = start
        self._drop_redundant()

    def _set_aside(self, slot: int) -> None:
        """Let the spill have what `slot` keeps and is about to forget."""
        tokens = self._known.tokens(slot)
        if self._spill.wants(tokens, self._store.state_bytes(slot)):
            # Where there is no memory for it, it is forgotten after all.
            with contextlib.suppress(MemoryError):
                self._spill.put(tokens, self._store.save(slot))

    def _of_use(self, tokens: list[int]) -> Match | None:
        """What the spill holds of the beginning of `tokens`, where that is so much more than slots hold that it is worth it."""
        match = self._spill.match(tokens)
        return match if match and match.length >= self._in_cells(tokens) + WORTH_SPILLING else None

    def _bring_back(self, tokens: list[int]) -> None:
        """Have a slot keep what the spill holds of the beginning of `tokens`, where that is of use and cells can be had."""
        match = self._of_use(tokens)
        if match is None:
            return
        spilled, state = self._spill.take(match.source)
        if len(spilled) > self.cells_free + self.cells_kept:
            return
        self.make_room(len(spilled))
        slot = self._vacant()
        if slot is None:
            return
        if not self._store.restore(slot, state):
            self._free.add(slot)
            return
        if match.length < len(spilled):
            self._store.remove(slot, match.length)
        self._lengths[slot] = match.length
        self._known.share(slot, tokens, 0)
        self.publish(slot, tokens)
        self._known.rest(slot)
        self._drop_redundant()

    def _release(self, slot: int) -> None:
        self._store.remove(slot, 0)
        self._known.drop(slot)
        del self._lengths[slot]
        self._free.add(slot)

    def _drop_redundant(self) -> None:
        for slot in self._known.redundant():
            self._release(slot)

    def _forget(self) -> None:
        self._free = set(range(self._count))
        self._owners: dict[int, str] = {}
        self._lengths: dict[int, int] = {}
        self._known: Prefixes = PrefixCache() if self._divisible else WholePrefixes()
