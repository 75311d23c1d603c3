"""PURE: what the passing of time alone brings about."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from heapq import nsmallest
from itertools import takewhile
from typing import Final

from rbees.orcd.scheduler import arrivals, attempts, eviction, leases, reports
from rbees.orcd.scheduler.job import Job
from rbees.orcd.scheduler.turn import Turn
from rbees.protocol.errors import ErrorBody, ErrorCode

ENDED_WORKERS_KEPT_S: Final = 600.0
LOOKS_OF_A_TICK: Final = 32
"""So many models are looked at for what time may have changed; with more, the next tick goes on behind them."""


def pass_on(turn: Turn) -> None:
    """What is due at the moment: retries, and the ends of timeouts and deadlines."""
    turn.touched |= turn.queue.wake(turn.now_s, turn.state.jobs)
    deadlines = turn.state.deadlines
    while deadlines and deadlines[0][0] <= turn.now_s:
        deadline_s, job_id = heapq.heappop(deadlines)
        job = turn.state.jobs.get(job_id)
        if job is not None and deadline_s in {job.timeout_s, job.deadline_s}:
            attempts.finish(turn, job, "failed", _too_late(job, deadline_s))


def tick(turn: Turn) -> None:
    """Look for what only time brings: silence of pools, idle workers, pauses that are over, jobs that age."""
    for pool in leases.check(turn):
        reports.pool_lost(turn, pool)
    for pool in leases.out_of_reach(turn):
        reports.pool_out_of_reach(turn, pool)
    for job_id in [job_id for job_id, until_s in turn.state.held_until.items() if until_s <= turn.now_s]:
        job = turn.state.jobs[job_id]
        message = "The pool of the worker that ran the job has not come back in time."
        attempts.fail(turn, job, ErrorBody(code=ErrorCode.POOL_UNREACHABLE, message=message), "lost")
    _give_up_silent_spawns(turn)
    eviction.stop_long_idle(turn)
    _forget_ended_workers(turn)
    if turn.state.pools and turn.state.is_settled(turn.now_s, turn.policy.settle_s):
        # Time alone explains no reference; it only ends the hope that another pool will.
        arrivals.resolve_waiting(turn)
    for model_sha256, pool_id in turn.state.troubles:
        # A pause may be over.
        turn.state.rooms_of(model_sha256).changed[pool_id] = None
    turn.touched |= turn.state.choosy
    turn.touched.update(_aging(turn))
    turn.touched.update(turn.queue.wanted_soon())


def _aging(turn: Turn) -> Iterator[str]:
    """Models with waiting jobs for which something may have changed by time alone, of many models some at each tick."""
    models = turn.queue.waiting_models()
    after = [model for model in models if model > turn.state.looked_at] if len(models) > LOOKS_OF_A_TICK else models
    chosen = nsmallest(LOOKS_OF_A_TICK, after)
    turn.state.looked_at = chosen[-1] if len(chosen) == LOOKS_OF_A_TICK else ""
    for model_sha256 in chosen:
        rooms = turn.state.rooms_of(model_sha256)
        # Where all workers are at work and there is room for no other, time brings nothing but to those for whom these will not do.
        can_grow = len(rooms.free) or len(rooms.pushing) or rooms.changed or not turn.state.serving_of(model_sha256).slots
        if can_grow or turn.queue.has_others(model_sha256):
            yield model_sha256


def _forget_ended_workers(turn: Turn) -> None:
    ended = turn.state.ended_workers
    for worker_id in list(takewhile(lambda ended_: turn.now_s - ended[ended_] > ENDED_WORKERS_KEPT_S, ended)):
        del ended[worker_id]


def _give_up_silent_spawns(turn: Turn) -> None:
    patience_s = turn.policy.spawn_patience_s
    for worker in [turn.state.workers[worker_id] for worker_id in turn.state.unheard]:
        if turn.now_s - worker.asked_at_s >= patience_s:
            message = f"Pool {worker.pool_id} has not listed the worker within {patience_s:.0f} s of being told to start it."
            reports.give_up_spawn(turn, worker, ErrorBody(code=ErrorCode.POOL_UNREACHABLE, message=message))


def _too_late(job: Job, at_s: float) -> ErrorBody:
    if at_s == job.deadline_s:
        where = "while it waited for a worker" if job.timeout_s is None else "before it was done"
        message = f"The job's deadline came {where}."
        return ErrorBody(code=ErrorCode.DEADLINE_EXCEEDED, message=message, details={"deadline_at_ms": job.spec.deadline_at_ms})
    message = f"The job did not end within {job.spec.timeout_ms} ms of its first dispatch."
    return ErrorBody(code=ErrorCode.TIMEOUT, message=message, details={"timeout_ms": job.spec.timeout_ms})
