"""PURE: when a model gets another worker, and what its jobs wait for when it does not get one now.

One worker at a time is started for a model, where the first job is expected to be done first. It may push out idle workers of other
models, and after `swap_after_s` lets a busy one empty. A further one takes only room that is free, or that idle workers leave whose
models keep another one, on a device without a worker for the model, and only where the last of the waiting jobs, or even the one
that comes next, would be done much earlier for it, loading included.
"""

from __future__ import annotations

import math
from typing import Final

from rbees.orcd.scheduler import attempts, chance, contexts, eviction, explain, places, preemption, prospects, retry, rooms, sites
from rbees.orcd.scheduler.effects import SpawnWorker
from rbees.orcd.scheduler.explain import Obstacle
from rbees.orcd.scheduler.fleet import Claim, Worker
from rbees.orcd.scheduler.job import Job
from rbees.orcd.scheduler.lane import Key
from rbees.orcd.scheduler.roster import Serving
from rbees.orcd.scheduler.sites import Site
from rbees.orcd.scheduler.turn import Turn
from rbees.protocol.errors import ErrorBody
from rbees.protocol.ids import new_worker_id

BETTER_BY: Final = 0.6
"""Another worker is started where a job would be done in so much of the time: it takes memory, and expectations err."""

TURN_IN_LOADS: Final = 4.0
"""While jobs wait for both of two models, loading takes a fifth of the time at most."""


def grow(turn: Turn, model_sha256: str) -> Obstacle | None:
    """Start a worker if that helps the jobs that still wait; what they wait for, or None if they have just been refused."""
    turn.state.refile()
    coming = list(turn.state.coming_of(model_sha256))
    serving = turn.state.serving_of(model_sha256)
    outgrown = _first_outgrown(turn, model_sha256)
    if coming:
        turn.state.owed.discard(model_sha256)
    elif len(serving.workers) and outgrown is None:
        _let_work_again(turn, model_sha256)
    if coming:
        return explain.loading(max(coming, key=lambda w: (w.facts.load_progress if w.facts else 0.0, w.worker_id)))
    if len(serving.workers):
        if outgrown is not None and (begun := _start_for(turn, outgrown)) is not None:
            return begun
        return _consider_replica(turn, model_sha256, serving)
    for worker in turn.state.workers_of.get(model_sha256, {}).values():
        pool = turn.state.pools[worker.pool_id]
        if worker.doubt is not None and worker.stop_asked_at_s is None and turn.state.takes_work(pool):
            return explain.doubted(worker)
    return _start_first(turn, model_sha256)


def consider_better(turn: Turn, model_sha256: str, job: Job, best_s: float) -> None:
    """Start a worker where the job would be done so much earlier, loading included, that the ones there are should not be all."""
    if model_sha256 in turn.state.content or any(turn.state.coming_of(model_sha256)):
        return
    if not _start_if_sooner(turn, rooms.further(turn.state, model_sha256, turn.now_s), job, best_s * BETTER_BY):
        turn.state.content.add(model_sha256)


def _start_if_sooner(turn: Turn, candidates: list[Site], job: Job, than_s: float) -> Obstacle | None:
    """Start a worker on one of the sites if the job would be done there in less than `than_s`."""
    allowed = [site for site in candidates if places.is_site_allowed(turn.state, job, site, turn.now_s)]
    best = min(allowed, key=lambda site: _cost(turn, job, site), default=None)
    if best is None or prospects.on_site(turn.state, job, best, turn.now_s).done_in_s >= than_s:
        return None
    return start_or_make_room(turn, best)


