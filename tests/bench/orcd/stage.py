"""orcd alone on one core; on the other the load generator, which also plays the pool and its workers.

The workers are scripted in the plainest sense: they answer with bytes made beforehand, by the protocol that orcd speaks with
real ones (numbered frames, acknowledgements, beats). What the figures show is therefore orcd's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from rbees.protocol.codec import encode
from rbees.protocol.pools import Heartbeat, RegisterRequest, WorkerFacts
from rbees.protocol.workers import WorkerHealth, WorkerReady
from tests.bench.orcd.raw_port import Caller, RawPort
from tests.support.home import Daemon, Home
from tests.support.host_facts import device, scripted

MODEL: Final = "file:/models/bees.scripted.json"
BEAT_S: Final = 1.0
SLICES: Final = 50
"""Parts of a second, so that not all streams get their beat in one moment."""
STREAM_HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
LAST_CHUNK: Final = b"0\r\n\r\n"
NOTHING: Final = b"HTTP/1.1 204 No Content\r\n\r\n"


def frame_of(seq: int | None, event: str, data: str) -> bytes:
    """A frame as a worker sends it, as one chunk of the answer."""
    number = "" if seq is None else f"id: {seq}\n"
    return chunk(f"{number}event: {event}\ndata: {data}\n\n".encode())


def chunk(data: bytes) -> bytes:
    """One piece of an answer that tells no length."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def started(worker_id: str, epoch: int) -> bytes:
    """The first event of an attempt."""
    said = {"type": "started", "epoch": epoch, "worker_id": worker_id, "pool_id": None, "model": MODEL, "prompt_tokens": 4}
    return frame_of(1, "started", json.dumps(said))


def token_json(index: int, text: str) -> str:
    """A token event with one token."""
    return f'{{"type":"token","choice":0,"part":"text","text":"{text}","index":{index},"token_ids":[{index & 1023}]}}'


def end_json(tokens: int) -> str:
    """The last event of an attempt."""
    usage = {"prompt_tokens": 4, "cached_tokens": 0, "completion_tokens": tokens}
    timings = {"prefill_ms": 1.0, "decode_ms": 5.0}
    return json.dumps({"type": "end", "choices": [{"choice": 0, "finish_reason": "length"}], "usage": usage, "timings": timings})


@dataclass(slots=True)
class Play:
    """An attempt that a worker was asked for."""

    port: RawPort
    job_id: str
    epoch: int
    worker_id: str
    seq: int = 0
    acked: int = 0
    over: bool = False
    """Its last byte is out; the connection may carry another answer by now."""

    def open(self) -> None:
        """Begin the answer with `started`."""
        self.seq = 1
        self.port.write(STREAM_HEAD + started(self.worker_id, self.epoch))


