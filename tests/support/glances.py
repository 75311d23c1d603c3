"""Clusters as orcd tells of them, for tests of what is shown: from none at all to a hundred pools with names from hell."""

from __future__ import annotations

from typing import Any

from rbees.protocol.cluster import (
    ClusterStatus,
    JobCounts,
    Overview,
    PoolGlance,
    Rates,
    RunningGlance,
    WaitingGlance,
    WorkerGlance,
)
from tests.support.host_facts import GIB, device

ODD = "日本の🐝\x1b[31m\x07\nmodèle\u202ex"
"""Wide signs, an escape sequence, a bell, a line feed, and what turns the direction of writing."""


def pool(pool_id: str = "attic", *, devices: int = 1, workers: int = 1, **more: Any) -> PoolGlance:
    """A pool that is well."""
    values: dict[str, Any] = {
        "endpoint": f"http://{pool_id}.home.arpa:9200",
        "state": "live",
        "version": "0.1.0",
        "heard_at_s": 99.0,
        "models": 3,
        "devices": tuple(
            device(
                f"cuda:{number}",
                name="NVIDIA H200 NVL",
                total=140 * GIB,
                free=100 * GIB,
                utilization=0.5,
                temperature_celsius=61.0,
            )
            for number in range(devices)
        ),
        "workers": tuple(worker(f"worker-{pool_id}-{number}") for number in range(workers)),
    }
    return PoolGlance(pool_id=pool_id, **{**values, **more})


def worker(worker_id: str = "worker-1", **more: Any) -> WorkerGlance:
    """A worker that serves."""
    values: dict[str, Any] = {
        "state": "ready",
        "model": "hf:org/repo@0123456789abcdef::file=model-Q4_K_M.gguf",
        "backend": "cuda",
        "devices": ("cuda:0",),
        "slots": 4,
        "slots_busy": 1,
        "ctx": 4096,
        "memory_bytes": 5 * GIB,
        "tokens_per_s": 42.0,
    }
    return WorkerGlance(worker_id=worker_id, **{**values, **more})


def waiting(model: str = "haiku", jobs: int = 3, **more: Any) -> WaitingGlance:
    """Jobs that wait."""
    return WaitingGlance(model=model, **{"priority": "interactive", "jobs": jobs, "oldest_s": 12.0, **more})


def running(job_id: str = "job-1", **more: Any) -> RunningGlance:
    """A job that a worker has."""
    values: dict[str, Any] = {
        "status": "running",
        "kind": "generate",
        "model": "haiku",
        "priority": "interactive",
        "pool_id": "attic",
        "worker_id": "worker-attic-0",
        "attempt": 1,
        "running_s": 2.5,
        "tokens": 120,
    }
    return RunningGlance(job_id=job_id, **{**values, **more})


def cluster(*pools: PoolGlance, **more: Any) -> ClusterStatus:
    """The whole, with what `more` says of the overview."""
    values: dict[str, Any] = {
        "version": "0.1.0",
        "at_ms": 1_700_000_000_000,
        "uptime_s": 100.0,
        "pools": len(pools),
        "jobs": JobCounts(queued=3, dispatched=0, running=1),
        "waiting": (),
        "running": (),
        "rates": Rates(window_s=5.0, jobs_per_s=1.5, tokens_per_s=42.0),
    }
    return ClusterStatus(overview=Overview(**{**values, **more}), pools=pools)


def crowd(pools: int = 100) -> ClusterStatus:
    """Many pools, of which each has some trouble or an odd name."""
    return cluster(
        *(
            pool(
                f"pool-{number:03}-{'very-long-name-' * (number % 4)}end",
                devices=number % 9,
                workers=number % 3,
                state=("live", "suspect", "lost")[number % 3],
                drains=number % 5 == 0,
            )
            for number in range(pools)
        ),
        waiting=tuple(waiting(f"{ODD}-{number}", waiting_for=f"It waits for {ODD}.") for number in range(40)),
        running=tuple(running(f"job-{number}-{ODD}", model=ODD) for number in range(100)),
        problem=f"Something is {ODD}.",
    )
