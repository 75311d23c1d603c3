"""Memory that was not to be had, as a fact. PURE."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Shortage:
    """Memory that was not to be had, as far as is known."""

    wanted_bytes: int | None = None
    """What the allocation that failed asked for."""
    buffer: str | None = None
    """Where, as the library calls it: `CPU`, `CUDA0`."""
    available_bytes: int | None = None
