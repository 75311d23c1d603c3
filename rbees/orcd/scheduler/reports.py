"""PURE: what pools say about themselves and their workers, and what follows for the attempts there."""

from __future__ import annotations

from rbees.orcd.scheduler import attempts, eviction, leases, poison, retry
from rbees.orcd.scheduler.estimates import analytic_bytes
from rbees.orcd.scheduler.events import PoolReported
from rbees.orcd.scheduler.fleet import Pool, Worker
from rbees.orcd.scheduler.job import Phase
from rbees.orcd.scheduler.turn import Turn
from rbees.protocol.errors import ErrorBody, ErrorCode
from rbees.protocol.pools import WorkerFacts

_OVER = frozenset({"stopped", "failed"})


def pool_reported(turn: Turn, event: PoolReported) -> bool:
    """Take over a pool's whole state; True if the pool is new or holds other models than before."""
    pool = turn.state.pools.get(event.pool_id)
    is_new = pool is None
    if pool is None:
        pool = Pool(event.pool_id, event.boot_id, turn.now_s)
        turn.state.pools[event.pool_id] = pool
        turn.state.newest_pool_at_s = turn.now_s
    leases.heard(turn, pool)
    restarted = pool.boot_id != event.boot_id
    if restarted:
        pool.boot_id = event.boot_id
        _forgive(turn, pool)
    models_changed = event.models != pool.models
    if models_changed:
        turn.touch_pool(pool)
        turn.state.set_models(pool, event.models)
    changed = event.devices != pool.devices or event.workers != pool.reported or event.default_ctx != pool.default_ctx
    if models_changed or changed or restarted:
        turn.touch_pool(pool)
    pool.devices = event.devices
    pool.unusable = event.unusable
    pool.reported = event.workers
    pool.default_ctx = event.default_ctx
    pool.freed_bytes.clear()
    for facts in event.workers:
        _worker_listed(turn, pool, facts, in_report=True)
    _miss_absent(turn, pool, event, restarted)
    return models_changed or is_new


def pool_forgotten(turn: Turn, pool: Pool) -> None:
    """The operator removed the pool: nothing there counts any more."""
    turn.touch_pool(pool)
    error = ErrorBody(code=ErrorCode.POOL_NOT_FOUND, message=f"Pool {pool.pool_id} was removed by the operator.")
    pool_lost(turn, pool, error)
    for worker in list(pool.workers.values()):
        turn.state.drop_worker(worker)
    turn.state.set_models(pool, ())
    del turn.state.pools[pool.pool_id]
    turn.state.suspects.pop(pool.pool_id, None)
    turn.state.drained.pop(pool.pool_id, None)
    _forgive(turn, pool)


def pool_drain_changed(turn: Turn, pool_id: str, *, drains: bool) -> None:
    """From now on the pool gets no new work, or gets it again; what runs there goes on."""
    if drains:
        turn.state.drained[pool_id] = None
    else:
        turn.state.drained.pop(pool_id, None)
    pool = turn.state.pools.get(pool_id)
    if pool is not None:
        turn.state.changed.update(dict.fromkeys(pool.workers))
        turn.touch_pool(pool)


def pool_lost(turn: Turn, pool: Pool, error: ErrorBody | None = None) -> None:
    """The pool's jobs go on elsewhere. Its workers stay known: if the pool returns they are used without loading anew."""
    error = error or ErrorBody(code=ErrorCode.POOL_UNREACHABLE, message=f"Pool {pool.pool_id} has not been heard for too long.")
    for worker in list(pool.workers.values()):
        _move_attempts(turn, worker, error)
        if not worker.listed:
            turn.state.drop_worker(worker)
    for job in turn.state.held_jobs(pool.pool_id):
        attempts.fail(turn, job, error, "lost")


def pool_out_of_reach(turn: Turn, pool: Pool) -> None:
    """What waits to be taken up there goes on elsewhere, where the model is; what streams on there stays."""
    message = f"Pool {pool.pool_id} and the worker on it have both fallen silent."
    for job in turn.state.held_jobs(pool.pool_id):
        assert job.model_sha256 is not None
        holders = turn.state.holders.get(job.model_sha256, {})
        if any(turn.state.pools[pool_id].state == "live" for pool_id in holders):
            attempts.fail(turn, job, ErrorBody(code=ErrorCode.POOL_UNREACHABLE, message=message), "lost")


def worker_ready(turn: Turn, pool: Pool, facts: WorkerFacts) -> None:
    """A worker has loaded; its pool passes that on without waiting for the next report."""
    _worker_listed(turn, pool, facts, in_report=False)
    turn.touch_pool(pool)


def worker_ended(turn: Turn, worker: Worker, error: ErrorBody, *, while_loading: bool) -> None:
    """The process is gone for certain: judge the jobs on board, move them, and remember that the id is spent."""
    asked = worker.stop_asked_at_s is not None
    turn.state.ended_workers[worker.worker_id] = turn.now_s
    if while_loading and not asked:
        retry.load_failed(turn, worker, error)
    elif not asked:
        poison.worker_died(turn, worker, error)
    _remove(turn, worker, error)


