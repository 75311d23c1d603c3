"""A stall of this process is told once, by whichever comes first, and to everybody."""

from __future__ import annotations

import pytest

from rbees.orcd.stalls import LOOK_S, STALL_S, Stalls
from rbees.service.clock import ManualClock


class Ears:
    """Two listeners of one clock's stalls."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.stalls = Stalls(self.clock.monotonic)
        self.heard: list[float] = []
        self.also_heard: list[float] = []
        self.stalls.tell(self.heard.append)
        self.stalls.tell(self.also_heard.append)

    async def stand_still(self, seconds: float) -> None:
        await self.clock.advance(seconds)


@pytest.fixture
def ears() -> Ears:
    ears = Ears()
    ears.stalls.awake()
    return ears


async def test_whichever_looks_first_tells_everybody_once(ears: Ears) -> None:
    await ears.stand_still(6.0)
    ears.stalls.look()
    ears.stalls.look()
    ears.stalls.awake()
    assert ears.heard == ears.also_heard == [6.0 - LOOK_S]


async def test_a_timer_tells_as_well(ears: Ears) -> None:
    await ears.stand_still(6.0)
    ears.stalls.awake()
    ears.stalls.look()
    assert ears.heard == [6.0 - LOOK_S]


async def test_coming_a_little_late_is_no_stall(ears: Ears) -> None:
    for _ in range(20):
        await ears.stand_still(LOOK_S + STALL_S / 2)
        ears.stalls.look()
        ears.stalls.awake()
    assert ears.heard == []


async def test_a_turn_that_does_not_end_is_a_stall_however_often_it_looks(ears: Ears) -> None:
    for _ in range(50):
        await ears.stand_still(0.1)
        ears.stalls.look()
    ears.stalls.awake()
    assert 5.0 - LOOK_S - STALL_S < sum(ears.heard) <= 5.0 - LOOK_S


async def test_what_comes_before_the_first_timer_is_the_start() -> None:
    ears = Ears()
    await ears.stand_still(30.0)
    ears.stalls.look()
    ears.stalls.awake()
    assert ears.heard == []
