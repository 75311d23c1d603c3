"""The single writer: order, ticks, stalls."""

from __future__ import annotations

import asyncio

from rbees.orcd.executor import RecordingExecutor
from rbees.orcd.figures import Figures
from rbees.orcd.loop import SchedulerLoop
from rbees.orcd.scheduler.effects import Effect, StopWorker
from rbees.orcd.scheduler.events import Event, LoopStalled, Moment, PoolForgotten, Ticked
from rbees.orcd.stalls import Stalls
from rbees.service.clock import ManualClock
from rbees.service.metrics import Metrics
from tests.support.orcd_parts import StallingClock


class Echo:
    """Answers each event with one effect."""

    def __init__(self) -> None:
        self.heard: list[tuple[Event, Moment]] = []

    def handle(self, event: Event, moment: Moment) -> list[Effect]:
        self.heard.append((event, moment))
        return [StopWorker("pool", event.pool_id, "because")] if isinstance(event, PoolForgotten) else []


def _loop(clock: ManualClock) -> tuple[SchedulerLoop, Echo, RecordingExecutor]:
    echo, executor = Echo(), RecordingExecutor()
    loop = SchedulerLoop(echo, executor, clock, Figures(Metrics("orcd")), Stalls(clock.monotonic), lambda size: b"e" * size)
    return loop, echo, executor


def _has_work(loop: SchedulerLoop) -> bool:
    return loop.has_work


async def test_events_are_dealt_with_in_the_order_they_came() -> None:
    loop, echo, executor = _loop(ManualClock(monotonic=3.0, unix_ms=7))
    running = asyncio.create_task(loop.run())
    for name in ("a", "b", "c"):
        loop.post(PoolForgotten(name))
    for _ in range(5):
        await asyncio.sleep(0)
    running.cancel()
    assert executor.take() == [StopWorker("pool", name, "because") for name in ("a", "b", "c")]
    assert echo.heard[0][1] == Moment(3.0, 7, b"e" * 10)


def test_a_turn_deals_with_one_event() -> None:
    loop, echo, _ = _loop(ManualClock())
    assert not loop.take_turn()
    loop.post(Ticked())
    assert _has_work(loop)
    assert loop.take_turn()
    assert not _has_work(loop)
    assert [event for event, _ in echo.heard] == [Ticked()]


async def test_a_stall_is_told_before_the_tick_that_follows_it() -> None:
    clock = StallingClock()
    loop, echo, _ = _loop(clock)
    ticking = asyncio.create_task(loop.tick())
    await clock.advance(1.0)
    clock.late_s = 4.0
    await clock.advance(5.0)
    ticking.cancel()
    while loop.take_turn():
        pass
    events = [event for event, _ in echo.heard]
    (stalled,) = [event for event in events if isinstance(event, LoopStalled)]
    assert 3.9 < stalled.seconds < 4.1
    assert events[events.index(stalled) + 1] == Ticked()


async def test_a_stall_is_told_before_what_came_in_meanwhile_is_judged() -> None:
    clock = StallingClock()
    loop, echo, _ = _loop(clock)
    clock.late_s = 100.0
    clock_woke = asyncio.create_task(loop.tick())
    await clock.advance(101.0)
    while loop.take_turn():
        pass
    echo.heard.clear()
    await clock.advance(6.0)
    # Sockets were read before any timer came round.
    loop.post(PoolForgotten("a"))
    while loop.take_turn():
        pass
    clock_woke.cancel()
    assert [type(event) for event, _ in echo.heard] == [LoopStalled, PoolForgotten]
