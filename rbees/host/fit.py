"""PURE: would this model, with this context and so many slots, fit on that device? The preflight of every spawn.

What a worker takes is an estimate (`demand.py`); what is free is what was measured, less what running workers have reserved
and not yet taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from rbees.protocol.demand import Demand, demand, layers_on, offloaded, spread
from rbees.protocol.device_options import (
    ACCELERATORS,
    DEFAULT_KV_TYPE,
    NOTHING_ASKED,
    DeviceOptions,
    check_device_options,
    fits_heads,
)
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.pools import Device, ModelFacts
from rbees.protocol.workers import Backend

_MIB: Final = 1 << 20
_NOTHING: Final = Demand(0, 0, 0)


@dataclass(frozen=True, slots=True)
class Room:
    """What a device has to give, in bytes. `held` is reserved by workers, of which `pending` is not yet taken."""

    device: Device
    held_bytes: int
    pending_bytes: int
    reserve_bytes: int

    @property
    def free_bytes(self) -> int:
        """What a new worker may take: by measurement and by reservation, whichever is less."""
        measured = self.device.free_bytes - self.pending_bytes
        reserved = self.device.total_bytes - self.held_bytes
        return max(0, min(measured, reserved) - self.reserve_bytes)

    @property
    def free_without_workers_bytes(self) -> int:
        """What would be free at most if all workers were stopped."""
        taken_bytes = self.held_bytes - self.pending_bytes
        return max(0, min(self.device.total_bytes, self.device.free_bytes + taken_bytes) - self.reserve_bytes)


@dataclass(frozen=True, slots=True)
class Part:
    """What one place takes of a model: so many of its layers, and the bytes."""

    room: Room
    layers: int
    needed: Demand


@dataclass(frozen=True, slots=True)
class Fit:
    """It fits: start it like this."""

    devices: tuple[Device, ...]
    backend: Backend
    slots: int
    ctx: int
    demand: Demand
    """Of all devices together."""
    options: DeviceOptions = NOTHING_ASKED
    reserved: dict[str, int] = field(default_factory=dict)
    """Bytes to be set aside, by device id: also in main memory, where layers stay there."""

    @property
    def device(self) -> Device:
        """The first of its devices."""
        return self.devices[0]


@dataclass(frozen=True, slots=True)
class Refusal:
    """It does not fit, and this is the answer."""

    code: ErrorCode
    message: str
    details: dict[str, Any]

    def error(self) -> RbeesError:
        """The refusal as an error to raise."""
        return RbeesError(self.code, self.message, **self.details)


def context(model: ModelFacts, asked: int | None, default_ctx: int) -> int | Refusal:
    """KV cells per sequence: what was asked for, else the trained length within the pool's default."""
    if asked is None:
        return min(model.context_length, default_ctx)
    if asked > model.context_length:
        return Refusal(
            ErrorCode.MODEL_INCOMPATIBLE,
            f"The model was trained for {model.context_length} tokens of context and {asked} were asked for; ask for less.",
            {"context_length": model.context_length, "asked_ctx": asked},
        )
    return asked


def fit(
    model: ModelFacts,
    rooms: Sequence[Room],
    *,
    backend: Backend,
    ctx: int | None,
    slots: int,
    default_ctx: int,
    options: DeviceOptions = NOTHING_ASKED,
    host: Room | None = None,
) -> Fit | Refusal:
    """Whether the model can be served from the devices of `rooms`, and how; the numbers either way.

    More than one room means that the model is spread over all of them. `host` is main memory, for the layers that stay there.
    """
    sick = next((room.device for room in rooms if not room.device.healthy), None)
    if sick is not None:
        return _unhealthy(sick)
    contradiction = _contradiction(model, rooms, backend, options)
    if contradiction is not None:
        return contradiction
    cells = context(model, ctx, default_ctx)
    if isinstance(cells, Refusal):
        return cells
    options, parts = lay_out(model, rooms, backend=backend, ctx=cells, slots=slots, options=options, host=host)
    refused = next((refusal for part in parts if (refusal := _refused(part.needed, part.room)) is not None), None)
    if refused is not None:
        return refused
    return Fit(
        devices=tuple(room.device for room in rooms),
        backend=backend,
        slots=slots,
        ctx=cells,
        demand=sum((part.needed for part in parts[: len(rooms)]), Demand(0, 0, 0)),
        options=options,
        reserved={part.room.device.device_id: part.needed.total_bytes for part in parts},
    )


