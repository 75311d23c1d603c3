"""PURE: on which devices a model could be started, what it would take there, and where it never could.

orcd estimates cheaply and on the small side; the pool's preflight has the last word, and what it answers is remembered.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from rbees.orcd.scheduler import eviction
from rbees.orcd.scheduler.estimates import OVERHEAD_BYTES
from rbees.orcd.scheduler.fleet import LoadTrouble, Pool, Worker
from rbees.orcd.scheduler.state import State
from rbees.protocol.device_options import stands_alone
from rbees.protocol.errors import ErrorBody, ErrorCode
from rbees.protocol.pools import Device, ModelFacts
from rbees.protocol.workers import Backend

ACCELERATORS: Final[frozenset[Backend]] = frozenset({"cuda", "metal"})
BACKEND_RANK: Final[dict[Backend, int]] = {"cuda": 0, "metal": 1, "cpu": 2, "scripted": 3}


LEAST_LAYERS_SHARE: Final = 1 / 8
"""An accelerator that could take fewer of the layers than this is not worth the copying to and fro."""
SPARE_SHARE: Final = 0.05
"""Of an accelerator's free memory, left free where layers are counted out to fill it."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where a model could be started now or once room is made: one device of a pool, or several that share it."""

    pool: Pool
    devices: tuple[Device, ...]
    facts: ModelFacts
    backend: Backend
    need_bytes: int
    """On its devices together."""
    free_bytes: int
    """On its devices together."""
    room: eviction.Room | None
    """None where only busy workers could give way."""
    doubtful: bool = False
    """The estimate says no, but nothing of ours is there to give way and the pool has not been asked yet."""
    gpu_layers: int | None = None
    """Set where only so many layers fit the accelerator and the others stay in main memory."""
    share: float = 1.0
    """How much of the model the devices take."""

    @property
    def device_ids(self) -> tuple[str, ...]:
        """In the pool's order."""
        return tuple(device.device_id for device in self.devices)

    @property
    def is_shared(self) -> bool:
        """True where several devices, or one and main memory, would hold the model together."""
        return len(self.devices) > 1 or self.gpu_layers is not None

    @property
    def is_free(self) -> bool:
        """True where nothing has to be stopped first."""
        return self.room is not None and not self.room.victims and not self.room.stopping and not self.doubtful


def find_sites(state: State, model_sha256: str, now_s: float, *, also_blocked: bool = False) -> Iterator[Site]:
    """Places on every pool that holds the model, takes work and may be asked now: each healthy device without a worker of it
    that could hold it; where no accelerator alone could, several together, and one with a part of the layers.

    With `also_blocked` those too that may be asked later, once a pause after a failed load is over.
    """
    for pool_id in state.holders.get(model_sha256, {}):
        yield from sites_on(state, model_sha256, pool_id, now_s, also_blocked=also_blocked)


def sites_on(state: State, model_sha256: str, pool_id: str, now_s: float, *, also_blocked: bool = False) -> Iterator[Site]:
    """The same on one pool, which need not hold the model any more."""
    facts = state.holders.get(model_sha256, {}).get(pool_id)
    if facts is None:
        return
    pool = state.pools[pool_id]
    trouble = state.troubles.get((model_sha256, pool_id))
    if state.takes_work(pool) and (also_blocked or trouble is None or trouble.blocked_until_s <= now_s):
        yield from _sites_of(state, pool, facts, trouble, now_s)


def again(state: State, ended: Worker, now_s: float) -> Site | None:
    """The device where a worker has just ended, also if another of its model is there; None where it may not be asked now."""
    pool = state.pools.get(ended.pool_id)
    facts = state.holders.get(ended.model_sha256, {}).get(ended.pool_id)
    trouble = state.troubles.get((ended.model_sha256, ended.pool_id))
    if pool is None or facts is None or not state.takes_work(pool):
        return None
    if trouble is not None and (trouble.blocked_until_s > now_s or ended.backend in trouble.unusable):
        return None
    device = next((one for one in pool.devices if (one.device_id,) == ended.devices and one.healthy), None)
    return None if device is None else _site(state, pool, device, facts, ended.backend, trouble, now_s)


def _sites_of(state: State, pool: Pool, facts: ModelFacts, trouble: LoadTrouble | None, now_s: float) -> Iterator[Site]:
    taken = {
        device_id
        for worker in pool.workers.values()
        if worker.model_sha256 == facts.sha256 and worker.stop_asked_at_s is None
        for device_id in worker.devices
    }
    too_small: dict[Backend, list[Device]] = {}
    for device in pool.devices:
        backend = backend_for(facts, device)
        if backend is None or not device.healthy or device.device_id in taken:
            continue
        if trouble is not None and backend in trouble.unusable:
            continue
        if (_known_need(device, trouble) or facts.size_bytes) <= device.total_bytes:
            yield _site(state, pool, device, facts, backend, trouble, now_s)
            too_small[backend] = []
        else:
            too_small.setdefault(backend, []).append(device)
    if trouble is not None and trouble.unshared:
        return
    for backend in sorted(ACCELERATORS & too_small.keys()):
        yield from _shared_sites(state, pool, facts, backend, too_small[backend], now_s)


