"""Drawing the next token of every sequence of a batch, in numpy, exactly. PURE.

The order is llama.cpp's: top-k, then top-p on the probabilities that are left, then temperature, then one draw. Ties go to
the lowest id. The random number of a draw is a hash of (seed, choice, position) and of nothing else, so a job draws the same
whatever shares its batch, and another worker draws on where this one stopped.

Sorting a vocabulary of 150 000 is what costs time, so no path sorts all of it unless it must: top-k looks at the maxima of
blocks first, and top-p without top-k widens its window until it holds enough probability.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from rbees.protocol.sampling import Sampling

_BLOCK: Final = 32
_FIRST_WINDOW: Final = 64
_GOLDEN: Final = 0x9E3779B97F4A7C15
_MASK: Final = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Draw:
    """What one row of logits is sampled with."""

    sampling: Sampling = field(repr=False)
    choice: int
    tokens: Sequence[int] = field(repr=False)
    """The prompt and the choice's answer so far; read, never kept."""
    prompt_length: int
    mask: NDArray[np.uint32] | None = None
    """Bit i of word i // 32 is set where token i is allowed; tokens beyond the last word are not. None allows all."""

    @property
    def position(self) -> int:
        """Index of the token within the choice's answer."""
        return len(self.tokens) - self.prompt_length


@dataclass(frozen=True, slots=True)
class Drawn:
    """The next token of one row."""

    token: int


def sample(logits: NDArray[np.float32], draws: Sequence[Draw], eog_ids: NDArray[np.int64]) -> list[Drawn | None]:
    """The next token of each row of `logits` (rows, vocabulary), which may be written to.

    None for a row without a finite maximum, because the model computed none or the mask left none; it has no next token.
    """
    for row, draw in enumerate(draws):
        if draw.sampling.ignore_eos:
            logits[row, eog_ids] = -np.inf
        if draw.mask is not None:
            _forbid(logits[row], draw.mask)
    greedy = np.argmax(logits, axis=1)
    usable = np.isfinite(logits[np.arange(len(draws)), greedy])
    chosen = [Drawn(int(token)) if ok else None for token, ok in zip(greedy, usable, strict=True)]
    drawn = [row for row, draw in enumerate(draws) if usable[row] and draw.sampling.temperature > 0 and draw.sampling.top_k != 1]
    for row, (ids, values) in zip(drawn, _candidates(logits, drawn, draws), strict=True):
        chosen[row] = Drawn(_pick(ids, values, draws[row]))
    return chosen


def uniform(seed: int, choice: int, position: int) -> float:
    """A number in [0, 1) from its three coordinates: splitmix64 (Steele, Lea, Flood 2014) applied to each in turn."""
    state = _mix(seed + _GOLDEN)
    state = _mix((state ^ choice) + _GOLDEN)
    state = _mix((state ^ position) + _GOLDEN)
    return (state >> 11) / (1 << 53)


def _mix(value: int) -> int:
    value &= _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def _forbid(row: NDArray[np.float32], mask: NDArray[np.uint32]) -> None:
    """Give every token that `mask` does not allow no chance at all."""
    allowed = np.unpackbits(mask.astype("<u4", copy=False).view(np.uint8), count=len(row), bitorder="little")
    np.putmask(row, allowed == 0, -np.inf)


_Candidates = tuple[NDArray[np.int64], NDArray[np.float64]]


def _candidates(logits: NDArray[np.float32], rows: list[int], draws: Sequence[Draw]) -> list[_Candidates]:
    """For each of `rows` the ids that may be drawn and their logits; ordered by logit wherever something was cut off."""
    found: dict[int, _Candidates] = {}
    by_k: dict[int, list[int]] = {}
    for row in rows:
        by_k.setdefault(min(draws[row].sampling.top_k, logits.shape[1]), []).append(row)
    for k, members in by_k.items():
        if k == 0:
            for row in members:
                found[row] = _nucleus(logits[row], draws[row].sampling.top_p)
            continue
        for row, ids in zip(members, top_k(logits[members], k), strict=True):
            values = logits[row, ids].astype(np.float64)
            found[row] = _cut(ids, values, draws[row].sampling.top_p, _mass(values))
    return [found[row] for row in rows]


def top_k(logits: NDArray[np.float32], k: int) -> list[NDArray[np.int64]]:
    """The `k` ids with the largest logits of each row, largest first, ties by the lowest id; fewer if fewer have a chance."""
    rows, width = logits.shape
    columns = width // _BLOCK
    if k * 4 >= columns:
        return [_first_k(row, np.arange(width), k) for row in logits]
    # The k largest values lie in the k columns with the largest maxima, or in the tail that fills no block.
    maxima = logits[:, : columns * _BLOCK].reshape(rows, _BLOCK, columns).max(axis=1)
    best = np.argpartition(maxima, columns - k, axis=1)[:, columns - k :]
    offsets = np.arange(_BLOCK)[:, None] * columns
    tail = np.arange(columns * _BLOCK, width)
    return [
        _first_k(logits[row], np.concatenate([(best[row] + offsets).ravel(), tail]), k)
        if _is_clear(maxima[row], best[row])
        else _first_k(logits[row], np.arange(width), k)
        for row in range(rows)
    ]


def _is_clear(maxima: NDArray[np.float32], best: NDArray[np.int64]) -> bool:
    """No column that was left out ties with one that was taken, so none can hold a lower id of equal value."""
    smallest = maxima[best].min()
    return bool(smallest == -np.inf) or int(np.count_nonzero(maxima >= smallest)) == len(best)


def _first_k(row: NDArray[np.float32], ids: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """The `k` best of `ids`, largest logit first, ties by the lowest id; only those with a chance."""
    values = row[ids]
    threshold = np.partition(values, len(ids) - k)[len(ids) - k] if k < len(ids) else -np.inf
    ids = ids[(values >= threshold) & (values > -np.inf)]
    values = row[ids]
    return ids[np.lexsort((ids, -values))][:k]


def _nucleus(row: NDArray[np.float32], top_p: float) -> _Candidates:
    """Top-p over the whole vocabulary: a window that widens until it holds `top_p` of the probability."""
    width = len(row)
    if top_p >= 1.0:
        return np.arange(width), row.astype(np.float64)
    mass = _mass(row.astype(np.float64))
    k = min(_FIRST_WINDOW, width)
    while True:
        ids = top_k(row[None, :], k)[0]
        values = row[ids].astype(np.float64)
        if k == width or np.exp(values - values[0]).sum() >= top_p * mass:
            return _cut(ids, values, top_p, mass)
        k = min(k * 16, width)


def _mass(values: NDArray[np.float64]) -> float:
    return float(np.exp(values - values.max()).sum())


def _cut(ids: NDArray[np.int64], values: NDArray[np.float64], top_p: float, mass: float) -> _Candidates:
    """The shortest beginning of the ordered candidates that holds `top_p` of `mass`; at least one."""
    if top_p >= 1.0:
        return ids, values
    reached = np.cumsum(np.exp(values - values[0])) >= top_p * mass
    count = int(np.argmax(reached)) + 1 if reached.any() else len(ids)
    return ids[:count], values[:count]


def _pick(ids: NDArray[np.int64], values: NDArray[np.float64], draw: Draw) -> int:
    """One of `ids` by the softmax of `values` over the temperature and the draw's own random number."""
    weights = np.exp((values - values.max()) / draw.sampling.temperature)
    sums = np.cumsum(weights)
    point = uniform(draw.sampling.seed, draw.choice, draw.position) * sums[-1]
    return int(ids[min(int(np.searchsorted(sums, point, side="right")), len(ids) - 1)])
