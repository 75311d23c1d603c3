"""PURE: the poison rule. A job that kills its worker must not go on to kill every worker.

Jobs that were on a worker when it died are suspects and run alone from then on, so that the next death tells who it was. Only a
death alone counts; `deaths_alone` of them end the job as WORKER_CRASHED. A worker that orcd told to stop, or that vanished
together with its host, did not die of a job.
"""

from __future__ import annotations

from rbees.orcd.scheduler import attempts
from rbees.orcd.scheduler.state import Worker
from rbees.orcd.scheduler.turn import Turn
from rbees.protocol.errors import ErrorBody, ErrorCode


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
        elif not job.suspect and job.deaths_alone + job.deaths_in_company >= turn.policy.deaths_before_alone:
            job.suspect = True
            if job.spec.job_id in turn.queue:
                turn.queue.refile(job)


def _verdict(error: ErrorBody, deaths: int) -> ErrorBody:
    return ErrorBody(
        code=ErrorCode.WORKER_CRASHED,
        message=f"The job was alone on {deaths} workers that died, so it is not tried again.",
        details={**error.details, "deaths_alone": deaths},
    )
