"""Softmax over a whole vocabulary: float32 weights, added up by blocks in float64, and a draw that follows those sums. PURE."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

_BLOCK: Final = 128
_COLDEST: Final = 1e-30
"""The least temperature by which float32 can be divided."""


def weigh(logits: NDArray[np.float32], temperature: float = 1.0) -> NDArray[np.float32]:
    """exp((logit - largest) / temperature)."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        scaled: NDArray[np.float32] = logits - logits.max()
        if temperature != 1.0:
            scaled /= np.float32(max(temperature, _COLDEST))
        np.exp(scaled, out=scaled)
    return scaled


def mass(logits: NDArray[np.float32]) -> float:
    """What the weights add up to."""
    return float(_block_sums(weigh(logits)).sum())


def draw_by_blocks(logits: NDArray[np.float32], temperature: float, point: float) -> int:
    """The place where the running sum of the weights passes `point` (in [0, 1)) of their whole."""
    each = weigh(logits, temperature)
    sums = np.cumsum(_block_sums(each))
    target = point * sums[-1]
    block = min(int(np.searchsorted(sums, target, side="right")), len(sums) - 1)
    inside = np.cumsum(each[block * _BLOCK : (block + 1) * _BLOCK], dtype=np.float64)
    place = int(np.searchsorted(inside, target - (sums[block - 1] if block else 0.0), side="right"))
    # The block's own sum was rounded; its last candidate with a chance takes what that left over.
    return block * _BLOCK + min(place, int(np.searchsorted(inside, inside[-1], side="left")))


def _block_sums(each: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.add.reduceat(each, np.arange(0, len(each), _BLOCK)).astype(np.float64)
