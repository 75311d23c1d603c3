"""Softmax over a whole vocabulary: float32 weights, added up by blocks in float64. PURE."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

_BLOCK: Final = 128


def weigh(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """exp(logit - largest)."""
    with np.errstate(under="ignore", invalid="ignore"):
        scaled: NDArray[np.float32] = logits - logits.max()
        np.exp(scaled, out=scaled)
    return scaled


def mass(logits: NDArray[np.float32]) -> float:
    """What the weights add up to."""
    return float(_block_sums(weigh(logits)).sum())


def _block_sums(each: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.add.reduceat(each, np.arange(0, len(each), _BLOCK)).astype(np.float64)