def unknown_worker_ended(turn: Turn, pool_id: str, worker_id: str, error: ErrorBody) -> None:
    """The worker of a recovered attempt is gone before its pool was heard; what another pool says of it counts for nothing."""
    if worker_id in turn.state.workers or _is_of_another(turn, pool_id, worker_id):
        return
    turn.state.ended_workers[worker_id] = turn.now_s
    _fail_held(turn, worker_id, error)


def _is_of_another(turn: Turn, pool_id: str, worker_id: str) -> bool:
    """True where the worker, or a recovered attempt on it, belongs to another pool."""
    worker = turn.state.workers.get(worker_id)
    attempts_there = (turn.state.jobs[job_id].attempt for job_id in turn.state.held.get(worker_id, ()))
    is_elsewhere = worker is not None and worker.pool_id != pool_id
    return is_elsewhere or any(attempt and attempt.pool_id != pool_id for attempt in attempts_there)


def doubt(turn: Turn, worker: Worker, job_id: str, error: ErrorBody, *, hung: bool) -> None:
    """An attempt found the worker unreachable or standing still, while its pool is heard well."""
    if worker.doubt is None:
        worker.strikes += 1
    suspend(turn, worker, job_id, error.message)
    worker.hung = worker.hung or hung
    pool = turn.state.pools[worker.pool_id]
    if worker.hung and worker.listed and pool.state == "live" and worker.stop_asked_at_s is None:
        eviction.stop(turn, worker, error.message)


def suspend(turn: Turn, worker: Worker, job_id: str, reason: str = "Its host is quiet.") -> None:
    """A stream from the worker broke: no new work until its pool is heard, without a judgement on the worker."""
    worker.broken[job_id] = None
    if worker.doubt is None:
        worker.doubted_at_s = turn.now_s
    worker.doubt = reason
    turn.state.changed[worker.worker_id] = None


def trust(turn: Turn, worker: Worker) -> None:
    """The doubts did not come true."""
    worker.doubt = None
    worker.broken.clear()
    turn.state.changed[worker.worker_id] = None
    turn.touched.add(worker.model_sha256)


def give_up_spawn(turn: Turn, worker: Worker, error: ErrorBody) -> None:
    """The worker was never started, as far as can be known; if it turns up after all, it is welcome."""
    retry.load_failed(turn, worker, error)
    _remove(turn, worker, error)


def _forgive(turn: Turn, pool: Pool) -> None:
    """A restarted pool daemon may have been repaired."""
    for key in [key for key in turn.state.troubles if key[1] == pool.pool_id]:
        del turn.state.troubles[key]


def _worker_listed(turn: Turn, pool: Pool, facts: WorkerFacts, *, in_report: bool) -> None:
    if facts.state in _OVER:
        if not _is_of_another(turn, pool.pool_id, facts.worker_id):
            # News of its start may still be on the way.
            turn.state.ended_workers.setdefault(facts.worker_id, turn.now_s)
        return
    if facts.worker_id in turn.state.ended_workers:
        return
    worker = turn.state.workers.get(facts.worker_id)
    if worker is not None and worker.pool_id != pool.pool_id:
        if turn.state.pools[worker.pool_id].state != "lost":
            return
        # The host came back under another name; what ran there has been moved.
        turn.touch_pool(turn.state.pools[worker.pool_id])
        turn.state.drop_worker(worker)
        worker = None
    if worker is None:
        worker = _meet(turn, pool, facts)
        worker.measured = in_report and facts.state == "ready"
    worker.listed = worker.listed or in_report
    worker.measured = worker.measured or (in_report and worker.state == "ready")
    worker.vouched_at_s = turn.now_s
    became_ready = facts.state == "ready" and worker.state != "ready"
    if facts.state != worker.state or facts.slots != worker.slots or worker.facts is None or facts.ctx != worker.facts.ctx:
        turn.touched.add(worker.model_sha256)
        turn.state.changed[worker.worker_id] = None
    worker.state = facts.state
    worker.facts = facts
    turn.state.unheard.pop(worker.worker_id, None)
    worker.slots = facts.slots
    worker.count_slots()
    worker.memory_bytes = facts.memory_bytes or worker.memory_bytes
    if became_ready:
        worker.ready_since_s = turn.now_s
        if not worker.attempts:
            turn.state.rest(worker, turn.now_s)
        retry.load_succeeded(turn, worker.model_sha256, worker.pool_id)
        if worker.asked:
            _learn(turn, worker, facts)
    if in_report:
        _hear_of_doubted(turn, worker)
    settle_held(turn, worker)
    if worker.stop_asked_at_s is not None and turn.now_s - worker.stop_asked_at_s >= turn.policy.stop_patience_s:
        eviction.stop(turn, worker, "It was told to stop before and is still there.")