def _shared_sites(
    state: State, pool: Pool, facts: ModelFacts, backend: Backend, devices: list[Device], now_s: float
) -> Iterator[Site]:
    """Of accelerators each of which is too small: all together, else the roomiest with the layers that fit it."""
    if not devices:
        return
    need = state.estimates.need_bytes(facts, pool.pool_id, backend)
    together = [device for device in devices if not stands_alone(device.device_id)]
    if len(together) > 1 and facts.size_bytes <= sum(device.total_bytes for device in together):
        yield _spread_site(state, pool, facts, backend, together, need, now_s)
    device = max(devices, key=lambda one: (free_bytes(pool, one), one.device_id))
    free = free_bytes(pool, device)
    per_layer = max((need - OVERHEAD_BYTES) // (facts.layers + 1), 1)
    layers = int(free * (1 - SPARE_SHARE) - OVERHEAD_BYTES) // per_layer
    main_memory = next((one for one in pool.devices if one.backend == "cpu" and one.healthy), None)
    if main_memory is None or not LEAST_LAYERS_SHARE * facts.layers <= layers <= facts.layers:
        return
    if free_bytes(pool, main_memory) >= need - layers * per_layer:
        room = eviction.Room((), stopping=False)
        taken = layers * per_layer + OVERHEAD_BYTES
        share = layers / (facts.layers + 1)
        yield Site(pool, (device,), facts, backend, taken, free, room, gpu_layers=layers, share=share)


def _spread_site(
    state: State, pool: Pool, facts: ModelFacts, backend: Backend, devices: list[Device], need: int, now_s: float
) -> Site:
    free = {device.device_id: max(free_bytes(pool, device), 0) for device in devices}
    together = sum(free.values())
    rooms = [
        # The pool spreads by free memory as well.
        eviction.find_room(state, pool, name, round(need * (part / together if together else 1 / len(free))) - part, now_s)
        for name, part in free.items()
    ]
    found = [room for room in rooms if room is not None]
    room = None
    if len(found) == len(rooms):
        victims = {victim.worker_id: victim for one in found for victim in one.victims}
        room = eviction.Room(tuple(victims.values()), stopping=any(one.stopping for one in found))
    return Site(pool, tuple(devices), facts, backend, need, together, room)


def backend_for(facts: ModelFacts, device: Device) -> Backend | None:
    """What would run the model on the device; None where nothing could."""
    if facts.architecture == "scripted":
        return "scripted"
    return None if device.backend == "scripted" else device.backend


def free_bytes(pool: Pool, device: Device) -> int:
    """What is free by the last measurement, less what workers on their way will take, plus what ended ones have left."""
    coming = sum(eviction.memory_on(w) for w in pool.workers.values() if device.device_id in w.devices and not w.measured)
    # A report may tell both the memory that an ended worker left and its end.
    return min(device.free_bytes + pool.freed_bytes.get(device.device_id, 0), device.total_bytes) - coming


def impossible(state: State, model_sha256: str) -> ErrorBody | None:
    """Why no known pool could ever hold the model, also when empty and well; None where one could."""
    holders = state.holders.get(model_sha256, {})
    refusals: list[ErrorBody] = []
    closest: tuple[int, int, int, str] | None = None
    for pool_id, facts in holders.items():
        trouble = state.troubles.get((model_sha256, pool_id))
        usable: list[tuple[Device, Backend]] = []
        for device in state.pools[pool_id].devices:
            backend = backend_for(facts, device)
            if backend is not None and trouble is not None and backend in trouble.unusable:
                refusals.append(trouble.unusable[backend])
            elif backend is not None:
                usable.append((device, backend))
        for least_bytes, total_bytes in _capacities(facts, trouble, usable):
            missing_bytes = least_bytes - total_bytes
            if missing_bytes <= 0:
                return None
            candidate = (missing_bytes, least_bytes, total_bytes, pool_id)
            closest = min(closest or candidate, candidate)
    if closest is None:
        return refusals[0] if refusals else None
    return _too_large(*closest)


def _capacities(facts: ModelFacts, trouble: LoadTrouble | None, usable: list[tuple[Device, Backend]]) -> Iterator[tuple[int, int]]:
    """What is needed at least, and what there is in all: on each device, and on accelerators together with main memory."""
    for device, _ in usable:
        yield _known_need(device, trouble) or facts.size_bytes, device.total_bytes
    accelerators = [device for device, backend in usable if backend in ACCELERATORS]
    together = [device.total_bytes for device in accelerators if not stands_alone(device.device_id)]
    alone = [device.total_bytes for device in accelerators if stands_alone(device.device_id)]
    main_memory = [device.total_bytes for device, backend in usable if backend == "cpu"]
    if together and (len(together) > 1 or main_memory):
        yield facts.size_bytes, sum(together) + sum(main_memory)
    if alone and main_memory:
        yield facts.size_bytes, max(alone) + sum(main_memory)


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
    return Site(pool, (device,), facts, backend, need, free, room, doubtful)


def _known_need(device: Device, trouble: LoadTrouble | None) -> int | None:
    return None if trouble is None else trouble.need_bytes.get(device.device_id)


def _too_large(missing_bytes: int, least_bytes: int, total_bytes: int, pool_id: str) -> ErrorBody:
    return ErrorBody(
        code=ErrorCode.NO_PLACEMENT,
        message=f"No pool could hold this model even when empty: what could run it best, on pool {pool_id}, has "
        f"{-(-missing_bytes // (1 << 20))} MiB too few. Choose a smaller model or quantisation, or add a host.",
        details={"missing_bytes": missing_bytes, "needed_bytes": least_bytes, "total_bytes": total_bytes, "pool_id": pool_id},
    )
