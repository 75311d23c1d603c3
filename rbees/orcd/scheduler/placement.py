"""PURE: which worker a waiting job goes to.

For each model with waiting jobs, in the order of their first job: give each to the worker with free slots on which it is expected
to be done first, counting what is cached of its prompt. If a worker that is full or still loads promises to be so much faster that
waiting pays, the job waits for it, though never longer than the free one would have needed; the free one goes to the first job
further back for which waiting does not pay.

Large jobs, of which a worker told that they take more than its context, stand beside that order: where one has room for them they
go there first, so that they hold up nobody while none has.

A job that makes several answers takes as many slots; while no worker has them free, nothing is given to those behind it,
or it would wait for ever. Jobs that must run alone get an empty worker, and where there is none, one worker takes no more work
until it is empty. What still waits then is the business of growth.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import nsmallest
from itertools import islice
from typing import Final

from rbees.orcd.scheduler import attempts, contexts, explain, growth, places, preemption, prospects
from rbees.orcd.scheduler.explain import Obstacle
from rbees.orcd.scheduler.fleet import EMPTY, Claim, Worker
from rbees.orcd.scheduler.job import Job
from rbees.orcd.scheduler.prospects import LIKELY, NEW_WORKER_SLOTS, WAITING_SAVES, Prospect
from rbees.orcd.scheduler.sites import BACKEND_RANK
from rbees.orcd.scheduler.speeds import SHORTEST_STEP_S
from rbees.orcd.scheduler.state import State
from rbees.orcd.scheduler.turn import Turn

WAITING_IS_TOO_LONG: Final = "those before it wait for faster workers, where it would be done later than there"


def place(turn: Turn) -> None:
    """Look at the queue of every model for which something has changed, the one with the first job first.

    Before it comes one for which workers of another model empty, or that would take the room again.
    """
    turn.state.refile()
    in_order = turn.queue.in_order(turn.touched)
    owed = turn.state.owed
    if owed:
        owed.intersection_update(turn.queue.waiting_models())
        in_order.sort(key=lambda model: model not in owed)
    for model_sha256 in in_order:
        _place_model(turn, model_sha256)
    for model_sha256 in sorted(turn.queue.wanted_soon() & turn.touched):
        growth.grow(turn, model_sha256)


def _place_model(turn: Turn, model_sha256: str) -> None:
    _place_suspects(turn, model_sha256)
    _place_large(turn, model_sha256, aged=True)
    patience = _place_others(turn, model_sha256)
    _place_large(turn, model_sha256, aged=False)
    while preemption.make_way(turn, model_sha256):
        pass
    obstacle = growth.grow(turn, model_sha256) if turn.queue.depth(model_sha256) else None
    if obstacle is not None:
        obstacle = patience or obstacle
    if obstacle is None:
        turn.state.waits.pop(model_sha256, None)
        return
    turn.state.waits[model_sha256] = obstacle.reason
    told = (obstacle.news, turn.queue.changes(model_sha256))
    if turn.state.told.get(model_sha256) == told:
        return
    turn.state.told[model_sha256] = told
    for job_id in turn.queue.front(model_sha256, turn.policy.noted_jobs):
        explain.tell(turn, turn.state.jobs[job_id], obstacle)


@dataclass(frozen=True, slots=True)
class Choice:
    """A worker that a job may be given to, and what would come of it."""

    worker: Worker
    prospect: Prospect
    cost: float

    def order(self, job: Job) -> tuple[object, ...]:
        """The best first: not where the last attempt failed, then by cost; the rest makes the order stable."""
        busy = self.worker.taken_slots / max(self.worker.slots, 1)
        avoided = self.worker.worker_id == job.avoid
        return (avoided, self.cost, busy, BACKEND_RANK[self.worker.backend], self.worker.worker_id)


def _place_others(turn: Turn, model_sha256: str) -> Obstacle | None:
    """Give jobs to open workers; what the first job waits for, if it waits although a worker is open."""
    turn.state.choosy.discard(model_sha256)
    while (job_id := turn.queue.head(model_sha256, alone=False)) is not None:
        turn.state.refile()
        if not turn.state.open_of(model_sha256):
            return None
        job = turn.state.jobs[job_id]
        best, second = _best_open(turn, job)
        if best is None:
            return None
        growth.consider_better(turn, model_sha256, job, best.prospect.done_in_s)
        turn.state.refile()
        later = _worth_waiting_for(turn, job, best)
        if later is None:
            attempts.dispatch(turn, job, best.worker, _why(best, second))
            continue
        turn.state.choosy.add(model_sha256)
        if job.patient_until_s is None:
            job.patient_until_s = turn.now_s + best.prospect.done_in_s
        if not _place_one_behind(turn, model_sha256, best, later):
            return explain.better_later(later.worker, later.prospect.done_in_s, best.worker, best.prospect.done_in_s)
    return None


def _place_one_behind(turn: Turn, model_sha256: str, best: Choice, later: Choice) -> bool:
    """The first jobs wait for better workers; give the open one to the first job that would have to wait too long for that.

    Those before it lose nothing: each is expected to be done earlier where it waits than it would be there.
    """
    spare_s = best.prospect.done_in_s - later.prospect.done_in_s
    slots = turn.state.serving_of(model_sha256).slots - best.worker.slots or NEW_WORKER_SLOTS
    ahead = math.ceil(spare_s * slots / max(later.prospect.takes_s, SHORTEST_STEP_S))
    job_id = turn.queue.about_at(model_sha256, ahead)
    if job_id is None or not best.worker.has_slots_for(turn.state.jobs[job_id].spec.choices):
        return False
    attempts.dispatch(turn, turn.state.jobs[job_id], best.worker, WAITING_IS_TOO_LONG)
    return True


def _why(best: Choice, second: Choice | None) -> str:
    """Kept with the attempt, for whoever asks later."""
    cached = f", {best.prospect.saved_s:.1f} s of it saved by what is cached there" if best.prospect.saved_s >= 0.05 else ""
    other = "no other was free" if second is None else f"next best was {second.worker.worker_id}, {second.prospect.done_in_s:.1f} s"
    return f"expected to be done in {best.prospect.done_in_s:.1f} s{cached}; {other}"


def _best_open(turn: Turn, job: Job) -> tuple[Choice | None, Choice | None]:
    """Where the job would be done first of those that have all the slots that it needs, and where next."""
    assert job.model_sha256 is not None
    roster = turn.state.open_of(job.model_sha256)
    likely = roster.first(LIKELY, job.spec.choices)
    if job.spec.prefixes:
        likely += [worker_id for worker_id in _holders(turn.state, job) if worker_id in roster]
    workers = [turn.state.workers[worker_id] for worker_id in dict.fromkeys(likely)]
    best, second, *_ = [*nsmallest(2, _choices(turn, job, workers), key=lambda choice: choice.order(job)), None, None]
    return best, second


def _choices(turn: Turn, job: Job, workers: list[Worker]) -> Iterator[Choice]:
    for worker in workers:
        if worker.has_slots_for(job.spec.choices) and contexts.holds(turn.state, job, worker):
            choice = _choice(turn.state, job, worker, prospects.on_worker(turn.state, job, worker, turn.now_s))
            if choice.cost < math.inf:
                yield choice


def _choice(state: State, job: Job, worker: Worker, prospect: Prospect) -> Choice:
    return Choice(worker, prospect, places.cost_on_worker(state, job, worker, prospect))


def _holders(state: State, job: Job) -> list[str]:
    """Some workers that hold most of the job's prompt."""
    found: dict[str, None] = {}
    for prefix in reversed(job.spec.prefixes):
        found.update(islice(state.holding.get(prefix, {}).items(), LIKELY))
        if len(found) >= LIKELY:
            break
    return list(found)


