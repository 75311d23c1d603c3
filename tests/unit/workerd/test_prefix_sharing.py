"""Who computes what when prompts begin alike: counted by the rows of the decode calls."""

from __future__ import annotations

from typing import Any

import pytest

from rbees.protocol.sampling import Sampling
from rbees.workerd.engine.engine import Engine
from rbees.workerd.engine.in_common import WORTH_WAITING_FOR
from rbees.workerd.engine.keep_budget import KeepBudget
from rbees.workerd.engine.ledger import LEAST_KEPT
from rbees.workerd.engine.outputs import Finished
from rbees.workerd.engine.scripted import Script, ScriptedBackend
from rbees.workerd.engine.sequence import Work
from rbees.workerd.engine.slots import Slots
from tests.support.recording_store import RecordingStore
from tests.support.scripted_models import Ticks, ending_of, ids_of, run_out

SYSTEM = tuple(b"You are a bee. Answer in the words of the hive, and never of honey that is not there. " * 2)


class Counted:
    """An engine that counts how many tokens each decode call computes."""

    def __init__(self, *, slots: int = 4, ctx: int = 512, cells: int | None = None, divisible: bool = True) -> None:
        self.backend = ScriptedBackend(Script(divisible=divisible), slots=slots, ctx=ctx, cells=cells or slots * ctx)
        self.counts: list[int] = []
        decode = self.backend.decode

        def counting(rows: Any) -> Any:
            self.counts.append(len(rows))
            return decode(rows)

        self.backend.decode = counting  # type: ignore[method-assign]
        self.engine = Engine(self.backend, slots=slots, now=Ticks(), speculates=False)

    def submit(self, key: str, prompt: tuple[int, ...], max_tokens: int = 5, **fields: Any) -> None:
        deterministic = bool(fields.pop("deterministic", False))
        self.engine.submit(Work(key, prompt, (), max_tokens, Sampling(seed=1), deterministic, **fields))

    def run(self) -> dict[str, Finished]:
        """Run out; the endings by key."""
        self.counts.clear()
        self.outputs = run_out(self.engine)
        endings = [ending_of(self.outputs, o.key) for o in self.outputs if isinstance(o, Finished)]
        return {e.key: e for e in endings if isinstance(e, Finished)}


def test_those_who_arrive_together_compute_what_they_have_in_common_once() -> None:
    counted = Counted()
    for i in range(4):
        counted.submit(f"job{i}", (*SYSTEM, i), max_tokens=1)
    endings = counted.run()
    assert sum(counted.counts) == len(SYSTEM) + 4
    assert [endings[f"job{i}"].usage.cached_tokens for i in range(4)] == [0] + [len(SYSTEM)] * 3


def test_little_in_common_is_not_waited_for() -> None:
    counted = Counted()
    few = SYSTEM[: WORTH_WAITING_FOR - 1]
    for i in range(2):
        counted.submit(f"job{i}", (*few, i), max_tokens=1)
    counted.run()
    assert counted.counts == [2 * len(few) + 2]
    assert counted.engine.load().cells_kept == len(few) + 2, "what both computed is held once all the same"


@pytest.mark.parametrize("leave", ["cancel", "pause"])
def test_nobody_waits_for_one_that_does_not_go_on(leave: str) -> None:
    counted = Counted()
    counted.submit("first", SYSTEM)
    counted.submit("second", (*SYSTEM, 1))
    counted.engine.step()
    getattr(counted.engine, leave)("first", *([True] if leave == "pause" else []))
    assert counted.run()["second"].usage.completion_tokens == 5
    assert counted.counts[0] == len(SYSTEM) + 1 - 64, "the first chunk was there already"


def test_the_next_turn_of_a_chat_computes_only_what_is_new() -> None:
    counted = Counted()
    history, known = SYSTEM, 0
    for turn in range(4):
        counted.submit(f"turn{turn}", history, max_tokens=20)
        ending = counted.run()[f"turn{turn}"]
        assert ending.usage.cached_tokens == known
        assert sum(counted.counts) == len(history) - known + 19
        known = len(history) + 19
        history = (*history, *ids_of(counted.outputs, f"turn{turn}"), *b"<and then?>")


def test_the_same_prompt_again_computes_its_last_token() -> None:
    counted = Counted()
    counted.submit("once", SYSTEM, max_tokens=1)
    counted.run()
    counted.submit("again", SYSTEM, max_tokens=1)
    assert counted.run()["again"].usage.cached_tokens == len(SYSTEM) - 1
    assert counted.counts == [1]


def test_a_deterministic_sequence_takes_nothing_over() -> None:
    counted = Counted()
    counted.submit("before", SYSTEM)
    counted.run()
    counted.submit("alone", SYSTEM, deterministic=True, max_tokens=1)
    assert counted.run()["alone"].usage.cached_tokens == 0
    assert counted.counts == [len(SYSTEM)]


def test_what_is_kept_gives_way_to_what_runs_the_oldest_first() -> None:
    counted = Counted(slots=2, ctx=300, cells=401)
    for i in range(2):
        counted.submit(f"kept{i}", tuple(bytes([i]) * 150), max_tokens=1)
        counted.run()
    counted.submit("large", tuple(b"x" * 200), max_tokens=1)
    counted.run()
    assert counted.engine.load().cells_kept == 401
    for i in range(2):
        counted.submit(f"again{i}", tuple(bytes([i]) * 150), max_tokens=1)
        cached = counted.run()[f"again{i}"].usage.cached_tokens
        assert cached == 401 - 200 - 150, "of the least recently used only so much was forgotten as was needed"


