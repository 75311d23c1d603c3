"""PURE: the life of attempts: dispatched, attached again, held, given up, brought back to the queue, ended.

Every phase change of a job happens here, together with the effect that tells of it. A job is ended in two ways only, `finish` and
`complete`; both forget it, so whatever is heard of it later is dropped.
"""

from __future__ import annotations

import heapq
from typing import Literal

import msgspec

from rbees.orcd.scheduler import eviction, prospects, retry
from rbees.orcd.scheduler.effects import Abandon, Attach, Dispatch, Finish, Requeue
from rbees.orcd.scheduler.fleet import Stay, Worker
from rbees.orcd.scheduler.job import Attempt, Job, Move, Phase
from rbees.orcd.scheduler.turn import Turn
from rbees.protocol.errors import ErrorBody, ErrorCode

Outcome = Literal["failed", "lost"]
EndStatus = Literal["failed", "cancelled"]


def dispatch(turn: Turn, job: Job, worker: Worker, why: str) -> None:
    """Give a queued job to a worker, under the next epoch."""
    turn.queue.remove(job, served=True)
    job.move(Move.DISPATCH)
    job.epoch += 1
    job.attempt = Attempt(job.epoch, worker.worker_id, worker.pool_id, alone=job.suspect)
    job.noted = None
    job.patient_until_s = None
    start_time(turn, job)
    _seat(turn, job, worker)
    if job.spec.keep_s is not None:
        eviction.keep(turn.state, worker.model_sha256, job.spec.keep_s)
    proof_tokens = _proof_tokens(turn, job)
    turn.effects.append(Dispatch(job.spec.job_id, job.epoch, worker.worker_id, worker.pool_id, why, proof_tokens))


def _proof_tokens(turn: Turn, job: Job) -> int | None:
    """What clears a suspect, see poison.py."""
    clearable = job.suspect and not job.deaths_alone and job.deaths_in_company <= turn.policy.deaths_before_alone
    return turn.policy.proof_tokens if clearable else None


def start_time(turn: Turn, job: Job) -> None:
    """Its `timeout_ms` begin to run, unless they do already."""
    if job.timeout_s is None:
        job.timeout_s = turn.now_s + job.spec.timeout_ms / 1000
        heapq.heappush(turn.state.deadlines, (job.timeout_s, job.spec.job_id))


def attach(turn: Turn, job: Job, worker: Worker) -> None:
    """Take a held attempt up again on the worker that still runs it."""
    turn.state.unhold(job)
    job.move(Move.ATTACH)
    assert job.attempt is not None
    job.attempt = Attempt(job.epoch, worker.worker_id, worker.pool_id, job.attempt.alone)
    _seat(turn, job, worker)
    turn.effects.append(Attach(job.spec.job_id, job.epoch, worker.worker_id, worker.pool_id, _proof_tokens(turn, job)))


def hold(turn: Turn, job: Job, until_s: float | None) -> None:
    """The attempt may still run where nobody can be asked: keep it until its pool reports or the lease ends."""
    _unseat(turn, job)
    job.move(Move.HOLD)
    turn.state.hold(job, until_s)


def fail(turn: Turn, job: Job, error: ErrorBody, outcome: Outcome, *, counted: bool = True, fence: bool = True) -> None:
    """The attempt is over without a result: back to the queue after a pause, or the end when no retry is left.

    `counted` is False where the worker never took the job up. `fence` has the worker told to stop, where it may still run.
    A job whose worker is gone, and that has failed nowhere before, does not pause: there is nothing to be gentle with.
    """
    attempt = job.attempt
    assert attempt is not None
    if fence:
        turn.effects.append(Abandon(job.spec.job_id, attempt.epoch, attempt.worker_id))
    job.avoid = attempt.worker_id
    if counted:
        job.failures += 1
    else:
        job.refusals += 1
    if job.failures > turn.policy.retries:
        finish(turn, job, "failed", _after_attempts(error, job.failures), abandon=False)
        return
    _release(turn, job)
    job.move(Move.RETURN)
    job.attempt = None
    job.noted = None
    job.queued_at_s = turn.now_s
    pauses = outcome == "failed" or job.failures > 1
    delay_s = retry.delay_s(turn.policy, job.failures if counted else job.refusals, turn.moment.entropy, job.spec.job_id)
    turn.queue.put(job, turn.now_s + delay_s * pauses, turn.now_s)
    turn.effects.append(Requeue(job.spec.job_id, attempt.epoch, attempt.worker_id, outcome, error, counted))


