"""PURE: the answer to a spawn: on which device, with which backend, or why not.

The caller's choice is taken where there is one. Where there is none, the device that fits with the most memory to spare is
taken, accelerators before the CPU; everything else about placement is the orchestrator's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, get_args

from rbees.host.fit import Fit, Refusal, Room, fit
from rbees.protocol.device_options import NOTHING_ASKED, DeviceOptions
from rbees.protocol.errors import ErrorCode
from rbees.protocol.pools import Device, ModelFacts
from rbees.protocol.workers import Backend

_BACKENDS: Final[tuple[Backend, ...]] = get_args(Backend)


@dataclass(frozen=True, slots=True)
class Wish:
    """What a spawn asks for; None and empty leave the choice to the pool."""

    backend: Backend | None
    devices: tuple[str, ...]
    ctx: int | None
    slots: int
    options: DeviceOptions = NOTHING_ASKED


@dataclass(frozen=True, slots=True)
class Attempt:
    """One device, or several that were named together, with one backend, and what it answers."""

    rooms: tuple[Room, ...]
    backend: Backend
    answer: Fit | Refusal


def preflight(
    model: ModelFacts, wish: Wish, rooms: Sequence[Room], *, default_ctx: int, problems: Mapping[Backend, str | None]
) -> Fit | Refusal:
    """Where and how to start a worker for `model`; `problems` says why a backend cannot run in this installation."""
    tries = attempts(model, wish, rooms, default_ctx=default_ctx, problems=problems)
    if isinstance(tries, Refusal):
        return tries
    answers = [one.answer for one in tries]
    return next((answer for answer in answers if isinstance(answer, Fit)), None) or most_telling(answers)


def attempts(
    model: ModelFacts, wish: Wish, rooms: Sequence[Room], *, default_ctx: int, problems: Mapping[Backend, str | None]
) -> list[Attempt] | Refusal:
    """What each device that may serve the model answers, the best first; a refusal where the wish itself cannot be met."""
    backend = _backend(model, wish)
    if isinstance(backend, Refusal):
        return backend
    candidates = _candidates(backend, wish, rooms)
    if isinstance(candidates, Refusal):
        return candidates
    host = main_memory(rooms)
    return [
        Attempt(tuple(group), backend or group[0].device.backend, _try(model, wish, group, backend, host, default_ctx, problems))
        for group in candidates
    ]


def main_memory(rooms: Sequence[Room]) -> Room | None:
    """The room of what stays beside an accelerator."""
    return next((room for room in rooms if room.device.backend == "cpu"), None)


def runs_on(backend: Backend, device: Device) -> bool:
    """True if workers of `backend` run on `device`: scripted ones take the CPU, all others what bears their name."""
    return device.backend == ("cpu" if backend == "scripted" else backend)


def _backend(model: ModelFacts, wish: Wish) -> Backend | Refusal | None:
    """The backend that the model dictates or the caller chose; None where any will do."""
    if model.architecture == "scripted":
        if wish.backend in (None, "cpu", "scripted"):
            return "scripted"
        return _incompatible(f"A scripted model runs on the CPU only, not on {wish.backend}.", model)
    if wish.backend == "scripted":
        return _incompatible("The scripted backend runs `*.scripted.json` files only; leave the backend out.", model)
    return wish.backend


def _candidates(backend: Backend | None, wish: Wish, rooms: Sequence[Room]) -> Sequence[Sequence[Room]] | Refusal:
    """Rooms that may serve the model, the best first; those of one group together, because they were named together."""
    fitting = [room for room in rooms if backend is None or runs_on(backend, room.device)]
    if backend is not None and not fitting:
        return no_device_for(backend, (room.device for room in rooms))
    if wish.devices:
        return _named(backend, wish, rooms)
    return [[room] for room in sorted(fitting, key=lambda r: (not r.device.healthy, r.device.backend == "cpu", -r.free_bytes))]


def _named(backend: Backend | None, wish: Wish, rooms: Sequence[Room]) -> Sequence[Sequence[Room]] | Refusal:
    known = {room.device.device_id: room for room in rooms}
    for name in wish.devices:
        if name not in known:
            return _unknown(name, rooms)
        if backend is not None and not runs_on(backend, known[name].device):
            return _invalid(f"The backend {backend} does not run on {name}.", rooms)
    return [[known[name] for name in wish.devices]]


def _unknown(name: str, rooms: Sequence[Room]) -> Refusal:
    """A device that is not here: a wrong name only where others of its backend are."""
    meant = next((backend for backend in _BACKENDS if name.startswith(f"{backend}:")), None)
    if meant is not None and not any(runs_on(meant, room.device) for room in rooms):
        return no_device_for(meant, (room.device for room in rooms))
    return _invalid(f"This pool has no device {name!r}.", rooms)


def _try(
    model: ModelFacts,
    wish: Wish,
    rooms: Sequence[Room],
    backend: Backend | None,
    host: Room | None,
    default_ctx: int,
    problems: Mapping[Backend, str | None],
) -> Fit | Refusal:
    chosen = backend or rooms[0].device.backend
    problem = problems.get(chosen)
    if problem is not None:
        return _unavailable(problem)
    return fit(
        model,
        rooms,
        backend=chosen,
        ctx=wish.ctx,
        slots=wish.slots,
        default_ctx=default_ctx,
        options=wish.options,
        host=host,
    )


def most_telling(answers: Sequence[Fit | Refusal]) -> Refusal:
    """Of several refusals, the one that is nearest to success."""
    order = [
        ErrorCode.DEVICE_BUSY,
        ErrorCode.INSUFFICIENT_VRAM,
        ErrorCode.MODEL_INCOMPATIBLE,
        ErrorCode.BACKEND_UNAVAILABLE,
        ErrorCode.INVALID_REQUEST,
    ]
    refusals = [answer for answer in answers if isinstance(answer, Refusal)]
    return min(refusals, key=lambda refusal: (order.index(refusal.code), refusal.details.get("missing_bytes", 0)))


def no_device_for(backend: Backend, devices: Iterable[Device]) -> Refusal:
    """None of this host's devices runs workers of `backend`."""
    known = [device.device_id for device in devices]
    message = (
        f"This pool has no device for the backend {backend}. It has: {', '.join(known)}. Name one of these; if there should be "
        "another, `rbees-pool dev doctor` tells what is wrong with it."
    )
    return Refusal(ErrorCode.BACKEND_UNAVAILABLE, message, {"devices": known})


def _incompatible(message: str, model: ModelFacts) -> Refusal:
    return Refusal(ErrorCode.MODEL_INCOMPATIBLE, message, {"architecture": model.architecture})


def _unavailable(message: str) -> Refusal:
    return Refusal(ErrorCode.BACKEND_UNAVAILABLE, message, {})


def _invalid(message: str, rooms: Sequence[Room]) -> Refusal:
    known = [room.device.device_id for room in rooms]
    return Refusal(ErrorCode.INVALID_REQUEST, f"{message} It has: {', '.join(known)}.", {"field": "devices", "devices": known})
