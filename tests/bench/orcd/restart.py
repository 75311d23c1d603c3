"""How soon an orcd that was killed with thousands of queued jobs says that it is ready again."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from tests.bench.orcd.raw_port import Caller
from tests.bench.orcd.stage import Fleet, Stage, job, pinned, stage
from tests.bench.rows import Row, at_most
from tests.bench.timing import Samples
from tests.support.home import is_ready
from tests.support.raw_http import request

READY_GOAL_S: Final = 1.5
JOBS: Final = 10_000
CALLERS: Final = 32


def measure(short: bool) -> list[Row]:
    """Kill it and start it again, several times over the same jobs."""
    jobs, rounds = (1_000, 2) if short else (JOBS, 5)
    with stage(RBEES_ORCD_QUEUE_LIMIT="0") as site:
        asyncio.run(_fill(site, jobs))
        ready = Samples(tuple(_restart(site) for _ in range(rounds)))
        figures = request("GET", f"{site.home.url}/metrics").body.decode()
        assert f'rbees_jobs{{status="queued"}} {float(jobs)}' in figures, "every job is there again"
    return [
        at_most(
            "orcd.restart",
            ready.median,
            "s",
            READY_GOAL_S,
            f"from starting orcd, killed before with {jobs} queued jobs, to its first 200 on `/readyz`, median of {rounds}",
            spread=ready.spread,
        )
    ]


async def _fill(site: Stage, jobs: int) -> None:
    """Accept the jobs; their pool has no worker and starts none."""
    fleet = Fleet(1, 1, lambda _: None, lambda _: None)
    await fleet.listen()
    first = Caller(site.port)
    await fleet.register(first, ready=False)
    left = iter(range(jobs))

    async def submit(caller: Caller) -> None:
        for _ in left:
            status, told = await caller.call("POST", "/v2/tasks", job(max_tokens=16))
            assert status == 202, told
        caller.close()

    await asyncio.gather(*(submit(Caller(site.port)) for _ in range(CALLERS)))
    first.close()
    fleet.close()


def _restart(site: Stage) -> float:
    site.daemon.kill()
    with pinned(0):
        begun = time.perf_counter()
        site.daemon = site.home.serve_orcd(site.port, {"RBEES_ORCD_QUEUE_LIMIT": "0"})
    while not is_ready(site.home.url):
        time.sleep(0.01)
    return time.perf_counter() - begun
