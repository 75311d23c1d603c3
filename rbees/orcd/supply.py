"""PURE: where a model comes from, and which pool it should go to, by what pools report of themselves.

Nothing here starts anything, and nothing here changes what the scheduler does: an operator asked for a model on a host.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from rbees.orcd.scheduler.estimates import analytic_bytes
from rbees.orcd.scheduler.sites import ACCELERATORS, backend_for
from rbees.protocol import model_ref
from rbees.protocol.downloads import MAX_SOURCES
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.model_ref import HubRef
from rbees.protocol.pools import Device, ModelFacts, PoolView

_SIZE: Final = re.compile(r"(?<![A-Za-z0-9.])(?:(\d+)x)?(\d+(?:\.\d+)?)([bBmM])(?![A-Za-z0-9])")
"""How models are named by their parameters: `7B`, `8x7B`, `0.6b`, `135M`."""
_BITS: Final = re.compile(r"(?<![A-Za-z0-9])(?:(?:I?Q|TQ)(\d)|(?:BF|FP?)(16|32))(?=[_A-Za-z-]|$|\.|\W)", re.IGNORECASE)
_USUAL_BITS: Final = 4.0
_BITS_BESIDE: Final = 0.85
"""What scales and the tensors that stay large add to each weight of a quantised file; Q4_K_M takes 4.85 bits."""
_OVERHEAD: Final = 1.2
"""A worker's memory over the size of its file, where nothing but a name is known."""


@dataclass(frozen=True, slots=True)
class Supply:
    """A model that pools hold, and which of them could give it, the best first."""

    facts: ModelFacts
    pool_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Destination:
    """The pool that a model should go to."""

    pool_id: str
    why: str
    """One sentence for people, without the pool's name."""
    held: ModelFacts | None = None
    """What the pool has already of the name, as far as it has reported."""


def supply(
    pools: Sequence[PoolView], asked: str, quantization: str | None, receiver: str, meant: str, sha256: str | None = None
) -> Supply | None:
    """What other pools than `receiver` hold under the name; None where the receiver has it, or the hub has to be asked.

    `meant` is the repository that the catalogue knows for a short name, or `asked` once more. With `sha256` it is that very model,
    of which there can be no newer one, so the receiver's own report is not asked: the file may be gone since.
    """
    if sha256 is None and any(_held(pool, asked, quantization) for pool in pools if pool.pool_id == receiver):
        return None
    givers: dict[str, list[tuple[PoolView, ModelFacts]]] = {}
    for pool in sorted(pools, key=_worth):
        for facts in _held(pool, asked, quantization):
            if pool.state == "lost" or pool.pool_id == receiver or _is_packaged(facts):
                continue
            if sha256 in (None, facts.sha256):
                givers.setdefault(facts.sha256, []).append((pool, facts))
    if not givers:
        return None
    room = next((_room(pool) for pool in pools if pool.pool_id == receiver), 0)
    found = min(givers.values(), key=lambda held: (held[0][1].size_bytes > room, -len(held), held[0][1].sha256))
    if found[0][1].size_bytes > room and leaves_it_open(meant, quantization):
        # The host takes what fits it, and nothing that the others hold does.
        return None
    # A reference of the hub means the same everywhere.
    facts = next((facts for _, facts in found if facts.ref.startswith("hf:")), found[0][1])
    return Supply(facts, tuple(dict.fromkeys(pool.pool_id for pool, _ in found))[:MAX_SOURCES])


def own_file(pools: Sequence[PoolView], asked: str, quantization: str | None, receiver: str) -> ModelFacts | None:
    """What the receiver last reported under the name, if it is of no repository: there can be no newer one to ask a hub for."""
    held = (facts for pool in pools if pool.pool_id == receiver for facts in _held(pool, asked, quantization))
    return next((facts for facts in held if facts.ref.startswith("file:")), None)


def leaves_it_open(meant: str, quantization: str | None) -> bool:
    """Whether the host that fetches it takes the quantisation that fits it. Raises RbeesError INVALID_REQUEST: no reference."""
    reference = model_ref.parse(meant)
    return quantization is None and isinstance(reference, HubRef) and reference.file is None


def reference_for(supply: Supply, asked: str) -> str:
    """What to ask the givers for: by the commit where one is known, else as it was asked for."""
    return supply.facts.ref if supply.facts.ref.startswith("hf:") else asked


