"""PURE: every place where a job could run, what is expected of each, and why it is not there: for those who ask, at their leisure.

Decisions look only at the likeliest places (`placement.py`, `growth.py`); a survey looks at all, by the same expectations.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import replace as replace_told
from typing import Final

from msgspec.structs import replace

from rbees.orcd.scheduler import explain, places, prospects, retry, rooms, sites
from rbees.orcd.scheduler.policy import Policy
from rbees.orcd.scheduler.queue import Queue
from rbees.orcd.scheduler.sites import Site
from rbees.orcd.scheduler.state import Job, Phase, Pool, State, Worker
from rbees.protocol.decisions import Candidate, Outlook, WaitBound
from rbees.protocol.errors import ErrorBody, ErrorCode
from rbees.protocol.pools import Device, ModelFacts

HOPE: Final = 0.5
"""A job is refused for its deadline only where even so much of the expected time is too long."""


@dataclass(frozen=True, slots=True)
class Told:
    """What can be said of a job at this moment."""

    outlook: Outlook
    reason: str
    ahead: int | None = None
    candidates: tuple[Candidate, ...] = ()
    error: ErrorBody | None = None
    bound: WaitBound | None = None
    done_in_s: float | None = None
    """Of a newcomer: when it is expected to be done, all waiting included."""


def of_job(state: State, queue: Queue, policy: Policy, job: Job, now_s: float) -> Told:
    """Where a job that was accepted is, or what it waits for."""
    if job.model_sha256 is None:
        return Told("waits", explain.UNRESOLVED.reason if state.pools else explain.NO_POOL.reason)
    places = candidates(state, policy, job, now_s)
    if job.phase is Phase.HELD:
        return Told("runs", "The worker that has it cannot be asked at present; its pool is waited for.", candidates=places)
    if job.attempt is not None:
        stay = state.workers[job.attempt.worker_id].stays[job.spec.job_id]
        reason = (
            f"Worker {job.attempt.worker_id} on pool {job.attempt.pool_id} has had it for {now_s - stay.since_s:.1f} s and is "
            f"expected to need {prospects.left_s(stay, now_s):.1f} s more."
        )
        return Told("runs", reason, candidates=places)
    if queue.is_delayed(job.spec.job_id):
        return Told("waits", explain.RETRY.reason, candidates=places)
    reason = state.waits.get(job.model_sha256, explain.TURN.reason)
    return Told("waits", reason, queue.ahead(job), places, bound=_bound(state, queue, job, now_s))


def _bound(state: State, queue: Queue, job: Job, now_s: float) -> WaitBound | None:
    lane = queue.lane(job.model_sha256 or "")
    serving = [worker for worker in state.workers_of.get(job.model_sha256 or "", {}).values() if state.is_sound(worker)]
    slots = sum(worker.slots for worker in serving)
    if lane is None or job.spec.job_id not in lane or not slots:
        return None
    most = lane.most_before(job.spec.job_id)
    running_s = sum(prospects.left_s(stay, now_s) for worker in serving for stay in worker.stays.values())
    # The slowest of them, for a bound has to hold wherever the others are served.
    per_work_s = max(prospects.on_worker(state, job, worker, now_s).takes_s for worker in serving) / job.work
    return WaitBound(
        running_s=round(running_s, 3),
        own_work=round(most.own_work, 1),
        sessions=most.sessions,
        largest_work=round(most.largest_work, 1),
        seconds_per_work=round(per_work_s, 6),
        slots=slots,
        waits_at_most_s=round((running_s + most.work * per_work_s) / slots, 3),
    )


def of_newcomer(state: State, queue: Queue, policy: Policy, job: Job, now_s: float) -> Told:
    """What would become of a job that came now; `job` is known to nobody and stays so."""
    assert job.model_sha256 is not None, "a model that nobody has is refused before"
    places = candidates(state, policy, job, now_s)
    ahead = queue.depth(job.model_sha256)
    chosen = next((place for place in places if place.chosen), None)
    if ahead:
        reason = state.waits.get(job.model_sha256, explain.TURN.reason)
        state.refile()
        serving = state.serving_of(job.model_sha256)
        done_in_s = prospects.behind_s(state, job, serving, ahead, now_s) if serving.slots else None
        return Told("waits", f"{ahead} other jobs for this model wait: {reason}", ahead, places, done_in_s=done_in_s)
    if chosen is None:
        error = sites.impossible(state, job.model_sha256) if not state.workers_of.get(job.model_sha256) else None
        if error is not None and state.is_settled(now_s, policy.settle_s):
            return Told("refused", error.message, 0, places, error)
        expected = [place.done_in_s for place in places if place.done_in_s is not None]
        reason = "No place can take it at present; each candidate says why."
        return Told("waits", reason, 0, places, done_in_s=min(expected, default=None))
    better = min((p for p in places if p.done_in_s is not None), key=lambda p: p.done_in_s or 0.0)
    if chosen.worker_id is None:
        reason = f"A worker on {', '.join(chosen.devices)} of pool {chosen.pool_id} would be started."
        return Told("starts_worker", reason, 0, places, done_in_s=chosen.done_in_s)
    if better.worker_id is not None and (better.done_in_s or 0.0) <= (chosen.done_in_s or 0.0) * (1 - prospects.WAITING_SAVES):
        reason = f"It would wait for worker {better.worker_id} on pool {better.pool_id}, where it is expected to be done first."
        return Told("waits", reason, 0, places, done_in_s=better.done_in_s)
    reason = f"Worker {chosen.worker_id} on pool {chosen.pool_id} would take it at once."
    return Told("runs", reason, 0, places, done_in_s=chosen.done_in_s)


def is_hopeless(state: State, told: Told, job: Job, now_ms: int) -> bool:
    """True where a newcomer could not be done by its deadline, even if everything went much faster than it went so far."""
    if told.done_in_s is None or job.spec.deadline_at_ms is None or not state.speeds.has_seen(job.model_sha256 or ""):
        return False
    return told.done_in_s * HOPE > (job.spec.deadline_at_ms - now_ms) / 1000


def too_late(told: Told) -> Told:
    """What becomes of such a job."""
    message = f"The job is expected to need {told.done_in_s:.0f} s, waiting included, which is far beyond its deadline."
    error = ErrorBody(
        code=ErrorCode.DEADLINE_EXCEEDED, message=message, details={"expected_ms": round((told.done_in_s or 0) * 1000)}
    )
    return replace_told(told, outlook="refused", reason=message, error=error)


def draining() -> Told:
    """What becomes of any job while orcd is about to end."""
    message = "This orchestrator is shutting down and takes no new jobs; try again once it is back."
    return Told("refused", message, error=ErrorBody(code=ErrorCode.DRAINING, message=message))


def candidates(state: State, policy: Policy, job: Job, now_s: float) -> tuple[Candidate, ...]:
    """Workers of the job's model and devices for new ones, the best first; the place where it is, or would go now, is `chosen`."""
    found = [*_workers(state, job, now_s), *_new_workers(state, policy, job, now_s)]
    found.sort(key=_order)
    if job.attempt is not None:
        here = job.attempt.worker_id
        return tuple(replace(one, chosen=True, refusal=None) if one.worker_id == here else one for one in found)
    possible = [one for one in found if one.refusal is None]
    return tuple(replace(one, chosen=True) if possible and one is possible[0] else one for one in found)


