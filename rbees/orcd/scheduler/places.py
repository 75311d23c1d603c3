"""PURE: a place for a job as others see it, and what it counts for: the expected time, or what a user's own policy says."""

from __future__ import annotations

import math
from typing import Final

from msgspec.structs import replace

from rbees.orcd.scheduler import contexts, prospects
from rbees.orcd.scheduler.fleet import Worker
from rbees.orcd.scheduler.job import Job
from rbees.orcd.scheduler.prospects import Prospect
from rbees.orcd.scheduler.sites import Site
from rbees.orcd.scheduler.state import State
from rbees.protocol.decisions import Candidate

FORBIDDEN: Final = "The cluster's own policy never lets the job go there."


def of_worker(state: State, job: Job, worker: Worker, prospect: Prospect | None) -> Candidate:
    """A worker; without a prospect where nobody can say when it would be done."""
    candidate = Candidate(
        pool_id=worker.pool_id,
        devices=worker.devices,
        backend=worker.backend,
        worker_id=worker.worker_id,
        free_slots=max(worker.free_slots, 0) if worker.slots else None,
        slots=worker.slots or None,
    )
    return _expecting(state, job, candidate, prospect)


def of_site(state: State, job: Job, site: Site, prospect: Prospect | None) -> Candidate:
    """Where a worker could be started."""
    candidate = Candidate(
        pool_id=site.pool.pool_id,
        devices=site.device_ids,
        gpu_layers=site.gpu_layers,
        backend=site.backend,
        needed_bytes=site.need_bytes,
        free_bytes=max(site.free_bytes, 0),
    )
    return _expecting(state, job, candidate, prospect)


def cost_on_worker(state: State, job: Job, worker: Worker, prospect: Prospect) -> float:
    """What workers are compared by: the lowest is best."""
    if state.judge is None:
        return prospect.done_in_s
    return _cost(of_worker(state, job, worker, prospect))


def cost_on_site(state: State, job: Job | None, site: Site, prospect: Prospect) -> float:
    """What sites are compared by."""
    if state.judge is None or job is None:
        return prospect.done_in_s
    return _cost(of_site(state, job, site, prospect))


def is_allowed(state: State, job: Job, worker: Worker, now_s: float) -> bool:
    """False where the worker's context is too small, or a user's own policy never lets the job go there."""
    if not contexts.holds(state, job, worker):
        return False
    if state.judge is None:
        return True
    return cost_on_worker(state, job, worker, prospects.on_worker(state, job, worker, now_s)) < math.inf


def is_site_allowed(state: State, job: Job | None, site: Site, now_s: float) -> bool:
    """False where the site has no room or too small a context, or a user's own policy never lets the job go there."""
    if site.room is None or (job is not None and not contexts.site_holds(job, site)):
        return False
    if state.judge is None or job is None:
        return True
    return cost_on_site(state, job, site, prospects.on_site(state, job, site, now_s)) < math.inf


def _cost(candidate: Candidate) -> float:
    return math.inf if candidate.score is None else candidate.score


def _expecting(state: State, job: Job, candidate: Candidate, prospect: Prospect | None) -> Candidate:
    if prospect is None:
        return candidate
    expecting = replace(
        candidate,
        starts_in_s=round(prospect.starts_in_s, 3),
        takes_s=round(prospect.takes_s, 3),
        saved_s=round(prospect.saved_s, 3),
        done_in_s=round(prospect.done_in_s, 3),
    )
    if state.judge is None:
        return expecting
    score = state.judge.score(job.spec, expecting)
    # JSON knows no infinity.
    return replace(expecting, score=score) if score < math.inf else replace(expecting, refusal=FORBIDDEN)
