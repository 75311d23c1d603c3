"""PURE: batch work gives way: an interactive job that would wait long takes a batch job's slot, and that goes on later.

Only batch jobs of higher rank give way (`queue.py`): one that was accepted `batch_ages_after_s` before the interactive job keeps
its place, so nobody gives way for ever. What was made of a job's answer is in the journal and is not made again; what the worker
has of its prompt it may still have cached. So giving way costs a batch job its turn and reading its prompt again, no more.
"""

from __future__ import annotations

from itertools import islice
from typing import Final

from rbees.orcd.scheduler import attempts, contexts, places, prospects
from rbees.orcd.scheduler.fleet import Worker
from rbees.orcd.scheduler.job import Job
from rbees.orcd.scheduler.prospects import LIKELY
from rbees.orcd.scheduler.turn import Turn

WHY: Final = "batch jobs gave way to it there"


def make_way(turn: Turn, model_sha256: str) -> bool:
    """Give the model's next job, if it is interactive and would wait long, the slots of batch jobs; whether that was done.

    Of the large ones, which wait beside the others, the next gets them first.
    """
    batch = turn.state.batch_running.get(model_sha256)
    if not batch:
        return False
    large = (turn.state.jobs[name] for name in turn.queue.large(model_sha256))
    first = next((job for job in large if job.spec.priority != "batch"), None)
    head = turn.queue.head(model_sha256, alone=False)
    nexts = [job for job in (first, None if head is None else turn.state.jobs[head]) if job is not None]
    return any(_make_way_for(turn, job, batch) for job in nexts if job.spec.priority != "batch")


def _make_way_for(turn: Turn, job: Job, batch: dict[str, None]) -> bool:
    assert job.model_sha256 is not None
    if not _waits_long(turn, job, job.model_sha256):
        return False
    tried: set[str] = set()
    for one in batch:
        worker = _host(turn, turn.state.jobs[one])
        if worker is None or worker.worker_id in tried:
            continue
        tried.add(worker.worker_id)
        givers = _givers(turn, job, worker)
        if givers and places.is_allowed(turn.state, job, worker, turn.now_s):
            for giver in givers:
                attempts.preempt(turn, giver, f"It gave way to an interactive job on worker {worker.worker_id} and goes on later.")
            attempts.dispatch(turn, job, worker, WHY)
            return True
    return False


def let_batch_go(turn: Turn, job: Job, worker: Worker) -> bool:
    """The worker empties, so that `job` can run or room is made for it: batch jobs there that would take long give way at once.

    True where some did.
    """
    givers = [giver for one in worker.attempts if _gives_way(turn, giver := turn.state.jobs[one], job, worker)]
    for giver in givers:
        attempts.preempt(turn, giver, f"It gave way to an interactive job, for which worker {worker.worker_id} empties.")
    return bool(givers)


def empty_in_s(turn: Turn, job: Job, worker: Worker) -> float:
    """When the worker could be empty for `job`."""
    staying = [one for one in worker.attempts if not _gives_way(turn, turn.state.jobs[one], job, worker)]
    return max((prospects.left_s(worker.stays[one], turn.now_s) for one in staying), default=0.0)


def _gives_way(turn: Turn, giver: Job, job: Job, worker: Worker) -> bool:
    if job.spec.priority == "batch" or giver.rank_s <= job.rank_s or not _can_go_on(giver):
        return False
    return prospects.left_s(worker.stays[giver.spec.job_id], turn.now_s) > turn.policy.preempt_above_s


def _waits_long(turn: Turn, job: Job, model_sha256: str) -> bool:
    """No worker has room for the job, and none is expected to have it soon."""
    state, now_s = turn.state, turn.now_s
    state.refile()
    open_, full = state.open_of(model_sha256), state.full_of(model_sha256)
    # Of a large job all workers are looked at: the likeliest may be those that do not hold it.
    first = open_.first(len(open_) if job.needs_ctx else 1, job.spec.choices)
    if any(contexts.holds(state, job, state.workers[name]) for name in first):
        # It waits for something better than that.
        return False
    later = [state.workers[name] for name in islice(full, len(full) if job.needs_ctx else LIKELY)]
    waits_s = [prospects.on_worker(state, job, w, now_s).starts_in_s for w in later if contexts.holds(state, job, w)]
    coming = (worker for worker in state.coming_of(model_sha256) if contexts.holds(state, job, worker))
    waits_s += [prospects.on_coming(state, job, worker, now_s).starts_in_s for worker in coming]
    return min(waits_s, default=0.0) > turn.policy.preempt_above_s


def _host(turn: Turn, job: Job) -> Worker | None:
    """The worker that has the job, if it may be given another."""
    worker = turn.state.workers.get(job.attempt.worker_id) if job.attempt is not None else None
    if worker is None or worker.claim is not None or not turn.state.is_sound(worker):
        return None
    if worker.sole_job not in {None, job.spec.job_id}:
        return None
    return worker


def _can_go_on(job: Job) -> bool:
    """A batch job that makes text; what makes vectors would start over."""
    return job.spec.priority == "batch" and job.spec.max_tokens != 0


def _givers(turn: Turn, job: Job, worker: Worker) -> list[Job]:
    """The batch jobs whose slots will do, those first that would need them longest; none where all of them would not."""
    needed = worker.slots_for(job.spec.choices) - worker.free_slots
    running = [turn.state.jobs[one] for one in worker.attempts]
    givers = [one for one in running if one.rank_s > job.rank_s and _can_go_on(one)]
    givers.sort(key=lambda one: (-prospects.left_s(worker.stays[one.spec.job_id], turn.now_s), -one.spec.order))
    chosen: list[Job] = []
    for giver in givers:
        if needed <= 0:
            break
        chosen.append(giver)
        needed -= worker.slots_for(giver.spec.choices)
    return chosen if needed <= 0 else []
