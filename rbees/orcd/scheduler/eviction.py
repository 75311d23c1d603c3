"""PURE: which workers make room: those that idle, first the one whose end costs least; never one at work or one that is pinned.

An end costs what loading the model again would take, by how likely it is that somebody soon asks for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import takewhile

from rbees.orcd.scheduler.effects import StopWorker
from rbees.orcd.scheduler.fleet import Pool, Worker
from rbees.orcd.scheduler.policy import Policy
from rbees.orcd.scheduler.state import State
from rbees.orcd.scheduler.turn import Turn


@dataclass(frozen=True, slots=True)
class Room:
    """How a device could get `missing` bytes free."""

    victims: tuple[Worker, ...]
    """Idle workers to stop."""
    stopping: bool
    """Workers that are stopping already give enough."""


def find_room(state: State, pool: Pool, device_id: str, missing_bytes: int, now_s: float) -> Room | None:
    """The idle workers whose end frees `missing_bytes` on the device; None where all of them together do not."""
    there = [worker for worker in pool.workers.values() if device_id in worker.devices]
    missing = missing_bytes - sum(memory_on(worker) for worker in there if worker.stop_asked_at_s is not None)
    if missing <= 0:
        return Room((), stopping=missing_bytes > 0)
    victims: list[Worker] = []
    for worker in sorted(filter(is_idle, there), key=lambda idle: (worth_s(state, idle, now_s), idle.idle_since_s, idle.worker_id)):
        victims.append(worker)
        missing -= memory_on(worker)
        if missing <= 0:
            return Room(tuple(victims), stopping=False)
    return None


def worth_s(state: State, worker: Worker, now_s: float) -> float:
    """What the worker's end would cost, in seconds that somebody is expected to wait for it."""
    return state.speeds.load_s(worker.place) * state.uses.likelihood(worker.model_sha256, now_s)


def is_idle(worker: Worker) -> bool:
    """True for a worker that has loaded, does nothing, is kept for nobody and may be stopped."""
    return (
        worker.state == "ready"
        and not worker.pinned
        and not worker.attempts
        and worker.stop_asked_at_s is None
        and (worker.claim is None or worker.claim.job_id is None)
    )


def memory_on(worker: Worker) -> int:
    """Bytes that the worker takes on each of its devices."""
    return worker.memory_bytes // max(len(worker.devices), 1)


def stop(turn: Turn, worker: Worker, reason: str) -> None:
    """Have the worker stopped; from now on it gets no work."""
    worker.stop_asked_at_s = turn.now_s
    if not _is_here(turn.state, worker.model_sha256):
        # The wish was about what is loaded now; a job that waits brings its own.
        turn.state.kept_s.pop(worker.model_sha256, None)
    turn.state.release_claim(worker)
    turn.state.changed[worker.worker_id] = None
    turn.state.look_again(turn.state.pools[worker.pool_id])
    turn.effects.append(StopWorker(worker.pool_id, worker.worker_id, reason))


def stop_long_idle(turn: Turn) -> None:
    """Stop workers that have had no work for a while and that no waiting job could use; one of several the sooner."""
    shortest_s = min(turn.policy.worker_idle_s, turn.policy.replica_idle_s, *turn.state.kept_s.values())
    turn.state.refile()
    for worker_id in list(takewhile(lambda unused: _idle_s(turn, unused) >= shortest_s, turn.state.unused)):
        worker = turn.state.workers[worker_id]
        if not is_idle(worker):
            continue
        # Those that were stopped just now are not counted any more.
        turn.state.refile()
        serving = turn.state.serving_of(worker.model_sha256).workers
        is_replica = len(serving) > (worker_id in serving)
        patience_s = _patience_s(turn.state, turn.policy, worker.model_sha256, is_replica=is_replica)
        if _idle_s(turn, worker_id) < patience_s or turn.queue.depth(worker.model_sha256):
            continue
        if turn.state.pools[worker.pool_id].state == "live":
            stop(turn, worker, f"It has had no work for {patience_s:.0f} s.")


def keep(state: State, model_sha256: str, idle_s: float) -> None:
    """From now on the model's last worker is stopped after so long without work, whatever the settings say of others.

    0 seconds: once it has nothing to do; infinite: when its memory is needed. A wish for a model that is not here says nothing.
    """
    if _is_here(state, model_sha256):
        state.kept_s[model_sha256] = idle_s


def kept_for_s(state: State, policy: Policy, model_sha256: str, now_s: float) -> float:
    """How long the model stays loaded from now on if nobody asks for it and nobody needs its memory; infinite for good.

    0 where it is not loaded, or being unloaded.
    """
    workers = [worker for worker in state.workers_of.get(model_sha256, {}).values() if worker.stop_asked_at_s is None]
    if any(worker.pinned for worker in workers):
        return math.inf
    latest_s = max((now_s if worker.attempts else worker.idle_since_s for worker in workers), default=-math.inf)
    return max(latest_s + _patience_s(state, policy, model_sha256, is_replica=False) - now_s, 0.0)


def _is_here(state: State, model_sha256: str) -> bool:
    """True where a worker has the model, or loads it, and was not told to stop."""
    return any(worker.stop_asked_at_s is None for worker in state.workers_of.get(model_sha256, {}).values())


def _patience_s(state: State, policy: Policy, model_sha256: str, *, is_replica: bool) -> float:
    last_s = state.kept_s.get(model_sha256, policy.worker_idle_s)
    return min(last_s, policy.replica_idle_s) if is_replica else last_s


def _idle_s(turn: Turn, worker_id: str) -> float:
    return turn.now_s - turn.state.workers[worker_id].idle_since_s