def lay_out(
    model: ModelFacts,
    rooms: Sequence[Room],
    *,
    backend: Backend,
    ctx: int,
    slots: int,
    options: DeviceOptions = NOTHING_ASKED,
    host: Room | None = None,
) -> tuple[DeviceOptions, list[Part]]:
    """What each place takes, whether it has it or not: the rooms in their order, then main memory where something stays there.

    The options come back with the shares of several devices said to the library, so that it does what was reckoned with here.
    """
    whole = demand(model, ctx=ctx, slots=slots, backend=backend, options=options)
    if backend not in ACCELERATORS:
        return options, [Part(room, model.layers, whole) for room in rooms]
    taken, kept = offloaded(whole, model, options)
    layers = layers_on(model, options)
    if len(rooms) == 1:
        parts = [Part(rooms[0], layers, taken)]
    elif options.split_mode == "none":
        chosen = options.main_gpu or 0
        parts = [Part(room, layers, taken) if i == chosen else Part(room, 0, _NOTHING) for i, room in enumerate(rooms)]
    else:
        options = msgspec.structs.replace(options, tensor_split=options.tensor_split or _by_free_memory(rooms))
        dealt = spread(taken, model, options, options.tensor_split)
        parts = [Part(room, count, needed) for room, (count, needed) in zip(rooms, dealt, strict=True)]
    if host is not None and kept.total_bytes:
        parts.append(Part(host, model.layers - layers, kept))
    return options, parts


def usable_for(model: ModelFacts, defaults: DeviceOptions) -> DeviceOptions:
    """A pool's defaults, without the KV types that this model cannot be served with: nobody asked for those by name."""
    return msgspec.structs.replace(
        defaults,
        kv_type_k=defaults.kv_type_k if fits_heads(defaults.kv_type_k, model.key_length) else None,
        kv_type_v=defaults.kv_type_v if fits_heads(defaults.kv_type_v, model.value_length) else None,
    )


def _by_free_memory(rooms: Sequence[Room]) -> tuple[float, ...]:
    """Shares in proportion to what each has to give, in MiB so that they read well on a command line."""
    return tuple(float(max(1, room.free_bytes // _MIB)) for room in rooms)


def _refused(needed: Demand, room: Room) -> Refusal | None:
    if needed.total_bytes <= room.free_bytes:
        return None
    if room.held_bytes and needed.total_bytes <= room.free_without_workers_bytes:
        return _busy(needed, room)
    return _too_large(needed, room)


def _contradiction(model: ModelFacts, rooms: Sequence[Room], backend: Backend, options: DeviceOptions) -> Refusal | None:
    """What is asked for and contradicts itself, the devices or the model."""
    try:
        check_device_options(backend, tuple(room.device.device_id for room in rooms), options)
    except RbeesError as error:
        return Refusal(error.code, error.message, error.details)
    for field_, kv_type, length in (
        ("kv_type_k", options.kv_type_k, model.key_length),
        ("kv_type_v", options.kv_type_v, model.value_length),
    ):
        if not fits_heads(kv_type, length):
            return Refusal(
                ErrorCode.MODEL_INCOMPATIBLE,
                f"The model's heads are {length} long, which {kv_type} cannot store in whole blocks; ask for {DEFAULT_KV_TYPE}.",
                {"field": field_, "head_length": length},
            )
    return None


def _unhealthy(device: Device) -> Refusal:
    return Refusal(
        ErrorCode.BACKEND_UNAVAILABLE,
        f"Device {device.device_id} cannot be used: {device.problem or 'it reports no reason.'}",
        {"device_id": device.device_id},
    )


def _busy(needed: Demand, room: Room) -> Refusal:
    return Refusal(
        ErrorCode.DEVICE_BUSY,
        f"The model needs {_mib(needed.total_bytes)}; other workers hold {_mib(room.held_bytes)} of {room.device.device_id} "
        f"and leave {_mib(room.free_bytes)}. Stop one of them or name another device.",
        _numbers(needed, room),
    )


def _too_large(needed: Demand, room: Room) -> Refusal:
    missing_bytes = needed.total_bytes - room.free_bytes
    buffers_bytes = needed.compute_bytes + needed.runtime_bytes
    return Refusal(
        ErrorCode.INSUFFICIENT_VRAM,
        f"The model needs {_mib(needed.total_bytes)} (weights {_mib(needed.weights_bytes)}, KV cache {_mib(needed.kv_bytes)}, "
        f"buffers {_mib(buffers_bytes)}) and {room.device.device_id} has {_mib(room.free_bytes)} to give: "
        f"{_mib(missing_bytes)} too few. Ask for a smaller context, fewer slots or a smaller quantisation.",
        _numbers(needed, room),
    )


def _numbers(needed: Demand, room: Room) -> dict[str, Any]:
    return {
        "device_id": room.device.device_id,
        "memory_architecture": room.device.memory_architecture,
        "needed_bytes": needed.total_bytes,
        "weights_bytes": needed.weights_bytes,
        "kv_bytes": needed.kv_bytes,
        "compute_bytes": needed.compute_bytes + needed.runtime_bytes,
        "available_bytes": room.free_bytes,
        "device_free_bytes": room.device.free_bytes,
        "device_total_bytes": room.device.total_bytes,
        "held_by_workers_bytes": room.held_bytes,
        "reserve_bytes": room.reserve_bytes,
        "missing_bytes": max(0, needed.total_bytes - room.free_bytes),
    }


def _mib(count: int) -> str:
    return f"{-(-count // _MIB)} MiB"
