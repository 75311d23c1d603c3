"""PURE: would this model, with this context and so many slots, fit on that device? The preflight of every spawn.

What a worker takes is estimated from the model's facts: its weights, the KV cache, the compute buffer. The estimate errs
on the large side; what is free is what was measured, less what running workers have reserved and not yet taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.pools import Device, ModelFacts
from rbees.protocol.workers import Backend

KV_ELEMENT_BYTES: Final = 2
"""F16, llama.cpp's default cache type."""
MICRO_BATCH: Final = 512
"""Tokens that llama.cpp computes at once; activations exist for so many."""
_ACTIVATION_COPIES: Final = 16
"""Vectors of the embedding's length alive at once for each token of a micro batch (feed-forward, attention, norms)."""
_RUNTIME_BYTES: Final = 32 << 20
"""What the process and the library take beside the model."""
_MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Demand:
    """What a worker will need, in bytes."""

    weights_bytes: int
    kv_bytes: int
    compute_bytes: int

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.weights_bytes + self.kv_bytes + self.compute_bytes


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
class Fit:
    """It fits: start it like this."""

    device: Device
    backend: Backend
    slots: int
    ctx: int
    demand: Demand


@dataclass(frozen=True, slots=True)
class Refusal:
    """It does not fit, and this is the answer."""

    code: ErrorCode
    message: str
    details: dict[str, Any]

    def error(self) -> RbeesError:
        """The refusal as an error to raise."""
        return RbeesError(self.code, self.message, **self.details)


def demand(model: ModelFacts, *, ctx: int, slots: int) -> Demand:
    """The memory of a worker that serves `model` with `slots` sequences of `ctx` KV cells each."""
    cells = ctx * slots
    kv_bytes = cells * model.layers * model.head_count_kv * (model.key_length + model.value_length) * KV_ELEMENT_BYTES
    activations = MICRO_BATCH * model.embedding_length * 4 * _ACTIVATION_COPIES
    # One row of scores for each sequence, as floats, in the library and once more where they are sampled.
    scores = slots * model.vocabulary_size * 4 * 2
    mask = MICRO_BATCH * cells * KV_ELEMENT_BYTES if model.layers else 0
    return Demand(model.size_bytes, kv_bytes, activations + scores + mask + _RUNTIME_BYTES)


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


def fit(model: ModelFacts, room: Room, *, backend: Backend, ctx: int | None, slots: int, default_ctx: int) -> Fit | Refusal:
    """Whether the model can be served from the device, and how; the numbers either way."""
    if not room.device.healthy:
        return _unhealthy(room.device)
    cells = context(model, ctx, default_ctx)
    if isinstance(cells, Refusal):
        return cells
    needed = demand(model, ctx=cells, slots=slots)
    if needed.total_bytes <= room.free_bytes:
        return Fit(room.device, backend, slots, cells, needed)
    if room.held_bytes and needed.total_bytes <= room.free_without_workers_bytes:
        return _busy(needed, room)
    return _too_large(needed, room)


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
    return Refusal(
        ErrorCode.INSUFFICIENT_VRAM,
        f"The model needs {_mib(needed.total_bytes)} (weights {_mib(needed.weights_bytes)}, KV cache {_mib(needed.kv_bytes)}, "
        f"buffers {_mib(needed.compute_bytes)}) and {room.device.device_id} has {_mib(room.free_bytes)} to give: "
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
        "compute_bytes": needed.compute_bytes,
        "available_bytes": room.free_bytes,
        "device_free_bytes": room.device.free_bytes,
        "device_total_bytes": room.device.total_bytes,
        "held_by_workers_bytes": room.held_bytes,
        "reserve_bytes": room.reserve_bytes,
        "missing_bytes": max(0, needed.total_bytes - room.free_bytes),
    }


def _mib(count: int) -> str:
    return f"{-(-count // _MIB)} MiB"
