"""Slots with cells of their own: who lies where, what is copied, and what is forgotten for it."""

from __future__ import annotations

from rbees.workerd.engine.own_cells import WORTH_COPYING, OwnCells
from tests.support.recording_store import RecordingStore

LONG = list(range(2 * WORTH_COPYING))


def ledger(count: int) -> tuple[OwnCells, RecordingStore]:
    store = RecordingStore()
    return OwnCells(store, count=count, ctx=100), store


def run(slots: OwnCells, owner: str, tokens: list[int]) -> int:
    """Begin and compute everything; the slot."""
    slot, _ = slots.begin(owner, tokens)
    slots.set_length(slot, len(tokens))
    slots.publish(slot, tokens)
    slots.check_integrity()
    return slot


def test_a_common_beginning_is_copied_if_that_is_worth_it() -> None:
    slots, store = ledger(4)
    assert run(slots, "a", LONG) == 0
    assert slots.begin("b", [*LONG[: WORTH_COPYING - 1], 99]) == (1, 0)
    assert slots.begin("c", [*LONG[:WORTH_COPYING], 99]) == (2, WORTH_COPYING)
    assert store.copies() == [(0, 2, WORTH_COPYING)]
    assert slots.known(LONG[: WORTH_COPYING - 1]) == 0, "so nobody waits for that little"
    assert slots.cells_used == len(LONG) + WORTH_COPYING, "what is copied is held twice"
    slots.check_integrity()


def test_what_rests_is_gone_on_with_where_it_lies_and_then_moved_to_the_others() -> None:
    slots, store = ledger(4)
    for owner in "abc":
        run(slots, owner, [*LONG, ord(owner)])
    for slot, owner in enumerate("abc"):
        slots.keep(slot, [*LONG, ord(owner)])
    store.copies()
    assert slots.begin("c again", [*LONG, ord("c"), 7]) == (2, len(LONG) + 1)
    assert store.copies() == []
    assert slots.settle() == {"c again": 0}
    assert store.copies() == [(0, 3, len(LONG) + 1), (2, 0, len(LONG) + 1)], "what lay there is kept elsewhere"
    assert slots.begin("a again", [*LONG, ord("a"), 7])[1] == len(LONG) + 1
    assert slots.settle() == {"a again": 1}
    assert slots.settle() == {}
    slots.check_integrity()


def test_the_last_one_moves_into_the_place_of_one_that_left() -> None:
    slots, store = ledger(4)
    for i, owner in enumerate("abc"):
        run(slots, owner, [1000 * i + n for n in range(20)])
    slots.keep(0, list(range(20)))
    store.copies()
    assert slots.settle() == {"c": 0}
    assert store.copies() == [(0, 3, 20), (2, 0, 20)]
    assert slots.owners() == {0: "c", 1: "b"}
    slots.check_integrity()
    assert slots.begin("a again", [*range(20), 7])[1] == 20, "what it left is still known"


def test_the_older_of_two_that_rest_is_forgotten_where_one_must_be() -> None:
    slots, store = ledger(3)
    prompts = [[1000 * i + n for n in range(20)] for i in range(4)]
    for i in range(2):
        run(slots, f"job{i}", prompts[i])
    slots.keep(1, prompts[1])
    slots.keep(0, prompts[0])
    run(slots, "job2", prompts[2])
    run(slots, "job3", prompts[3])
    assert slots.owners() == {0: "job2", 1: "job3"}
    assert [slots.known([*prompt, 7]) for prompt in prompts] == [20, 0, 20, 20], "the one that left last is kept"
    assert store.copies() == [(0, 2, 20)]
    slots.check_integrity()


def test_what_lies_where_it_is_wanted_is_cut_there_and_kept_elsewhere() -> None:
    slots, store = ledger(3)
    run(slots, "a", LONG)
    slots.keep(0, LONG)
    store.told.clear()
    assert slots.begin("b", [*LONG[:20], 99]) == (0, 20)
    assert store.told == [("share", 0, 1, 0, len(LONG)), ("remove", 0, 20)]
    assert slots.known([*LONG, 99]) == len(LONG)
    slots.check_integrity()
