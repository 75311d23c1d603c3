"""PURE: how a model would sit on this host, device by device: what preflight would answer, with all its numbers.

Decides nothing: whether something fits, and which device a spawn would take, is what `preflight.py` says. Beside its answers stand
ways that a spawn takes only when it is told to: several accelerators together, or one with a part of the layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from rbees.host.fit import Fit, Part, Refusal, Room, lay_out
from rbees.host.preflight import Attempt, Wish, attempts, main_memory, most_telling
from rbees.protocol.device_options import ACCELERATORS, stands_alone
from rbees.protocol.errors import ErrorBody, ErrorCode
from rbees.protocol.fits import FitPlace, FitRate, FitSeat, FitView
from rbees.protocol.pools import ModelFacts
from rbees.protocol.workers import Backend

MOST_LAYERS = 512
"""llama.cpp refuses models with more."""
_RECKONED = frozenset({ErrorCode.INSUFFICIENT_VRAM, ErrorCode.DEVICE_BUSY})
"""Refusals of a device that could be used: its numbers mean something."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What a worker on this host has learned of its own speed, in tokens per second of all its streams."""

    worker_id: str
    model_ref: str
    model_sha256: str
    size_bytes: int
    backend: Backend
    decode: float
    prefill: float | None


def view(
    model: ModelFacts,
    wish: Wish,
    rooms: Sequence[Room],
    *,
    default_ctx: int,
    problems: Mapping[Backend, str | None],
    measured: Sequence[Measured] = (),
) -> FitView | Refusal:
    """All ways to serve the model here; a refusal where the wish itself makes no sense."""
    wish, warnings = _within_context(model, wish)
    tries = attempts(model, wish, rooms, default_ctx=default_ctx, problems=problems)
    if isinstance(tries, Refusal):
        return tries
    ctx = wish.ctx or min(model.context_length, default_ctx)
    contradiction = next((one.answer for one in tries if _is_about_the_wish(one.answer)), None)
    if isinstance(contradiction, Refusal) and all(_is_about_the_wish(one.answer) for one in tries):
        return contradiction
    chosen = next((i for i, one in enumerate(tries) if isinstance(one.answer, Fit)), None)
    seats = [_seat(model, wish, ctx, one, main_memory(rooms), measured) for one in tries]
    if not wish.devices and not any(seat.fits and seat.backend in ACCELERATORS for seat in seats):
        seats += _when_told(model, wish, rooms, tries, default_ctx, problems, measured)
    refusal = None if chosen is not None else _body(most_telling([one.answer for one in tries]))
    return FitView(
        model=model, ctx=ctx, slots=wish.slots, seats=tuple(seats), chosen=chosen, refusal=refusal, warnings=tuple(warnings)
    )


def beyond_context(model: ModelFacts, ctx: int | None) -> str | None:
    """What is said where more context is asked for than makes sense; the numbers are then for what the model was trained for."""
    if ctx is None or ctx <= model.context_length:
        return None
    return (
        f"The model was trained for {model.context_length} tokens of context and {ctx} were asked for, which a spawn "
        f"refuses. The numbers are for {model.context_length}."
    )


def _within_context(model: ModelFacts, wish: Wish) -> tuple[Wish, list[str]]:
    """A spawn refuses more than the model was trained for; here the most that makes sense is reckoned with."""
    said = beyond_context(model, wish.ctx)
    if said is None:
        return wish, []
    return Wish(wish.backend, wish.devices, model.context_length, wish.slots, wish.options), [said]


def _is_about_the_wish(answer: Fit | Refusal) -> bool:
    return isinstance(answer, Refusal) and answer.code in (ErrorCode.INVALID_REQUEST, ErrorCode.MODEL_INCOMPATIBLE)


def _when_told(
    model: ModelFacts,
    wish: Wish,
    rooms: Sequence[Room],
    tries: Sequence[Attempt],
    default_ctx: int,
    problems: Mapping[Backend, str | None],
    measured: Sequence[Measured],
) -> list[FitSeat]:
    """Several accelerators together, then each with the most layers that fit it; only what fits."""
    usable = [one for one in tries if isinstance(one.answer, Refusal) and one.answer.code in _RECKONED]
    lone = [one for one in usable if one.backend in ACCELERATORS and len(one.rooms) == 1]
    cuda = (one.rooms[0].device.device_id for one in lone if one.backend == "cuda")
    together = tuple(device_id for device_id in cuda if not stands_alone(device_id))
    wishes = [Wish("cuda", together, wish.ctx, wish.slots, wish.options)] if len(together) > 1 else []
    wishes += [told for one in lone if (told := _fewer_layers(model, wish, one, rooms, default_ctx, problems)) is not None]
    seats = []
    for told in wishes:
        answers = attempts(model, told, rooms, default_ctx=default_ctx, problems=problems)
        assert not isinstance(answers, Refusal), "its devices were found before"
        ctx = told.ctx or min(model.context_length, default_ctx)
        seats += [_seat(model, told, ctx, one, main_memory(rooms), measured) for one in answers if isinstance(one.answer, Fit)]
    return seats