def _order(candidate: Candidate) -> tuple[bool, float, str, tuple[str, ...], str]:
    cost = candidate.done_in_s if candidate.score is None else candidate.score
    return (
        candidate.refusal is not None,
        math.inf if cost is None else cost,
        candidate.pool_id,
        candidate.devices,
        candidate.worker_id or "",
    )


def _workers(state: State, job: Job, now_s: float) -> Iterator[Candidate]:
    for worker in state.workers_of.get(job.model_sha256 or "", {}).values():
        prospect = None
        if worker.slots and state.is_sound(worker):
            prospect = prospects.on_worker(state, job, worker, now_s)
        elif state.is_coming(worker):
            prospect = prospects.on_coming(state, job, worker, now_s)
        candidate = places.of_worker(state, job, worker, prospect)
        yield replace(candidate, refusal=_refusal(state, job, worker) or candidate.refusal)


def _refusal(state: State, job: Job, worker: Worker) -> str | None:
    pool = state.pools[worker.pool_id]
    if pool.state != "live":
        return f"Its pool is {pool.state}: nothing was heard of it for a while."
    if not state.takes_work(pool):
        return "Its pool was drained by an operator."
    if worker.stop_asked_at_s is not None:
        return "It was told to stop."
    if worker.doubt is not None:
        return f"It is in doubt: {worker.doubt}"
    if worker.state != "ready":
        return f"It is {worker.state}."
    if worker.claim is not None and worker.claim.job_id != job.spec.job_id:
        return "It empties, for a job that must run alone or for another model that has waited long."
    if worker.sole_job is not None:
        return "It runs a job that must be alone."
    if not worker.has_slots_for(job.spec.choices):
        return (
            f"Of its {worker.slots} slots {max(worker.free_slots, 0)} are free; the job takes {worker.slots_for(job.spec.choices)}."
        )
    if job.suspect and worker.attempts:
        return "A worker died while it ran the job, so it takes none beside others."
    return None


