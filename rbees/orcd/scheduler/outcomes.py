"""PURE: what workers say of attempts: taken up, come to an end, failed. Facts about any but a job's present attempt are dropped."""

from __future__ import annotations

from rbees.orcd.scheduler import attempts, contexts, leases, poison, reports, retry
from rbees.orcd.scheduler.events import AttemptFailed
from rbees.orcd.scheduler.fleet import Worker
from rbees.orcd.scheduler.job import Job, Move, Phase
from rbees.orcd.scheduler.speeds import Took
from rbees.orcd.scheduler.turn import Turn
from rbees.protocol.errors import ErrorBody, ErrorCode


def started(turn: Turn, job_id: str, epoch: int) -> None:
    """The worker has taken the attempt up."""
    job = _current(turn, job_id, epoch)
    if job is not None and job.phase is not Phase.HELD:
        job.move(Move.START)
        job.refusals = 0
        _show_life(turn, job)


def proved(turn: Turn, job_id: str, epoch: int) -> None:
    """The attempt has run alone for long enough to show that it kills no worker."""
    job = _current(turn, job_id, epoch)
    if job is not None:
        poison.clear(turn, job)


def completed(turn: Turn, job_id: str, epoch: int, took: Took | None) -> None:
    """The attempt has come to its end, and how long it took is learned."""
    job = _current(turn, job_id, epoch)
    if job is not None:
        worker = _worker_of(turn, job)
        if worker is not None and took is not None and job_id in worker.stays:
            # Those that ran when it began and those that run now are the ends of what ran meanwhile.
            streams = (worker.stays[job_id].streams + worker.taken_slots) / 2
            turn.state.speeds.attempt_took(
                worker.place, took, streams=streams, choices=job.spec.choices, prompt_bytes=job.spec.prompt_bytes
            )
        _show_life(turn, job)
        attempts.complete(turn, job)


def failed(turn: Turn, event: AttemptFailed) -> None:
    """The attempt broke off: the job ends with it, or goes on elsewhere."""
    job = _current(turn, event.job_id, event.epoch)
    if job is None:
        return
    worker = _worker_of(turn, job)
    needs_ctx = contexts.needed(event.error)
    if needs_ctx is not None:
        _outgrew(turn, job, worker, event.error, needs_ctx)
    elif event.final:
        attempts.finish(turn, job, "failed", event.error, abandon=False)
    elif event.error.code in retry.NOT_TAKEN_UP:
        if worker is not None and event.error.code in {ErrorCode.DRAINING, ErrorCode.MODEL_LOADING}:
            worker.state = "draining" if event.error.code is ErrorCode.DRAINING else "loading"
            turn.state.changed[worker.worker_id] = None
        attempts.fail(turn, job, event.error, "failed", counted=False, fence=False)
    elif job.phase is not Phase.HELD and worker is not None and event.worker_suspect:
        _failed_with_worker(turn, job, worker, event)
    else:
        attempts.fail(turn, job, event.error, "failed", fence=event.worker_suspect)


def stopped_by_worker(turn: Turn, job_id: str, epoch: int) -> None:
    """Nobody asked for this attempt to stop, or the job would be forgotten: the worker gave it up by itself."""
    job = _current(turn, job_id, epoch)
    if job is not None:
        message = "The worker stopped the attempt by itself."
        attempts.fail(turn, job, ErrorBody(code=ErrorCode.WORKER_UNREACHABLE, message=message), "failed", fence=False)


def _current(turn: Turn, job_id: str, epoch: int) -> Job | None:
    """The job if `epoch` is its present attempt; facts about any other are dropped."""
    job = turn.state.jobs.get(job_id)
    return job if job is not None and job.attempt is not None and job.attempt.epoch == epoch else None


def _worker_of(turn: Turn, job: Job) -> Worker | None:
    return None if job.attempt is None else turn.state.workers.get(job.attempt.worker_id)


def _show_life(turn: Turn, job: Job) -> None:
    worker = _worker_of(turn, job)
    if worker is not None:
        worker.strikes = 0
        if worker.doubt is not None and not worker.hung:
            reports.trust(turn, worker)


def _outgrew(turn: Turn, job: Job, worker: Worker | None, error: ErrorBody, needs_ctx: int) -> None:
    """The worker's context is too small: the job goes on where there is a larger one, and ends where there is none."""
    job.needs_ctx = max(job.needs_ctx, needs_ctx)
    job.outgrown = error
    if worker is not None:
        contexts.refused_by(job, worker)
        turn.state.keeps_not(worker, job)
    among = contexts.places(turn.state, job.model_sha256 or "", turn.now_s)
    if contexts.is_held_by(job, among) or not turn.state.is_settled(turn.now_s, turn.policy.settle_s):
        attempts.outgrow(turn, job, error)
    else:
        attempts.finish(turn, job, "failed", contexts.exceeded(job, among), abandon=False)


def _failed_with_worker(turn: Turn, job: Job, worker: Worker, event: AttemptFailed) -> None:
    """The connection broke or the worker stands still. Where its whole pool is quiet this is no news: the lease decides."""
    if leases.is_quiet(turn, turn.state.pools[worker.pool_id]):
        reports.suspend(turn, worker, job.spec.job_id)
        attempts.hold(turn, job, until_s=None)
        return
    reports.doubt(turn, worker, job.spec.job_id, event.error, hung=event.worker_hung)
    attempts.fail(turn, job, event.error, "failed")