def _consider_replica(turn: Turn, model_sha256: str, serving: Serving) -> Obstacle:
    suspects_wait = turn.queue.head(model_sha256, alone=True) is not None
    last_id = turn.queue.last(model_sha256)
    candidates: list[Site] = []
    if last_id is not None and serving.slots:
        candidates = rooms.further(turn.state, model_sha256, turn.now_s, pushing=True)
    if last_id is not None and candidates:
        last = turn.state.jobs[last_id]
        ahead = turn.queue.depth(model_sha256) - 1
        fastest = [turn.state.workers[worker_id] for worker_id in serving.workers.first(rooms.LIKELY)]
        than_s = math.inf
        if not suspects_wait and any(places.is_allowed(turn.state, last, worker, turn.now_s) for worker in fastest):
            than_s = BETTER_BY * prospects.behind_s(turn.state, last, serving, ahead, turn.now_s)
        begun = _start_if_sooner(turn, candidates, last, than_s)
        if begun is not None:
            return begun
    head = turn.queue.head(model_sha256, alone=False)
    if head is None:
        return explain.ALONE if suspects_wait else explain.LARGE
    choices = turn.state.jobs[head].spec.choices
    if choices > 1 and len(turn.state.open_of(model_sha256)):
        return explain.too_few_free(min(choices, *serving.slots_of.values()))
    kept = next((w for w in turn.state.claims.values() if w.model_sha256 == model_sha256), None)
    if kept is not None:
        return explain.emptying(kept)
    return explain.busy(serving.slots, len(serving.workers))


def _first_outgrown(turn: Turn, model_sha256: str) -> Job | None:
    """The first job for which the context of every worker that serves is too small."""
    needing = [job for name in turn.queue.front(model_sha256, 1) if (job := turn.state.jobs[name]).needs_ctx]
    needing += [turn.state.jobs[name] for name in turn.queue.large(model_sha256)]
    if not needing:
        return None
    workers = turn.state.workers_of.get(model_sha256, {}).values()
    sound = sorted(((contexts.known(turn.state, w), w.worker_id) for w in workers if turn.state.is_sound(w)), reverse=True)
    return next((job for job in needing if not contexts.is_held_by(job, sound)), None)


def _start_for(turn: Turn, job: Job) -> Obstacle | None:
    """Start a worker with a context that holds the job, as if there were none of its model; None where that cannot be had now."""
    assert job.model_sha256 is not None
    found = [site for site in sites.find_sites(turn.state, job.model_sha256, turn.now_s) if contexts.site_holds(job, site)]
    allowed = [site for site in found if places.is_site_allowed(turn.state, job, site, turn.now_s)]
    if allowed:
        return start_or_make_room(turn, min(allowed, key=lambda site: _cost(turn, job, site)))
    candidates = [site for site in found if site.room is None]
    if not candidates:
        return None
    site = min(candidates, key=lambda site: (site.need_bytes - site.free_bytes, site.pool.pool_id, site.device_ids))
    if all(worker.pinned for site in candidates for worker in _workers_at(site)):
        return explain.only_pinned(site.pool, site.device_ids)
    _let_busy_workers_empty(turn, candidates, job, job)
    return explain.no_room(site.pool, site.device_ids, site.need_bytes, site.free_bytes)


def _start_first(turn: Turn, model_sha256: str) -> Obstacle | None:
    found = rooms.with_room(turn.state, model_sha256, turn.now_s)
    first = next(turn.queue.front(model_sha256, 1), None)
    # Where it has to wait for a context that is large enough, others need not.
    for name in (first, turn.queue.head(model_sha256, alone=False)):
        job = None if name is None else turn.state.jobs[name]
        with_room = [site for site in found if places.is_site_allowed(turn.state, job, site, turn.now_s)]
        if with_room:
            return start_or_make_room(turn, min(with_room, key=lambda site: _cost(turn, job, site)))
    if model_sha256 not in turn.state.holders:
        # It was known when the job was accepted, so the pool that held it is away and may come back.
        return explain.GONE
    error = sites.impossible(turn.state, model_sha256)
    if error is not None:
        return _refuse(turn, model_sha256, error, explain.impossible(error))
    candidates = rooms.crowded(turn.state, model_sha256, turn.now_s)
    if candidates:
        site = min(candidates, key=lambda site: (site.need_bytes - site.free_bytes, site.pool.pool_id, site.device_ids))
        if all(worker.pinned for site in candidates for worker in _workers_at(site)):
            return explain.only_pinned(site.pool, site.device_ids)
        key, head = turn.queue.first_key(model_sha256), turn.queue.head(model_sha256, alone=False)
        if key is not None:
            _let_busy_workers_empty(turn, candidates, turn.state.jobs[key[2]], None if head is None else turn.state.jobs[head])
        return explain.no_room(site.pool, site.device_ids, site.need_bytes, site.free_bytes)
    return _explain_absence(turn, model_sha256)


