"""How a model would sit on the devices of one host: what `rbees pool fit` asks of a pool daemon, and the answer."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from rbees.protocol.codec import Message
from rbees.protocol.device_options import DeviceOptions
from rbees.protocol.errors import ErrorBody
from rbees.protocol.pools import ModelFacts
from rbees.protocol.workers import Backend


class FitRequest(DeviceOptions, frozen=True, kw_only=True):
    """`POST /models/fit` on a pool. What is left out is as for a spawn."""

    model_ref: str
    facts: ModelFacts | None = None
    """Of a file that the pool does not serve; it is reckoned with in place of `model_ref`."""
    backend: Backend | None = None
    devices: tuple[str, ...] = ()
    """Ids of the devices to look at; several are looked at together. Default: every device for itself."""
    ctx: Annotated[int, msgspec.Meta(ge=64, le=16_777_216)] | None = None
    slots: Annotated[int, msgspec.Meta(ge=1, le=256)] | None = None


class FitPlace(Message, frozen=True, kw_only=True):
    """What one device, or main memory beside it, would take; all in bytes."""

    device_id: str
    layers: int
    """Of the model, without its output."""
    weights_bytes: int
    kv_bytes: int
    """KV cells and recurrent states."""
    buffers_bytes: int
    """What a call computes in, the scores it gives out, and the process."""
    needed_bytes: int
    """All of that."""
    available_bytes: int
    """What the device has to give, after `held_bytes` and `reserve_bytes`."""
    total_bytes: int
    held_bytes: int
    """Set aside for workers that run."""
    reserve_bytes: int
    """Never given to a worker, as the settings say."""
    missing_bytes: int
    """By how much it does not fit; 0 where it does."""


class FitRate(Message, frozen=True, kw_only=True):
    """Tokens per second of all streams together, as a worker on this host learned them."""

    decode_tokens_per_second: float
    prefill_tokens_per_second: float | None = None
    source: Literal["measured", "estimated"]
    """`measured`: by a worker of this model. `estimated`: from that of another model, by the sizes of both."""
    worker_id: str
    model_ref: str
    """What that worker serves."""


class FitSeat(Message, frozen=True, kw_only=True):
    """One way to serve the model: a device, several together, or one with a part of the layers."""

    devices: tuple[str, ...]
    backend: Backend
    fits: bool
    gpu_layers: int | None = None
    """To be asked for where only a part of the layers goes to the accelerator, the output counting as one."""
    tensor_split: tuple[float, ...] = ()
    """Shares of several devices."""
    places: tuple[FitPlace, ...]
    """Empty where nothing can be reckoned, because the device or the backend cannot be used."""
    problem: ErrorBody | None = None
    """Why a worker would be refused."""
    rate: FitRate | None = None
    """Absent where no worker on this host has measured anything."""


class FitView(Message, frozen=True, kw_only=True):
    """The answer: every way with its numbers, the best first."""

    model: ModelFacts
    ctx: int
    slots: int
    seats: tuple[FitSeat, ...]
    chosen: int | None
    """Which of `seats` a spawn would take; None where it would be refused."""
    refusal: ErrorBody | None = None
    """Then the reason, which says by how much."""
    warnings: tuple[str, ...] = ()
