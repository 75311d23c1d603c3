"""PURE: why a job waits, as a value: told to its watchers when it changes, and answered when asked."""

from __future__ import annotations

from dataclasses import dataclass

from rbees.orcd.scheduler.effects import Note
from rbees.orcd.scheduler.fleet import LoadTrouble, Pool, Worker
from rbees.orcd.scheduler.job import Job
from rbees.orcd.scheduler.turn import Turn
from rbees.protocol.errors import ErrorBody
from rbees.protocol.events import Stage


@dataclass(frozen=True, slots=True)
class Obstacle:
    """What keeps the first jobs of a model from a worker."""

    kind: str
    """A stable word; two obstacles with the same kind, worker, pool and tenth of progress are the same news."""
    reason: str
    """One sentence."""
    stage: Stage = "waiting"
    worker_id: str | None = None
    pool_id: str | None = None
    progress: float | None = None

    @property
    def news(self) -> tuple[object, ...]:
        """Equal for obstacles that need not be told twice."""
        tenth = None if self.progress is None else int(self.progress * 10 + 1e-9)
        return (self.kind, self.worker_id, self.pool_id, tenth)


NO_POOL = Obstacle("no_pool", "No pool has registered yet; start one with `rbees poold serve`.")
UNRESOLVED = Obstacle("unresolved", "No pool that has registered so far holds this model; others may still come back.")
GONE = Obstacle("gone", "The pool that held this model is away; put the file on another host or have the pool come back.")
POOLS_SILENT = Obstacle("pools_silent", "Every pool that holds the model is silent at present.")
DRAINED = Obstacle(
    "drained",
    "Every pool that holds the model and can be heard was drained by an operator; `llorch pool resume` gives it work again.",
)
ALONE = Obstacle("alone", "A worker died while it ran this job, so it waits for a worker of its own.")
LARGE = Obstacle("large", "It takes a larger context than some workers of this model have, and waits for one that has it.")
RETRY = Obstacle("retry", "The last attempt failed; the next follows after a pause.")
TURN = Obstacle("turn", "It is about to be placed.")


def loading(worker: Worker) -> Obstacle:
    """A worker for the model is on its way."""
    progress = worker.facts.load_progress if worker.facts is not None else 0.0
    reason = f"Worker {worker.worker_id} on pool {worker.pool_id} loads the model."
    return Obstacle("loading", reason, "loading", worker.worker_id, worker.pool_id, progress)


def busy(slots: int, workers: int) -> Obstacle:
    """The model is served, at its limit."""
    reason = f"All {slots} slots of the {_count(workers, 'worker')} for this model are in use or kept free for others."
    return Obstacle("busy", reason)


def better_later(later: Worker, later_s: float, open_: Worker, open_s: float) -> Obstacle:
    """A worker is free, and waiting for another is expected to pay."""
    reason = (
        f"It waits for worker {later.worker_id} on pool {later.pool_id}, where it is expected to be done in {later_s:.1f} s; on "
        f"{open_.worker_id} on pool {open_.pool_id}, which is free, it would take {open_s:.1f} s."
    )
    return Obstacle("better_later", reason, worker_id=later.worker_id, pool_id=later.pool_id)


def too_few_free(slots: int) -> Obstacle:
    """Some slots are free, kept so for the first job, which makes several answers at once."""
    reason = f"The first job for this model takes {slots} slots; none is given away until a worker has as many free."
    return Obstacle("too_few_free", reason)


def doubted(worker: Worker) -> Obstacle:
    """The only worker for the model cannot be relied upon, and its pool will soon say more."""
    reason = f"Worker {worker.worker_id} is in doubt: {worker.doubt} Its pool is being heard."
    return Obstacle("doubted", reason, worker_id=worker.worker_id, pool_id=worker.pool_id)


def making_room(pool: Pool, devices: tuple[str, ...]) -> Obstacle:
    """Idle workers are on their way out."""
    reason = f"Idle workers leave {', '.join(devices)} of pool {pool.pool_id} to make room."
    return Obstacle("making_room", reason, pool_id=pool.pool_id)


def no_room(pool: Pool, devices: tuple[str, ...], need_bytes: int, free_bytes: int) -> Obstacle:
    """The model would fit if others were not there."""
    reason = (
        f"The model needs about {_mib(need_bytes)}; the best place, {', '.join(devices)} of pool {pool.pool_id}, has "
        f"{_mib(max(free_bytes, 0))} free, and what holds the rest is busy."
    )
    return Obstacle("no_room", reason, pool_id=pool.pool_id)


def only_pinned(pool: Pool, devices: tuple[str, ...]) -> Obstacle:
    """The model would fit if workers that must stay were not there."""
    reason = (
        f"Only workers of pinned models could make room, on {', '.join(devices)} of pool {pool.pool_id} and elsewhere; take one "
        "out of `pinned_models`, or add a host."
    )
    return Obstacle("only_pinned", reason, pool_id=pool.pool_id)


def emptying(worker: Worker) -> Obstacle:
    """The model is served, but a worker of it is kept for somebody."""
    reason = (
        f"Worker {worker.worker_id} on pool {worker.pool_id} takes no more work until it is empty, for a job that must run alone "
        "or for another model that has waited long; the slots of others are in use."
    )
    return Obstacle("emptying", reason, worker_id=worker.worker_id, pool_id=worker.pool_id)


def trouble(pool: Pool, troubles: LoadTrouble, *, is_open: bool) -> Obstacle:
    """The model did not come up on the pool, which is therefore left alone for a while."""
    failures = len(troubles.failures)
    pause = f"after {failures} failures it is left alone for some minutes" if is_open else "it is tried again after a pause"
    said = troubles.error.message.rstrip(".")
    reason = f"Pool {pool.pool_id} did not bring the model up ({troubles.error.code}: {said}); {pause}."
    return Obstacle("breaker" if is_open else "load_failed", reason, pool_id=pool.pool_id)


def unhealthy(pool: Pool) -> Obstacle:
    """Nothing but unhealthy or unfit devices."""
    problems = [f"{device.device_id}: {device.problem or 'no reason given'}" for device in pool.devices if not device.healthy]
    reason = f"No device of pool {pool.pool_id} can take the model at present" + (f" ({'; '.join(problems)})." if problems else ".")
    return Obstacle("unhealthy", reason, pool_id=pool.pool_id)


def impossible(error: ErrorBody) -> Obstacle:
    """Nothing known could hold it, but not everything may be known yet."""
    return Obstacle("impossible", f"{error.message} Other pools may still come back.")


def tell(turn: Turn, job: Job, obstacle: Obstacle) -> None:
    """Let the job's watchers know, unless they do already."""
    if job.noted == obstacle.news:
        return
    job.noted = obstacle.news
    turn.effects.append(
        Note(job.spec.job_id, obstacle.stage, obstacle.reason, obstacle.worker_id, obstacle.pool_id, obstacle.progress)
    )


def _mib(count: int) -> str:
    return f"{-(-count // (1 << 20))} MiB"


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
