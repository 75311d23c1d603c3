"""What it costs orcd that people look on: a hundred pools that report, first with nobody at `/v2/status?watch=`, then with many."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from rbees.protocol.codec import encode
from rbees.protocol.pools import Device, Heartbeat, RegisterRequest, WorkerFacts
from tests.bench.orcd.raw_port import Caller, RawPort
from tests.bench.orcd.stage import MODEL, Stage, own_cpu_s, stage
from tests.bench.rows import Row, at_most
from tests.bench.timing import Samples
from tests.support.host_facts import GIB, device, scripted
from tests.support.raw_http import request

POOLS, DEVICES, WORKERS = 100, 3, 4
WATCHERS: Final = 20
EVERY_S: Final = 1.0
HEARTBEAT_S: Final = 2.0
TRIES: Final = 30
"""To register: pools that come all at once are let in by and by."""
GOAL_PERCENT: Final = 2.0
"""Of one core, for all watchers together."""


class Onlooker:
    """Somebody who watches and only counts what comes."""

    def __init__(self) -> None:
        self.rounds = 0
        self.bytes = 0

    async def look(self, port: int) -> RawPort:
        """Open the stream."""
        _, there = await asyncio.get_running_loop().create_connection(lambda: RawPort(_whole, self._flows), "127.0.0.1", port)
        there.write(b"GET /v2/status?watch=%g HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" % EVERY_S)
        return there

    def _flows(self, data: bytes) -> None:
        self.bytes += len(data)
        self.rounds += data.count(b"event: overview")


def _whole(_port: RawPort, head: bytes, _body: bytes) -> None:
    raise AssertionError(head)


def measure(short: bool) -> list[Row]:
    """The difference that watchers make, in windows that take turns with windows without any."""
    pairs, seconds = (2, 4.0) if short else (6, 10.0)
    with stage() as site:
        windows, onlookers, own = asyncio.run(_in_turns(site, pairs, seconds))
        size = len(request("GET", f"{site.home.url}/v2/status").body)
    added = Samples(tuple((watched - alone) * 100 for alone, watched in windows))
    alone, watched = (Samples(values).median for values in zip(*windows, strict=True))
    rounds = sum(one.rounds for one in onlookers) / len(onlookers) / seconds
    about = (
        f"processor time of orcd for {WATCHERS} watchers of {POOLS} pools with {DEVICES} devices and {WORKERS} workers each, every "
        f"{EVERY_S:g} s ({rounds:.2f} rounds a second came to each), median of {pairs} windows of {seconds:g} s in turns with as "
        f"many without watchers: with the heartbeats {watched:.1%} of its core beside {alone:.1%}; a whole status has "
        f"{size / 1000:.0f} kB, the load generator took {own:.0%} of the other core"
    )
    sent = sum(one.bytes for one in onlookers) / len(onlookers) / seconds / 1000
    traffic = f"the same: what comes to each watcher in a second, everything at the beginning of its {seconds:g} s included"
    return [
        at_most("orcd.watch_cpu", added.median, "% of a core", GOAL_PERCENT, about, spread=added.spread),
        at_most("orcd.watch_traffic", sent, "kB/s", None, traffic),
    ]


async def _in_turns(site: Stage, pairs: int, seconds: float) -> tuple[list[tuple[float, float]], list[Onlooker], float]:
    """For each pair the shares of a core without and with watchers, the watchers of all pairs, and the load generator's share."""
    there = [asyncio.Event() for _ in range(POOLS)]
    pools = [asyncio.create_task(_report(site.port, number, one)) for number, one in enumerate(there)]
    await asyncio.gather(*(one.wait() for one in there))
    await asyncio.sleep(seconds)
    windows, onlookers, own_s = [], [], own_cpu_s()
    for _ in range(pairs):
        alone = await _share(site, seconds)
        there_now = [Onlooker() for _ in range(WATCHERS)]
        ports = [await one.look(site.port) for one in there_now]
        windows.append((alone, await _share(site, seconds)))
        onlookers += there_now
        for port in ports:
            port.close()
        await asyncio.sleep(HEARTBEAT_S)
    own = (own_cpu_s() - own_s) / (pairs * (2 * seconds + HEARTBEAT_S))
    for pool in pools:
        pool.cancel()
    await asyncio.gather(*pools, return_exceptions=True)
    return windows, onlookers, own


async def _share(site: Stage, seconds: float) -> float:
    """Of one core, what orcd takes for so long."""
    begun, before_s = time.monotonic(), site.cpu_s()
    await asyncio.sleep(seconds)
    return (site.cpu_s() - before_s) / (time.monotonic() - begun)


async def _report(port: int, number: int, there: asyncio.Event) -> None:
    """A pool that registers and reports on, at its own moment, always with other figures."""
    pool_id = f"pool-{number:03}"
    await asyncio.sleep(number / POOLS * HEARTBEAT_S)
    caller = Caller(port)
    try:
        await _register(caller, pool_id)
        there.set()
        seq = 0
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            seq += 1
            beat = Heartbeat(
                sent_at_ms=0, boot_id="b", seq=seq, devices=_devices(seq), models=(scripted(MODEL),), workers=_workers(pool_id)
            )
            status, told = await caller.call("POST", f"/v2/pools/{pool_id}/heartbeat", encode(beat))
            assert status in {204, 404}, told
    finally:
        caller.close()


async def _register(caller: Caller, pool_id: str) -> None:
    said = RegisterRequest(
        pool_id=pool_id,
        endpoint="http://127.0.0.1:9",
        version="1",
        boot_id="b",
        devices=_devices(0),
        models=(scripted(MODEL),),
        workers=_workers(pool_id),
    )
    body = encode(said)
    for _ in range(TRIES):
        status, told = await caller.call("POST", "/v2/pools/register", body)
        if status == 200:
            return
        assert status == 429, told
        await asyncio.sleep(HEARTBEAT_S)
    raise AssertionError(f"{pool_id} was not let in")


def _devices(seq: int) -> tuple[Device, ...]:
    return tuple(
        device(f"cuda:{number}", total=80 * GIB, free=40 * GIB + seq, utilization=0.5, temperature_celsius=50.0, measured_at_ms=seq)
        for number in range(DEVICES)
    )


def _workers(pool_id: str) -> tuple[WorkerFacts, ...]:
    return tuple(
        WorkerFacts(
            worker_id=f"worker-{pool_id}-{number}",
            state="loading",
            model_ref=MODEL,
            model_sha256=scripted(MODEL).sha256,
            backend="cuda",
            devices=("cuda:0",),
            slots=4,
            ctx=4096,
            memory_bytes=GIB,
            started_at_ms=0,
        )
        for number in range(WORKERS)
    )