def _fewer_layers(
    model: ModelFacts, wish: Wish, one: Attempt, rooms: Sequence[Room], default_ctx: int, problems: Mapping[Backend, str | None]
) -> Wish | None:
    """The same for the most layers that the accelerator can take, the others in main memory; None where not even one fits."""
    if wish.options.gpu_layers is not None:
        return None
    # With the output alone nothing is gained. Fewer layers may not fit either: they take more of main memory.
    tried = (_with_layers(wish, one, layers) for layers in range(min(model.layers, MOST_LAYERS), 1, -1))
    return next((told for told in tried if _fits(model, told, rooms, default_ctx, problems)), None)


def _with_layers(wish: Wish, one: Attempt, layers: int) -> Wish:
    devices = tuple(room.device.device_id for room in one.rooms)
    return Wish(one.backend, devices, wish.ctx, wish.slots, msgspec.structs.replace(wish.options, gpu_layers=layers))


def _fits(model: ModelFacts, wish: Wish, rooms: Sequence[Room], default_ctx: int, problems: Mapping[Backend, str | None]) -> bool:
    answers = attempts(model, wish, rooms, default_ctx=default_ctx, problems=problems)
    return not isinstance(answers, Refusal) and any(isinstance(one.answer, Fit) for one in answers)


def _seat(model: ModelFacts, wish: Wish, ctx: int, one: Attempt, host: Room | None, measured: Sequence[Measured]) -> FitSeat:
    answer = one.answer
    places: tuple[FitPlace, ...] = ()
    options = wish.options
    if isinstance(answer, Fit) or answer.code in _RECKONED:
        options, parts = lay_out(model, one.rooms, backend=one.backend, ctx=ctx, slots=wish.slots, options=wish.options, host=host)
        places = tuple(_place(part) for part in parts)
    return FitSeat(
        devices=tuple(room.device.device_id for room in one.rooms),
        backend=one.backend,
        fits=isinstance(answer, Fit),
        gpu_layers=options.gpu_layers,
        tensor_split=options.tensor_split,
        places=places,
        problem=_body(answer) if isinstance(answer, Refusal) else None,
        rate=_rate(model, one, options.gpu_layers, measured),
    )


def _place(part: Part) -> FitPlace:
    needed, room = part.needed, part.room
    return FitPlace(
        device_id=room.device.device_id,
        layers=part.layers,
        weights_bytes=needed.weights_bytes,
        kv_bytes=needed.kv_bytes,
        buffers_bytes=needed.compute_bytes + needed.runtime_bytes,
        needed_bytes=needed.total_bytes,
        available_bytes=room.free_bytes,
        total_bytes=room.device.total_bytes,
        held_bytes=room.held_bytes,
        reserve_bytes=room.reserve_bytes,
        missing_bytes=max(0, needed.total_bytes - room.free_bytes),
    )


def _rate(model: ModelFacts, one: Attempt, gpu_layers: int | None, measured: Sequence[Measured]) -> FitRate | None:
    """What a worker of this model has learned here, else what follows from another model's: both read all weights for a token.

    Nothing is said of ways in which no worker runs: several devices, or a part of the layers.
    """
    if len(one.rooms) > 1 or gpu_layers is not None:
        return None
    alike = [found for found in measured if found.backend == one.backend and found.size_bytes > 0]
    same = next((found for found in alike if found.model_sha256 == model.sha256), None)
    found = same or next(iter(sorted(alike, key=lambda other: abs(other.size_bytes - model.size_bytes))), None)
    if found is None or model.size_bytes <= 0:
        return None
    factor = 1.0 if same is not None else found.size_bytes / model.size_bytes
    return FitRate(
        decode_tokens_per_second=found.decode * factor,
        prefill_tokens_per_second=found.prefill * factor if found.prefill is not None else None,
        source="measured" if same is not None else "estimated",
        worker_id=found.worker_id,
        model_ref=found.model_ref,
    )


def _body(refusal: Refusal) -> ErrorBody:
    return ErrorBody(code=refusal.code, message=refusal.message, details=refusal.details)
