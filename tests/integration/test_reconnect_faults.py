"""Many pools that come back at once, to an orcd that was killed: real links of pool daemons, real calls, no hosts behind them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rbees.clients.orcd import OrcdClient
from rbees.poold.heartbeat import Member, OrcdLink
from rbees.protocol.pools import Device, ModelFacts, UnusableModel, WorkerFacts
from rbees.protocol.workers import WorkerReady
from rbees.service.clock import SystemClock
from tests.simulation import facts
from tests.support.fault_matrix import quantile, reached, size
from tests.support.home import Daemon, Home, free_port
from tests.support.raw_http import request

POOLS = size(60, 200)
WORKERS = 2
MODEL = facts.model("small", 1 << 30)
PATIENCE_S = 60.0


class Host:
    """What a pool would measure: one device and some ready workers."""

    def __init__(self, number: int) -> None:
        self._workers = tuple(facts.worker(f"worker-{number}-{index}", MODEL) for index in range(WORKERS))

    def devices(self) -> tuple[Device, ...]:
        return (facts.device("cpu", 8 << 30, 4 << 30),)

    def models(self) -> tuple[ModelFacts, ...]:
        return (MODEL,)

    def unusable(self) -> tuple[UnusableModel, ...]:
        return ()

    def workers(self) -> tuple[WorkerFacts, ...]:
        return self._workers

    def ready(self) -> tuple[WorkerReady, ...]:
        return tuple(_ready(worker) for worker in self._workers)


def _ready(worker: WorkerFacts) -> WorkerReady:
    return WorkerReady(
        worker_id=worker.worker_id,
        nonce="nonce",
        pid=1,
        model_ref=worker.model_ref,
        model_sha256=worker.model_sha256,
        uri="http://127.0.0.1:9",
        secret="rbk_secret",
        backend="cpu",
        memory_bytes=1,
        memory_architecture="ram",
        capabilities=(),
        slots=worker.slots,
        ctx=worker.ctx,
        load_ms=1.0,
    )


@asynccontextmanager
async def _links(url: str) -> AsyncIterator[list[OrcdLink]]:
    clock = SystemClock()
    members = [Member(f"pool-{number}", lambda: "http://127.0.0.1:9", f"boot-{number}") for number in range(POOLS)]
    links = [
        OrcdLink(member, Host(number), OrcdClient, clock, url, callers_are_known=True) for number, member in enumerate(members)
    ]
    tasks = [asyncio.create_task(link.run()) for link in links]
    try:
        yield links
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _until_all_are_in(links: list[OrcdLink], orcd: Daemon) -> float:
    """Seconds until every pool is registered and orcd counts all of their workers as ready."""
    begun = time.monotonic()
    while not all(link.registered for link in links) or await asyncio.to_thread(_ready_workers, orcd.url) < POOLS * WORKERS:
        waited_s = time.monotonic() - begun
        missing = [link.problem for link in links if not link.registered]
        assert waited_s < PATIENCE_S, f"{len(missing)} are not in: {missing[:3]}; orcd said: {orcd.said[-500:]}"
        await asyncio.sleep(0.05)
    return time.monotonic() - begun


def _ready_workers(url: str) -> int:
    return sum(worker["state"] == "ready" for worker in request("GET", f"{url}/v2/workers").json["workers"])


async def _answer_times(url: str, until: asyncio.Event) -> list[float]:
    """How long `/livez` took, asked again and again."""
    taken: list[float] = []
    while not until.is_set():
        begun = time.monotonic()
        answer = await asyncio.to_thread(request, "GET", f"{url}/livez")
        assert answer.status == 200
        taken.append((time.monotonic() - begun) * 1000)
        await asyncio.sleep(0.02)
    return taken


async def test_pools_that_come_back_all_at_once_are_let_in_by_and_by() -> None:
    with Home() as home:
        port = free_port()
        orcd = await asyncio.to_thread(home.serve_orcd, port)
        async with _links(orcd.url) as links:
            await _until_all_are_in(links, orcd)
            orcd.kill()
            await asyncio.to_thread(orcd.wait)
            print(f"orcd killed with {POOLS} pools of {WORKERS} workers each")
            orcd = await asyncio.to_thread(home.serve_orcd, port)
            done = asyncio.Event()
            answers = asyncio.create_task(_answer_times(orcd.url, done))
            steady_s = await _until_all_are_in(links, orcd)
            done.set()
            reached("reconnect", "pools", POOLS)
            reached("reconnect", "all_in_after", steady_s, "s", goal=10.0, strict=False)
            reached("reconnect", "livez_p99", quantile(await answers, 0.99), "ms", goal=100.0, strict=False)
            states = [pool["state"] for pool in request("GET", f"{orcd.url}/v2/pools").json["pools"]]
            reached("reconnect", "pools_not_live", POOLS - states.count("live"), goal=0)