def _new_workers(state: State, policy: Policy, job: Job, now_s: float) -> Iterator[Candidate]:
    model_sha256 = job.model_sha256 or ""
    told: set[tuple[str, str]] = set()
    for site in sites.find_sites(state, model_sha256, now_s):
        told.update((site.pool.pool_id, device_id) for device_id in site.device_ids)
        yield _site(state, job, site, now_s)
    for pool_id, facts in state.holders.get(model_sha256, {}).items():
        pool = state.pools[pool_id]
        told.update((pool_id, name) for w in pool.workers.values() if w.model_sha256 == model_sha256 for name in w.devices)
        for device in pool.devices:
            if (pool_id, device.device_id) not in told:
                yield _no_site(state, policy, pool, device, facts, now_s)


def _site(state: State, job: Job, site: Site, now_s: float) -> Candidate:
    candidate = places.of_site(state, job, site, None)
    if site.room is None:
        return replace(candidate, refusal="Nothing that idles there would leave enough memory.")
    expecting = places.of_site(state, job, site, prospects.on_site(state, job, site, now_s))
    if state.workers_of.get(site.facts.sha256) and not site.is_free and not rooms.pushes_replicas(state, site):
        return replace(
            expecting, refusal="For a further worker of a model nothing is stopped but idle ones beside others of theirs."
        )
    return expecting


def _no_site(state: State, policy: Policy, pool: Pool, device: Device, facts: ModelFacts, now_s: float) -> Candidate:
    """Why a device of a pool that holds the model comes into no question, after the rules of `sites.find_sites`."""
    backend = sites.backend_for(facts, device)
    trouble = state.troubles.get((facts.sha256, pool.pool_id))
    candidate = Candidate(
        pool_id=pool.pool_id,
        devices=(device.device_id,),
        backend=backend,
        needed_bytes=state.estimates.need_bytes(facts, pool.pool_id, backend) if backend is not None else None,
        free_bytes=max(sites.free_bytes(pool, device), 0),
    )
    if pool.state != "live":
        refusal = f"The pool is {pool.state}: nothing was heard of it for a while."
    elif not state.takes_work(pool):
        refusal = "The pool was drained by an operator."
    elif trouble is not None and trouble.blocked_until_s > now_s:
        left = "some minutes" if retry.is_open(policy, trouble) else "a moment"
        refusal = f"It did not come up there ({trouble.error.code}: {trouble.error.message.rstrip('.')}); tried again in {left}."
    elif backend is None:
        refusal = "Nothing runs the model on such a device."
    elif not device.healthy:
        refusal = f"The device is unhealthy: {device.problem or 'no reason given'}"
    elif trouble is not None and backend in trouble.unusable:
        refusal = f"{trouble.unusable[backend].code}: {trouble.unusable[backend].message}"
    else:
        refusal = f"The model needs more than the {device.total_bytes} bytes that the device has in all."
    return replace(candidate, refusal=refusal)
