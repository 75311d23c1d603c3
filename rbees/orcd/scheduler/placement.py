"""PURE: which worker a waiting job goes to.

For each model with waiting jobs, in the order of their first job: give jobs to ready workers with free slots, the least loaded
first. A job that makes several answers takes as many slots; while no worker has them free, nothing is given to those behind it,
or it would wait for ever. Jobs that must run alone get an empty worker, and where there is none, one worker takes no more work
until it is empty. What still waits then is the business of growth.py.
"""

from __future__ import annotations

from rbees.orcd.scheduler import attempts, explain, growth, sites
from rbees.orcd.scheduler.state import Claim, Job, Worker
from rbees.orcd.scheduler.turn import Turn


def place(turn: Turn) -> None:
    """Look at the queue of every model for which something has changed, the one with the first job first."""
    for model_sha256 in turn.queue.models():
        if model_sha256 in turn.touched:
            _place_model(turn, model_sha256)
    for model_sha256 in sorted(turn.queue.wanted_soon() & turn.touched):
        growth.grow(turn, model_sha256)


def _place_model(turn: Turn, model_sha256: str) -> None:
    _place_suspects(turn, model_sha256)
    _place_others(turn, model_sha256)
    obstacle = growth.grow(turn, model_sha256) if turn.queue.depth(model_sha256) else None
    if obstacle is None:
        turn.state.waits.pop(model_sha256, None)
        return
    turn.state.waits[model_sha256] = obstacle.reason
    for job_id in turn.queue.front(model_sha256, turn.policy.noted_jobs):
        explain.tell(turn, turn.state.jobs[job_id], obstacle)


def _load(worker: Worker, job: Job) -> tuple[object, ...]:
    busy = worker.taken_slots / worker.slots
    return (worker.worker_id == job.avoid, busy, sites.BACKEND_RANK[worker.backend], worker.worker_id)


def _open_workers(turn: Turn, model_sha256: str) -> list[Worker]:
    return [worker for worker in turn.state.workers_of.get(model_sha256, {}).values() if turn.state.is_open(worker)]


def _place_others(turn: Turn, model_sha256: str) -> None:
    candidates = _open_workers(turn, model_sha256) if turn.queue.head(model_sha256, alone=False) else []
    while candidates and (job_id := turn.queue.head(model_sha256, alone=False)) is not None:
        job = turn.state.jobs[job_id]
        roomy = [candidate for candidate in candidates if candidate.has_slots_for(job.spec.choices)]
        if not roomy:
            return
        worker = min(roomy, key=lambda candidate: _load(candidate, job))
        attempts.dispatch(turn, job, worker)
        if worker.free_slots <= 0:
            candidates.remove(worker)


def _place_suspects(turn: Turn, model_sha256: str) -> None:
    """Give each suspect an empty worker; where there is none, let one worker of the model empty for the first suspect."""
    while (job_id := turn.queue.head(model_sha256, alone=True)) is not None:
        job = turn.state.jobs[job_id]
        worker = _empty_worker(turn, job)
        if worker is None:
            _claim_for_suspect(turn, job)
            return
        attempts.dispatch(turn, job, worker)


def _empty_worker(turn: Turn, job: Job) -> Worker | None:
    assert job.model_sha256 is not None
    kept = [
        worker
        for worker in turn.state.workers_of.get(job.model_sha256, {}).values()
        if worker.claim is not None
        and worker.claim.job_id == job.spec.job_id
        and not worker.attempts
        and turn.state.is_sound(worker)
    ]
    empty = [worker for worker in _open_workers(turn, job.model_sha256) if not worker.attempts]
    return min(kept or empty, key=lambda worker: _load(worker, job), default=None)


def _claim_for_suspect(turn: Turn, job: Job) -> None:
    assert job.model_sha256 is not None
    siblings = turn.state.workers_of.get(job.model_sha256, {}).values()
    if any(worker.claim is not None and worker.claim.job_id is not None for worker in siblings):
        return
    sound = [w for w in siblings if turn.state.is_sound(w) and w.claim is None and w.sole_job is None]
    worker = min(sound, key=lambda candidate: _load(candidate, job), default=None)
    if worker is not None:
        turn.state.claim(worker, Claim(job.model_sha256, job.spec.job_id))


def drop_stale_claims(turn: Turn) -> None:
    """Let workers take work again that are kept for a job or a model that does not wait any more."""
    for worker in list(turn.state.claims.values()):
        claim = worker.claim
        assert claim is not None
        if claim.job_id is not None:
            stale = claim.job_id not in turn.queue or not turn.state.is_sound(worker)
        else:
            stale = not turn.queue.depth(claim.model_sha256)
        if stale:
            turn.state.release_claim(worker)
            turn.touched.add(worker.model_sha256)
