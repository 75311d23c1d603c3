"""What a heartbeat of a large host costs: bytes as they go over the wire, and processor time of the pool daemon.

The link, its client and the device monitor are the real ones; NVML and the workers are made up, and the orchestrator is a process
of its own that only counts.
"""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import msgspec

from rbees.clients.orcd import OrcdClient
from rbees.host.backends import Installation, with_backend_problems
from rbees.host.cpu import CpuSource
from rbees.host.devices import DeviceMonitor
from rbees.poold.heartbeat import Member, OrcdLink
from rbees.protocol.pools import Device, ModelFacts, UnusableModel, WorkerFacts
from rbees.protocol.workers import WorkerReady
from rbees.service import logs
from rbees.service.clock import SystemClock
from tests.bench.rows import Row, at_most
from tests.bench.timing import Samples

BYTES_GOAL: Final = 10_000
CPU_GOAL_MS: Final = 5.0
GPUS, WORKERS, MODELS = 8, 16, 4
GIB: Final = 1 << 30


def measure(short: bool) -> list[Row]:
    """Beat many times, as fast as they are answered."""
    beats = 50 if short else 1000
    logs.configure("poold", "warning")
    with _counter() as (url, counted):
        cpu = asyncio.run(_beat(url, beats))
        sizes = [int(size) for size, what in (line.split() for line in counted(beats + 1)) if what == "heartbeat"]
    about = f"a heartbeat of a host with {GPUS} GPUs, {WORKERS} workers and {MODELS} models"
    return [
        at_most(
            "host.heartbeat_bytes",
            float(max(sizes)),
            "bytes",
            BYTES_GOAL,
            f"{about}: bytes over the wire with the HTTP header, the largest of {len(sizes)}",
            spread=Samples(tuple(map(float, sizes))).spread,
        ),
        at_most(
            "host.heartbeat_cpu",
            cpu.percentile(99),
            "ms",
            CPU_GOAL_MS,
            f"the same: processor time of the pool daemon to make and send it, all threads, p99 of {len(cpu.values)}; "
            f"median {cpu.median:.2f} ms",
        ),
    ]


async def _beat(url: str, beats: int) -> Samples:
    monitor = DeviceMonitor([_Gpus(), CpuSource()], SystemClock())
    for source in monitor._sources:
        # As its thread would; here nothing else is to run while a heartbeat is counted.
        monitor._measure_once(source, monitor._readings[source.name])
    link = OrcdLink(
        Member("workstation", lambda: "http://workstation.home.arpa:9200", "01m85v0jsd2kta03kbjw9kfphe"),
        _Host(monitor),
        lambda where: OrcdClient(where, role="poold"),
        SystemClock(),
        url,
        callers_are_known=True,
    )
    assert await link._try(link._register), link.problem
    taken = []
    for _ in range(beats):
        before = time.process_time_ns()
        assert await link._try(link._beat), link.problem
        taken.append((time.process_time_ns() - before) / 1e6)
    await link._disconnect()
    return Samples(tuple(taken))


class _Gpus:
    """NVML of a large host: every field that it can fill, and half of the workers on each two GPUs."""

    name = "NVML"

    def __init__(self) -> None:
        self.held = {
            f"cuda:{index}": {100_000 + index: 30 * GIB + _jitter(index), 100_008 + index: 31 * GIB + _jitter(-index)}
            for index in range(GPUS)
        }

    def measure(self) -> tuple[Device, ...]:
        return tuple(
            Device(
                device_id=f"cuda:{index}",
                backend="cuda",
                name="NVIDIA H100 80GB HBM3",
                memory_architecture="vram",
                total_bytes=80 * GIB,
                free_bytes=17 * GIB + _jitter(index),
                measured_at_ms=0,
                utilization=0.9 + index / 100,
                temperature_celsius=61.0 + index,
                driver_version="580.65.06",
                compute_capability="9.0",
                vendor="nvidia",
                uuid=f"GPU-{_hash(str(index))[:32]}",
            )
            for index in range(GPUS)
        )


class _Host:
    """What a pool daemon knows; of its workers what a supervisor and the monitor say."""

    def __init__(self, monitor: DeviceMonitor) -> None:
        self._monitor = monitor
        self._installation = Installation()
        self._models = tuple(_model(number) for number in range(MODELS))
        self._workers = tuple(_worker(number, self._models[number % MODELS]) for number in range(WORKERS))

    def devices(self) -> tuple[Device, ...]:
        return with_backend_problems(self._monitor.devices(), dict.fromkeys(self._installation.problems))

    def models(self) -> tuple[ModelFacts, ...]:
        return self._models

    def unusable(self) -> tuple[UnusableModel, ...]:
        return ()

    def workers(self) -> tuple[WorkerFacts, ...]:
        return tuple(self._measured(worker) for worker in self._workers)

    def _measured(self, worker: WorkerFacts) -> WorkerFacts:
        assert worker.pid is not None
        held = {"cpu": GIB + _jitter(worker.pid), **self._monitor.held_bytes(worker.pid)}
        return msgspec.structs.replace(worker, held_bytes=held)

    def ready(self) -> tuple[WorkerReady, ...]:
        return ()


def _model(number: int) -> ModelFacts:
    return ModelFacts(
        ref=f"hf:bartowski/Meta-Llama-3.1-{number}0B-Instruct-GGUF@{_hash(str(number))[:40]}::file="
        f"Meta-Llama-3.1-{number}0B-Instruct-Q4_K_M.gguf",
        aliases=(f"llama{number}", f"hf:bartowski/Meta-Llama-3.1-{number}0B-Instruct-GGUF"),
        sha256=_hash(f"model {number}"),
        file_name=f"Meta-Llama-3.1-{number}0B-Instruct-Q4_K_M.gguf",
        size_bytes=40 * GIB,
        architecture="llama",
        parameters=70_553_706_496,
        quantization="Q4_K_M",
        context_length=131_072,
        vocabulary_size=128_256,
        layers=80,
        embedding_length=8_192,
        head_count=64,
        head_count_kv=8,
        key_length=128,
        value_length=128,
        has_chat_template=True,
        capabilities=("generate",),
    )


def _worker(number: int, model: ModelFacts) -> WorkerFacts:
    return WorkerFacts(
        worker_id=f"worker-01m85v0jsd{_hash(str(number))[:16]}",
        state="ready",
        model_ref=model.ref,
        model_sha256=model.sha256,
        backend="cuda",
        devices=(f"cuda:{number % GPUS}",),
        slots=8,
        ctx=16_384,
        pid=100_000 + number,
        uri=f"https://workstation.home.arpa:{9300 + number}",
        memory_bytes=30 * GIB + _jitter(number),
        load_progress=1.0,
        started_at_ms=1_764_000_000_000 + _jitter(number),
    )


def _hash(name: str) -> str:
    """What no compression shortens, as in life."""
    return hashlib.sha256(name.encode()).hexdigest()


def _jitter(seed: int) -> int:
    """Some megabytes in whole pages, different for each seed."""
    return int(_hash(f"jitter {seed}")[:4], 16) * 4096


@contextmanager
def _counter() -> Iterator[tuple[str, Callable[[int], list[str]]]]:
    """An orchestrator that only counts; its url, and how to read so many of its lines."""
    words = [sys.executable, "-m", "tests.bench.host.counting_orcd"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
    said = process.stdout
    assert said is not None
    try:
        port = int(said.readline())
        yield f"http://127.0.0.1:{port}", lambda count: [said.readline() for _ in range(count)]
    finally:
        process.terminate()
        process.wait(10)
        said.close()
