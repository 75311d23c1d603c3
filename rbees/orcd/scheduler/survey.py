"""PURE: what is told of decisions: what becomes of a job, when it should be done, and every place where it could run.

Decisions look only at the likeliest places (`placement.py`, `growth.py`); a survey of the places looks at all, by the same
expectations. What would become of a newcomer is no matter of judgement: its arrival has been rehearsed (`rehearsal.py`), and here
it is put into words.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from dataclasses import replace as replace_told
from itertools import islice
from typing import Final

from msgspec.structs import replace

from rbees.orcd.scheduler import bounds, contexts, explain, places, prospects, retry, rooms, sites
from rbees.orcd.scheduler.effects import Effect, Finish, Requeue, SpawnWorker, StopWorker
from rbees.orcd.scheduler.fleet import Pool, Worker
from rbees.orcd.scheduler.job import Job, Phase
from rbees.orcd.scheduler.policy import Policy
from rbees.orcd.scheduler.queue import Queue
from rbees.orcd.scheduler.sites import Site
from rbees.orcd.scheduler.state import State
from rbees.protocol.decisions import Candidate, Outlook, WaitBound
from rbees.protocol.errors import ErrorBody, ErrorCode
from rbees.protocol.pools import Device, ModelFacts

HOPE: Final = 0.5
"""A job is refused for its deadline only where even so much of the expected time is too long."""


FEW_S: Final = 10.0
"""Shorter times are told with a digit behind the point."""


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
    """When it is expected to be done, all waiting included."""
    turn_in_s: float = 0.0
    """While others come before it: when its turn should come on the workers that serve."""
    place: tuple[str | None, str, tuple[str, ...]] | None = None
    """The worker, or None for one that would be started, the pool and the devices where a newcomer would go."""
    is_guess: bool = False
    """No answer of the model was ever seen: expectations follow from the size of its file."""


def of_job(state: State, queue: Queue, policy: Policy, job: Job, now_s: float) -> Told:
    """Where a job that was accepted is, or what it waits for."""
    if job.model_sha256 is None:
        return Told("waits", explain.UNRESOLVED.reason if state.pools else explain.NO_POOL.reason)
    is_guess = not state.speeds.has_seen(job.model_sha256)
    if job.phase is Phase.HELD:
        reason = "The worker that has it cannot be asked at present; its pool is waited for."
        return Told("runs", reason, candidates=candidates(state, policy, job, now_s), is_guess=is_guess)
    if job.attempt is not None:
        stay = state.workers[job.attempt.worker_id].stays[job.spec.job_id]
        left_s = prospects.left_s(stay, now_s)
        reason = (
            f"Worker {job.attempt.worker_id} on pool {job.attempt.pool_id} has had it for {now_s - stay.since_s:.1f} s and is "
            f"expected to need {left_s:.1f} s more."
        )
        return Told("runs", reason, candidates=candidates(state, policy, job, now_s), done_in_s=round(left_s, 3), is_guess=is_guess)
    if queue.is_delayed(job.spec.job_id):
        return Told("waits", explain.RETRY.reason, candidates=candidates(state, policy, job, now_s), is_guess=is_guess)
    told = _of_waiting(state, queue, job, now_s)
    told = replace_told(told, reason=state.waits.get(job.model_sha256, explain.TURN.reason), is_guess=is_guess)
    return with_places(state, policy, job, replace_told(told, bound=bounds.of_job(state, queue, job, now_s)), now_s)


def _of_waiting(state: State, queue: Queue, job: Job, now_s: float) -> Told:
    """Of a job in its lane: how many come before it, and when its turn and its end should come, by the likeliest workers."""
    assert job.model_sha256 is not None
    ahead = queue.ahead(job)
    serving = state.serving_of(job.model_sha256)
    turn_s = 0.0
    if ahead:
        like_it = queue.work_before(job) / job.work
        if serving.slots:
            turn_s, _ = prospects.turn_in_s(state, job, serving, like_it, now_s)
    if job.needs_ctx:
        likely = [name for name, worker in state.workers_of.get(job.model_sha256, {}).items() if state.is_sound(worker)]
    else:
        full, open_ = state.full_of(job.model_sha256), state.open_of(job.model_sha256)
        likely = [*islice(full, prospects.LIKELY), *open_.first(prospects.LIKELY)]
    holding = [state.workers[name] for name in likely if contexts.holds(state, job, state.workers[name])]
    expected = [prospects.on_worker(state, job, worker, now_s) for worker in holding]
    coming = (worker for worker in state.coming_of(job.model_sha256) if contexts.holds(state, job, worker))
    expected += [prospects.on_coming(state, job, worker, now_s) for worker in coming]
    # To the millisecond, as in the table of places.
    turn_s = round(turn_s, 3)
    done_in_s = min((max(round(one.starts_in_s, 3), turn_s) + round(one.takes_s, 3) for one in expected), default=None)
    return Told("waits", "", ahead, done_in_s=None if done_in_s is None else round(done_in_s, 3), turn_in_s=turn_s)


def of_newcomer(before: State, job: Job, after: State, queue: Queue, effects: Sequence[Effect], now_s: float) -> Told:
    """What would become of a job that came now: `after` and `queue` are a copy to which it has come, with these effects."""
    assert job.model_sha256 is not None, "a model that nobody has is refused before"
    is_guess = not before.speeds.has_seen(job.model_sha256)
    there = after.jobs.get(job.spec.job_id)
    if there is None:
        error = next(one.error for one in effects if isinstance(one, Finish) and one.job_id == job.spec.job_id)
        return Told("refused", error.message, error=error)
    if there.attempt is not None:
        worker = after.workers[there.attempt.worker_id]
        gave_way = any(isinstance(one, Requeue) and one.worker_id == worker.worker_id for one in effects)
        reason = f"Worker {worker.worker_id} on pool {worker.pool_id} would take it at once"
        reason += ", where batch jobs would give way to it." if gave_way else "."
        here = (worker.worker_id, worker.pool_id, worker.devices)
        done_in_s = round(worker.stays[job.spec.job_id].until_s - now_s, 3)
        return Told("runs", reason, 0, done_in_s=done_in_s, place=here, is_guess=is_guess)
    told = replace_told(_of_waiting(after, queue, there, now_s), is_guess=is_guess)
    site = _site_begun(before, job, effects, now_s)
    place = None if site is None else (None, site.pool.pool_id, site.device_ids)
    if site is not None and not told.ahead:
        reason = f"A worker on {', '.join(site.device_ids)} of pool {site.pool.pool_id} would be started."
        done_in_s = round(prospects.on_site(before, job, site, now_s).done_in_s, 3)
        return replace_told(told, outlook="starts_worker", reason=reason, done_in_s=done_in_s, place=place)
    reason = after.waits.get(job.model_sha256, explain.TURN.reason)
    if told.ahead:
        come = "1 other job for this model comes" if told.ahead == 1 else f"{told.ahead} other jobs for this model come"
        reason = f"{come} before it. {reason}"
    return replace_told(told, reason=reason, place=place)


def _site_begun(state: State, job: Job, effects: Sequence[Effect], now_s: float) -> Site | None:
    """Where a worker for the job's model is started by these effects, or room made for one."""
    for effect in effects:
        match effect:
            case SpawnWorker(model_sha256=model_sha256) if model_sha256 != job.model_sha256:
                continue
            case SpawnWorker() | StopWorker():
                for site in sites.sites_on(state, job.model_sha256 or "", effect.pool_id, now_s):
                    if site.room is None:
                        continue
                    leaving = {worker.worker_id for worker in site.room.victims}
                    if effect.worker_id in leaving or (isinstance(effect, SpawnWorker) and site.device_ids == effect.devices):
                        return site
    return None