def destination(pools: Sequence[PoolView], asked: str, quantization: str | None, meant: str) -> Destination:
    """The pool where the model fits best: one that has it, else the one whose roomiest device leaves the most beside it.

    `meant` is as in `supply`: its name tells the size of a model that no pool holds yet.

    Raises:
        RbeesError: POOL_NOT_FOUND: no pool takes new work.
    """
    open_ = [pool for pool in pools if pool.state == "live" and not pool.drains]
    if not open_:
        raise _nobody(pools)
    for pool in sorted(open_, key=_worth):
        held = _held(pool, asked, quantization)
        if held:
            return Destination(pool.pool_id, "it has the model already", held[0])
    known = next((facts for pool in pools for facts in _held(pool, asked, quantization)), None)
    by_name = expected_bytes(meant, quantization)
    best = min(open_, key=lambda pool: (*_fit(pool, by_name, known)[:2], pool.pool_id))
    return Destination(best.pool_id, _why(best, by_name, known, alone=len(open_) == 1))


def expected_bytes(name: str, quantization: str | None) -> int | None:
    """What a worker should take by the model's name alone; None where that names no size."""
    size = next(iter(_SIZE.finditer(name)), None)
    if size is None:
        return None
    times, count, unit = size.groups()
    parameters = float(count) * int(times or 1) * (1e9 if unit in "bB" else 1e6)
    label = _BITS.search(quantization or name)
    digits = (label[1] or label[2]) if label is not None else None
    bits = float(digits or _USUAL_BITS)
    return round(parameters * (bits if bits >= 16 else bits + _BITS_BESIDE) / 8 * _OVERHEAD)


def _held(pool: PoolView, asked: str, quantization: str | None) -> list[ModelFacts]:
    wanted = quantization.casefold() if quantization is not None else None
    return [
        facts for facts in pool.models if asked in (facts.ref, *facts.aliases) and wanted in (None, facts.quantization.casefold())
    ]


def _is_packaged(facts: ModelFacts) -> bool:
    """It ships with rbees, so every host has its own."""
    return not facts.ref.startswith(("hf:", "file:"))


def _worth(pool: PoolView) -> tuple[bool, bool, int, str]:
    """Low for a pool that should give: it answers, is meant to stay and has little else to do."""
    return pool.state != "live", pool.drains, len(pool.workers), pool.pool_id


def _room(pool: PoolView) -> int:
    return max((device.free_bytes for device in pool.devices if device.healthy), default=0)


def _fit(pool: PoolView, by_name: int | None, facts: ModelFacts | None) -> tuple[int, int, int | None]:
    """Low where the model fits well: an accelerator before main memory, then what is left beside it; with what it needs there."""
    needs = ((device, _need(device, by_name, facts)) for device in _usable(pool, facts))
    ranks = [(_rank(device, need), -device.free_bytes, need) for device, need in needs]
    return min(ranks, key=lambda rank: rank[:2], default=(3, 0, None))


def _need(device: Device, by_name: int | None, facts: ModelFacts | None) -> int | None:
    """What a worker should take there, by the model's header where a pool has read it."""
    backend = None if facts is None else backend_for(facts, device)
    return by_name if facts is None or backend is None else analytic_bytes(facts, backend)


def _rank(device: Device, need: int | None) -> int:
    if need is None:
        # Nothing but the room can be compared.
        return 1
    if need > device.free_bytes:
        return 2
    return 0 if device.backend in ACCELERATORS else 1


def _usable(pool: PoolView, facts: ModelFacts | None) -> Iterator[Device]:
    for device in pool.devices:
        if device.healthy and (facts is None or backend_for(facts, device) is not None):
            yield device


def _why(pool: PoolView, by_name: int | None, facts: ModelFacts | None, *, alone: bool) -> str:
    rank, free, need = _fit(pool, by_name, facts)
    device = next((one.device_id for one in _usable(pool, facts) if one.free_bytes == -free), None)
    if device is None:
        return "no pool that takes work has a device that could run it"
    room = f"{device} there has {_gib(-free)} free"
    if need is None:
        reason = f"{room}; how large the model is, no pool can say yet"
    elif rank == 2:
        reason = f"{room}, the most there is, and the model needs about {_gib(need)}"
    else:
        reason = f"{room} and the model needs about {_gib(need)}"
    return f"it is the only one that takes work: {reason}" if alone else reason


def _gib(count: int) -> str:
    return f"{count / (1 << 30):.1f} GiB"


def _nobody(pools: Sequence[PoolView]) -> RbeesError:
    if not pools:
        message = "No pool is registered; start one with `rbees poold serve`, or add one with `llorch pool register`."
        return RbeesError(ErrorCode.POOL_NOT_FOUND, message)
    states = ", ".join(f"{pool.pool_id} is {'drained' if pool.drains else pool.state}" for pool in pools)
    return RbeesError(ErrorCode.POOL_NOT_FOUND, f"No pool takes new work now: {states}. Name one with `--host`, or resume one.")