def _learn(turn: Turn, worker: Worker, facts: WorkerFacts) -> None:
    """A worker that orcd had started is ready: how long that took, and how much memory it takes."""
    turn.state.speeds.load_took(worker.place, turn.now_s - worker.asked_at_s)
    held = turn.state.holders.get(worker.model_sha256, {}).get(worker.pool_id)
    # Of a worker that shares its model with main memory nobody says how much is where.
    if held is not None and worker.expected_bytes:
        turn.state.estimates.took(held, worker.pool_id, worker.backend, facts.memory_bytes, worker.expected_bytes)


def _meet(turn: Turn, pool: Pool, facts: WorkerFacts) -> Worker:
    """A worker that orcd did not ask for, or has forgotten."""
    held = turn.state.holders.get(facts.model_sha256, {}).get(pool.pool_id)
    worker = Worker(
        worker_id=facts.worker_id,
        pool_id=pool.pool_id,
        model_ref=facts.model_ref,
        model_sha256=facts.model_sha256,
        backend=facts.backend,
        devices=facts.devices,
        size_bytes=held.size_bytes if held is not None else facts.memory_bytes,
        pinned=held is not None and turn.policy.pins(held),
        memory_bytes=facts.memory_bytes or (analytic_bytes(held, facts.backend) if held is not None else 0),
        asked_at_s=turn.now_s,
        idle_since_s=turn.now_s,
    )
    turn.state.add_worker(worker)
    return worker


def _hear_of_doubted(turn: Turn, worker: Worker) -> None:
    """The pool still lists the worker: one that hangs is replaced, one that was merely unreachable gets another chance."""
    if worker.doubt is None or worker.stop_asked_at_s is not None:
        return
    if worker.hung or worker.strikes >= turn.policy.unreachable_strikes:
        eviction.stop(turn, worker, worker.doubt)
    elif worker.state == "ready" and turn.now_s - worker.doubted_at_s >= turn.policy.doubt_s:
        trust(turn, worker)


def settle_held(turn: Turn, worker: Worker) -> None:
    """Take up the attempts that waited for this worker to be heard of."""
    for job_id in list(turn.state.held.get(worker.worker_id, ())):
        job = turn.state.jobs[job_id]
        if worker.state in {"ready", "draining"} and worker.stop_asked_at_s is None and job.model_sha256 == worker.model_sha256:
            attempts.attach(turn, job, worker)
        else:
            error = ErrorBody(code=ErrorCode.WORKER_UNREACHABLE, message="The worker does not run this attempt any more.")
            attempts.fail(turn, job, error, "lost")


def _miss_absent(turn: Turn, pool: Pool, event: PoolReported, restarted: bool) -> None:
    """Workers that the pool does not list any more are gone; held attempts on workers that it never knew are, too."""
    listed = {facts.worker_id for facts in event.workers if facts.state not in _OVER}
    over = {facts.worker_id for facts in event.workers if facts.state in _OVER}
    for worker in list(pool.workers.values()):
        if worker.worker_id not in listed and (worker.worker_id in over or _is_missed(turn, worker, restarted)):
            _remove(turn, worker, _gone(worker.worker_id, pool))
    for job in turn.state.held_jobs(pool.pool_id):
        attempt = job.attempt
        if attempt is not None and attempt.worker_id not in listed:
            attempts.fail(turn, job, _gone(attempt.worker_id, pool), "lost", fence=False)


def _is_missed(turn: Turn, worker: Worker, restarted: bool) -> bool:
    """True where the absence of the worker tells that it is gone, because the report must be younger than its beginning."""
    if worker.listed:
        return True
    if worker.facts is None:
        return restarted and worker.accepted
    return restarted or turn.now_s - worker.vouched_at_s >= turn.policy.quiet_after_s


def _gone(worker_id: str, pool: Pool) -> ErrorBody:
    message = f"Worker {worker_id} is not among those that pool {pool.pool_id} has running."
    return ErrorBody(code=ErrorCode.WORKER_CRASHED, message=message)


def _remove(turn: Turn, worker: Worker, error: ErrorBody) -> None:
    pool = turn.state.pools[worker.pool_id]
    turn.touch_pool(pool)
    _move_attempts(turn, worker, error, fence=False)
    _fail_held(turn, worker.worker_id, error)
    if worker.measured:
        for device_id in worker.devices:
            pool.freed_bytes[device_id] = pool.freed_bytes.get(device_id, 0) + eviction.memory_on(worker)
    turn.state.drop_worker(worker)


def _fail_held(turn: Turn, worker_id: str, error: ErrorBody) -> None:
    for job_id in list(turn.state.held.get(worker_id, ())):
        attempts.fail(turn, turn.state.jobs[job_id], error, "lost", fence=False)


def _move_attempts(turn: Turn, worker: Worker, error: ErrorBody, *, fence: bool = True) -> None:
    for job_id in list(worker.attempts):
        job = turn.state.jobs[job_id]
        assert job.phase in {Phase.DISPATCHED, Phase.RUNNING}
        attempts.fail(turn, job, error, "lost", fence=fence)
