"""Looking on: rounds that are made once for all, and only what has changed is sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from rbees.clients.cluster import cluster_rounds
from rbees.orcd.directory import Directory
from rbees.orcd.scheduler.core import Scheduler
from rbees.orcd.scheduler.events import Moment, PoolForgotten, PoolReported
from rbees.orcd.scheduler.policy import Policy
from rbees.orcd.watch import YOUNG_S, Watch
from rbees.protocol.cluster import ClusterStatus
from rbees.service.clock import ManualClock
from rbees.service.sse_parser import SseFrame, SseParser
from tests.support.host_facts import device
from tests.support.orcd_parts import Desk, settle, started, token


class Site:
    """A watch over a real scheduler, pools that report when they are told to, and what the watch had to look at."""

    def __init__(self, desk: Desk, clock: ManualClock) -> None:
        self.desk = desk
        self.clock = clock
        self.scheduler = Scheduler(Policy())
        self.directory = Directory(token=None, tls=None)
        self.problem: str | None = None
        self.looks = 0
        self.costs_s = 0.0
        self.watch = Watch(self, self.directory, desk.journal, clock, "1.2.3", lambda: self.problem)  # type: ignore[arg-type]

    def report(self, pool_id: str, free: int = 100) -> None:
        self.directory.put_pool(pool_id, endpoint=f"http://{pool_id}:1", dial=None, version="1", boot_id="b")
        event = PoolReported(pool_id, "b", False, (device(free=free),), (), ())
        self.scheduler.handle(event, self._moment())

    def forget(self, pool_id: str) -> None:
        self.directory.drop_pool(pool_id)
        self.scheduler.handle(PoolForgotten(pool_id), self._moment())

    def _moment(self) -> Moment:
        return Moment(self.clock.monotonic(), self.clock.unix_ms(), b"e" * 10)

    def pool_glances(self, *how: Any) -> Any:
        self.looks += 1
        self.clock._monotonic += self.costs_s
        return self.scheduler.pool_glances(*how)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.scheduler, name)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    clock = ManualClock(monotonic=1000.0)
    async with Desk(clock) as desk:
        site = Site(desk, clock)
        yield site
        await site.directory.close()


class Watcher:
    """Reads one stream; `kinds` are the events of each piece that came."""

    def __init__(self, pieces: AsyncGenerator[bytes]) -> None:
        self._pieces = pieces
        self._parser = SseParser()
        self.got: list[list[SseFrame]] = []
        self.ended = False
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async with aclosing(self._pieces) as pieces:
            async for piece in pieces:
                self.got.append(self._parser.feed(piece))
        self.ended = True

    @property
    def kinds(self) -> list[list[str]]:
        return [[frame.event for frame in piece] for piece in self.got]

    async def clusters(self) -> list[ClusterStatus]:
        async def frames() -> AsyncIterator[SseFrame]:
            for piece in self.got:
                for frame in piece:
                    yield frame

        return [one async for one in cluster_rounds("http://x", frames())]

    async def leave(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def test_first_comes_everything_then_what_has_changed(site: Site) -> None:
    site.report("a")
    site.report("b")
    watcher = Watcher(site.watch.changes(1.0))
    await settle()
    assert watcher.kinds == [["pool", "pool", "overview"]]
    await site.clock.advance(1.0)
    assert watcher.kinds[1:] == [["overview"]]
    site.report("b", free=50)
    await site.clock.advance(1.0)
    assert watcher.kinds[2:] == [["pool", "overview"]]
    site.forget("a")
    site.problem = "It is shutting down."
    await site.clock.advance(1.0)
    assert watcher.kinds[3:] == [["gone", "overview"]]
    first, *_, last = await watcher.clusters()
    assert [pool.pool_id for pool in first.pools] == ["a", "b"]
    assert [(pool.pool_id, pool.devices[0].free_bytes) for pool in last.pools] == [("b", 50)]
    assert (last.overview.pools, last.overview.problem, last.overview.version) == (1, "It is shutting down.", "1.2.3")
    await watcher.leave()
    assert site.watch.watchers == 0


async def test_many_watchers_cost_one_look(site: Site) -> None:
    site.report("a")
    watchers = []
    for _ in range(20):
        watchers.append(Watcher(site.watch.changes(1.0)))
        await settle()
        await site.clock.advance(0.03)
    before = site.looks
    await site.clock.advance(10.0)
    assert site.looks - before == 10, "they come together, whenever each of them began"
    assert len({len(watcher.got) for watcher in watchers}) == 1
    for watcher in watchers:
        await watcher.leave()


async def test_a_look_that_takes_long_is_not_repeated_soon(site: Site) -> None:
    site.costs_s = 0.1
    watcher = Watcher(site.watch.changes(0.5))
    await settle()
    await site.clock.advance(50.0)
    assert 8 <= site.looks <= 11, "a fiftieth of the time at most"
    assert len(watcher.got) > 90, "the watcher is told all the same that orcd lives"
    await watcher.leave()


async def test_who_reads_slowly_is_sent_what_is_newest_and_what_is_gone(site: Site) -> None:
    site.report("a")
    site.report("b")
    pieces = site.watch.changes(1.0)
    await anext(pieces)
    other = Watcher(site.watch.changes(1.0))
    await settle()
    for free in range(5):
        site.report("b", free=free)
        await site.clock.advance(1.0)
    site.forget("a")
    await site.clock.advance(5.0)
    waiting = asyncio.ensure_future(anext(pieces))
    await site.clock.advance(1.0)
    frames = SseParser().feed(await waiting)
    assert sorted(frame.event for frame in frames) == ["gone", "overview", "pool"]
    assert b'"free_bytes":4' in next(frame.data for frame in frames if frame.event == "pool")
    await pieces.aclose()
    await other.leave()


async def test_a_pool_that_comes_back_is_a_pool_again(site: Site) -> None:
    site.report("a")
    watcher = Watcher(site.watch.changes(1.0))
    await settle()
    site.forget("a")
    await site.clock.advance(1.0)
    site.report("a")
    await site.clock.advance(3.0)
    assert watcher.kinds[1:3] == [["gone", "overview"], ["pool", "overview"]]
    late = Watcher(site.watch.changes(1.0))
    await settle()
    assert late.kinds == [["pool", "overview"]]
    for one in (watcher, late):
        await one.leave()


async def test_all_streams_end_when_orcd_does(site: Site) -> None:
    watcher = Watcher(site.watch.changes(60.0))
    await settle()
    site.watch.close()
    await settle()
    assert watcher.ended
    assert site.watch.watchers == 0
    late = Watcher(site.watch.changes(1.0))
    await settle()
    assert (late.ended, late.got) == (True, [])


async def test_jobs_and_rates_are_told(site: Site) -> None:
    job = await site.desk.running()
    await site.desk.job("two")
    site.desk.take(job, 1, 1, started())
    for index in range(10):
        site.desk.take(job, 1, index + 2, token(index))
    found = site.watch.status().overview
    assert (found.jobs.queued, found.jobs.dispatched, found.jobs.running) == (1, 0, 1)
    assert found.rates.tokens_per_s == 10 / found.rates.window_s
    assert site.desk.journal.tokens.per_s("worker-a") == 10 / found.rates.window_s
    assert found.uptime_s == 0.0
    assert YOUNG_S < 0.5, "the shortest interval gets a round of its own each time"
