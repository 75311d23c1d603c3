"""PURE: when a job would be done here or there: what it waits for first, what of its prompt is cached, how fast it is written.

Expectations are made of learned speeds (`speeds.py`) and of what orcd itself has given to whom. They decide where a job goes and
promise nothing: an attempt that should be over and is not gets as long again as a part of what it has taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from rbees.orcd.scheduler import eviction
from rbees.orcd.scheduler.fleet import Stay, Worker
from rbees.orcd.scheduler.job import Job
from rbees.orcd.scheduler.roster import Serving
from rbees.orcd.scheduler.sites import Site
from rbees.orcd.scheduler.speeds import SHORTEST_STEP_S, Place
from rbees.orcd.scheduler.state import State
from rbees.protocol.prefix_chain import LINK_ENDS

LIKELY: Final = 8
"""So many of the workers that look best are compared for each job, so that a decision takes no longer in a large fleet."""
WAITING_SAVES: Final = 0.2
"""A free worker is let pass only for one where the job is expected to be done by so large a part earlier: expectations err."""
READ_PER_WRITTEN: Final = 16
"""Prompt tokens that are read in the time of one that is written, about, whatever the machine."""
OVERDUE: Final = 0.25
"""An attempt past its expected end is expected to take so much more of the time that it has taken."""
WORKER_STOPS_S: Final = 2.0
"""For an idle worker to leave its memory."""
SAMPLED: Final = 32
NEW_WORKER_SLOTS: Final = 4
"""Of a worker that has not told yet how many it has."""


@dataclass(frozen=True, slots=True)
class Prospect:
    """How one job would fare in one place. Seconds from now."""

    starts_in_s: float
    takes_s: float
    saved_s: float = 0.0
    """Prefill that cached beginnings of the prompt save, already left out of `takes_s`."""

    @property
    def done_in_s(self) -> float:
        """What places are compared by."""
        return self.starts_in_s + self.takes_s


def on_worker(state: State, job: Job, worker: Worker, now_s: float) -> Prospect:
    """On a worker that is ready, now or as soon as enough slots are free there."""
    place, choices = worker.place, worker.slots_for(job.spec.choices)
    starts_in_s = 0.0 if choices <= worker.free_slots else _slots_free_in_s(worker, choices, now_s)
    beside = worker.taken_slots if starts_in_s == 0.0 else worker.slots - choices
    prompt = state.speeds.prompt_tokens(worker.model_sha256, job.spec.prompt_bytes)
    cached = prompt * cached_share(job, worker)
    prefill_s = state.speeds.prefill_s(place, prompt - cached)
    written_s = _written_s(state, job, place, beside + choices)
    return Prospect(starts_in_s, prefill_s + written_s, state.speeds.prefill_s(place, cached))


def on_coming(state: State, job: Job, worker: Worker, now_s: float) -> Prospect:
    """On a worker that loads its model, as if it were empty once it is ready."""
    return Prospect(_ready_in_s(state, worker, now_s), _alone_s(state, job, worker.place))


def on_site(state: State, job: Job | None, site: Site, now_s: float) -> Prospect:
    """On a worker that is yet to be started, where its room may have to be made first; without `job`, for any."""
    assert site.room is not None
    place = Place(site.facts.sha256, site.facts.size_bytes, site.pool.pool_id, site.backend)
    waits = site.room.stopping or site.room.victims
    # Whoever makes room has to be loaded again by somebody.
    regret_s = sum(eviction.worth_s(state, victim, now_s) for victim in site.room.victims)
    takes_s = _alone_s(state, job, place)
    if site.share < 1.0:
        # Each layer takes as long as where it is: the whole is the sum.
        takes_s = site.share * takes_s + (1.0 - site.share) * _alone_s(state, job, place._replace(backend="cpu"))
    return Prospect(state.speeds.load_s(place) + (WORKER_STOPS_S if waits else 0.0) + regret_s, takes_s)


def behind_s(state: State, job: Job, serving: Serving, ahead: float, now_s: float) -> float:
    """When a job with so many like it before it should be done on workers that are there: what runs, those others, itself."""
    turn_s, takes_s = turn_in_s(state, job, serving, ahead, now_s)
    return turn_s + takes_s


def turn_in_s(state: State, job: Job, serving: Serving, ahead: float, now_s: float) -> tuple[float, float]:
    """When its turn should come, and how long it takes on the fastest of the workers.

    Of many workers `SAMPLED` stand for all, from the fastest to the slowest. Those that take no more work, for they empty or run a
    job alone, are left out unless all do.
    """
    sampled = [state.workers[worker_id] for worker_id in serving.workers.spread(SAMPLED)]
    workers = [worker for worker in sampled if worker.claim is None and worker.sole_job is None] or sampled
    takes_s = [max(on_worker(state, job, worker, now_s).takes_s, SHORTEST_STEP_S) for worker in workers]
    done_per_s = sum(worker.slots / seconds for worker, seconds in zip(workers, takes_s, strict=True))
    running_s = sum(left_s(stay, now_s) for worker in workers for stay in worker.stays.values())
    slots = sum(worker.slots for worker in workers)
    stand_for = serving.slots / sum(worker.slots for worker in sampled)
    return running_s / slots + ahead / (done_per_s * stand_for), min(takes_s)


def work(state: State, job: Job) -> float:
    """How much a job asks for, wherever it runs: tokens to write, and tokens to read, which take about a sixteenth as long."""
    assert job.model_sha256 is not None
    written = state.speeds.answer_tokens(job.model_sha256, job.spec.max_tokens) * job.spec.choices
    return 1.0 + written + state.speeds.prompt_tokens(job.model_sha256, job.spec.prompt_bytes) / READ_PER_WRITTEN


def cached_share(job: Job, worker: Worker) -> float:
    """How much of the job's prompt the worker holds, as far as is known."""
    prefixes = job.spec.prefixes
    for index in range(len(prefixes) - 1, -1, -1):
        if prefixes[index] in worker.prefixes:
            return min(1.0, LINK_ENDS[index] / job.spec.prompt_bytes) if job.spec.prompt_bytes else 0.0
    return 0.0


