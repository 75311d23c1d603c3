"""PURE: what an event would lead to, found out by having it happen in a copy of everything that is thrown away afterwards.

So what is foretold is what is decided, whatever the rules are, and nothing real changes. To copy a large fleet would take far
longer than one decision, so tables of things that can change are only laid over the real ones (`Overlay`), and what stands in them
is copied when somebody looks at it. The real ones must not change as long as the copy is in use.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, MutableMapping
from dataclasses import is_dataclass
from enum import Enum
from itertools import chain
from operator import attrgetter
from types import NoneType
from typing import Any, Final, TypeVar, cast

import msgspec

T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")

VALUES: Final = (str, bytes, int, float, NoneType, tuple, frozenset, Enum, msgspec.Struct)
"""What never changes, so that original and copy may share it; frozen dataclasses are such values too."""


SMALL: Final = 64
"""Tables of values up to this size are copied as a whole."""
_KNOWN: Final[dict[type, bool]] = {}
"""Whether those of a type are values."""


class Rehearsal:
    """One copy of things that refer to each other: whoever is found twice is the same in the copy."""

    def __init__(self, shared: Iterable[object]) -> None:
        """`shared` stay as they are: what the event surely does not change, or what belongs to nobody here."""
        self._copies: dict[int, Any] = {id(one): one for one in shared}
        self._is_over = False

    def replace(self, original: T, copy: T) -> None:
        """Take this for the copy of a thing."""
        self._copies[id(original)] = copy

    def end(self) -> None:
        """The copy is only read from now on: what nobody has looked at so far is as it was, and need not be copied for that."""
        self._is_over = True

    def of(self, original: T) -> T:
        """The copy of a thing, or the thing itself where it cannot change."""
        if _is_value(original):
            return original
        found = self._copies.get(id(original))
        if found is None and self._is_over:
            return original
        if found is None:
            found = self._copies[id(original)] = self._copied(original)
        return cast(T, found)

    def _copied(self, original: Any) -> Any:
        match original:
            case dict():
                is_small = len(original) <= SMALL or type(original) is not dict
                is_plain = is_small and _is_value(next(iter(original.values()), None))
                return original.copy() if is_plain else Overlay(self, original)
            case list() | set() | deque():
                assert _is_value(next(iter(original), None)), "tables alone hold things that can change"
                return original.copy()
        kind = type(original)
        copy = object.__new__(kind)
        # Before its parts, one of which may lead back to it.
        self._copies[id(original)] = copy
        # Those with slots have the same parts each, which are many: found at once.
        names = getattr(kind, "__slots__", None) or tuple(vars(original))
        for name, part in zip(names, attrgetter(*names, "__class__")(original), strict=False):
            setattr(copy, name, part if _KNOWN.get(type(part)) else self.of(part))
        return copy


class Overlay(MutableMapping[K, V]):
    """A table over another one: looks like its copy, in the same order, and leaves it as it is."""

    def __init__(self, rehearsal: Rehearsal, original: dict[K, V]) -> None:
        self._rehearsal = rehearsal
        self._original = original
        self._own: dict[K, V] = {}
        """What was looked at or put in."""
        self._gone: dict[K, None] = {}
        """What was taken out; where it is in `_own` too, it was put in again, behind all others."""

    def __getitem__(self, key: K) -> V:
        if key in self._own:
            return self._own[key]
        if key in self._gone:
            raise KeyError(key)
        value = self._own[key] = self._rehearsal.of(self._original[key])
        return value

    def __setitem__(self, key: K, value: V) -> None:
        self._own[key] = value

    def __delitem__(self, key: K) -> None:
        if key not in self:
            raise KeyError(key)
        self._own.pop(key, None)
        if key in self._original:
            self._gone[key] = None

    def __contains__(self, key: object) -> bool:
        return key in self._own or (key in self._original and key not in self._gone)

    def __iter__(self) -> Iterator[K]:
        there = (key for key in self._original if key not in self._gone)
        added = [key for key in self._own if key not in self._original or key in self._gone]
        return chain(there, added)

    def __len__(self) -> int:
        added = sum(key not in self._original or key in self._gone for key in self._own)
        return len(self._original) - len(self._gone) + added


def _is_value(thing: object) -> bool:
    kind = type(thing)
    known = _KNOWN.get(kind)
    if known is None:
        frozen = is_dataclass(kind) and bool(kind.__dataclass_params__.frozen)  # type: ignore[attr-defined]
        known = _KNOWN[kind] = issubclass(kind, VALUES) or frozen
    return known
