"""Who holds which slot and how many KV cells. PURE: a ledger; the backend holds the cells themselves.

A slot is a KV sequence id. Cells come from one pool that all slots share, so a slot's length is bounded by the pool too.
"""

from __future__ import annotations


class Slots:
    """A ledger of `count` slots over `cells` KV cells."""

    def __init__(self, count: int, cells: int) -> None:
        self._count = count
        self._cells = cells
        self._free = list(range(count - 1, -1, -1))
        self._owners: dict[int, str] = {}
        self._lengths: dict[int, int] = {}

    @property
    def total(self) -> int:
        """All slots."""
        return self._count

    @property
    def used(self) -> int:
        """Slots that are held."""
        return len(self._owners)

    @property
    def cells_total(self) -> int:
        """All KV cells."""
        return self._cells

    @property
    def cells_used(self) -> int:
        """KV cells that hold something."""
        return sum(self._lengths.values())

    @property
    def cells_free(self) -> int:
        """KV cells that hold nothing."""
        return self._cells - self.cells_used

    def acquire(self, owner: str) -> int | None:
        """The lowest free slot, now held by `owner`; None if all are held."""
        if not self._free:
            return None
        slot = self._free.pop()
        self._owners[slot] = owner
        self._lengths[slot] = 0
        return slot

    def set_length(self, slot: int, length: int) -> None:
        """Record that `slot` now holds `length` cells. AssertionError beyond the pool."""
        assert slot in self._owners, "a free slot holds no cells"
        self._lengths[slot] = length
        assert 0 <= length <= self._cells, "a slot cannot hold more than the pool"

    def length(self, slot: int) -> int:
        """Cells that `slot` holds."""
        return self._lengths[slot]

    def release(self, slot: int) -> None:
        """Give `slot` and its cells back."""
        del self._owners[slot]
        del self._lengths[slot]
        self._free.append(slot)
        self._free.sort(reverse=True)

    def owners(self) -> dict[int, str]:
        """Slot to owner, for those held."""
        return dict(self._owners)

    def check_integrity(self) -> None:
        """AssertionError if the ledger contradicts itself."""
        assert sorted([*self._free, *self._owners]) == list(range(self._count)), "every slot is either free or held"
        assert self._owners.keys() == self._lengths.keys(), "exactly the held slots have a length"
        assert len(set(self._owners.values())) == len(self._owners), "no owner holds two slots"
        assert self.cells_used <= self._cells, "more cells held than there are"