def _worth_waiting_for(turn: Turn, job: Job, best: Choice) -> Choice | None:
    """A worker, full or still loading, on which the job would be done so much earlier that it had better wait."""
    if job.patient_until_s is not None and turn.now_s >= job.patient_until_s:
        return None
    assert job.model_sha256 is not None
    state, now_s = turn.state, turn.now_s
    full = [state.workers[worker_id] for worker_id in islice(state.full_of(job.model_sha256), LIKELY)]
    later = [_choice(state, job, worker, prospects.on_worker(state, job, worker, now_s)) for worker in full]
    later += [_choice(state, job, w, prospects.on_coming(state, job, w, now_s)) for w in state.coming_of(job.model_sha256)]
    first = min(later, key=lambda choice: choice.order(job), default=None)
    if first is None or not first.cost < best.cost - abs(best.cost) * WAITING_SAVES:
        return None
    return first


def _place_large(turn: Turn, model_sha256: str, *, aged: bool) -> None:
    """Give each large job the best open worker whose context holds it, and end those that nothing holds.

    Each had its turn already, when it was refused. `aged` takes those that come before what is in the common lane.
    """
    large = [turn.state.jobs[job_id] for job_id in turn.queue.large(model_sha256)]
    large = [job for job in large if (job.rank_s <= turn.now_s) is aged]
    if large and _end_outgrown(turn, large, contexts.places(turn.state, model_sha256, turn.now_s)):
        large = [job for job in large if job.spec.job_id in turn.queue]
    open_ = [worker for worker in turn.state.workers_of.get(model_sha256, {}).values() if turn.state.is_open(worker)]
    for job in large:
        best, second, *_ = [*nsmallest(2, _choices(turn, job, open_), key=lambda choice: choice.order(job)), None, None]
        if best is not None:
            attempts.dispatch(turn, job, best.worker, _why(best, second))
            open_ = [worker for worker in open_ if turn.state.is_open(worker)]