def test_what_never_comes_again_is_soon_not_kept_and_what_is_missed_is_kept_again() -> None:
    counted = Counted(slots=2, ctx=300, cells=4_000)

    def ask(key: str, prompt: bytes) -> int:
        counted.submit(key, tuple(prompt), max_tokens=1)
        return counted.run()[key].usage.cached_tokens

    for i in range(20):
        assert ask(f"once{i}", bytes([100 + i]) * 200) == 0
    assert counted.engine.load().cells_kept <= LEAST_KEPT
    chats = [bytes([i]) * 200 for i in range(4)]
    turns = [[ask(f"chat{i}.{turn}", chat) for i, chat in enumerate(chats)] for turn in range(3)]
    assert sum(turns[1]) < 800, "there was room for one of them"
    assert turns[2] == [199] * 4, "what was missed in the second turn had made room for all"


def test_a_chat_goes_on_from_its_last_turn_where_older_chats_fill_the_memory() -> None:
    counted = Counted(slots=2, ctx=460, cells=540)
    old = (*SYSTEM, *b"old" * 20)
    for turn in range(2):
        counted.submit(f"old{turn}", (*old, *b"more" * 10 * turn), max_tokens=1)
        counted.run()
    new = (*SYSTEM, *b"new" * 80)
    counted.submit("new", new, max_tokens=1)
    counted.run()
    counted.submit("other", tuple(b"something else " * 4), max_tokens=1)
    counted.run()
    counted.submit("next turn", (*new, *b"and more"), max_tokens=1)
    assert counted.run()["next turn"].usage.cached_tokens >= len(new)


def test_cells_that_are_shared_admit_more_at_once() -> None:
    counted = Counted(slots=4, ctx=256, cells=256)
    for i in range(4):
        counted.submit(f"job{i}", (*SYSTEM, i), max_tokens=8)
    counted.engine.step()
    assert counted.engine.load().slots_used == 4
    assert len(counted.run()) == 4
    assert max(counted.counts[-8:]) == 4, "and none was preempted"


def test_a_slot_for_each_is_found_among_those_that_only_keep_something() -> None:
    counted = Counted(slots=2, ctx=64, cells=4_096)
    for i in range(40):
        counted.submit(f"job{i}", tuple(b"prompt %d" % i), max_tokens=1)
        counted.run()
    assert counted.engine.load().cells_kept > counted.backend.facts.slots
    counted.submit("early", tuple(b"prompt 0"), max_tokens=1)
    counted.submit("late", tuple(b"prompt 39"), max_tokens=1)
    endings = counted.run()
    assert [endings[key].usage.cached_tokens for key in ("early", "late")] == [len(b"prompt "), len(b"prompt 3")]


def test_a_memory_that_cannot_be_cut_is_gone_on_with_as_a_whole_or_not_at_all() -> None:
    counted = Counted(divisible=False)
    counted.submit("first", SYSTEM, max_tokens=6)
    counted.run()
    answer = tuple(ids_of(counted.outputs, "first"))
    counted.submit("other", (*SYSTEM, 1), max_tokens=1)
    assert counted.run()["other"].usage.cached_tokens == 0
    counted.submit("next", (*SYSTEM, *answer, 2), max_tokens=1)
    assert counted.run()["next"].usage.cached_tokens == len(SYSTEM) + 5
    assert counted.counts == [2]


def test_a_state_that_was_broken_off_is_computed_anew() -> None:
    answers = []
    for interrupted in (False, True):
        counted = Counted(divisible=False)
        counted.submit("long", SYSTEM, max_tokens=9)
        if interrupted:
            counted.backend.interrupt()
        counted.run()
        answers.append(ids_of(counted.outputs, "long"))
    assert answers[0] == answers[1]


def test_nothing_is_shared_where_nothing_can_be_cut() -> None:
    counted = Counted(divisible=False)
    for i in range(3):
        counted.submit(f"job{i}", (*SYSTEM, i), max_tokens=1)
    counted.run()
    assert sum(counted.counts) == 3 * (len(SYSTEM) + 1)


def test_the_ledger_tells_the_store_only_what_is_needed() -> None:
    cells = RecordingStore()
    slots = Slots(cells, count=3, cells=64, divisible=True, budget=KeepBudget(first=64, least=64, most=64))
    assert slots.begin("a", [1, 2, 3, 4]) == (0, 0)
    slots.set_length(0, 4)
    slots.publish(0, [1, 2, 3, 4])
    assert slots.begin("b", [1, 2, 9]) == (1, 2)
    slots.keep(0, [1, 2, 3, 4])
    assert slots.begin("c", [1, 2, 3, 4, 5]) == (0, 4), "what rests is gone on with, not copied"
    assert cells.told == [("share", 0, 1, 0, 2)]
    slots.check_integrity()


def test_the_only_slot_that_is_left_is_cut_and_used() -> None:
    cells = RecordingStore()
    slots = Slots(cells, count=1, cells=64, divisible=True, budget=KeepBudget(first=64, least=64, most=64))
    slots.begin("a", [1, 2, 3])
    slots.set_length(0, 3)
    slots.keep(0, [1, 2, 3])
    assert slots.begin("b", [1, 2, 7]) == (0, 2)
    assert cells.told == [("remove", 0, 2)]
    slots.check_integrity()
