"""`rbees workerd memory`: what a worker would take, asked of llama.cpp in a process of its own, which its mistakes may end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Final

import msgspec

from rbees.protocol import codec
from rbees.protocol.codec import Message
from rbees.protocol.errors import ErrorCode, ErrorEnvelope, RbeesError
from rbees.workerd.engine.backend import LoadSpec

TIMEOUT_S: Final = 120.0
_MIB: Final = 1 << 20


class Place(Message, frozen=True, kw_only=True):
    """What one place holds, in bytes."""

    place: str
    """`cpu` is main memory, `cuda:0` and so on are devices."""
    weights_bytes: int
    adapters_bytes: int
    kv_bytes: int
    compute_bytes: int
    outputs_bytes: int
    total_bytes: int


class Need(Message, frozen=True, kw_only=True):
    """What a worker would take beside its interpreter and libraries."""

    ctx: int
    slots: int
    kv_cells: int
    places: tuple[Place, ...]
    total_bytes: int


def ask(spec: LoadSpec) -> Need:
    """What a worker of this spec would take. Blocks for as long as the header takes to read, two minutes at most.

    Raises:
        RbeesError: MODEL_INCOMPATIBLE, BACKEND_UNAVAILABLE, INSUFFICIENT_VRAM
    """
    words = [sys.executable, "-P", "-m", "rbees.workerd.memory_child"]
    environment = {**os.environ, "GGML_NO_BACKTRACE": "1"}
    try:
        child = subprocess.run(
            words, input=msgspec.json.encode(spec), capture_output=True, timeout=TIMEOUT_S, check=False, env=environment
        )
    except subprocess.TimeoutExpired:
        raise _gave_up(f"had not answered after {TIMEOUT_S:g} s") from None
    if child.returncode < 0:
        raise _gave_up(f"was ended by {signal.Signals(-child.returncode).name}")
    if child.returncode > 0:
        raise _error_of(child.stdout)
    return codec.decode(child.stdout, Need)


def as_text(need: Need) -> str:
    """A table for people, in MiB."""
    kinds = ("weights", "adapters", "kv", "compute", "outputs", "total")
    rows = [["", *kinds]]
    rows += [[place.place, *(_mib(getattr(place, f"{kind}_bytes")) for kind in kinds)] for place in need.places]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(word.rjust(width) for word, width in zip(row, widths, strict=True)) for row in rows]
    lines.append(f"{_mib(need.total_bytes)} MiB for {need.slots} × {need.ctx} tokens ({need.kv_cells} KV cells); all in MiB.")
    return "\n".join(lines)


def _mib(count: int) -> str:
    return f"{count / _MIB:.2f}"


def _error_of(said: bytes) -> RbeesError:
    try:
        return RbeesError.from_body(codec.decode(said, ErrorEnvelope).error)
    except RbeesError:
        return _gave_up("failed without a reason")


def _gave_up(how: str) -> RbeesError:
    return RbeesError(
        ErrorCode.MODEL_INCOMPATIBLE, f"llama.cpp {how} while it reckoned with this file; the file or this version is damaged."
    )