def outgrow(turn: Turn, job: Job, error: ErrorBody) -> None:
    """The worker's context is too small for the job, which waits for a larger one: no failure of the job or the worker."""
    attempt = job.attempt
    assert attempt is not None
    _return(turn, job)
    turn.effects.append(Requeue(job.spec.job_id, attempt.epoch, attempt.worker_id, "failed", error, counted=False))


def preempt(turn: Turn, job: Job, reason: str) -> None:
    """Take the attempt back for the sake of another job: it is no failure, and the job may go on at once where there is room."""
    attempt = job.attempt
    assert attempt is not None
    turn.effects.append(Abandon(job.spec.job_id, attempt.epoch, attempt.worker_id))
    _return(turn, job)
    error = ErrorBody(code=ErrorCode.CANCELLED, message=reason)
    turn.effects.append(Requeue(job.spec.job_id, attempt.epoch, attempt.worker_id, "cancelled", error, counted=False))


def finish(turn: Turn, job: Job, status: EndStatus, error: ErrorBody, *, abandon: bool = True) -> None:
    """End a job that will not be completed."""
    if abandon and job.attempt is not None:
        turn.effects.append(Abandon(job.spec.job_id, job.attempt.epoch, job.attempt.worker_id))
    _forget(turn, job)
    turn.effects.append(Finish(job.spec.job_id, status, error))


def complete(turn: Turn, job: Job) -> None:
    """The journal holds the job's `end`; nothing is left to do."""
    _forget(turn, job)


def _return(turn: Turn, job: Job) -> None:
    """The job waits again, without a pause."""
    _release(turn, job)
    job.move(Move.RETURN)
    job.attempt = None
    job.noted = None
    job.queued_at_s = turn.now_s
    turn.queue.put(job, turn.now_s, turn.now_s)


def _after_attempts(error: ErrorBody, attempts: int) -> ErrorBody:
    return msgspec.structs.replace(error, details={**error.details, "attempts": attempts})


def _seat(turn: Turn, job: Job, worker: Worker) -> None:
    assert job.model_sha256 == worker.model_sha256, "a job goes to a worker of its model"
    expected_s = prospects.on_worker(turn.state, job, worker, turn.now_s).takes_s
    streams = worker.taken_slots + worker.slots_for(job.spec.choices)
    worker.attempts[job.spec.job_id] = job.epoch
    turn.state.unused.pop(worker.worker_id, None)
    worker.stays[job.spec.job_id] = Stay(turn.now_s, turn.now_s + expected_s, job.spec.choices, streams)
    worker.count_slots()
    turn.state.give_prefixes(worker, job.spec.prefixes)
    turn.state.changed[worker.worker_id] = None
    if job.spec.priority == "batch":
        turn.state.batch_running.setdefault(worker.model_sha256, {})[job.spec.job_id] = None
    if job.attempt is not None and job.attempt.alone:
        worker.sole_job = job.spec.job_id
    for claimed in list(turn.state.claims.values()):
        if claimed.claim is not None and claimed.claim.job_id == job.spec.job_id:
            turn.state.release_claim(claimed)
            turn.touched.add(claimed.model_sha256)


def _unseat(turn: Turn, job: Job) -> None:
    assert job.attempt is not None
    worker = turn.state.workers[job.attempt.worker_id]
    del worker.attempts[job.spec.job_id]
    del worker.stays[job.spec.job_id]
    if job.spec.priority == "batch":
        del turn.state.batch_running[worker.model_sha256][job.spec.job_id]
    worker.count_slots()
    turn.state.changed[worker.worker_id] = None
    if worker.sole_job == job.spec.job_id:
        worker.sole_job = None
    turn.touched.add(worker.model_sha256)
    if not worker.attempts:
        # Now it could also make room for other models.
        turn.state.rest(worker, turn.now_s)
        turn.touch_pool(turn.state.pools[worker.pool_id])


def _release(turn: Turn, job: Job) -> None:
    match job.phase:
        case Phase.HELD:
            turn.state.unhold(job)
        case Phase.DISPATCHED | Phase.RUNNING:
            _unseat(turn, job)
        case Phase.QUEUED:
            turn.queue.remove(job)
        case Phase.ENDED:
            raise AssertionError("an ended job is forgotten")


def _forget(turn: Turn, job: Job) -> None:
    _release(turn, job)
    job.move(Move.END)
    state = turn.state
    if job.model_sha256 is None:
        state.leave_unresolved(job)
    else:
        turn.touched.add(job.model_sha256)
    del state.jobs[job.spec.job_id]
