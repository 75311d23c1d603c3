"""Rosters find the first few as sorting everything would."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rbees.orcd.scheduler.roster import Roster, Serving, Widths

NAMES = st.sampled_from("abcdefgh")
STEPS = st.lists(st.tuples(NAMES, st.one_of(st.none(), st.tuples(st.integers(0, 5), st.integers(1, 4)))), max_size=60)


@given(steps=STEPS, count=st.integers(1, 9), least=st.integers(0, 5))
def test_widths_are_found_as_by_sorting(steps: list[tuple[str, tuple[int, int] | None]], count: int, least: int) -> None:
    widths, roster, serving = Widths(), Roster(), Serving()
    told: dict[str, tuple[int, int]] = {}
    for name, what in steps:
        if what is None:
            told.pop(name, None)
            for one in (widths, roster, serving):
                one.drop(name)
        else:
            told[name] = what
            widths.file(name, what[0], what[1])
            roster.file(name, what[0])
            serving.put(name, what[1], what[0])
    wide = sorted((number, name) for name, (number, width) in told.items() if width >= least)
    assert widths.first(count, least) == [name for _, name in wide[:count]]
    assert set(widths) == told.keys()
    assert all(widths.width(name) == width for name, (_, width) in told.items())
    everyone = sorted((number, name) for name, (number, _) in told.items())
    assert roster.first(count) == [name for _, name in everyone[:count]]
    assert roster.first_of("bdfh", count) == [name for _, name in everyone if name in "bdfh"][:count]
    assert serving.slots == sum(width for _, width in told.values())
    assert serving.workers.spread(9) == [name for _, name in everyone]


@given(count=st.integers(1, 200), taken=st.integers(1, 40))
def test_a_spread_has_both_ends_of_the_order(count: int, taken: int) -> None:
    roster = Roster()
    for number in range(count):
        roster.file(f"{number:03d}", number)
    spread = [int(name) for name in roster.spread(taken)]
    assert spread == sorted(set(spread))
    assert len(spread) == min(count, taken)
    assert abs(sum(spread) / len(spread) - (count - 1) / 2) <= 1
