"""A table that is laid over another looks and behaves like a copy of it, and the other remains as it is."""

from __future__ import annotations

from collections import Counter, deque
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from rbees.orcd.scheduler.rehearsal import Overlay, Rehearsal

KEY = st.integers(0, 8)
STEPS = st.lists(st.tuples(st.sampled_from(("read", "change", "put", "take", "default", "pop", "clear")), KEY), max_size=30)


@dataclass(slots=True)
class Thing:
    number: int
    friend: Thing | None = None
    names: dict[str, None] = field(default_factory=dict)


@settings(max_examples=300, deadline=None)
@given(st.lists(KEY, unique=True, min_size=1), STEPS)
def test_an_overlay_is_like_a_copy(keys: list[int], steps: list[tuple[str, int]]) -> None:
    original = {key: [key] for key in keys}
    before = deepcopy(original)
    copy, laid = deepcopy(original), Rehearsal(()).of(original)
    assert isinstance(laid, Overlay)
    for table in (copy, laid):
        for what, key in steps:
            match what:
                case "read":
                    assert (key in table) == (table.get(key) is not None)
                case "change" if key in table:
                    table[key].append(9)
                case "put":
                    table[key] = [key, key]
                case "take" if key in table:
                    del table[key]
                case "default":
                    table.setdefault(key, []).append(7)
                case "pop":
                    table.pop(key, None)
                case "clear" if key == 0:
                    table.clear()
    assert list(laid) == list(copy)
    assert list(laid.items()) == list(copy.items())
    assert len(laid) == len(copy)
    assert all((key in laid) == (key in copy) for key in range(9))
    assert original == before


def test_whoever_is_found_twice_is_the_same_in_the_copy() -> None:
    first, second = Thing(1), Thing(2)
    first.friend, second.friend = second, first
    original = {"by number": {1: first, 2: second}, "friends": {1: second, 2: first}}
    copy = Rehearsal(()).of(original)
    one = copy["by number"][1]
    assert one is copy["friends"][2]
    assert one is not first
    assert one.friend is copy["by number"][2]
    one.number, one.names["new"] = 3, None
    assert (first.number, first.names) == (1, {})


def test_values_and_what_is_shared_stay_themselves() -> None:
    shared = Thing(1)
    original: dict[str, Any] = {"things": [1, 2], "set": {1}, "queue": deque([1]), "counts": Counter("a"), "shared": {"it": shared}}
    copy = Rehearsal((shared,)).of(original)
    assert copy["shared"] == {"it": shared}
    assert copy["shared"]["it"] is shared
    assert copy["counts"]["b"] == 0, "it is a Counter still"
    copy["counts"]["a"] += 1
    assert original["counts"] == Counter("a")
    text = ("a", ("b",))
    assert Rehearsal(()).of(text) is text
