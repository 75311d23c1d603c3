"""What the engine reports: of each attempt, in order, Admitted, Grown*, then one of Finished, Failed; and its Load. PURE.

Of a request for vectors comes one Embedded or Failed and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rbees.protocol.errors import ErrorBody
from rbees.protocol.events import FinishReason, Timings, TokenLogprob, Usage
from rbees.workerd.engine.parts import Call
from rbees.workerd.engine.text import Piece


@dataclass(frozen=True, slots=True)
class Admitted:
    """The attempt holds a slot for the first time."""

    key: str
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Grown:
    """Text of whole tokens may be sent."""

    key: str
    choice: int
    piece: Piece
    logprobs: tuple[TokenLogprob, ...] | None = None
    """One for each token that the piece's text holds something of, where the job asks for them."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The answer is complete."""

    key: str
    choice: int
    reason: FinishReason
    usage: Usage
    timings: Timings
    calls: tuple[Call, ...] = ()
    """The tools that the answer calls."""
    drafted: int = 0
    """Tokens that were computed on a guess."""
    accepted: int = 0
    """Of these, how many the answer has."""
    stop_string: str | None = field(default=None, repr=False)
    """That ended it."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The attempt ended without completing its answer."""

    key: str
    error: ErrorBody


@dataclass(frozen=True, slots=True)
class Embedded:
    """All vectors of a request: float32 (inputs, dimensions), in the order of the inputs."""

    key: str
    vectors: NDArray[np.float32] = field(repr=False)
    queued_ms: float
    compute_ms: float


Output = Admitted | Grown | Finished | Failed | Embedded


@dataclass(frozen=True, slots=True)
class Load:
    """How full the engine is; safe to hand to other threads."""

    slots_total: int
    slots_used: int
    waiting: int
    cells_total: int
    cells_used: int
    """Held by sequences that run."""
    cells_kept: int
    """Held only for prompts that may come; given up whenever others need them."""
    spilled_bytes: int
    """Ordinary memory that holds what the cells had no room for."""
    prefill_tokens_per_second: float | None
    decode_tokens_per_second: float | None
    drafted_tokens_total: int
    """Tokens that were computed on a guess since the engine began."""
    accepted_tokens_total: int
    """Of these, how many were drawn."""