def _end_outgrown(turn: Turn, jobs: list[Job], among: list[tuple[int, str]]) -> bool:
    """End those jobs whose need no place of these holds, unless pools may still come that could; whether that ended some."""
    if not turn.state.is_settled(turn.now_s, turn.policy.settle_s):
        return False
    ended = [job for job in jobs if not contexts.is_held_by(job, among)]
    for job in ended:
        attempts.finish(turn, job, "failed", contexts.exceeded(job, among))
    return bool(ended)


def _likely_open(turn: Turn, job: Job, least_width: int = 0) -> list[Worker]:
    """Open workers that may hold a job which runs alone: the likeliest ones, or all where only some contexts are large enough."""
    assert job.model_sha256 is not None
    roster = turn.state.open_of(job.model_sha256)
    likely = roster.first(len(roster) if job.needs_ctx else LIKELY, least_width)
    return [turn.state.workers[worker_id] for worker_id in likely]


def _place_suspects(turn: Turn, model_sha256: str) -> None:
    """Give each suspect an empty worker; where there is none, let one worker of the model empty for the first suspect."""
    while (job_id := turn.queue.head(model_sha256, alone=True)) is not None:
        job = turn.state.jobs[job_id]
        if job.needs_ctx and _end_outgrown(turn, [job], contexts.places(turn.state, model_sha256, turn.now_s)):
            continue
        worker = _empty_worker(turn, job)
        if worker is None:
            if _claim_for_suspect(turn, job):
                continue
            return
        # It may have emptied for a suspect that is not the first any more: one of lower rank came back later.
        turn.state.release_claim(worker)
        attempts.dispatch(turn, job, worker, "it runs alone, since a worker died while it ran it")


def _empty_worker(turn: Turn, job: Job) -> Worker | None:
    assert job.model_sha256 is not None
    kept = [
        worker
        for worker in turn.state.claims.values()
        if worker.model_sha256 == job.model_sha256
        and worker.claim is not None
        and worker.claim.job_id is not None
        and not worker.attempts
        and turn.state.is_sound(worker)
    ]
    turn.state.refile()
    empty = _likely_open(turn, job, EMPTY)
    choices = _choices(turn, job, kept or empty)
    best = min(choices, key=lambda choice: choice.order(job), default=None)
    return None if best is None else best.worker


def _claim_for_suspect(turn: Turn, job: Job) -> bool:
    """Unless a worker is about to come up: let the one that is empty first take no more work; whether that emptied it at once."""
    assert job.model_sha256 is not None
    kept = [w for w in turn.state.claims.values() if w.claim is not None and w.claim.job_id is not None]
    fitting = (w for w in kept if w.model_sha256 == job.model_sha256 and contexts.holds(turn.state, job, w))
    worker = next(fitting, None) or _soonest_empty(turn, job)
    if worker is None:
        return False
    if worker.claim is None:
        turn.state.claim(worker, Claim(job.model_sha256, job.spec.job_id))
    return preemption.let_batch_go(turn, job, worker) and not worker.attempts


def _soonest_empty(turn: Turn, job: Job) -> Worker | None:
    """The worker that is empty first, batch jobs that could give way left out; None where one comes up before."""
    assert job.model_sha256 is not None
    turn.state.refile()
    full = turn.state.full_of(job.model_sha256).first(len(turn.state.workers) if job.needs_ctx else LIKELY)
    sound = [*_likely_open(turn, job), *(turn.state.workers[worker_id] for worker_id in full)]
    sound = [worker for worker in sound if contexts.holds(turn.state, job, worker)]
    empty_in_s = {worker.worker_id: preemption.empty_in_s(turn, job, worker) for worker in sound}
    worker = min(sound, key=lambda w: (w.worker_id == job.avoid, empty_in_s[w.worker_id], w.worker_id), default=None)
    if worker is None:
        return None
    coming = (one for one in turn.state.coming_of(job.model_sha256) if contexts.holds(turn.state, job, one))
    soonest_s = min((prospects.on_coming(turn.state, job, one, turn.now_s).starts_in_s for one in coming), default=math.inf)
    return worker if empty_in_s[worker.worker_id] < soonest_s else None


def drop_stale_claims(turn: Turn) -> None:
    """Let workers take work again that are kept for a job or a model that does not wait any more."""
    for worker in list(turn.state.claims.values()):
        claim = worker.claim
        assert claim is not None
        if claim.job_id is not None:
            stale = claim.job_id not in turn.queue or not turn.state.is_sound(worker)
        else:
            stale = not turn.queue.depth(claim.model_sha256)
        if stale:
            turn.state.release_claim(worker)
            turn.touched.add(worker.model_sha256)
