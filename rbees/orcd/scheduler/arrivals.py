"""PURE: how jobs come in, after a restart also back, and how the file that each means is found."""

from __future__ import annotations

import heapq

from rbees.orcd.scheduler import admission, attempts, explain, poison, prospects, reports
from rbees.orcd.scheduler.effects import ResolveModel
from rbees.orcd.scheduler.events import JobRecovered, JobSpec
from rbees.orcd.scheduler.job import Attempt, Job, Move
from rbees.orcd.scheduler.policy import Policy
from rbees.orcd.scheduler.state import State
from rbees.orcd.scheduler.turn import Turn
from rbees.protocol.errors import ErrorBody, ErrorCode, RbeesError
from rbees.protocol.pools import ModelFacts


def enter(turn: Turn, spec: JobSpec, since_s: float) -> Job | None:
    """Take a job up into the queue, with its model resolved if that is possible; None if that ended it."""
    assert spec.job_id not in turn.state.jobs, "a job arrives once"
    job = Job(spec, since_s + ageing_s(turn.policy, spec), spec.model_sha256, queued_at_s=turn.now_s)
    turn.state.jobs[spec.job_id] = job
    if spec.deadline_at_ms is not None:
        job.deadline_s = turn.now_s + (spec.deadline_at_ms - turn.moment.unix_ms) / 1000
        heapq.heappush(turn.state.deadlines, (job.deadline_s, spec.job_id))
    if job.model_sha256 is not None:
        job.work = prospects.work(turn.state, job)
    turn.queue.put(job, turn.now_s, turn.now_s)
    if job.model_sha256 is None:
        turn.state.unresolved.setdefault(spec.model, {})[spec.job_id] = None
        _resolve(turn, spec.model)
    else:
        turn.state.uses.asked(job.model_sha256, turn.now_s)
        turn.touched.add(job.model_sha256)
    return turn.state.jobs.get(spec.job_id)


def recover(turn: Turn, event: JobRecovered) -> None:
    """Take a job up again after a restart; with a worker, an attempt of it may still run there."""
    assert turn.state.started_at_s is not None
    # A wall clock that was set back meanwhile cannot make a job younger than this process.
    waited_s = max(0, turn.state.started_at_ms - event.accepted_at_ms) / 1000
    job = enter(turn, event.job, since_s=turn.state.started_at_s - waited_s)
    if job is None:
        return
    job.epoch, job.failures = event.epoch, event.failures
    poison.remember(turn, job, event.deaths)
    if event.worker_id is not None:
        turn.queue.remove(job)
        attempts.start_time(turn, job)
        job.move(Move.HOLD)
        job.attempt = Attempt(event.epoch, event.worker_id, event.pool_id or "")
        turn.state.hold(job, turn.now_s + turn.policy.lost_after_s)
        worker = turn.state.workers.get(event.worker_id)
        if worker is not None:
            reports.settle_held(turn, worker)


def cancel(turn: Turn, job_id: str) -> None:
    """The client does not want it any more."""
    job = turn.state.jobs.get(job_id)
    if job is not None:
        message = "The job was cancelled on request."
        attempts.finish(turn, job, "cancelled", ErrorBody(code=ErrorCode.CANCELLED, message=message))


def resolve_waiting(turn: Turn) -> None:
    """Try again what no pool could explain so far."""
    for reference in list(turn.state.unresolved):
        _resolve(turn, reference)


def find_model(state: State, policy: Policy, reference: str) -> ModelFacts | None:
    """The model that a reference means over what pools hold now; None where no pool is known yet, so the job may wait.

    Raises:
        RbeesError: MODEL_NOT_FOUND with close names or how to have it fetched, or why a pool cannot serve the file of that name.
    """
    pools = state.pools.values()
    if not pools:
        return None
    unusable = [problem for pool in pools for problem in pool.unusable]
    return admission.resolve(reference, [pool.models for pool in pools], unusable, policy.downloadable)


def ageing_s(policy: Policy, spec: JobSpec) -> float:
    """How far behind its arrival a job's place in the queue is."""
    return policy.batch_ages_after_s if spec.priority == "batch" else 0.0


def _resolve(turn: Turn, reference: str) -> None:
    """Find out which file the reference of some waiting jobs means, over what pools hold at present."""
    if not turn.state.pools:
        _tell_the_first(turn, reference, explain.NO_POOL)
        return
    try:
        facts = find_model(turn.state, turn.policy, reference)
    except RbeesError as error:
        if turn.state.is_settled(turn.now_s, turn.policy.settle_s):
            for job in turn.state.unresolved_jobs(reference):
                attempts.finish(turn, job, "failed", error.body())
        else:
            _tell_the_first(turn, reference, explain.UNRESOLVED)
        return
    assert facts is not None
    for job in turn.state.unresolved_jobs(reference):
        turn.state.leave_unresolved(job)
        job.model_sha256 = facts.sha256
        job.work = prospects.work(turn.state, job)
        turn.state.uses.asked(facts.sha256, turn.now_s)
        turn.effects.append(ResolveModel(job.spec.job_id, facts.sha256, facts.ref))
        turn.queue.refile(job)
    turn.touched.add(facts.sha256)


def _tell_the_first(turn: Turn, reference: str, obstacle: explain.Obstacle) -> None:
    """Each note is a row on the disk, and after a restart every waiting job comes through here."""
    jobs = turn.state.unresolved[reference]
    for job_id in turn.queue.first(turn.policy.noted_jobs):
        if job_id in jobs:
            explain.tell(turn, turn.state.jobs[job_id], obstacle)
