"""PURE: the longest that a waiting job can wait for its turn, by the formula of `lane.py`, in seconds.

Until it is its turn no slot that could serve is left free: whoever is next would take it. So what the slots do in all that time is
what runs already and what comes before the job, and that is at most a known amount of work. Only slots count of which that holds:

- of sound workers that take jobs at all: one that empties, or runs a job alone, serves nobody else;
- of workers that are about as good as the best for each of the jobs that wait: for a better one a job may wait although a slower
  one has a free slot;
- of each of them so many as cannot lie idle for a job that needs several at once.
"""

from __future__ import annotations

from typing import NamedTuple

from rbees.orcd.scheduler import prospects
from rbees.orcd.scheduler.fleet import Worker
from rbees.orcd.scheduler.job import Job
from rbees.orcd.scheduler.lane import Lane
from rbees.orcd.scheduler.queue import Queue
from rbees.orcd.scheduler.state import State
from rbees.protocol.decisions import WaitBound


class _Kind(NamedTuple):
    """Of job, by what matters for how long a unit of its work takes."""

    choices: int
    read: float
    """Prompt tokens in a unit of work."""

    def seconds_on(self, speed: _Speed) -> float:
        """For a unit of work."""
        written = max(1.0 - self.read / prospects.READ_PER_WRITTEN, 0.0) / self.choices
        return self.read * speed.read_s + written * -(-self.choices // speed.slots) * speed.written_s


class _Speed(NamedTuple):
    """Of a worker, all of whose slots are in use."""

    slots: int
    written_s: float
    read_s: float


def of_job(state: State, queue: Queue, job: Job, now_s: float) -> WaitBound | None:
    """None where nothing can be said: no worker is good for all, or jobs wait that must run alone or take a larger context."""
    model_sha256 = job.model_sha256 or ""
    lane = queue.lane(model_sha256)
    if lane is None or job.spec.job_id not in lane or queue.has_others(model_sha256):
        return None
    kinds = _kinds(state, model_sha256, [state.jobs[name] for name in lane])
    workers = _always_busy(state, model_sha256, kinds)
    if not workers:
        return None
    widest = max(kind.choices for kind in kinds)
    slots = sum(worker.slots - worker.slots_for(widest) + 1 for worker, _ in workers)
    per_work_s = max(kind.seconds_on(speed) * min(kind.choices, speed.slots) for kind in kinds for _, speed in workers)
    stays = ((worker, stay) for worker, _ in workers for stay in worker.stays.values())
    running_s = sum(prospects.left_s(stay, now_s) * worker.slots_for(stay.choices) for worker, stay in stays)
    most = lane.most_before(job.spec.job_id)
    others = _others(lane, job, now_s, (running_s + most.work * per_work_s) / slots, per_work_s / slots)
    return WaitBound(
        running_s=round(running_s, 3),
        own_work=round(most.own_work, 1),
        sessions=most.sessions,
        largest_work=round(most.largest_work, 1),
        other_work=round(others, 1),
        seconds_per_work=round(per_work_s, 6),
        slots=slots,
        waits_at_most_s=round((running_s + (most.work + others) * per_work_s) / slots, 3),
    )


def _kinds(state: State, model_sha256: str, jobs: list[Job]) -> list[_Kind]:
    """Of each number of answers those that read most and least beside what they write: whatever holds for both holds between."""
    tokens_per_byte = state.speeds.prompt_tokens(model_sha256, 1)
    reads: dict[int, tuple[float, float]] = {}
    for job in jobs:
        read = job.spec.prompt_bytes * tokens_per_byte / job.work
        least, most = reads.get(job.spec.choices, (read, read))
        reads[job.spec.choices] = (min(least, read), max(most, read))
    return [_Kind(choices, read) for choices, both in reads.items() for read in set(both)]


def _always_busy(state: State, model_sha256: str, kinds: list[_Kind]) -> list[tuple[Worker, _Speed]]:
    """The workers that no job of these kinds leaves idle, waiting for another."""
    serving = state.workers_of.get(model_sha256, {}).values()
    sound = [(worker, _speed(state, worker, worker.slots)) for worker in serving if worker.slots and state.is_sound(worker)]
    coming = [_speed(state, worker, 1) for worker in state.coming_of(model_sha256)]
    speeds = [*coming, *(speed for _, speed in sound)]
    best_s = {kind: min((kind.seconds_on(speed) for speed in speeds), default=0.0) for kind in kinds}
    return [
        (worker, speed)
        for worker, speed in sound
        if worker.claim is None
        and worker.sole_job is None
        and all(kind.seconds_on(speed) * (1 - prospects.WAITING_SAVES) <= best_s[kind] for kind in kinds)
    ]


def _speed(state: State, worker: Worker, streams: int) -> _Speed:
    slots = worker.slots or prospects.NEW_WORKER_SLOTS
    return _Speed(slots, state.speeds.step_s(worker.place, streams), state.speeds.prefill_s(worker.place, 1.0))


def _others(lane: Lane, job: Job, now_s: float, waits_s: float, s_per_work: float) -> float:
    """The work that comes first by priority or age, besides what has its turn before a job that waits so long for that."""
    if job.spec.priority == "batch":
        return lane.interactive_work() + lane.older_work(job.spec.job_id)
    work, alone = 0.0, lane.sessions(job.spec.job_id) == 1
    until_s = lane.youngest_before(job.spec.job_id)
    for rank_s, one in lane.batch_by_age():
        # While others may send chats that come before this one, whatever is older than those comes with them.
        if rank_s > (until_s if alone else max(until_s, now_s + waits_s + work * s_per_work)):
            break
        work += one
    return work
