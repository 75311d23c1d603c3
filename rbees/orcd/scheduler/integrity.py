"""PURE: what must hold of the scheduler's state between two events, for tests and the simulator."""

from __future__ import annotations

from rbees.orcd.scheduler.fleet import Worker
from rbees.orcd.scheduler.job import Job, Phase
from rbees.orcd.scheduler.state import State


def check_state(state: State) -> None:
    """Assert everything that must hold between two events. Costs time in proportion to the state."""
    for job_id, job in state.jobs.items():
        _check_job(state, job_id, job)
    for worker_id, worker in state.workers.items():
        _check_worker(state, worker_id, worker)
    assert state.suspects.keys() == {pool_id for pool_id, pool in state.pools.items() if pool.state == "suspect"}
    for pool_id, pool in state.pools.items():
        assert pool.pool_id == pool_id
        assert all(state.workers.get(worker_id) is worker for worker_id, worker in pool.workers.items())
        assert all(pool_id in state.holders[facts.sha256] for facts in pool.models)
    assert sum(map(len, state.workers_of.values())) == len(state.workers)
    assert state.kept_s.keys() <= state.workers_of.keys(), "a wish about a model that nobody has"
    held = {(prefix, worker.worker_id) for worker in state.workers.values() for prefix in worker.prefixes}
    assert held == {(prefix, worker_id) for prefix, holders in state.holding.items() for worker_id in holders}
    batch = {
        (job.model_sha256, job_id)
        for job_id, job in state.jobs.items()
        if job.spec.priority == "batch" and job.phase in {Phase.DISPATCHED, Phase.RUNNING}
    }
    assert batch == {(model, job_id) for model, jobs in state.batch_running.items() for job_id in jobs}
    for rosters in (state.open, state.full, state.coming):
        assert all(state.workers.keys() >= set(roster) for roster in rosters.values())
    for serving in state.serving.values():
        assert set(serving.workers) == serving.slots_of.keys() <= state.workers.keys()
        assert serving.slots == sum(serving.slots_of.values())
    assert state.unheard.keys() == {worker_id for worker_id, worker in state.workers.items() if worker.facts is None}
    assert state.unused.keys() == {worker_id for worker_id, worker in state.workers.items() if not worker.attempts}
    since_s = [state.workers[worker_id].idle_since_s for worker_id in state.unused]
    assert since_s == sorted(since_s)
    assert set(state.claims) == {worker.worker_id for worker in state.workers.values() if worker.claim is not None}
    kept = {job_id for job_id, job in state.jobs.items() if job.phase is Phase.HELD}
    assert kept == {job_id for jobs in state.held.values() for job_id in jobs}
    on = {(pool_id, job_id) for pool_id, jobs in state.held_on.items() for job_id in jobs}
    assert on == {(attempt.pool_id, job_id) for job_id in kept if (attempt := state.jobs[job_id].attempt) is not None}
    assert set(state.held_until) <= kept
    unresolved = {job_id for jobs in state.unresolved.values() for job_id in jobs}
    assert unresolved <= {job_id for job_id, job in state.jobs.items() if job.model_sha256 is None}


def _check_job(state: State, job_id: str, job: Job) -> None:
    assert job.spec.job_id == job_id
    assert job.phase is not Phase.ENDED
    assert (job.attempt is None) == (job.phase is Phase.QUEUED)
    if job.attempt is None:
        return
    assert job.attempt.epoch == job.epoch >= 1
    assert job.timeout_s is not None
    if job.phase is not Phase.HELD:
        assert state.workers[job.attempt.worker_id].attempts[job_id] == job.epoch
        assert job.model_sha256 == state.workers[job.attempt.worker_id].model_sha256


def _check_worker(state: State, worker_id: str, worker: Worker) -> None:
    assert worker.worker_id == worker_id
    assert worker_id in state.pools[worker.pool_id].workers
    assert worker_id in state.workers_of[worker.model_sha256]
    if worker_id not in state.changed:
        assert state.open_of(worker.model_sha256).width(worker_id) == (worker.width if state.is_open(worker) else None)
        assert (worker_id in state.full_of(worker.model_sha256)) == state.is_full(worker)
        assert (worker_id in state.coming.get(worker.model_sha256, {})) == state.is_coming(worker)
        slots = worker.slots if state.is_sound(worker) else None
        assert state.serving_of(worker.model_sha256).slots_of.get(worker_id) == slots
    for job_id, epoch in worker.attempts.items():
        attempt = state.jobs[job_id].attempt
        assert attempt is not None
        assert (attempt.worker_id, attempt.epoch) == (worker_id, epoch)
        assert state.jobs[job_id].phase in {Phase.DISPATCHED, Phase.RUNNING}
    choices = {job_id: stay.choices for job_id, stay in worker.stays.items()}
    assert choices == {job_id: state.jobs[job_id].spec.choices for job_id in worker.attempts}
    assert worker.taken_slots == sum(worker.slots_for(stay.choices) for stay in worker.stays.values())
    if worker.sole_job is not None:
        assert set(worker.attempts) == {worker.sole_job}
