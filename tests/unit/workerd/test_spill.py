"""What the KV memory forgets and gets back: what is held outside of it, for how long, and who is served from it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rbees.protocol.device_options import KvLayout
from rbees.protocol.sampling import Sampling
from rbees.workerd.engine.engine import Engine
from rbees.workerd.engine.outputs import Finished
from rbees.workerd.engine.scripted import Script, ScriptedBackend
from rbees.workerd.engine.sequence import Work
from rbees.workerd.engine.spill import FIRST_BYTES, WORTH_SPILLING, Spill, State
from tests.support.scripted_models import Ticks, ending_of, ids_of, run_out

TOKEN_BYTES = FIRST_BYTES // 100
"""So that a hundred tokens may be held before anything was missed."""


def prompt_of(number: int, length: int = 40) -> list[int]:
    return [1_000 * number + place for place in range(length)]


def put(spill: Spill, tokens: list[int]) -> bool:
    """Offer a state of the right size; whether it was wanted."""
    wanted = spill.wants(tokens, TOKEN_BYTES * len(tokens))
    if wanted:
        spill.put(tokens, np.empty(TOKEN_BYTES * len(tokens), dtype=np.uint8))
    spill.check_integrity()
    return wanted


def held(spill: Spill, tokens: list[int]) -> int:
    match = spill.match([*tokens, 0])
    return match.length if match else 0


def test_the_longest_beginning_is_found_and_what_it_covers_is_dropped() -> None:
    spill = Spill(most_bytes=10 * FIRST_BYTES, divisible=True)
    assert put(spill, prompt_of(1))
    assert put(spill, prompt_of(1, 50))
    assert spill.bytes == 50 * TOKEN_BYTES, "the shorter one is of no more use"
    match = spill.match([*prompt_of(1, 45), 7, 8])
    assert match is not None
    assert match.length == 45
    tokens, state = spill.take(match.source)
    assert (tokens, state.nbytes) == (prompt_of(1, 50), 50 * TOKEN_BYTES)
    assert not put(spill, prompt_of(1, 42)), "it is there already"
    assert spill.match(prompt_of(1, WORTH_SPILLING)) is None, "the last token is always computed, and the rest is not worth it"
    assert spill.reach(prompt_of(1)) == 40


def test_a_state_that_cannot_be_cut_is_found_only_as_a_whole() -> None:
    spill = Spill(most_bytes=10 * FIRST_BYTES, divisible=False)
    assert put(spill, prompt_of(1, 45))
    assert put(spill, prompt_of(1, 40)), "a state in between is another one"
    assert held(spill, prompt_of(1, 44)) == 40
    assert held(spill, prompt_of(1, 60)) == 45


def test_little_nothing_and_too_much_are_not_wanted() -> None:
    assert not put(Spill(most_bytes=0, divisible=True), prompt_of(1))
    spill = Spill(most_bytes=FIRST_BYTES, divisible=True)
    assert not put(spill, prompt_of(1, WORTH_SPILLING - 1))
    assert not spill.wants(prompt_of(1), 0), "nothing can be had of it"
    assert not spill.wants(prompt_of(1), FIRST_BYTES + 1)


def test_the_least_recently_used_goes_first() -> None:
    spill = Spill(most_bytes=FIRST_BYTES, divisible=True)
    assert put(spill, prompt_of(1))
    assert put(spill, prompt_of(2))
    match = spill.match([*prompt_of(1), 0])
    assert match is not None
    spill.take(match.source)
    assert put(spill, prompt_of(3))
    assert [held(spill, prompt_of(number)) for number in (1, 2, 3)] == [40, 0, 40]


def test_what_would_be_put_a_second_time_is_of_use_again() -> None:
    spill = Spill(most_bytes=FIRST_BYTES, divisible=True)
    for number in (1, 2, 1, 3):
        put(spill, prompt_of(number))
    assert [held(spill, prompt_of(number)) for number in (1, 2, 3)] == [40, 0, 40]


def test_the_budget_grows_where_dropped_prompts_come_again_and_only_there() -> None:
    spill = Spill(most_bytes=20 * FIRST_BYTES, divisible=True)
    for number in range(50):
        put(spill, prompt_of(number, 64))
        spill.asked(prompt_of(1_000 + number, 64), 0)
    assert spill.bytes <= FIRST_BYTES, "prompts that never come again take no more than at first"
    for _ in range(3):
        for number in range(10):
            spill.asked(prompt_of(number, 64), held(spill, prompt_of(number, 64)))
            put(spill, prompt_of(number, 64))
    assert [held(spill, prompt_of(number, 64)) for number in range(10)] == [64] * 10
    assert 640 * TOKEN_BYTES <= spill.bytes < 10 * FIRST_BYTES


def test_what_is_too_large_for_the_budget_is_wanted_once_it_was_missed() -> None:
    spill = Spill(most_bytes=20 * FIRST_BYTES, divisible=True)
    long = prompt_of(1, 160)
    assert not put(spill, long)
    spill.asked(long, 0)
    assert put(spill, long)


# --- in an engine ---

OTHERS = [bytes(f"{number:02} bottles of mead stand on the wall, and one of them is empty.", "ascii") for number in range(12)]
CHAT = b"You are a bee. Answer in the words of the hive, and never of honey that is not there."


class Counted:
    """An engine with so few slots and cells that it must forget, and with what it computes counted."""

    def __init__(self, *, layout: KvLayout = "unified", divisible: bool = True, spill_bytes: int = 1 << 20) -> None:
        self.backend = ScriptedBackend(Script(layout=layout, divisible=divisible), slots=2, ctx=256, cells=256)
        self.rows = 0
        decode = self.backend.decode

        def counting(rows: Any) -> Any:
            self.rows += len(rows)
            return decode(rows)

        self.backend.decode = counting  # type: ignore[method-assign]
        self.engine = Engine(self.backend, slots=2, now=Ticks(), speculates=False, spill_bytes=spill_bytes)

    def answer(self, prompt: bytes | tuple[int, ...], *, deterministic: bool = False, max_tokens: int = 6) -> tuple[list[int], int]:
        """The answer, and how many tokens of its prompt were cached."""
        self.rows = 0
        self.engine.submit(Work("job", tuple(prompt), (), max_tokens, Sampling(seed=3), deterministic))
        outputs = run_out(self.engine)
        ending = ending_of(outputs, "job")
        assert isinstance(ending, Finished)
        return ids_of(outputs, "job"), ending.usage.cached_tokens

    def answer_others(self) -> None:
        for other in OTHERS:
            self.answer(other)


@pytest.mark.parametrize(("layout", "divisible"), [("unified", True), ("per_slot", True), ("unified", False)])
def test_a_chat_goes_on_after_others_took_its_cells(layout: KvLayout, divisible: bool) -> None:
    turns = []
    for spill_bytes in (0, 1 << 20):
        counted = Counted(layout=layout, divisible=divisible, spill_bytes=spill_bytes)
        first, _ = counted.answer(CHAT)
        counted.answer_others()
        prompt = (*CHAT, *first, *b" And then?")
        turns.append((*counted.answer(prompt), counted.rows))
        assert counted.backend.cells_used == counted.engine.load().cells_kept
    (answer, cached, rows), (same, brought_back, fewer) = turns
    assert same == answer
    assert (cached, brought_back) == (0, len(CHAT) + 5), "all but the last token of the answer had been computed"
    assert rows - fewer == brought_back


def test_the_deterministic_lane_leaves_the_spill_alone_and_loses_nothing_to_it() -> None:
    counted = Counted()
    counted.answer(CHAT)
    _, cached = counted.answer(CHAT, deterministic=True)
    assert (cached, counted.rows) == (0, len(CHAT) + 5)
    counted.answer(OTHERS[0], deterministic=True)
    _, cached = counted.answer((*CHAT, *b" And then?"))
    assert cached == len(CHAT), "what the lane cleared away was put aside"


def test_a_spill_that_has_no_memory_left_forgets() -> None:
    counted = Counted()

    def no_memory(slot: int) -> Any:
        raise MemoryError(slot)

    counted.backend.save = no_memory  # type: ignore[method-assign]
    first, _ = counted.answer(CHAT)
    counted.answer_others()
    assert counted.answer(CHAT) == (first, 0)
    assert counted.engine.load().spilled_bytes == 0


@pytest.mark.parametrize("layout", ["unified", "per_slot"])
def test_a_state_that_cannot_be_put_back_is_computed(layout: KvLayout) -> None:
    counted = Counted(layout=layout)
    first, _ = counted.answer(CHAT)
    counted.answer_others()

    def refuse(slot: int, state: State) -> bool:
        return slot < 0 < len(state)

    counted.backend.restore = refuse  # type: ignore[method-assign]
    assert counted.answer(CHAT) == (first, 0)


def test_what_is_spilled_counts_as_cached_for_those_who_ask() -> None:
    counted = Counted()
    slots = counted.engine._slots
    counted.answer(CHAT)
    counted.answer_others()
    assert slots.reach(list(CHAT)) == len(CHAT)
    assert slots.known([*CHAT, 1]) == len(CHAT)
