"""Whatever is admitted, cancelled, evicted and preempted: each cell is counted once, and each answer is the undisturbed one."""

from __future__ import annotations

import random
from collections import Counter

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbees.protocol.device_options import KvLayout
from rbees.protocol.sampling import Sampling
from rbees.workerd.engine.backend import CellsExhausted, DecodeFailed, Logits, Rows
from rbees.workerd.engine.draft_model import DraftModel
from rbees.workerd.engine.engine import Engine
from rbees.workerd.engine.outputs import Failed, Finished, Grown, Output
from rbees.workerd.engine.prefix_cache import PrefixCache, common_length
from rbees.workerd.engine.scripted import Script, ScriptedBackend
from rbees.workerd.engine.sequence import Work
from rbees.workerd.engine.shortage import Shortage
from rbees.workerd.engine.spill import State
from tests.support.scripted_models import Ticks, ids_of

STEPS = 12_000
SCRIPT = Script(answer_tokens=14, vocabulary_size=300, copies=0.8)
ACTIONS = ("begin", "grow", "cut", "drop", "rest", "oldest")
TOKENS = st.lists(st.integers(0, 2), max_size=9)


@given(TOKENS, TOKENS)
def test_the_common_length_is_that_of_the_common_beginning(a: list[int], b: list[int]) -> None:
    length = common_length(a, b)
    assert a[:length] == b[:length]
    assert length == min(len(a), len(b)) or a[length] != b[length]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 5), TOKENS), max_size=60))
def test_the_tree_equals_a_list_of_all_prefixes(steps: list[tuple[str, int, list[int]]]) -> None:
    """The reference holds every slot's tokens apart and counts distinct prefixes."""
    tree = PrefixCache()
    held: dict[int, list[int]] = {}
    for action, slot, tokens in steps:
        known, active = slot in held, slot in held and slot not in tree.idle
        if action == "begin" and not known:
            match = tree.match(tokens, len(tokens))
            longest = max((common_length(tokens, other) for other in held.values()), default=0)
            assert (match.length if match else 0) == longest
            assert match is None or held[match.source][:longest] == tokens[:longest]
            tree.share(slot, tokens, longest)
            held[slot] = tokens[:longest]
        elif action == "grow" and active:
            before = held[slot]
            found = tree.grow(slot, tokens)
            others = [other for s, other in held.items() if s != slot and other[: len(before)] == before]
            assert (found.length if found else 0) == max((common_length(tokens, o[len(before) :]) for o in others), default=0)
            held[slot] = before + tokens
        elif action == "cut" and known:
            tree.cut(slot, len(tokens) % (len(held[slot]) + 1))
            held[slot] = held[slot][: tree.length(slot)]
        elif action == "drop" and known:
            tree.drop(slot)
            del held[slot]
        elif action == "rest" and active:
            tree.rest(slot)
        elif action == "oldest" and (oldest := tree.oldest()) is not None:
            tree.cut(oldest.slot, oldest.start)
            held[oldest.slot] = held[oldest.slot][: oldest.start]
        for redundant in tree.redundant():
            tree.drop(redundant)
            del held[redundant]
        tree.check_integrity()
        assert tree.cells == len({tuple(t[: i + 1]) for t in held.values() for i in range(len(t))})
        assert {s: tree.length(s) for s in held} == {s: len(t) for s, t in held.items()}


def alone(work: Work) -> dict[int, list[int]]:
    """What the work's answers must be."""
    engine = Engine(ScriptedBackend(SCRIPT, slots=1, ctx=96, cells=96), slots=1, now=Ticks(), speculates=False)
    engine.submit(work)
    while engine.step():
        pass
    return answers(engine.take_outputs(), work)


def answers(outputs: list[Output], work: Work) -> dict[int, list[int]]:
    """The token ids of each answer to a work."""
    return {
        choice: ids_of([o for o in outputs if not isinstance(o, Grown) or o.choice == choice], work.key)
        for choice in range(len(work.choices))
    }


SPILL_BYTES = 6_000
"""Some four hundred tokens of the scripted backend."""


