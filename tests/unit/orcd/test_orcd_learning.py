"""What the scheduler has learned outlives its process."""

from __future__ import annotations

import asyncio

import pytest

from rbees.orcd.learning import SAVE_EVERY_S, Keeper, recall
from rbees.orcd.scheduler.core import Scheduler
from rbees.orcd.scheduler.events import AttemptCompleted
from rbees.orcd.scheduler.learned import Learned, decode, encode
from rbees.orcd.scheduler.policy import Policy
from rbees.orcd.scheduler.speeds import Took
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.service.clock import ManualClock
from tests.simulation import facts
from tests.support.orcd_parts import Desk, settle
from tests.unit.orcd_scheduler.driver import NOVEL, Drive, spawned


def taught() -> Drive:
    """A scheduler that has seen a load and an answer."""
    drive = Drive()
    drive.report("a", models=(NOVEL,))
    spawn = spawned(drive.job("job-1", NOVEL, prompt_bytes=400))
    drive.report("a", facts.worker(spawn.worker_id, NOVEL), models=(NOVEL,), after_s=7.0)
    drive.send(AttemptCompleted("job-1", 1, Took(100, 0, 50, 1.0, 5.0)))
    return drive


def test_it_survives_being_written_down() -> None:
    learned = taught().scheduler.learned()
    assert decode(encode(learned)) == learned
    assert learned != Learned()


async def test_the_next_process_knows_what_the_last_one_learned() -> None:
    clock = ManualClock()
    drive = taught()
    async with Desk(clock) as desk:
        assert await recall(desk.store) == Learned()
        keeper = Keeper(drive.scheduler, desk.store, clock)
        await keeper.save()
        later = Scheduler(Policy(), learned=await recall(desk.store))
        assert later.learned() == drive.scheduler.learned()
        fresh = Drive()
        fresh.scheduler = later
        fresh.report("a", facts.worker("w9", NOVEL), models=(NOVEL,))
        plan = fresh.plan(fresh.spec("new", NOVEL, max_tokens=50, prompt_bytes=400))
        assert plan.done_in_s == pytest.approx(6.0, rel=0.1), "as long as the last one took"


async def test_what_cannot_be_read_is_learned_again() -> None:
    async with Desk(ManualClock()) as desk:
        await desk.store.keep_learned(b"something else", 1)
        assert await recall(desk.store) == Learned()


async def test_a_full_disk_costs_nothing_but_the_saving() -> None:
    clock = ManualClock()
    async with Desk(clock) as desk:
        keeper = Keeper(taught().scheduler, desk.store, clock)
        desk.database.failure = RbeesError(ErrorCode.STORAGE_FULL, "No room.")
        saving = asyncio.create_task(keeper.run())
        await settle()
        await clock.advance(SAVE_EVERY_S)
        await settle()
        assert not saving.done()
        desk.database.failure = None
        await clock.advance(SAVE_EVERY_S)
        await settle()
        saving.cancel()
        assert await recall(desk.store) != Learned()
