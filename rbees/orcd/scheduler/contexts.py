"""PURE: which places have a context that is large enough for a job, once a worker has told that its own is not.

orcd counts no tokens, so it learns what a job needs where a worker refuses it with CONTEXT_EXCEEDED and the numbers. From then on
the job goes only where the context is known to be as large, or cannot be known before the worker is ready. A worker that refused
it is no place for it any more, whatever it says of itself; neither is a device on which such a worker was started by orcd, since
another one there would be the same. So each place is tried once, and where none is left the job ends with the largest context
that there was.

After a restart of orcd what a job needs is forgotten, and learned again by one more refusal.
"""

from __future__ import annotations

from typing import Final

from rbees.orcd.scheduler import sites
from rbees.orcd.scheduler.fleet import Pool, Worker
from rbees.orcd.scheduler.job import Job
from rbees.orcd.scheduler.sites import Site
from rbees.orcd.scheduler.state import State
from rbees.protocol.errors import ErrorBody, ErrorCode
from rbees.protocol.pools import ModelFacts

UNKNOWN: Final = 1 << 62
"""Stands for the context of a worker that has not told it yet: it may be large enough."""


def needed(error: ErrorBody) -> int | None:
    """How many tokens of context a job takes at least, by a worker's refusal; None where that does not tell."""
    prompt, held = error.details.get("prompt_tokens"), error.details.get("ctx_tokens")
    if error.code is not ErrorCode.CONTEXT_EXCEEDED or not isinstance(prompt, int) or not isinstance(held, int):
        return None
    most = error.details.get("max_tokens")
    answer = most if isinstance(most, int) else int("max_tokens" in error.details)
    return max(prompt + answer, held + 1)


def known(state: State, worker: Worker) -> int:
    """The context of a worker; `UNKNOWN` until it has told."""
    if worker.facts is not None and worker.facts.ctx:
        return worker.facts.ctx
    facts = state.holders.get(worker.model_sha256, {}).get(worker.pool_id)
    expected = started_with(state.pools[worker.pool_id], facts) if worker.asked and facts is not None else None
    return expected or UNKNOWN


def started_with(pool: Pool, facts: ModelFacts) -> int | None:
    """The context of a worker that the pool would start for orcd; None where the pool does not say."""
    return min(facts.context_length, pool.default_ctx) or None


def holds(state: State, job: Job, worker: Worker) -> bool:
    """False where the worker's context is known to be too small for the job."""
    return not job.needs_ctx or _suits(job, known(state, worker), worker.worker_id)


def site_holds(job: Job, site: Site) -> bool:
    """False where a worker that is started there would have too small a context, or nobody says how large it would be."""
    return not job.needs_ctx or _suits(job, started_with(site.pool, site.facts) or 0, _name(site.pool.pool_id, site.device_ids))


def refused_by(job: Job, worker: Worker) -> None:
    """The worker said that its context is too small for the job."""
    job.too_small |= {worker.worker_id}
    if worker.asked:
        job.too_small |= {_name(worker.pool_id, worker.devices)}


def served(state: State, model_sha256: str) -> int:
    """The largest context to be had for a model: of workers that serve it, else of one that would be started; 0: nobody says."""
    sound = [worker for worker in state.workers_of.get(model_sha256, {}).values() if state.is_sound(worker)]
    ready = [worker.facts.ctx for worker in sound if worker.facts is not None]
    holders = state.holders.get(model_sha256, {})
    startable = [started_with(state.pools[pool_id], facts) or 0 for pool_id, facts in holders.items()]
    return max(ready, default=0) or max(startable, default=0)


def places(state: State, model_sha256: str, now_s: float) -> list[tuple[int, str]]:
    """The contexts of all workers of a model that serve or will, and of those that could be started, the largest first.

    Those of pools that are silent or drained are among them: a job waits for these as others do.
    """
    workers = state.workers_of.get(model_sha256, {}).values()
    there = [(known(state, worker), worker.worker_id) for worker in workers if _is_kept(worker)]
    there += [
        (started_with(state.pools[pool_id], facts) or 0, pool_id)
        for pool_id, facts in state.holders.get(model_sha256, {}).items()
        if not state.takes_work(state.pools[pool_id])
    ]
    startable = [
        (started_with(site.pool, site.facts) or 0, _name(site.pool.pool_id, site.device_ids))
        for site in sites.find_sites(state, model_sha256, now_s, also_blocked=True)
    ]
    return sorted([*there, *startable], reverse=True)


def is_held_by(job: Job, among: list[tuple[int, str]]) -> bool:
    """True where one of the places, the largest first, may hold the job."""
    for context, name in among:
        if context < job.needs_ctx:
            return False
        if name not in job.too_small:
            return True
    return False


def exceeded(job: Job, among: list[tuple[int, str]]) -> ErrorBody:
    """Why the job ends: as the last worker said, unless there was a larger context than that worker's."""
    said = job.outgrown
    assert said is not None, "its need was learned from a refusal"
    held = said.details["ctx_tokens"]
    largest = max((context for context, _ in among if context < job.needs_ctx), default=0)
    if largest <= held:
        return said
    return ErrorBody(
        code=ErrorCode.CONTEXT_EXCEEDED,
        message=f"The job needs a context of {job.needs_ctx} tokens at least, but the largest that any worker of this model has or "
        f"would get holds {largest}; shorten the prompt, lower `max_tokens`, or serve the model with a larger context.",
        details={**said.details, "ctx_tokens": largest},
    )


def _suits(job: Job, context: int, name: str) -> bool:
    return context >= job.needs_ctx and name not in job.too_small


def _is_kept(worker: Worker) -> bool:
    """True where the worker takes work, or will as soon as it has loaded, is heard or has shown that it is sound."""
    return worker.stop_asked_at_s is None and worker.state != "draining"


def _name(pool_id: str, devices: tuple[str, ...]) -> str:
    """Of devices, as the id of a worker is its name; none of those has a blank in it."""
    return f"{pool_id} {','.join(devices)}"