class Fleet:
    """Workers behind one port. `begins` is called for each attempt, `acknowledged` when all of one that has ended is durable."""

    def __init__(self, workers: int, slots: int, begins: Callable[[Play], None], ended: Callable[[Play], None]) -> None:
        self.worker_ids = [f"worker-{number}" for number in range(workers)]
        self.slots = slots
        self.plays: dict[str, Play] = {}
        self._begins = begins
        self._ended = ended
        self._step = 0
        self._server: asyncio.Server | None = None
        self._heartbeats = 0
        self._slice = 0
        self.uri = ""

    async def listen(self) -> None:
        """Take calls, on a port that the system chooses."""
        self._server = await asyncio.get_running_loop().create_server(lambda: RawPort(self._called), "127.0.0.1", 0)
        self.uri = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def serve(self, caller: Caller, ready: bool = True) -> None:
        """Register with orcd and report on, as a pool does, until cancelled; the streams get their beats."""
        await self.register(caller, ready)
        begun = asyncio.get_running_loop().time()
        while True:
            await asyncio.sleep(BEAT_S / SLICES)
            self._slice = (self._slice + 1) % SLICES
            self._step = int(asyncio.get_running_loop().time() - begun)
            self._beat_some()
            if self._slice == 0:
                await self._report(caller, ready)

    def _beat_some(self) -> None:
        """A beat for those streams whose turn it is: each has its own second, as with workers that began them one by one."""
        beat = frame_of(None, "beat", f'{{"type":"beat","step":{self._step}}}')
        for play in list(self.plays.values())[self._slice :: SLICES]:
            if not play.over:
                play.port.write(beat)

    async def _report(self, caller: Caller, ready: bool) -> None:
        self._heartbeats += 1
        report = Heartbeat(
            sent_at_ms=0,
            boot_id="boot",
            seq=self._heartbeats,
            devices=(device(),),
            models=(scripted(MODEL),),
            workers=self._facts() if ready else (),
        )
        await caller.call("POST", "/v2/pools/bench/heartbeat", encode(report))

    async def register(self, caller: Caller, ready: bool = True) -> None:
        """Introduce the pool."""
        request = RegisterRequest(
            pool_id="bench",
            endpoint=self.uri,
            version="1",
            boot_id="boot",
            devices=(device(),),
            models=(scripted(MODEL),),
            workers=self._facts() if ready else (),
            ready=tuple(self._ready(worker_id) for worker_id in self.worker_ids) if ready else (),
        )
        status, told = await caller.call("POST", "/v2/pools/register", encode(request))
        assert status == 200, told

    def end(self, play: Play, last: bytes) -> None:
        """Send the last bytes of an attempt; `ended` follows when orcd has acknowledged all of it."""
        play.over = True
        play.port.write(last + LAST_CHUNK)

    def close(self) -> None:
        """Take no more calls."""
        if self._server is not None:
            self._server.close()

    def _called(self, port: RawPort, head: bytes, body: bytes) -> None:
        path = head.split(b" ", 2)[1]
        if path == b"/execute":
            said = json.loads(body)
            play = Play(port, said["job_id"], said["epoch"], self.worker_ids[0])
            self.plays[play.job_id] = play
            self._begins(play)
        elif path.endswith(b"/ack"):
            port.write(NOTHING)
            self._acked(path.split(b"/")[2].decode(), json.loads(body)["seq"])
        elif path.startswith(b"/health"):
            content = encode(self._health())
            port.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(content) + content)
        elif path == b"/cancel":
            port.write(NOTHING)
        else:
            content = b'{"worker_id":"none"}'
            port.write(b"HTTP/1.1 202 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(content) + content)

    def _acked(self, job_id: str, seq: int) -> None:
        play = self.plays.get(job_id)
        if play is None:
            return
        play.acked = max(play.acked, seq)
        if play.acked >= play.seq:
            self._ended(play)

    def _facts(self) -> tuple[WorkerFacts, ...]:
        return tuple(
            WorkerFacts(
                worker_id=worker_id,
                state="ready",
                model_ref=MODEL,
                model_sha256=scripted(MODEL).sha256,
                backend="scripted",
                devices=("cpu",),
                slots=self.slots,
                ctx=4096,
                uri=self.uri,
                started_at_ms=0,
            )
            for worker_id in self.worker_ids
        )

    def _ready(self, worker_id: str) -> WorkerReady:
        return WorkerReady(
            worker_id=worker_id,
            nonce="nonce",
            pid=os.getpid(),
            model_ref=MODEL,
            model_sha256=scripted(MODEL).sha256,
            uri=self.uri,
            secret="secret-of-a-worker",
            backend="scripted",
            memory_bytes=0,
            memory_architecture="ram",
            capabilities=("generate",),
            slots=self.slots,
            ctx=4096,
            load_ms=1.0,
        )

    def _health(self) -> WorkerHealth:
        return WorkerHealth(
            worker_id=self.worker_ids[0],
            nonce="nonce",
            state="ready",
            load_progress=1.0,
            model_ref=MODEL,
            slots_total=self.slots,
            slots_used=0,
            ctx=4096,
            kv_cells_total=0,
            kv_cells_used=0,
            waiting=0,
            memory_bytes=0,
            step=self._step,
        )


@dataclass
class Stage:
    """orcd, where to call it, and what it has used."""

    home: Home
    daemon: Daemon
    port: int

    def cpu_s(self) -> float:
        """Processor time of orcd so far, all threads."""
        return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{self.daemon.pid}/task").glob("*/schedstat")) / 1e9

    def memory_mb(self) -> float:
        """Its resident memory now, in units of 1 000 000 bytes."""
        resident: int = psutil.Process(self.daemon.pid).memory_info().rss
        return resident / 1e6


def own_cpu_s() -> float:
    """Processor time of this process, the load generator."""
    return time.process_time()


@functools.cache
def _cores() -> tuple[int, ...]:
    """The cores that this process had at first."""
    return tuple(sorted(os.sched_getaffinity(0)))


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """This process, and what it starts meanwhile, on one core; afterwards again on all that it had."""
    before, cores = os.sched_getaffinity(0), _cores()
    os.sched_setaffinity(0, {cores[core % len(cores)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def stage(parent: str = "/tmp", **environ: str) -> Iterator[Stage]:
    """A fresh orcd alone on the first core, its state below `parent`; this process on the second."""
    with Home(parent=parent) as home:
        with pinned(0):
            daemon = home.serve_orcd(environ=environ)
        with pinned(1):
            yield Stage(home, daemon, int(home.url.rpartition(":")[2]))


@asynccontextmanager
async def serving(fleet: Fleet, port: int) -> AsyncIterator[None]:
    """The fleet, registered with orcd."""
    await fleet.listen()
    caller = Caller(port)
    await fleet.register(caller)
    reporting = asyncio.create_task(fleet.serve(caller))
    try:
        yield
    finally:
        reporting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reporting
        caller.close()
        fleet.close()


def job(**more: Any) -> bytes:
    """The body of a submission."""
    return json.dumps({"model": MODEL, "prompt": "say something", "seed": 1, **more}).encode()