def left_s(stay: Stay, now_s: float) -> float:
    """How much longer an attempt should take."""
    if stay.until_s > now_s:
        return stay.until_s - now_s
    return OVERDUE * (now_s - stay.since_s)


def _slots_free_in_s(worker: Worker, choices: int, now_s: float) -> float:
    free = worker.free_slots
    for left, slots in sorted((left_s(stay, now_s), worker.slots_for(stay.choices)) for stay in worker.stays.values()):
        free += slots
        if free >= choices:
            return left
    return 0.0


def _ready_in_s(state: State, worker: Worker, now_s: float) -> float:
    taken_s = now_s - worker.asked_at_s
    progress = worker.facts.load_progress if worker.facts is not None else 0.0
    expected_s = state.speeds.load_s(worker.place)
    if progress >= 0.1:
        expected_s = taken_s / progress
    return expected_s - taken_s if expected_s > taken_s else OVERDUE * taken_s


def _alone_s(state: State, job: Job | None, place: Place) -> float:
    if job is None:
        return state.speeds.answer_tokens(place.model_sha256, None) * state.speeds.step_s(place, 1)
    prompt = state.speeds.prompt_tokens(place.model_sha256, job.spec.prompt_bytes)
    streams = min(job.spec.choices, NEW_WORKER_SLOTS)
    return state.speeds.prefill_s(place, prompt) + _written_s(state, job, place, streams)


def _written_s(state: State, job: Job, place: Place, streams: int) -> float:
    """Answers that find no slot are written after the others."""
    tokens = state.speeds.answer_tokens(place.model_sha256, job.spec.max_tokens)
    rounds = -(-job.spec.choices // streams) if streams else 1
    return tokens * rounds * state.speeds.step_s(place, streams)
