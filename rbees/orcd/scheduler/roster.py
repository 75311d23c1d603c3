"""PURE: ids in the order of a number that each of them has, so that the first few are found without looking at all."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from heapq import nsmallest

Key = tuple[float, str]


class Roster:
    """Each id stands in it once, by the number it was filed under last; equal numbers go by id."""

    def __init__(self) -> None:
        self._keys: list[Key] = []
        self._number: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, name: str) -> bool:
        return name in self._number

    def __iter__(self) -> Iterator[str]:
        """Ids, the smallest number first. The roster must not change meanwhile."""
        return (name for _, name in self._keys)

    def first(self, count: int) -> list[str]:
        """The ids with the smallest numbers."""
        return [name for _, name in self._keys[:count]]

    def first_of(self, names: Iterable[str], count: int) -> list[str]:
        """Of `names`, those in here with the smallest numbers."""
        return [name for _, name in nsmallest(count, ((self._number[name], name) for name in names if name in self._number))]

    def keys(self, count: int) -> list[Key]:
        """The same with their numbers."""
        return self._keys[:count]

    def spread(self, count: int) -> list[str]:
        """Ids from the whole order, at even distances; all of them where there are no more than `count`."""
        if len(self._keys) <= count:
            return [name for _, name in self._keys]
        distance = len(self._keys) / count
        return [self._keys[int((index + 0.5) * distance)][1] for index in range(count)]

    def file(self, name: str, number: float) -> None:
        """Put `name` where its number belongs, from wherever it was."""
        before = self._number.get(name)
        if before != number:
            if before is not None:
                self._take((before, name))
            insort(self._keys, (number, name))
            self._number[name] = number

    def drop(self, name: str) -> None:
        """Take `name` out, if it is here."""
        number = self._number.pop(name, None)
        if number is not None:
            self._take((number, name))

    def _take(self, key: Key) -> None:
        index = bisect_left(self._keys, key)
        assert self._keys[index] == key, "a name is looked for where it is not"
        del self._keys[index]


class Widths:
    """Ids in the order of their numbers, and by a width each, so that the first few of those that are wide enough are found."""

    def __init__(self) -> None:
        self._rosters: dict[int, Roster] = {}
        self._width: dict[str, int] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._width

    def __iter__(self) -> Iterator[str]:
        return iter(self._width)

    def __len__(self) -> int:
        return len(self._width)

    def width(self, name: str) -> int | None:
        """Under which width `name` was filed; None if it is not here."""
        return self._width.get(name)

    def file(self, name: str, number: float, width: int) -> None:
        """Put `name` where it belongs, from wherever it was."""
        if self._width.get(name) != width:
            self.drop(name)
            self._width[name] = width
        self._rosters.setdefault(width, Roster()).file(name, number)

    def drop(self, name: str) -> None:
        """Take `name` out, if it is here."""
        width = self._width.pop(name, None)
        if width is not None:
            self._rosters[width].drop(name)
            if not self._rosters[width]:
                del self._rosters[width]

    def first(self, count: int, least_width: int = 0) -> list[str]:
        """Of those that are so wide, the ids with the smallest numbers."""
        keys = [key for width, roster in self._rosters.items() if width >= least_width for key in roster.keys(count)]
        return [name for _, name in nsmallest(count, keys)]


@dataclass(slots=True)
class Rooms:
    """The pools that hold a model, by what they have for another worker of it."""

    changed: dict[str, None] = field(default_factory=dict)
    """Pools that may stand wrongly in the others, or be missing there."""
    free: Roster = field(default_factory=Roster)
    pushing: Roster = field(default_factory=Roster)
    possible: Roster = field(default_factory=Roster)
    crowded: Roster = field(default_factory=Roster)


@dataclass(slots=True)
class Serving:
    """The sound workers of a model, those that write fastest first, and how many slots they have together."""

    workers: Roster = field(default_factory=Roster)
    slots_of: dict[str, int] = field(default_factory=dict)
    slots: int = 0

    def put(self, worker_id: str, slots: int, step_s: float) -> None:
        """Take a worker up, or correct what is known of it."""
        self.slots += slots - self.slots_of.get(worker_id, 0)
        self.slots_of[worker_id] = slots
        self.workers.file(worker_id, step_s)

    def drop(self, worker_id: str) -> None:
        """Take a worker out, if it is here."""
        self.slots -= self.slots_of.pop(worker_id, 0)
        self.workers.drop(worker_id)
