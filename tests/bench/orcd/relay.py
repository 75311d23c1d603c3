"""What it costs to relay a stream: worker to journal to client, through one orcd on one core.

Every token's text is the moment at which the worker wrote it, so each event tells its own latency when the client reads it. Worker
and client are one process on the other core; what that process needs itself is part of the figure and told beside it.
"""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.bench.orcd.raw_port import Caller, RawPort, head_of
from tests.bench.orcd.stage import Fleet, Play, Stage, frame_of, job, own_cpu_s, serving, stage, token_json
from tests.bench.rows import Row, at_most
from tests.bench.timing import Samples

LATENCY_GOAL_MS: Final = 5.0
PEAK_GOAL: Final = 10_000.0
MEMORY_GOAL_MB: Final = 250.0
MEMORY: Final = "/dev/shm"
WORKERS: Final = 10
TICK_S: Final = 0.001
WINDOW: Final = 16
"""Events of one stream that are under way at once where the worker writes as fast as it is read."""
_MOMENT: Final = re.compile(rb'"text":"(\d+)"')


@dataclass
class Load:
    """Streams under way and what was seen of them."""

    port: int
    streams: int
    window: int = 0
    """Above 0: each stream goes on when it is read; else `drive` decides."""
    latencies_s: list[float] = field(default_factory=list)
    by_job: dict[str, Stream] = field(default_factory=dict)
    running: list[Stream] = field(default_factory=list)
    counting: bool = False
    seen: int = 0

    def __post_init__(self) -> None:
        self._opened = 0
        self._begun = asyncio.Event()
        self.fleet = Fleet(WORKERS, -(-self.streams // WORKERS) + 4, self._begins, lambda _: None)

    async def start(self) -> None:
        """Submit all jobs and read all streams; returns when every stream has begun."""
        caller = Caller(self.port)
        for _ in range(self.streams):
            status, accepted = await caller.call("POST", "/v2/tasks", job(max_tokens=1_000_000))
            assert status == 202, accepted
            await Stream(self, accepted["job_id"]).open()
        await self._begun.wait()
        caller.close()

    def opened(self) -> None:
        """A client has got its first bytes."""
        self._opened += 1
        self._look()

    def _begins(self, play: Play) -> None:
        play.open()
        self.by_job[play.job_id].play = play
        self.running.append(self.by_job[play.job_id])
        self._look()

    def _look(self) -> None:
        if self._opened == len(self.running) == self.streams:
            self._begun.set()


class Stream:
    """One job: its worker's side and its client's."""

    def __init__(self, load: Load, job_id: str) -> None:
        self._load = load
        self.job_id = job_id
        self.play: Play | None = None
        self._opened = False
        self._tokens = 0
        self._held = b""
        load.by_job[job_id] = self

    async def open(self) -> None:
        """Begin to read."""
        _, raw = await asyncio.get_running_loop().create_connection(
            lambda: RawPort(_unexpected, self._flows), "127.0.0.1", self._load.port
        )
        raw.write(head_of("GET", f"/v2/tasks/{self.job_id}/events", b"127.0.0.1", 0))

    def send(self, count: int = 1) -> None:
        """The worker writes so many tokens."""
        assert self.play is not None
        pieces = []
        for _ in range(count):
            self.play.seq += 1
            moment = str(time.perf_counter_ns())
            pieces.append(frame_of(self.play.seq, "token", token_json(self._tokens, moment)))
            self._tokens += 1
        self.play.port.write(b"".join(pieces))

    def _flows(self, data: bytes) -> None:
        now_ns = time.perf_counter_ns()
        whole = self._held + data
        cut = whole.rfind(b"\n\n") + 2
        self._held = whole[max(cut, 0) :] if cut > 1 else whole
        if cut <= 1:
            return
        if not self._opened:
            self._opened = True
            self._load.opened()
        moments = _MOMENT.findall(whole, 0, cut)
        self._load.seen += len(moments)
        if self._load.counting:
            self._load.latencies_s += [(now_ns - int(moment)) / 1e9 for moment in moments]
        if moments and self._load.window:
            self.send(len(moments))


def _unexpected(_port: RawPort, head: bytes, body: bytes) -> None:
    raise AssertionError((head, body))


@dataclass(frozen=True)
class Taken:
    """What one run gave."""

    latency: Samples
    events_per_s: float
    orcd_cpu: float
    """Share of its core."""
    own_cpu: float
    memory_mb: float


def measure(short: bool) -> list[Row]:
    """The steady load, the peak, and many slow streams; a fresh orcd for each."""
    seconds = 3.0 if short else 15.0
    steady = _run(200, 25.0, seconds)
    in_memory = _run(200, 25.0, seconds, MEMORY) if Path(MEMORY).is_dir() else None
    peak = _run(200, 0.0, seconds)
    many = _run(1_000, 5.0, seconds)
    return [
        at_most(
            "orcd.relay_added",
            steady.latency.percentile(95) * 1000,
            "ms",
            LATENCY_GOAL_MS,
            f"200 streams of 25 events a second, {_told(steady)}: from the worker's write to the client's read, p95 of "
            f"{len(steady.latency.values)}; median {steady.latency.median * 1000:.1f} ms, "
            f"p99 {steady.latency.percentile(99) * 1000:.1f} ms",
        ),
        *([] if in_memory is None else [_in_memory(in_memory)]),
        Row(
            name="orcd.relay_peak",
            value=peak.events_per_s,
            unit="/s",
            goal=PEAK_GOAL,
            least=True,
            holds=peak.events_per_s >= PEAK_GOAL,
            about=f"the most events a second of 200 streams with {WINDOW} events under way each, {_told(peak)}; "
            f"median latency {peak.latency.median * 1000:.0f} ms",
        ),
        at_most(
            "orcd.relay_many_added",
            many.latency.percentile(95) * 1000,
            "ms",
            None,
            f"1 000 streams of 5 events a second, {_told(many)}: from the worker's write to the client's read, p95; "
            f"median {many.latency.median * 1000:.1f} ms",
        ),
        at_most("orcd.relay_many_memory", many.memory_mb, "MB", MEMORY_GOAL_MB, "the same: resident memory of orcd"),
    ]


def _in_memory(taken: Taken) -> Row:
    return at_most(
        "orcd.relay_added_memory",
        taken.latency.percentile(95) * 1000,
        "ms",
        None,
        f"the same with orcd's state in memory, {_told(taken)}: p95; median {taken.latency.median * 1000:.1f} ms",
    )


def _told(taken: Taken) -> str:
    return (
        f"{taken.events_per_s:.0f} events a second (orcd busy {taken.orcd_cpu:.0%} of its core, "
        f"the load generator {taken.own_cpu:.0%} of the other)"
    )


def _run(streams: int, rate: float, seconds: float, parent: str = "/tmp") -> Taken:
    with stage(parent) as site:
        return asyncio.run(_take(site, streams, rate, seconds))


async def _take(site: Stage, streams: int, rate: float, seconds: float) -> Taken:
    load = Load(site.port, streams, window=0 if rate else WINDOW)
    async with serving(load.fleet, site.port):
        await load.start()
        driver = asyncio.create_task(_drive(load, rate)) if rate else None
        if driver is None:
            for stream in load.running:
                stream.send(WINDOW)
        await asyncio.sleep(1.5)
        cpu, own, seen, begun = site.cpu_s(), own_cpu_s(), load.seen, time.perf_counter()
        load.counting = True
        await asyncio.sleep(seconds)
        load.counting = False
        passed = time.perf_counter() - begun
        taken = Taken(
            Samples(tuple(load.latencies_s)),
            (load.seen - seen) / passed,
            (site.cpu_s() - cpu) / passed,
            (own_cpu_s() - own) / passed,
            site.memory_mb(),
        )
        if driver is not None:
            driver.cancel()
    return taken


async def _drive(load: Load, rate: float) -> None:
    """Each stream at its own phase, so that the events of all come evenly."""
    every_s = 1 / rate / len(load.running)
    due_s, turn = time.perf_counter(), 0
    while True:
        await asyncio.sleep(TICK_S)
        now_s = time.perf_counter()
        while due_s <= now_s:
            load.running[turn].send()
            turn = (turn + 1) % len(load.running)
            due_s += every_s
