"""PURE: on which devices a model could be started, what it would take there, and where it never could.

orcd estimates cheaply and on the small side; the pool's preflight has the last word, and what it answers is remembered.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from rbees.orcd.scheduler import eviction
from rbees.orcd.scheduler.state import LoadTrouble, Pool, State
from rbees.protocol.errors import ErrorBody, ErrorCode
from rbees.protocol.pools import Device, ModelFacts
from rbees.protocol.workers import Backend

BACKEND_RANK: Final[dict[Backend, int]] = {"cuda": 0, "metal": 1, "cpu": 2, "scripted": 3}


@dataclass(frozen=True, slots=True)
class Site:
    """A device on which a model could be started now or once room is made."""

    pool: Pool
    device: Device
    facts: ModelFacts
    backend: Backend
    need_bytes: int
    free_bytes: int
    room: eviction.Room | None
    """None where only busy workers could give way."""
    doubtful: bool
    """The estimate says no, but nothing of ours is there to give way and the pool has not been asked yet."""

    @property
    def is_free(self) -> bool:
        """True where nothing has to be stopped first."""
        return self.room is not None and not self.room.victims and not self.room.stopping and not self.doubtful


def find_sites(state: State, model_sha256: str, now_s: float) -> Iterator[Site]:
    """Every healthy device of a live pool that holds the model, may be asked now and has no worker for the model yet."""
    for pool_id, facts in state.holders.get(model_sha256, {}).items():
        pool = state.pools[pool_id]
        trouble = state.troubles.get((model_sha256, pool_id))
        if pool.state != "live" or (trouble is not None and trouble.blocked_until_s > now_s):
            continue
        taken = {
            device_id
            for worker in pool.workers.values()
            if worker.model_sha256 == model_sha256 and worker.stop_asked_at_s is None
            for device_id in worker.devices
        }
        for device in pool.devices:
            backend = backend_for(facts, device)
            if backend is None or not device.healthy or device.device_id in taken:
                continue
            if (_known_need(device, trouble) or facts.size_bytes) > device.total_bytes:
                continue
            if trouble is None or backend not in trouble.unusable:
                yield _site(state, pool, device, facts, backend, trouble, now_s)


def backend_for(facts: ModelFacts, device: Device) -> Backend | None:
    """What would run the model on the device; None where nothing could."""
    if facts.architecture == "scripted":
        return "scripted"
    return None if device.backend == "scripted" else device.backend


def free_bytes(pool: Pool, device: Device) -> int:
    """What is free by the last measurement, less what workers on their way will take, plus what ended ones have left."""
    coming = sum(eviction.memory_on(w) for w in pool.workers.values() if device.device_id in w.devices and not w.measured)
    return device.free_bytes - coming + pool.freed_bytes.get(device.device_id, 0)


def impossible(state: State, model_sha256: str) -> ErrorBody | None:
    """Why no known pool could ever hold the model, also when empty and well; None where one could."""
    holders = state.holders.get(model_sha256, {})
    refusals: list[ErrorBody] = []
    closest: tuple[int, int, int, str] | None = None
    for pool_id, facts in holders.items():
        trouble = state.troubles.get((model_sha256, pool_id))
        for device in state.pools[pool_id].devices:
            backend = backend_for(facts, device)
            if backend is None:
                continue
            if trouble is not None and backend in trouble.unusable:
                refusals.append(trouble.unusable[backend])
                continue
            least_bytes = _known_need(device, trouble) or facts.size_bytes
            missing_bytes = least_bytes - device.total_bytes
            if missing_bytes <= 0:
                return None
            candidate = (missing_bytes, least_bytes, device.total_bytes, pool_id)
            closest = min(closest or candidate, candidate)
    if closest is None:
        return refusals[0] if refusals else None
    return _too_large(*closest)


def _site(
    state: State, pool: Pool, device: Device, facts: ModelFacts, backend: Backend, trouble: LoadTrouble | None, now_s: float
) -> Site:
    known = _known_need(device, trouble)
    need = known or state.estimates.need_bytes(facts, pool.pool_id, backend)
    free = free_bytes(pool, device)
    room = eviction.find_room(state, pool, device.device_id, need - free, now_s)
    occupied = any(device.device_id in worker.devices for worker in pool.workers.values())
    doubtful = room is None and not occupied and known is None
    if doubtful:
        room = eviction.Room((), stopping=False)
    return Site(pool, device, facts, backend, need, free, room, doubtful)


def _known_need(device: Device, trouble: LoadTrouble | None) -> int | None:
    return None if trouble is None else trouble.need_bytes.get(device.device_id)


def _too_large(missing_bytes: int, least_bytes: int, total_bytes: int, pool_id: str) -> ErrorBody:
    return ErrorBody(
        code=ErrorCode.NO_PLACEMENT,
        message=f"No pool could hold this model even when empty: the largest device that could run it, on pool {pool_id}, has "
        f"{missing_bytes} bytes too few. Choose a smaller model or quantisation, or add a host.",
        details={"missing_bytes": missing_bytes, "needed_bytes": least_bytes, "total_bytes": total_bytes, "pool_id": pool_id},
    )
