"""The engine's thread when things go wrong: an engine that fails, one that hangs, events that nobody can take."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from rbees.protocol.sampling import Sampling
from rbees.workerd.engine.backend import Logits, Rows
from rbees.workerd.engine.engine import Engine
from rbees.workerd.engine.outputs import Failed, Finished, Output
from rbees.workerd.engine.scripted import Script, ScriptedBackend
from rbees.workerd.engine.sequence import Work
from rbees.workerd.engine_thread import EXIT_ENGINE_DIED, EngineThread
from tests.support.scripted_models import Ticks

PATIENCE_S = 30.0
WORK = Work("a", tuple(b"of bees"), (), 4, Sampling(seed=1))


class Bench:
    """An engine thread whose process ends only in a list."""

    def __init__(self, patience_s: float = 20.0, **script: Any) -> None:
        self.backend = ScriptedBackend(Script(**script), slots=2, ctx=64, cells=128)
        self.exits: asyncio.Queue[int] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        self.engine = Engine(self.backend, slots=2, now=Ticks())
        self.thread = EngineThread(
            self.engine,
            self.backend,
            end_process=lambda code: loop.call_soon_threadsafe(self.exits.put_nowait, code),
            stop_patience_s=patience_s,
        )
        self.outputs: list[Output] = []
        self.finished, self.failed = asyncio.Event(), asyncio.Event()

    def take(self, outputs: list[Output]) -> None:
        self.outputs += outputs
        if any(isinstance(output, Finished) for output in outputs):
            self.finished.set()
        if any(isinstance(output, Failed) for output in outputs):
            self.failed.set()


@asynccontextmanager
async def held_decode(bench: Bench) -> AsyncIterator[threading.Event]:
    """The backend's decode call stands, deaf to interrupts, until the context is left; the event tells that it was called."""
    entered, leave = threading.Event(), threading.Event()
    decode = bench.backend.decode

    def standing(rows: Rows) -> Any:
        entered.set()
        leave.wait()
        return decode(rows)

    bench.backend.decode = standing  # type: ignore[method-assign]
    try:
        yield entered
    finally:
        leave.set()


async def test_stopping_ends_the_thread_and_nothing_else() -> None:
    bench = Bench(prefill_tokens_per_second=0.01)
    bench.thread.start(bench.take)
    bench.thread.submit(WORK)
    async with asyncio.timeout(PATIENCE_S):
        await bench.thread.stop()
    assert bench.exits.empty()


async def test_an_engine_that_hangs_is_not_waited_for() -> None:
    bench = Bench(patience_s=0.2)
    async with asyncio.timeout(PATIENCE_S), held_decode(bench) as entered:
        bench.thread.start(bench.take)
        bench.thread.submit(WORK)
        await asyncio.to_thread(entered.wait)
        await bench.thread.stop()
        assert await bench.exits.get() == EXIT_ENGINE_DIED
    # Here the process goes on, and so does the thread, which may not outlive the loop that it tells of its end.
    await asyncio.to_thread(bench.thread._thread.join)


async def test_an_engine_that_fails_ends_the_process() -> None:
    bench = Bench()

    def failing(rows: Rows) -> Logits:
        raise AssertionError("broken")

    bench.backend.decode = failing  # type: ignore[method-assign]
    bench.thread.start(bench.take)
    bench.thread.submit(WORK)
    async with asyncio.timeout(PATIENCE_S):
        assert await bench.exits.get() == EXIT_ENGINE_DIED


async def test_events_that_cannot_be_delivered_end_the_process() -> None:
    bench = Bench()

    def refuse(_outputs: list[Output]) -> None:
        raise AssertionError("broken")

    bench.thread.start(refuse)
    bench.thread.submit(WORK)
    async with asyncio.timeout(PATIENCE_S):
        assert await bench.exits.get() == EXIT_ENGINE_DIED
        await bench.thread.stop()


async def test_the_counter_moves_while_there_is_nothing_to_do() -> None:
    bench = Bench()
    bench.thread.start(bench.take)
    bench.thread.submit(WORK)
    async with asyncio.timeout(PATIENCE_S):
        await bench.finished.wait()
        before = bench.thread.step
        while bench.thread.step == before:  # noqa: ASYNC110 - another thread's counter
            await asyncio.sleep(0.05)
        await bench.thread.stop()


async def test_what_is_cancelled_is_told_before_the_step_of_another() -> None:
    bench = Bench()
    bench.thread.start(bench.take)
    bench.thread.submit(Work("cancelled", tuple(b"of moths"), (), 40, Sampling(seed=1)))
    bench.thread.pause("cancelled", True)
    async with held_decode(bench) as entered:
        bench.thread.cancel("cancelled")
        bench.thread.submit(WORK)
        await asyncio.to_thread(entered.wait)
        async with asyncio.timeout(PATIENCE_S):
            await bench.failed.wait()
        assert bench.thread.load.slots_used == 0, "the other's step has not come back"
    await bench.finished.wait()
    await bench.thread.stop()


@pytest.mark.parametrize("divisible", [True, False])
async def test_who_leaves_amid_another_s_prompt_does_not_wait_for_it(divisible: bool) -> None:
    """But where the others would lose all that they have computed, they are not disturbed."""
    bench = Bench(prefill_tokens_per_second=0.01, divisible=divisible)
    bench.thread.start(bench.take)
    bench.thread.submit(Work("stream", (65,), (), 60, Sampling(seed=1, ignore_eos=True)))
    bench.thread.submit(Work("long", tuple(b"of all the bees"), (), 4, Sampling(seed=1)))
    while "stream" not in bench.engine.breakable and "long" not in bench.engine.breakable:  # noqa: ASYNC110 - another thread's
        await asyncio.sleep(0.01)
    bench.thread.cancel("stream")
    try:
        async with asyncio.timeout(PATIENCE_S if divisible else 0.5):
            await bench.failed.wait()
        assert divisible
        assert [output.key for output in bench.outputs if isinstance(output, Failed)] == ["stream"]
    except TimeoutError:
        assert not divisible
    async with asyncio.timeout(PATIENCE_S):
        await bench.thread.stop()