def with_places(state: State, policy: Policy, job: Job, told: Told, now_s: float) -> Told:
    """With every place that the job could go to, as far as that agrees with what is told of it."""
    if told.outlook == "refused":
        return replace_told(told, candidates=candidates(state, policy, job, now_s, choose=False))
    found = candidates(state, policy, job, now_s, choose=False)
    is_served = any(one.worker_id is not None and one.starts_in_s is not None for one in found)
    placed = [_as_told(told, one, is_served=is_served) for one in found]
    if told.outlook == "waits" and job.attempt is None and job.spec.job_id in state.jobs:
        # Where a worker will be started as soon as there is room for it.
        first = next((one for one in placed if one.refusal is None), None)
        placed = [replace(one, chosen=True) if one is first else one for one in placed]
    return replace_told(told, candidates=tuple(sorted(placed, key=_order)))


def _as_told(told: Told, candidate: Candidate, *, is_served: bool) -> Candidate:
    """One place, corrected by what is already known of the job: where it goes, and when its turn comes."""
    is_there = (candidate.worker_id, candidate.pool_id, candidate.devices) == told.place
    if is_there and told.outlook in {"runs", "starts_worker"}:
        candidate = replace(candidate, refusal=None, chosen=True)
        if candidate.worker_id is not None and candidate.starts_in_s:
            # Batch jobs give way to it.
            candidate = replace(candidate, starts_in_s=0.0, takes_s=told.done_in_s, done_in_s=told.done_in_s)
        return candidate
    if told.outlook != "waits":
        return candidate
    if candidate.worker_id is not None and candidate.starts_in_s is not None and candidate.takes_s is not None:
        starts_in_s = max(candidate.starts_in_s, told.turn_in_s)
        candidate = replace(candidate, starts_in_s=starts_in_s, done_in_s=round(starts_in_s + candidate.takes_s, 3))
    if candidate.refusal is not None or is_there:
        return candidate
    if told.ahead:
        return replace(candidate, refusal="Others come before it.")
    if candidate.worker_id is not None:
        return replace(candidate, refusal="It is expected to be done earlier elsewhere, although it has to wait there.")
    if is_served:
        return replace(candidate, refusal="To load the model there is not expected to pay.")
    return candidate