def replace(turn: Turn, worker: Worker) -> None:
    """A worker that served has died: start another in its place where one of its model is left on the very device.

    Elsewhere the jobs that wait see to it. There they would not: growth starts one worker for each model and device.
    """
    beside = [
        other
        for other in turn.state.pools[worker.pool_id].workers.values()
        if other.model_sha256 == worker.model_sha256 and other.devices == worker.devices and other.stop_asked_at_s is None
    ]
    if not beside or not _is_first(turn, worker.model_sha256) or any(turn.state.coming_of(worker.model_sha256)):
        return
    site = sites.again(turn.state, worker, turn.now_s)
    if site is not None and site.is_free:
        start(turn, site)


def _is_first(turn: Turn, model_sha256: str) -> bool:
    """True where nobody has waited longer, whatever the model, than some job of this one: what room there is belongs to him."""
    key = turn.queue.first_key(model_sha256)
    others = (turn.queue.first_key(other) for other in turn.queue.waiting_models())
    return key is not None and all(other is None or key <= other for other in others)


def start_or_make_room(turn: Turn, site: Site) -> Obstacle:
    """Start a worker there, or have those stopped that are in its way."""
    assert site.room is not None
    for victim in site.room.victims:
        eviction.stop(turn, victim, f"It idles and its memory is needed for {site.facts.ref}.")
    if site.room.victims or site.room.stopping:
        return explain.making_room(site.pool, site.device_ids)
    return explain.loading(start(turn, site))


def start(turn: Turn, site: Site) -> Worker:
    """Have a worker started there."""
    state, moment = turn.state, turn.moment
    # The count keeps several workers of one event apart; ids of different events differ by their entropy.
    entropy = chance.draw(moment.entropy, f"worker {len(turn.effects)}")
    worker = Worker(
        worker_id=new_worker_id(moment.unix_ms, entropy),
        pool_id=site.pool.pool_id,
        model_ref=site.facts.ref,
        model_sha256=site.facts.sha256,
        backend=site.backend,
        devices=site.device_ids,
        size_bytes=site.facts.size_bytes,
        memory_bytes=site.need_bytes,
        is_shared=site.is_shared,
        expected_bytes=0 if site.gpu_layers is not None else site.need_bytes,
        asked=True,
        pinned=turn.policy.pins(site.facts),
        asked_at_s=turn.now_s,
        idle_since_s=turn.now_s,
    )
    state.add_worker(worker)
    turn.effects.append(
        SpawnWorker(
            worker.pool_id,
            worker.worker_id,
            worker.model_ref,
            worker.model_sha256,
            worker.backend,
            worker.devices,
            site.gpu_layers,
        )
    )
    return worker


def _let_busy_workers_empty(turn: Turn, candidates: list[Site], job: Job, head: Job | None) -> None:
    """Where the job has waited long enough: the busy workers whose end would make room take no more work.

    Batch jobs that run there give way to `head`.
    """
    assert job.model_sha256 is not None
    claims = turn.state.claims.values()
    emptying = [w for w in claims if w.claim is not None and w.claim.job_id is None and w.claim.model_sha256 == job.model_sha256]
    if not emptying and turn.now_s - job.queued_at_s >= turn.policy.swap_after_s:
        emptying = _choose_to_empty(turn, turn.queue.key(job), candidates)
        for worker in emptying:
            turn.state.claim(worker, Claim(job.model_sha256, None))
            turn.state.owed.add(job.model_sha256)
    if head is not None:
        for worker in emptying:
            preemption.let_batch_go(turn, head, worker)


