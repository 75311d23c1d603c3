"""The largest logits of each row, exactly, without sorting the vocabulary. PURE.

A row is folded into columns. The k-th largest of the columns' maxima is reached by at least k values, so no value below it
is among the k largest, and only the columns that reach it have to be looked at. What remains is little more than k values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

_FOLDS: Final = (64, 8, 1)
"""Values in a column; the deepest is taken that leaves enough columns to choose from."""
_ENOUGH: Final = 4
_LOWEST: Final = np.finfo(np.float32).min


def largest(logits: NDArray[np.float32], rows: Sequence[int], k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The `k` tokens with the largest logits of each of `rows`, largest first, ties by the lowest id.

    Returns:
        ids and logits, both (len(rows), k). Where fewer than `k` tokens have a finite logit, id 0 with -inf fills up.
    """
    width = logits.shape[1]
    k = min(k, width)
    ids = np.zeros((len(rows), k), dtype=np.int64)
    values = np.full((len(rows), k), -np.inf)
    fold = next(fold for fold in _FOLDS if width // fold >= _ENOUGH * k or fold == 1)
    maxima = np.stack([_maxima(logits[row], fold) for row in rows])
    columns = maxima.shape[1]
    floor = np.maximum(np.partition(maxima, columns - k, axis=1)[:, columns - k], _LOWEST)
    reaching = maxima >= floor[:, None]
    tied = np.flatnonzero(np.count_nonzero(reaching, axis=1) > 2 * k + 32)
    reaching[tied] = False
    for place in tied.tolist():
        first = _of_tied(logits[rows[place]], k)
        ids[place, : len(first)] = first
        values[place, : len(first)] = logits[rows[place], first]
    _place(_candidates(logits, np.asarray(rows), reaching, floor, fold), tied, ids, values)
    return ids, values


def _maxima(row: NDArray[np.float32], fold: int) -> NDArray[np.float32]:
    """The largest value of each column; the few values behind the last whole fold belong to none."""
    columns = len(row) // fold
    top: NDArray[np.float32] = row[: columns * fold].reshape(fold, columns).max(axis=0)
    return top


_Candidates = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]


def _candidates(
    logits: NDArray[np.float32], rows: NDArray[np.int64], reaching: NDArray[np.bool_], floor: NDArray[np.float32], fold: int
) -> _Candidates:
    """Place, id and logit of every value that reaches its row's floor, from the columns that do and from behind them."""
    width, columns = logits.shape[1], reaching.shape[1]
    place, column = np.divmod(np.flatnonzero(reaching), columns)
    inside = (rows[place] * width + column)[:, None] + np.arange(fold) * columns
    behind = (rows * width)[:, None] + np.arange(columns * fold, width)
    found = [_reached(logits, inside, place, floor), _reached(logits, behind, np.arange(len(rows)), floor)]
    places, positions, values = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return places, positions - rows[places] * width, values


def _reached(
    logits: NDArray[np.float32], positions: NDArray[np.int64], places: NDArray[np.int64], floor: NDArray[np.float32]
) -> _Candidates:
    """Of `positions` in the flat logits, whose lines belong to `places`: those whose values reach the floor."""
    values = np.take(logits.reshape(-1), positions)
    hits = np.flatnonzero(values >= floor[places][:, None])
    return places[hits // max(1, positions.shape[1])], positions.reshape(-1)[hits], values.reshape(-1)[hits]


def _place(found: _Candidates, tied: NDArray[np.int64], ids: NDArray[np.int64], values: NDArray[np.float64]) -> None:
    """Write the best of what was found into its places, in order."""
    place, token, value = found
    order = np.lexsort((token, -value, place))
    place, token, value = place[order], token[order], value[order]
    rank = np.arange(len(place)) - np.searchsorted(place, place)
    kept = (rank < ids.shape[1]) & ~np.isin(place, tied)
    ids[place[kept], rank[kept]] = token[kept]
    values[place[kept], rank[kept]] = value[kept]


def _of_tied(row: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """As `largest`, for one row in which so many values are equal that ordering all of them would take long."""
    floor = max(np.partition(row, len(row) - k)[len(row) - k], _LOWEST)
    above = np.flatnonzero(row > floor)
    equal = np.flatnonzero(row == floor)[: k - len(above)]
    ids = np.concatenate([above[np.lexsort((above, -row[above]))], equal])
    return ids.astype(np.int64)