def is_hopeless(told: Told, job: Job, now_ms: int) -> bool:
    """True where a newcomer could not be done by its deadline, even if everything went much faster than it went so far."""
    if told.done_in_s is None or job.spec.deadline_at_ms is None or told.is_guess:
        return False
    return told.done_in_s * HOPE > (job.spec.deadline_at_ms - now_ms) / 1000


def too_late(told: Told, job: Job, now_ms: int) -> Told:
    """What becomes of such a job."""
    assert told.done_in_s is not None
    assert job.spec.deadline_at_ms is not None
    left_s = max(job.spec.deadline_at_ms - now_ms, 0) / 1000
    message = (
        f"The job is expected to need {_duration(told.done_in_s)}, waiting included, which is far beyond its deadline in "
        f"{_duration(left_s)}; give it more time, or try again when fewer jobs wait."
    )
    details = {"expected_ms": round(told.done_in_s * 1000), "deadline_in_ms": round(left_s * 1000)}
    error = ErrorBody(code=ErrorCode.DEADLINE_EXCEEDED, message=message, details=details)
    return replace_told(told, outlook="refused", reason=message, error=error)


def _duration(seconds: float) -> str:
    if seconds < 1.0:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < FEW_S else f"{seconds:.0f} s"


def draining() -> Told:
    """What becomes of any job while orcd is about to end."""
    message = "This orchestrator is shutting down and takes no new jobs; try again once it is back."
    return Told("refused", message, error=ErrorBody(code=ErrorCode.DRAINING, message=message))


def candidates(state: State, policy: Policy, job: Job, now_s: float, *, choose: bool = True) -> tuple[Candidate, ...]:
    """Workers of the job's model and devices for new ones, the best first; the place where it is, or could go now, is `chosen`."""
    found = [*_workers(state, job, now_s), *_new_workers(state, policy, job, now_s)]
    found.sort(key=_order)
    if job.attempt is not None:
        here = job.attempt.worker_id
        return tuple(replace(one, chosen=True, refusal=None) if one.worker_id == here else one for one in found)
    possible = [one for one in found if one.refusal is None]
    return tuple(replace(one, chosen=True) if choose and possible and one is possible[0] else one for one in found)


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
    if not contexts.holds(state, job, worker):
        return f"Its context is too small: the job takes {job.needs_ctx} tokens at least."
    if worker.state != "ready":
        return f"It is {worker.state}."
    if worker.claim is not None and worker.claim.job_id != job.spec.job_id:
        return "It empties, for a job that must run alone or for another model that has waited long."
    if worker.sole_job is not None:
        return "It runs a job that must be alone."
    if not worker.has_slots_for(job.spec.choices):
        if worker.free_slots <= 0:
            return "Its only slot is taken." if worker.slots == 1 else f"All of its {worker.slots} slots are taken."
        return f"{worker.free_slots} of its {worker.slots} slots can be had; the job takes {worker.slots_for(job.spec.choices)}."
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
    if not contexts.site_holds(job, site):
        return replace(candidate, refusal=f"No context of {job.needs_ctx} tokens, which the job takes, would be had there.")
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