def _let_work_again(turn: Turn, model_sha256: str) -> None:
    """No job of the model waits any more for a worker that does not serve yet: those that were to make room for one need not."""
    turn.state.owed.discard(model_sha256)
    for worker in list(turn.state.claims.values()):
        if worker.claim == Claim(model_sha256, None):
            turn.state.release_claim(worker)
            turn.touched.add(worker.model_sha256)


def _choose_to_empty(turn: Turn, key: Key, candidates: list[Site]) -> list[Worker]:
    """The fewest workers whose end makes room at the best site, none of them pinned, kept, or needed by an older job."""
    for site in sorted(candidates, key=lambda site: (site.need_bytes - site.free_bytes, site.pool.pool_id, site.device_ids)):
        missing = site.need_bytes - site.free_bytes
        chosen: list[Worker] = []
        claimable = [worker for worker in _workers_at(site) if worker.state == "ready" and worker.claim is None]
        yielding = [worker for worker in claimable if not worker.pinned and _must_yield(turn, worker, key)]
        for worker in sorted(yielding, key=lambda w: (len(w.attempts), w.worker_id)):
            chosen.append(worker)
            missing -= eviction.memory_on(worker)
            if missing <= 0:
                return chosen
    return []


def _workers_at(site: Site) -> list[Worker]:
    return [w for w in site.pool.workers.values() if set(site.device_ids) & set(w.devices) and w.stop_asked_at_s is None]


def _must_yield(turn: Turn, worker: Worker, key: Key) -> bool:
    """True where nobody waits for this worker's model, or where that has had its turn.

    A turn is long beside the load that ends it. After it older jobs go first, but after `swap_at_latest_s` so does who has waited
    as long: else the line of one model could keep the other's out for as long as it is.
    """
    first = turn.queue.first_key(worker.model_sha256)
    if first is None:
        return True
    served_s = turn.now_s - worker.ready_since_s
    if first > key:
        return served_s >= max(turn.policy.swap_after_s, TURN_IN_LOADS * turn.state.speeds.load_s(worker.place))
    waited_s = turn.now_s - turn.state.jobs[key[2]].queued_at_s
    return min(served_s, waited_s) >= turn.policy.swap_at_latest_s


def _refuse(turn: Turn, model_sha256: str, error: ErrorBody, meanwhile: Obstacle) -> Obstacle | None:
    """End every job that waits for the model, unless pools may still come that could help."""
    if not turn.state.is_settled(turn.now_s, turn.policy.settle_s):
        return meanwhile
    for job_id in list(turn.queue.front(model_sha256, turn.queue.depth(model_sha256))):
        attempts.finish(turn, turn.state.jobs[job_id], "failed", error)
    return None


def _explain_absence(turn: Turn, model_sha256: str) -> Obstacle:
    """The model could be held somewhere, but nothing can be asked at present: say what stands in the way."""
    holders = [turn.state.pools[pool_id] for pool_id in turn.state.holders[model_sha256]]
    live = [pool for pool in holders if turn.state.takes_work(pool)]
    if not live:
        return explain.DRAINED if any(pool.state == "live" for pool in holders) else explain.POOLS_SILENT
    for pool in live:
        trouble = turn.state.troubles.get((model_sha256, pool.pool_id))
        if trouble is not None and trouble.blocked_until_s > turn.now_s:
            return explain.trouble(pool, trouble, is_open=retry.is_open(turn.policy, trouble))
    return explain.unhealthy(live[0])


def _cost(turn: Turn, job: Job | None, site: Site) -> tuple[object, ...]:
    """Sites compare by what they cost the job, then by how much room they have; the last parts make the order stable."""
    cost = places.cost_on_site(turn.state, job, site, prospects.on_site(turn.state, job, site, turn.now_s))
    rank = sites.BACKEND_RANK[site.backend]
    return (site.doubtful, cost, rank, -site.free_bytes, site.pool.pool_id, site.device_ids)
