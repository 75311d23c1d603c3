"""What changes single logits before anything is cut off: biases and the penalties for tokens that were there before. PURE.

Definitions and float32 rounding are llama.cpp's: the repetition penalty divides positive logits and multiplies the others,
presence and frequency are subtracted, and all three count the prompt's tokens too, within the last `penalty_last_n`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rbees.protocol.sampling import Sampling


def add_bias(row: NDArray[np.float32], sampling: Sampling) -> None:
    """Add each bias to its token's logit. The ids were checked against the vocabulary."""
    if sampling.logit_bias:
        ids = np.fromiter(sampling.logit_bias.keys(), dtype=np.int64)
        row[ids] += np.fromiter(sampling.logit_bias.values(), dtype=np.float32)


def penalises(sampling: Sampling) -> bool:
    """Whether `penalise` would change anything."""
    return not (sampling.repetition_penalty == 1.0 and sampling.presence_penalty == sampling.frequency_penalty == 0.0)


def penalise(row: NDArray[np.float32], sampling: Sampling, tokens: Sequence[int]) -> None:
    """Make those of the last tokens less likely."""
    window = last(tokens, sampling.penalty_last_n)
    if not len(window):
        return
    ids, counts = np.unique(window, return_counts=True)
    logits, factor = row[ids], np.float32(sampling.repetition_penalty)
    logits = np.where(logits <= 0, logits * factor, logits / factor)
    row[ids] = logits - (counts.astype(np.float32) * np.float32(sampling.frequency_penalty) + np.float32(sampling.presence_penalty))


def last(tokens: Sequence[int], count: int) -> NDArray[np.int64]:
    """The last `count` of `tokens`; all for -1."""
    return np.array(tokens if count < 0 else tokens[len(tokens) - min(count, len(tokens)) :], dtype=np.int64)
