"""When readers are woken: the first token at once, those that follow together, and none is ever left asleep."""

from __future__ import annotations

import asyncio

from rbees.workerd.waking import Waking

LONG_S = 3600.0
"""Nothing that waits for so long comes within a test."""


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_after_a_pause_readers_are_woken_at_once_and_together() -> None:
    waking = Waking(LONG_S)
    readers = [asyncio.Event() for _ in range(3)]
    for reader in readers:
        waking.soon(reader)
    await turns()
    assert all(reader.is_set() for reader in readers)


async def test_what_comes_soon_after_waits_for_the_next_time_and_then_all_of_it_goes() -> None:
    waking = Waking(0.2)
    first, second = asyncio.Event(), asyncio.Event()
    waking.soon(first)
    await first.wait()
    woken_s = asyncio.get_running_loop().time()
    first.clear()
    for reader in (first, second, first):
        waking.soon(reader)
    await turns()
    assert not first.is_set()
    assert not second.is_set()
    await first.wait()
    assert second.is_set()
    assert asyncio.get_running_loop().time() - woken_s > 0.15
