"""PURE: the cluster at a glance: what a live view shows of pools, workers, waiting and running jobs. Nothing is decided here.

It is asked again and again while others wait for decisions, so it costs in proportion to pools and workers and not to waiting jobs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from heapq import nlargest, nsmallest
from itertools import chain, islice
from typing import Final, NamedTuple

from rbees.orcd.scheduler.fleet import Pool, Worker
from rbees.orcd.scheduler.job import Attempt, Job
from rbees.orcd.scheduler.queue import Queue
from rbees.orcd.scheduler.state import State
from rbees.protocol.cluster import RUNNING_SHOWN, WAITING_SHOWN, PoolGlance, WaitingGlance, WorkerGlance
from rbees.protocol.jobs import Priority

FIRST_LOOKED_AT: Final = 1_000
"""Of all waiting jobs; who is the oldest of its model is known as far as these go."""


class Address(NamedTuple):
    """What the scheduler does not know of a pool."""

    endpoint: str
    version: str
    clock_ahead_ms: int | None


@dataclass(frozen=True, slots=True)
class RunningJob:
    """A job that a worker has."""

    job_id: str
    model: str
    priority: Priority
    attempt: Attempt
    since_s: float | None
    """When the attempt began, by the monotonic clock; None while its pool has to confirm it."""


def pools(
    state: State, began_s: float, address_of: Callable[[str], Address | None], tokens_per_s: Callable[[str], float]
) -> Iterator[PoolGlance]:
    """Every pool that has an address, by id; `began_s` is the moment from which times are told."""
    for pool_id in sorted(state.pools):
        address = address_of(pool_id)
        if address is not None:
            pool = state.pools[pool_id]
            yield PoolGlance(
                pool_id=pool_id,
                endpoint=address.endpoint,
                state=pool.state,
                drains=pool_id in state.drained,
                version=address.version,
                heard_at_s=round(pool.heard_at_s - began_s, 3),
                clock_ahead_ms=address.clock_ahead_ms,
                devices=pool.devices,
                models=len(pool.models),
                workers=_workers(pool, tokens_per_s),
            )


def _workers(pool: Pool, tokens_per_s: Callable[[str], float]) -> tuple[WorkerGlance, ...]:
    return tuple(_worker(pool.workers[worker_id], tokens_per_s(worker_id)) for worker_id in sorted(pool.workers))


def _worker(worker: Worker, tokens_per_s: float) -> WorkerGlance:
    facts = worker.facts
    return WorkerGlance(
        worker_id=worker.worker_id,
        state=worker.state,
        model=worker.model_ref,
        backend=worker.backend,
        devices=worker.devices,
        slots=worker.slots,
        slots_busy=worker.taken_slots,
        ctx=facts.ctx if facts is not None else None,
        memory_bytes=worker.memory_bytes,
        load_progress=facts.load_progress if facts is not None else 0.0,
        safe_mode=facts is not None and facts.safe_mode,
        tokens_per_s=tokens_per_s,
        doubt=worker.doubt,
    )


def waiting(state: State, queue: Queue, now_s: float, reason: Callable[[str], str | None]) -> tuple[WaitingGlance, ...]:
    """The waiting jobs by model and priority, those with the most first; `reason` tells what a job waits for."""
    oldest: dict[tuple[str, Priority], Job] = {}
    for job_id in queue.first(FIRST_LOOKED_AT):
        job = state.jobs[job_id]
        oldest.setdefault((job.spec.model, job.spec.priority), job)
    chosen = nlargest(WAITING_SHOWN, queue.counts.items(), key=lambda item: item[1])
    return tuple(
        WaitingGlance(
            model=model,
            priority=priority,
            jobs=count,
            oldest_s=max(0.0, now_s - first.queued_at_s) if (first := oldest.get((model, priority))) is not None else None,
            waiting_for=reason(first.spec.job_id) if first is not None else None,
        )
        for (model, priority), count in chosen
    )


def running(state: State) -> list[RunningJob]:
    """The jobs that workers have: those whose pools have to confirm them, then those that have been there for longest."""
    held = (_running(state.jobs[job_id], None) for jobs in state.held.values() for job_id in jobs)
    there = ((stay.since_s, job_id) for worker in state.workers.values() for job_id, stay in worker.stays.items())
    first = nsmallest(RUNNING_SHOWN, there)
    return list(islice(chain(held, (_running(state.jobs[job_id], since_s) for since_s, job_id in first)), RUNNING_SHOWN))


def _running(job: Job, since_s: float | None) -> RunningJob:
    assert job.attempt is not None, "a job without an attempt is with no worker"
    return RunningJob(job.spec.job_id, job.spec.model, job.spec.priority, job.attempt, since_s)
