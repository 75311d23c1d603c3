"""PURE: ids in the order of a number that each of them has, so that the first few are found without looking at all."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator

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
