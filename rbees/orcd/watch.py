"""The cluster for those who look on: one document, or a stream of what changes, made once for all who watch.

What is shown is made in rounds. A round keeps each pool as the frame that is sent, with the number of the round in which it
changed last; a watcher is nothing but the number of the last round that it was sent. So one that reads slowly costs no memory and
misses only what is over, and twenty cost orcd hardly more than one. Watchers come at whole multiples of their interval, which makes
them come together; a round that is young serves all of them, and after one that took long the next has to wait, so that looking on
never takes more than a small share of orcd's time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Final

from rbees.orcd.directory import Directory
from rbees.orcd.journal import Journal
from rbees.orcd.scheduler.core import Scheduler
from rbees.orcd.scheduler.glance import Address, RunningJob
from rbees.orcd.throughput import WINDOW_S
from rbees.protocol import codec
from rbees.protocol.cluster import (
    ClusterStatus,
    JobCounts,
    Overview,
    PoolChanged,
    PoolGlance,
    PoolGone,
    Rates,
    RunningGlance,
)
from rbees.service.clock import Clock
from rbees.service.sse import frame

YOUNG_S: Final = 0.25
"""A round that is no older serves another watcher too."""
SHARE: Final = 1 / 50
"""Of orcd's time, at most so much goes into rounds."""


@dataclass(slots=True)
class _Kept:
    """A pool as it was sent last, and the round in which that became so; gone where `pool` is None."""

    pool: PoolGlance | None
    data: bytes
    round: int


class Watch:
    """What the route about the cluster does. `close` ends all streams."""

    def __init__(
        self,
        scheduler: Scheduler,
        directory: Directory,
        journal: Journal,
        clock: Clock,
        version: str,
        problem: Callable[[], str | None],
    ) -> None:
        self._scheduler = scheduler
        self._directory = directory
        self._journal = journal
        self._clock = clock
        self._version = version
        self._problem = problem
        self._began_s = clock.monotonic()
        self._round = 0
        self._good_until_s = float("-inf")
        self._pools: dict[str, _Kept] = {}
        self._overview = b""
        self._watchers: dict[int, int] = {}
        """By watcher: the last round that it was sent."""
        self._next_watcher = 0
        self._closed = asyncio.Event()

    @property
    def watchers(self) -> int:
        """How many streams are open."""
        return len(self._watchers)

    def status(self) -> ClusterStatus:
        """All of it, now."""
        pools = tuple(self._glances())
        return ClusterStatus(overview=self._look(len(pools)), pools=pools)

    async def changes(self, every_s: float) -> AsyncGenerator[bytes]:
        """Frames: everything, then every `every_s` seconds what has changed; ends when orcd does."""
        watcher, self._next_watcher = self._next_watcher, self._next_watcher + 1
        self._watchers[watcher] = 0
        try:
            while not self._closed.is_set():
                self._refresh()
                piece = self._since(self._watchers[watcher])
                self._watchers[watcher] = self._round
                yield piece
                await self._sleep(every_s - self._clock.monotonic() % every_s)
        finally:
            del self._watchers[watcher]

    def close(self) -> None:
        """End every stream where it stands; watchers come again and are sent everything."""
        self._closed.set()

    async def _sleep(self, seconds: float) -> None:
        waits = [asyncio.ensure_future(wait) for wait in (self._clock.sleep(seconds), self._closed.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    # ---- rounds --------------------------------------------------------------------------------------------------------

    def _refresh(self) -> None:
        """Look again, unless that was done just now."""
        begun = self._clock.monotonic()
        if begun < self._good_until_s:
            return
        self._round += 1
        seen = {pool.pool_id: pool for pool in self._glances()}
        for pool_id, pool in seen.items():
            known = self._pools.get(pool_id)
            if known is None or known.pool != pool:
                data = frame(None, "pool", codec.encode(PoolChanged(pool=pool)))
                self._pools[pool_id] = _Kept(pool, data, self._round)
        self._take_out(seen)
        self._overview = frame(None, "overview", codec.encode(self._look(len(seen))))
        took_s = self._clock.monotonic() - begun
        self._good_until_s = begun + max(YOUNG_S, took_s / SHARE)

    def _take_out(self, seen: dict[str, PoolGlance]) -> None:
        """Pools that are gone are kept as such until every watcher has been told."""
        told = min(self._watchers.values(), default=self._round)
        for pool_id in [pool_id for pool_id in self._pools if pool_id not in seen]:
            kept = self._pools[pool_id]
            if kept.pool is not None:
                self._pools[pool_id] = _Kept(None, frame(None, "gone", codec.encode(PoolGone(pool_id=pool_id))), self._round)
            elif kept.round <= told:
                del self._pools[pool_id]

    def _since(self, position: int) -> bytes:
        """Everything that has changed after a round. Who was sent nothing yet need not hear of what is gone."""
        changed = (kept.data for kept in self._pools.values() if kept.round > position and (kept.pool is not None or position > 0))
        return b"".join([*changed, self._overview])

    # ---- looking -------------------------------------------------------------------------------------------------------

    def _glances(self) -> list[PoolGlance]:
        return list(self._scheduler.pool_glances(self._began_s, self._address, self._pace))

    def _pace(self, worker_id: str) -> float:
        return round(self._journal.tokens.per_s(worker_id), 1)

    def _address(self, pool_id: str) -> Address | None:
        found = self._directory.find_pool(pool_id)
        return None if found is None else Address(found.client.url, found.version, found.clock_ahead_ms)

    def _look(self, pools: int) -> Overview:
        now_s, journal = self._clock.monotonic(), self._journal
        counts = journal.counts
        return Overview(
            version=self._version,
            at_ms=self._clock.unix_ms(),
            uptime_s=round(now_s - self._began_s, 3),
            problem=self._problem(),
            pools=pools,
            jobs=JobCounts(queued=counts["queued"], dispatched=counts["dispatched"], running=counts["running"]),
            waiting=self._scheduler.waiting_glances(now_s),
            running=tuple(self._running(job, now_s) for job in self._scheduler.running_jobs() if job.job_id in journal.live),
            rates=Rates(
                window_s=WINDOW_S,
                jobs_per_s=round(journal.ends.total_per_s(), 2),
                tokens_per_s=round(journal.tokens.total_per_s(), 1),
            ),
        )

    def _running(self, job: RunningJob, now_s: float) -> RunningGlance:
        live = self._journal.live[job.job_id]
        return RunningGlance(
            job_id=job.job_id,
            status=live.status,
            kind=live.stream.kind,
            model=job.model,
            priority=job.priority,
            pool_id=job.attempt.pool_id,
            worker_id=job.attempt.worker_id,
            attempt=job.attempt.epoch,
            running_s=None if job.since_s is None else round(now_s - job.since_s, 3),
            tokens=live.stream.tokens,
        )
