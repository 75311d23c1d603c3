"""The manual clock: who wakes, when and in which order, without a second passing."""

from __future__ import annotations

import asyncio

from rbees.service.clock import ManualClock, SystemClock


async def test_sleepers_wake_at_their_own_times_in_order() -> None:
    clock = ManualClock(monotonic=100.0)
    woken: list[tuple[str, float]] = []

    async def sleeper(name: str, seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append((name, clock.monotonic()))

    tasks = [asyncio.create_task(sleeper(*who)) for who in (("late", 3.0), ("early", 1.0), ("tie", 1.0), ("never", 9.0))]
    await clock.advance(5.0)
    assert woken == [("early", 101.0), ("tie", 101.0), ("late", 103.0)]
    assert clock.monotonic() == 105.0
    assert clock.next_due() == 109.0
    tasks[-1].cancel()
    await clock.advance(10.0)
    assert len(woken) == 3
    assert clock.next_due() is None


async def test_a_loop_of_sleeps_turns_once_for_each_interval() -> None:
    clock = ManualClock()
    seen: list[float] = []

    async def every_two_seconds() -> None:
        while True:
            await clock.sleep(2.0)
            seen.append(clock.monotonic())

    task = asyncio.create_task(every_two_seconds())
    await clock.advance(7.0)
    assert seen == [2.0, 4.0, 6.0]
    task.cancel()


async def test_no_time_to_sleep_still_lets_others_run() -> None:
    clock = ManualClock()
    await clock.sleep(0)
    await clock.sleep(-1)
    assert clock.monotonic() == 0.0


async def test_wall_time_moves_along_and_jumps_alone() -> None:
    clock = ManualClock(monotonic=50.0, unix_ms=1_000_000)
    assert clock.unix_ms() == 1_000_000
    await clock.advance(1.5)
    assert clock.unix_ms() == 1_001_500
    clock.jump_wall_clock(-3_600_000)
    assert (clock.unix_ms(), clock.monotonic()) == (1_001_500 - 3_600_000, 51.5)


def test_the_system_clock_reads_both() -> None:
    clock = SystemClock()
    assert clock.monotonic() <= clock.monotonic()
    assert clock.unix_ms() > 1_700_000_000_000
