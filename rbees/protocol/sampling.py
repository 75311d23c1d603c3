"""Sampling parameters, as clients send them to orcd and orcd sends them to a worker.

Ranges are checked by the types, so a value out of range is refused with its path wherever it enters.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Final

import msgspec

from rbees.protocol.codec import Request

MAX_SEED: Final = (1 << 53) - 1
"""Largest seed: every JSON reader keeps integers up to 2^53 - 1 exactly."""
MAX_STOP_STRINGS: Final = 4

Temperature = Annotated[float, msgspec.Meta(ge=0.0, le=2.0, description="0 is greedy; higher is more varied.")]
TopP = Annotated[float, msgspec.Meta(gt=0.0, le=1.0, description="Keep the likeliest tokens whose probabilities reach this sum.")]
TopK = Annotated[int, msgspec.Meta(ge=0, le=1_000_000, description="Keep only this many of the likeliest tokens; 0 keeps all.")]
Seed = Annotated[int, msgspec.Meta(ge=0, le=MAX_SEED, description="Same seed, same model, same prompt: same draws.")]
StopString = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
StopStrings = Annotated[
    tuple[StopString, ...], msgspec.Meta(max_length=MAX_STOP_STRINGS, description="Generation ends before any of these texts.")
]


class Sampling(Request, frozen=True, kw_only=True):
    """How the next token is drawn."""

    private: ClassVar[frozenset[str]] = frozenset({"stop"})
    temperature: Temperature = 0.7
    top_p: TopP = 0.95
    top_k: TopK = 40
    seed: Seed = 0
    stop: StopStrings = ()
    ignore_eos: bool = False
