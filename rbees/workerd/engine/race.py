"""Which candidate wins a draw: the one with the largest logit over the temperature plus luck. PURE.

Whether few candidates are compared or a whole vocabulary is searched, the token is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from rbees.workerd.engine.chance import BLOCK, Ids, Values, luck, most_luck

_MANY: Final = 4_096
"""From so many candidates on it is faster to search the vocabulary that they stand in."""
_SLACK: Final = 1e-9
"""By so much the sums of one token may differ that were rounded in two ways."""
_LOWEST: Final = np.finfo(np.float64).min
_NO_LIMIT: Final = np.float32(-np.inf)


def winners(ids: Ids, logits: Values, temperatures: NDArray[np.float64], keys: Sequence[int]) -> list[int]:
    """The winner of each row of candidates (rows, candidates) at its temperature above 0; -inf has no chance."""
    if ids.shape[1] >= _MANY:
        rows = map(_spread, ids, logits)
        return [winner(row, t, key) for row, t, key in zip(rows, temperatures.tolist(), keys, strict=True)]
    peaks = logits.max(axis=1, keepdims=True)
    places = (_scaled(logits, peaks, temperatures[:, None]) + luck(keys, ids)).argmax(axis=1)
    won: list[int] = ids[np.arange(len(ids)), places].tolist()
    return won


def _spread(ids: Ids, logits: Values) -> NDArray[np.float32]:
    """A row of a vocabulary that has only these candidates."""
    there = logits > -np.inf
    ids = ids[there]
    row = np.full(int(ids.max()) + 1, -np.inf, dtype=np.float32)
    row[ids] = logits[there]
    return row


def winner(row: NDArray[np.float32], temperature: float, key: int, least: np.float32 = _NO_LIMIT) -> int:
    """The winner among those tokens of a vocabulary whose logits are not below `least`.

    The luckiest of each block are compared first. Then a block is looked into only where its largest logit with its most luck
    would reach the best of them, and of its tokens only those that would with the block's most luck.
    """
    tops = np.maximum.reduceat(row, np.arange(0, len(row), BLOCK)).astype(np.float64)
    peak = tops.max()
    luckiest, most = most_luck(key, len(tops))
    found = np.flatnonzero(luckiest < len(row))
    found = found[row[luckiest[found]] >= least]
    reached = _scaled(row[luckiest[found]], peak, temperature) + most[found]
    enough = max(float(reached.max(initial=-np.inf)) - _SLACK, _LOWEST)
    blocks = np.flatnonzero(_scaled(tops, peak, temperature) + most >= enough)
    ids = (blocks[:, None] * BLOCK + np.arange(BLOCK)).reshape(-1)
    ids = ids[ids < len(row)]
    logits = row[ids]
    scaled = _scaled(logits, peak, temperature)
    able = np.flatnonzero((scaled + most[ids // BLOCK] >= enough) & (logits >= least))
    sums = scaled[able] + luck([key], ids[None, able])[0]
    return int(ids[able[sums.argmax()]])


def _scaled(logits: NDArray[np.floating], peak: Values | float, temperature: Values | float) -> Values:
    with np.errstate(over="ignore"):
        scaled: Values = (logits.astype(np.float64, copy=False) - peak) / temperature
    return scaled
