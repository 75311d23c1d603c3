"""A LoRA adapter as the engine is told of it; apart from the engine, because a command line needs no engine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter that is in force from the first token on."""

    path: str
    scale: float
    """How strongly it counts; 0 has it count nothing."""
    sha256: str
