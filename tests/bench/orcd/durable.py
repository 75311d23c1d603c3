"""How many jobs a second are accepted, carried out and completed durably, what each costs, and how long it takes to submit one.

A job counts as complete when its worker has got the acknowledgement of its last event, which orcd sends after the commit.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Final

from tests.bench.orcd.raw_port import Caller
from tests.bench.orcd.stage import Fleet, Play, Stage, end_json, frame_of, job, own_cpu_s, serving, stage, token_json
from tests.bench.rows import Row, at_most
from tests.bench.timing import Samples

JOBS_GOAL: Final = 250.0
CPU_GOAL_MS: Final = 2.0
SUBMIT_GOAL_MS: Final = 50.0
CALLERS: Final = 32
TOKENS: Final = 8
WORKERS, SLOTS = 4, 16
DONE_S: Final = 10.0


@dataclass
class Work:
    """Jobs under way."""

    port: int
    accepted: int = 0
    completed: int = 0
    submit_s: list[float] = field(default_factory=list)
    under_way: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(4 * CALLERS))

    def __post_init__(self) -> None:
        self._one_ended = asyncio.Event()
        self.fleet = Fleet(WORKERS, SLOTS, self._begins, self._ended)

    def _begins(self, play: Play) -> None:
        play.open()
        tokens = [frame_of(seq, "token", token_json(seq - 2, "word ")) for seq in range(2, 2 + TOKENS)]
        play.seq += TOKENS + 1
        self.fleet.end(play, b"".join(tokens) + frame_of(play.seq, "end", end_json(TOKENS)))

    def _ended(self, play: Play) -> None:
        if self.fleet.plays.pop(play.job_id, None) is not None:
            self.completed += 1
            self.under_way.release()
            self._one_ended.set()

    async def all_done(self) -> None:
        """Return when every accepted job is complete. Raises TimeoutError where one is lost."""
        async with asyncio.timeout(DONE_S):
            while self.completed < self.accepted:
                self._one_ended.clear()
                await self._one_ended.wait()

    async def submit(self, caller: Caller) -> None:
        """One job."""
        begun = time.perf_counter()
        status, told = await caller.call("POST", "/v2/tasks", job(max_tokens=TOKENS))
        assert status == 202, told
        self.accepted += 1
        self.submit_s.append(time.perf_counter() - begun)


def measure(short: bool) -> list[Row]:
    """As many as go, then half the goal's rate."""
    seconds = 3.0 if short else 15.0
    with stage() as site:
        fastest = asyncio.run(most(site, seconds))
    with stage() as site:
        half = asyncio.run(_steady(site, JOBS_GOAL / 2, seconds))
    rate, cpu_ms, own = fastest
    return [
        Row(
            name="orcd.durable_jobs",
            value=rate,
            unit="/s",
            goal=JOBS_GOAL,
            least=True,
            holds=rate >= JOBS_GOAL,
            about=f"jobs of {TOKENS} tokens accepted, carried out and completed durably, `synchronous=FULL`, {CALLERS} submitters; "
            f"the load generator took {own:.0%} of the other core",
        ),
        at_most("orcd.durable_cpu", cpu_ms, "ms", CPU_GOAL_MS, "the same: processor time of orcd for each job, all its threads"),
        at_most(
            "orcd.submit",
            half.percentile(99) * 1000,
            "ms",
            SUBMIT_GOAL_MS,
            f"at {JOBS_GOAL / 2:.0f} jobs a second: from sending a job to its 202, p99 of {len(half.values)}; "
            f"median {half.median * 1000:.1f} ms",
        ),
    ]


async def most(site: Stage, seconds: float) -> tuple[float, float, float]:
    """Jobs a second, milliseconds of orcd for each, and this process's share of its core."""
    work = Work(site.port)
    async with serving(work.fleet, site.port), asyncio.TaskGroup() as group:
        submitters = [group.create_task(_submit_for_ever(work)) for _ in range(CALLERS)]
        await asyncio.sleep(1.5)
        done, cpu, own, begun = work.completed, site.cpu_s(), own_cpu_s(), time.perf_counter()
        await asyncio.sleep(seconds)
        jobs, passed = work.completed - done, time.perf_counter() - begun
        taken = (jobs / passed, (site.cpu_s() - cpu) / jobs * 1000, (own_cpu_s() - own) / passed)
        for submitter in submitters:
            submitter.cancel()
    return taken


async def _submit_for_ever(work: Work) -> None:
    caller = Caller(work.port)
    try:
        while True:
            await work.under_way.acquire()
            await work.submit(caller)
    finally:
        caller.close()


async def _steady(site: Stage, rate: float, seconds: float) -> Samples:
    """Times of submissions that come at their own moments, however long the ones before take."""
    work = Work(site.port)
    idle = [Caller(site.port) for _ in range(CALLERS)]

    async def one() -> None:
        caller = idle.pop() if idle else Caller(site.port)
        await work.submit(caller)
        idle.append(caller)

    async with serving(work.fleet, site.port):
        warm_s, begun, sent = 1.5, time.perf_counter(), 0
        async with asyncio.TaskGroup() as group:
            while (passed := time.perf_counter() - begun) < warm_s + seconds:
                while sent < passed * rate:
                    group.create_task(one())
                    sent += 1
                await asyncio.sleep(0.001)
        await work.all_done()
    for caller in idle:
        caller.close()
    return Samples(tuple(work.submit_s[round(warm_s * rate) :]))
