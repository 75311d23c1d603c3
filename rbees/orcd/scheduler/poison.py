"""PURE: the poison rule. A job that kills its worker must not go on to kill every worker.

Jobs that were on a worker when it died are suspects and run alone from then on, so that the next death tells who it was. Only a
death alone counts; `deaths_alone` of them end the job as WORKER_CRASHED. A worker that orcd told to stop, or that vanished
together with its host, did not die of a job.

A suspect goes on behind its last token, so what killed the worker comes again within a few tokens if the job was the reason.
`proof_tokens` alone therefore clear it. It then makes way for the next suspect, without losing tokens, or lets others join it:
else the last of many that were on board would wait until all the others have ended. A job that has seen a second death is not
cleared: its proof may have come too early.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from rbees.orcd.scheduler import attempts
from rbees.orcd.scheduler.fleet import Worker
from rbees.orcd.scheduler.job import Job
from rbees.orcd.scheduler.turn import Turn
from rbees.protocol.errors import ErrorBody, ErrorCode

MADE_WAY: Final = "It made way for another job that must run alone for a moment, and goes on after that."


def worker_died(turn: Turn, worker: Worker, error: ErrorBody) -> None:
    """Judge the jobs that were on board, before their attempts are failed; those given up are ended here."""
    on_board = worker.broken | dict.fromkeys(worker.attempts)
    alone = len(on_board) == 1
    for job in [turn.state.jobs[job_id] for job_id in on_board if job_id in turn.state.jobs]:
        if alone:
            job.deaths_alone += 1
        else:
            job.deaths_in_company += 1
        if job.deaths_alone >= turn.policy.deaths_alone:
            attempts.finish(turn, job, "failed", _verdict(error, job.deaths_alone))
            continue
        was_suspect = job.suspect
        job.suspect = job.suspect or job.deaths_alone + job.deaths_in_company >= turn.policy.deaths_before_alone
        if job.spec.job_id in turn.queue:
            _refile(turn, job, moved=job.suspect is not was_suspect)


def _refile(turn: Turn, job: Job, *, moved: bool) -> None:
    """Its stream broke before the death was known; now it need not wait for the worker to come back."""
    if moved:
        turn.queue.refile(job)
    if job.failures == 1:
        turn.queue.end_pause(job)
    assert job.model_sha256 is not None, "it was on a worker"
    turn.touched.add(job.model_sha256)


def remember(turn: Turn, job: Job, deaths: int) -> None:
    """A job of an earlier process, in the queue: it was there when so many workers died, in company for all that is known."""
    job.deaths_in_company = deaths
    if deaths >= turn.policy.deaths_before_alone:
        job.suspect = True
        turn.queue.refile(job)


def clear(turn: Turn, job: Job) -> None:
    """The job has made `proof_tokens` alone."""
    attempt = job.attempt
    if attempt is None or not attempt.alone:
        return
    job.suspect = False
    job.attempt = replace(attempt, alone=False)
    worker = turn.state.workers.get(attempt.worker_id)
    if worker is not None and worker.sole_job == job.spec.job_id:
        worker.sole_job = None
        turn.state.changed[worker.worker_id] = None
        turn.touched.add(worker.model_sha256)
        if turn.queue.head(worker.model_sha256, alone=True) is not None:
            attempts.preempt(turn, job, MADE_WAY)


def _verdict(error: ErrorBody, deaths: int) -> ErrorBody:
    return ErrorBody(
        code=ErrorCode.WORKER_CRASHED,
        message=f"The job was alone on {deaths} workers that died, so it is not tried again.",
        details={**error.details, "deaths_alone": deaths},
    )
