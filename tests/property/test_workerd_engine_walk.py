"""Ten thousand short sequences through engines: whatever is admitted, cancelled, finished and evicted, the ledgers stay whole."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from rbees.protocol.errors import ErrorCode
from rbees.protocol.sampling import Sampling
from rbees.workerd.engine.engine import Engine
from rbees.workerd.engine.outputs import Failed, Finished
from rbees.workerd.engine.scripted import Script, ScriptedBackend
from rbees.workerd.engine.sequence import Work
from tests.support.scripted_models import Ticks

SEQUENCES = 2_500
"""Of each walk; four of them make ten thousand."""
BEGINNINGS = [b"", b"the system prompt of all the bees: ", b"the system prompt of all the ants: ", b"tell "]


class Walk:
    """Random short work for an engine with few cells; everything is looked at after each step."""

    def __init__(self, seed: int, *, divisible: bool) -> None:
        self.rng = random.Random(seed)
        self.backend = ScriptedBackend(Script(answer_tokens=5, divisible=divisible), slots=4, ctx=64, cells=110)
        self.engine = Engine(self.backend, slots=4, now=Ticks())
        self.open: dict[str, int] = {}
        """By key, the answers that have not ended."""
        self.made = 0
        self.ends: Counter[str] = Counter()
        self.forgotten = 0

    def turn(self) -> None:
        match self.rng.randrange(20):
            case 0 | 1 | 2 | 3 | 4 | 5 if len(self.open) < 9:
                self.submit()
            case 6 if self.open:
                self.engine.cancel(self.rng.choice(list(self.open)))
            case 7 if self.open:
                self.engine.pause(self.rng.choice(list(self.open)), self.rng.random() < 0.2)
            case 8:
                self.backend.interrupt()
            case _:
                kept = self.engine.load().cells_kept
                self.engine.step()
                self.forgotten += self.engine.load().cells_kept < kept
        self.look()

    def submit(self) -> None:
        key = f"job{self.made}"
        prompt = self.rng.choice(BEGINNINGS) + bytes(self.rng.choices(b"abc", k=self.rng.randrange(1, 9)))
        further = ((),) * self.rng.choice((0, 0, 0, 0, 1))
        deterministic = self.rng.random() < 0.02
        work = Work(key, tuple(prompt), (), self.rng.randrange(1, 7), Sampling(seed=self.made), deterministic, further=further)
        self.engine.submit(work)
        self.open[key] = len(work.choices)
        self.made += len(work.choices)

    def look(self) -> None:
        self.engine.check_integrity()
        load = self.engine.load()
        assert self.backend.cells_used == load.cells_used + load.cells_kept <= load.cells_total
        for output in self.engine.take_outputs():
            if isinstance(output, Finished):
                self.open[output.key] -= 1
                self.ends["finished"] += 1
            elif isinstance(output, Failed):
                assert output.error.code is ErrorCode.CANCELLED
                self.ends["cancelled"] += self.open.pop(output.key)
            if self.open.get(output.key) == 0:
                del self.open[output.key]

    def rest(self) -> None:
        for key in self.open:
            self.engine.pause(key, False)
        self.backend.rearm()
        for _ in range(1_000):
            if not self.engine.step() and not self.open:
                return
            self.look()
        raise AssertionError("somebody starves")


@pytest.mark.parametrize(("seed", "divisible"), [(1, True), (2, True), (3, True), (4, True), (5, False)])
def test_ten_thousand_sequences_leave_the_engine_whole(seed: int, divisible: bool) -> None:
    walk = Walk(seed, divisible=divisible)
    while walk.made < SEQUENCES:
        walk.turn()
    walk.rest()
    assert walk.ends["finished"] + walk.ends["cancelled"] == walk.made
    assert min(walk.ends["finished"], walk.ends["cancelled"]) > walk.made / 20
    assert walk.forgotten > walk.made / 20, "what was kept gave way"
