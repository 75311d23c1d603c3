"""`Slots` for a KV memory where each slot has cells of its own, enough for a whole sequence. PURE.

Attention passes only a slot's own cells there, so what is kept costs the others nothing, and cells never run short. Sharing a
beginning copies it. The library computes slots in one pass only where they follow each other without a gap, so those that
run are moved down to the first slots before each call: `settle`.
"""

from __future__ import annotations

from typing import Final

from rbees.workerd.engine.keep_budget import KeepBudget
from rbees.workerd.engine.prefix_cache import PrefixCache
from rbees.workerd.engine.slots import CellStore, Slots
from rbees.workerd.engine.spill import Spill

WORTH_COPYING: Final = 16
"""Tokens below which computing them costs less than copying a slot."""


class OwnCells(Slots):
    """A ledger of `count` slots with `ctx` cells each; one slot more than sequences run at once leaves room to move."""

    def __init__(self, store: CellStore, *, count: int, ctx: int, spill: Spill | None = None) -> None:
        cells = count * ctx
        budget = KeepBudget(first=cells, least=cells, most=cells)
        super().__init__(store, count=count, cells=cells, divisible=True, budget=budget, spill=spill)

    @property
    def cells_used(self) -> int:
        """KV cells that hold something."""
        return sum(self._lengths.values())

    @property
    def cells_kept(self) -> int:
        """Of these, those of slots on which nobody computes."""
        return sum(self._lengths[slot] for slot in self._known.idle)

    def publish(self, slot: int, tokens: list[int]) -> None:
        """Let others copy what `slot` has computed so far of `tokens`. Where others hold the same, it is held twice."""
        known, length = self._known.length(slot), self._lengths[slot]
        self._known.grow(slot, tokens[known:length])
        self._drop_redundant()

    def settle(self) -> dict[str, int]:
        """Move those that run to the first slots; the new slot of each that was moved."""
        moved: dict[str, int] = {}
        while self._owners and (last := max(self._owners)) >= len(self._owners):
            hole = min(set(range(last)) - self._owners.keys())
            self._move_away(hole)
            self._store.remove(hole, 0)
            self._free.discard(hole)
            if self._lengths[last]:
                self._store.share(last, hole, 0, self._lengths[last])
            self._rename(last, hole)
            self._owners[hole] = owner = self._owners.pop(last)
            self._store.remove(last, 0)
            self._free.add(last)
            moved[owner] = hole
        return moved

    def _in_cells(self, tokens: list[int]) -> int:
        """As `Slots._in_cells`; what is not worth copying does not count."""
        match = self._known.match(tokens, len(tokens) - 1)
        return match.length if match and (match.whole or match.length >= WORTH_COPYING) else 0

    def _take(self, tokens: list[int]) -> tuple[int, int]:
        """As `Slots._take`: what rests and is wholly of use is gone on with where it lies, other beginnings are copied."""
        match = self._known.match(tokens, len(tokens) - 1)
        if match is not None and match.whole:
            self._known.resume(match.source)
            return match.source, match.length
        source, length = (match.source, match.length) if match and match.length >= WORTH_COPYING else (None, 0)
        slot = min(set(range(self._count)) - self._owners.keys())
        self._move_away(slot, source)
        if source not in (None, slot):
            self._store.remove(slot, 0)
            self._store.share(source, slot, 0, length)
        else:
            self._store.remove(slot, length)
        self._free.discard(slot)
        self._known.share(slot, tokens, length)
        return slot, length

    def _move_away(self, slot: int, source: int | None = None) -> None:
        """Free the ledger of what `slot` keeps: into a free slot, or into that of what is older; else it is forgotten.

        The store goes on to hold it there, so where `slot` is itself the `source` of what comes, nothing need be copied.
        """
        if slot in self._free:
            return
        elsewhere = min(self._free, default=None)
        if elsewhere is None:
            older = self._known.oldest(spared=source)
            if older is None or older.slot == slot:
                self._set_aside(slot)
                self._known.drop(slot)
                del self._lengths[slot]
                return
            self._set_aside(older.slot)
            self._release(elsewhere := older.slot)
        self._free.remove(elsewhere)
        self._store.share(slot, elsewhere, 0, self._lengths[slot])
        self._rename(slot, elsewhere)

    def _rename(self, slot: int, to: int) -> None:
        assert isinstance(self._known, PrefixCache), "this memory is divisible"
        self._known.move(slot, to)
        self._lengths[to] = self._lengths.pop(slot)
