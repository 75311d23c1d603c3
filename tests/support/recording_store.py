"""A store of KV cells that holds nothing and records what a ledger tells it."""

from __future__ import annotations

from rbees.workerd.engine.spill import State

Told = tuple[str | int, ...]


class RecordingStore:
    """Implements `CellStore`; for ledgers without a spill, so that nobody asks for a state."""

    def __init__(self) -> None:
        self.told: list[Told] = []

    def remove(self, slot: int, start: int) -> bool:
        """As `CellStore.remove`."""
        self.told.append(("remove", slot, start))
        return True

    def share(self, source: int, target: int, start: int, stop: int) -> None:
        """As `CellStore.share`."""
        self.told.append(("share", source, target, start, stop))

    def clear(self) -> None:
        """As `CellStore.clear`."""
        self.told.append(("clear",))

    def state_bytes(self, slot: int) -> int:
        """As `CellStore.state_bytes`: there would be something to save."""
        return 100 + slot

    def save(self, slot: int) -> State:
        """As `CellStore.save`."""
        raise AssertionError(f"nothing of slot {slot} is wanted")

    def restore(self, slot: int, state: State) -> bool:
        """As `CellStore.restore`."""
        raise AssertionError(f"nothing of {len(state)} bytes was saved for slot {slot}")

    def copies(self) -> list[Told]:
        """Source, target and length of the copies since the last call."""
        made = [(told[1], told[2], told[4]) for told in self.told if told[0] == "share"]
        self.told.clear()
        return list(made)