class Walk:
    """Random work for an engine with few cells, among prompts that share beginnings, some of them what was answered before."""

    def __init__(self, seed: int, *, divisible: bool, layout: KvLayout = "unified", draft_model: bool = False) -> None:
        self.rng = random.Random(seed)
        script = msgspec.structs.replace(SCRIPT, divisible=divisible, layout=layout)
        self.backend = ScriptedBackend(script, slots=4, ctx=96, cells=190)
        self.decode = self.backend.decode
        self.backend.decode = self.unreliable  # type: ignore[method-assign]
        # It says the same more often than not, and has so few cells that it must forget.
        other = ScriptedBackend(msgspec.structs.replace(SCRIPT, copies=0.6), slots=4, ctx=96, cells=150)
        draft = DraftModel(other) if draft_model else None
        self.engine = Engine(self.backend, slots=4, now=Ticks(), draft_model=draft, spill_bytes=SPILL_BYTES)
        self.restore = self.backend.restore
        self.backend.restore = self.counted_restore  # type: ignore[method-assign]
        self.restored = 0
        self.works: dict[str, Work] = {}
        self.expected: dict[str, dict[int, list[int]]] = {}
        self.histories: list[tuple[int, ...]] = [()]
        self.running: list[str] = []
        self.ended: Counter[str] = Counter()
        self.outputs: list[Output] = []
        self.cached_tokens = 0
        self.most_kept = 0

    def unreliable(self, rows: Rows) -> Logits:
        chance = self.rng.random()
        if chance < 0.01:
            raise CellsExhausted
        if chance < 0.012:
            raise DecodeFailed
        if chance < 0.016:
            raise DecodeFailed(Shortage(1 << 20))
        return self.decode(rows)

    def counted_restore(self, slot: int, state: State) -> bool:
        done = self.restore(slot, state)
        self.restored += done
        return done

    def turn(self) -> None:
        match self.rng.randrange(12):
            case 0 | 1 if len(self.running) < (12 if self.backend.facts.divisible else 3):
                self.submit()
            case 2 if self.running:
                if self.rng.random() < 0.2:
                    self.engine.cancel(self.rng.choice(self.running))
            case 3 if self.running:
                self.engine.pause(self.rng.choice(self.running), self.rng.random() < 0.3)
            case 4:
                self.backend.interrupt()
            case _:
                self.engine.step()
        self.take()

    def submit(self) -> None:
        key = f"job{len(self.works)}"
        history = self.rng.choice(self.histories[-8:])
        words = [b"the system prompt of all the bees: ", b"one", b"two", b"", b"the system prompt of all the ants: "]
        prompt = (*(history or tuple(self.rng.choice(words))), *self.rng.choice(words[1:4]), 46)
        sampling = Sampling(seed=self.rng.randrange(3))
        deterministic, further = self.rng.random() < 0.04, ((),) * self.rng.choice((0, 0, 0, 2))
        self.works[key] = Work(key, prompt, (), self.rng.randrange(1, 22), sampling, deterministic, further=further)
        self.engine.submit(self.works[key])
        self.running.append(key)

    def take(self) -> None:
        self.engine.check_integrity()
        load = self.engine.load()
        assert self.backend.cells_used == load.cells_used + load.cells_kept
        self.most_kept = max(self.most_kept, load.cells_kept)
        for output in self.engine.take_outputs():
            self.outputs.append(output)
            if isinstance(output, Finished | Failed):
                self.ended[output.key] += 1
                if isinstance(output, Failed) or self.ended[output.key] == len(self.works[output.key].choices):
                    self.check(output)

    def check(self, ending: Finished | Failed) -> None:
        work = self.works[ending.key]
        if work.key not in self.expected:
            self.expected[work.key] = alone(work)
        expected = self.expected[work.key]
        for choice, got in answers(self.outputs, work).items():
            assert got == (expected[choice] if isinstance(ending, Finished) else expected[choice][: len(got)])
        self.running.remove(ending.key)
        self.outputs = [o for o in self.outputs if o.key != ending.key]
        if isinstance(ending, Finished):
            self.cached_tokens += ending.usage.cached_tokens
            self.histories.append((*work.prompt, *expected[0]) if len(work.prompt) < 50 else ())

    def rest(self) -> None:
        for key in self.running:
            self.engine.pause(key, False)
        self.backend.rearm()
        for _ in range(2_000):
            worked = self.engine.step()
            self.take()
            if not worked and not self.running:
                return
        raise AssertionError("somebody starves")


@pytest.mark.parametrize(
    ("divisible", "layout", "draft_model", "steps"),
    [
        (True, "unified", False, STEPS),
        (True, "per_slot", False, STEPS),
        (True, "unified", True, STEPS // 2),
        (True, "per_slot", True, STEPS // 2),
        (False, "unified", False, STEPS // 4),
    ],
)
def test_a_random_walk_never_loses_a_cell_nor_changes_an_answer(
    divisible: bool, layout: KvLayout, draft_model: bool, steps: int
) -> None:
    walk = Walk(7, divisible=divisible, layout=layout, draft_model=draft_model)
    for _ in range(steps):
        walk.turn()
    walk.rest()
    assert walk.most_kept > 60, "finished sequences left something"
    assert walk.cached_tokens > 200, "and others took it up"
    assert walk.restored > 20, "also what had been forgotten"
    assert 0 < walk.engine.load().spilled_bytes <= SPILL_BYTES
    load = walk.engine.load()
    # Beside others a guess costs a pass of its own where slots have cells of their own.
    least = 20 if layout == "per_slot" else 500
    assert not divisible or load.drafted_tokens_total > load.accepted_tokens_total > least, "guesses held, and others did not"
