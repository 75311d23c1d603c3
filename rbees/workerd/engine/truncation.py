"""Which candidates a draw chooses from, as llama.cpp has it: top-k, typical, top-p, min-p, XTC; and the draw. PURE.

Candidates stand in the order of their logits where top-k is on, and in that of their ids where it is not; the draw does not ask
for their order. What a later step cuts off gets the logit -inf; no step cuts off all. Top-p and typical sort only those candidates
among which their limit falls.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from rbees.protocol.sampling import Sampling
from rbees.workerd.engine.largest import largest
from rbees.workerd.engine.race import winner, winners
from rbees.workerd.engine.softmax import mass, weigh

_WINDOW: Final = 64
_WIDE: Final = 4_096
"""So many candidates of one row are not put into a table with those of others."""
_BINS: Final = 2_048
_SPAN: Final = 32.0
"""What lies farther than this from the first key has too little weight to be told apart."""

Ids = NDArray[np.int64]
Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Lot:
    """One row to draw for, with what its random numbers come from."""

    row: int
    sampling: Sampling = field(repr=False)
    key: int
    """Of the draw: what the luck of its tokens comes from."""
    chance: float
    """XTC acts where its probability is above this, in [0, 1)."""


def draw_lots(logits: NDArray[np.float32], lots: Sequence[Lot]) -> list[int]:
    """The token that each lot draws from its row of `logits` (rows, vocabulary), which has a finite maximum."""
    drawn: dict[int, int] = {}
    by_k: dict[int, list[Lot]] = {}
    for lot in lots:
        k = lot.sampling.top_k
        by_k.setdefault(k if k < logits.shape[1] else 0, []).append(lot)
    for k, members in by_k.items():
        chosen = _draw_from_top(logits, members, k) if k else _draw_from_all(logits, members)
        drawn.update(zip((lot.row for lot in members), chosen, strict=True))
    return [drawn[lot.row] for lot in lots]


# --- the chain behind top-k, for all rows at once ---


def _draw_from_top(logits: NDArray[np.float32], lots: Sequence[Lot], k: int) -> list[int]:
    ids, values = largest(logits, [lot.row for lot in lots], k)
    for place, lot in enumerate(lots):
        if lot.sampling.typical_p < 1.0:
            cut = np.ones(k, dtype=np.bool_)
            cut[typical(values[place], lot.sampling.typical_p)] = False
            values[place, cut] = -np.inf
    if any(lot.sampling.top_p < 1.0 for lot in lots):
        weights = np.exp(values - values.max(axis=1, keepdims=True))
        values = _cut_top_p(values, weights, weights.sum(axis=1), lots)
    return _draw_from(ids, values, lots)


def _cut_top_p(values: Values, weights: Values, masses: NDArray[np.float64], lots: Sequence[Lot]) -> Values:
    """The shortest beginning of each row that holds its top-p of the mass; at least one candidate."""
    wanted = np.array([lot.sampling.top_p if lot.sampling.top_p < 1.0 else np.inf for lot in lots]) * masses
    kept = np.ones(values.shape, dtype=np.bool_)
    kept[:, 1:] = np.cumsum(weights, axis=1)[:, :-1] < wanted[:, None]
    return np.where(kept, values, -np.inf)


def _draw_from(ids: Ids, values: Values, lots: Sequence[Lot]) -> list[int]:
    """Min-p, XTC and the draw."""
    if any(lot.sampling.min_p > 0.0 for lot in lots):
        least = [min_logit(peak, lot.sampling.min_p) for peak, lot in zip(values.max(axis=1).tolist(), lots, strict=True)]
        values = np.where(values >= np.array(least)[:, None], values, -np.inf)
    for place, lot in enumerate(lots):
        if lot.chance < lot.sampling.xtc_probability:
            values[place, _top_choices(ids[place], values[place], lot.sampling.xtc_threshold)] = -np.inf
    return _pick(ids, values, lots)


def min_logit(peak: float, min_p: float) -> float:
    """The logit that `min_p` of the likeliest token's probability has, rounded as llama.cpp rounds it; -inf for 0."""
    return float(np.float32(peak) + np.float32(math.log(min_p))) if min_p > 0.0 else -math.inf


def _top_choices(ids: Ids, values: Values, threshold: float) -> Ids:
    """Places of all candidates with at least `threshold` of the probability but the least likely of them."""
    weights = np.exp(values - values.max())
    above = np.flatnonzero(weights >= threshold * weights.sum())
    return above[np.lexsort((ids[above], -values[above]))[:-1]]


def _pick(ids: Ids, values: Values, lots: Sequence[Lot]) -> list[int]:
    """The token that each row draws by the softmax of its logits over the temperature; the likeliest at temperature 0."""
    temperatures = np.array([lot.sampling.temperature for lot in lots])
    cold = temperatures == 0.0
    drawn = winners(ids, values, np.where(cold, 1.0, temperatures), [lot.key for lot in lots])
    for place in np.flatnonzero(cold).tolist():
        drawn[place] = int(ids[place, values[place].argmax()])
    return drawn


# --- without top-k, from the whole vocabulary ---


def _draw_from_all(logits: NDArray[np.float32], lots: Sequence[Lot]) -> list[int]:
    """Narrow each row as far as its parameters do; what is left small is drawn from together, what is not one by one."""
    nuclei = _nuclei(logits, [lot for lot in lots if lot.sampling.typical_p >= 1.0 and lot.sampling.top_p < 1.0])
    drawn: dict[int, int] = {}
    small: list[tuple[Lot, Ids]] = []
    for lot in lots:
        row = logits[lot.row]
        ids = nuclei[lot.row] if lot.row in nuclei else _narrowed(row, lot.sampling)
        if ids is not None and len(ids) < _WIDE:
            small.append((lot, ids))
        else:
            drawn[lot.row] = _draw_wide(row, lot, ids)
    if small:
        members = [lot for lot, _ in small]
        ids = np.zeros((len(small), max(len(ids) for _, ids in small)), dtype=np.int64)
        values = np.full(ids.shape, -np.inf)
        for place, (lot, kept) in enumerate(small):
            ids[place, : len(kept)] = kept
            values[place, : len(kept)] = logits[lot.row, kept]
        drawn.update(zip((lot.row for lot in members), _draw_from(ids, values, members), strict=True))
    return [drawn[lot.row] for lot in lots]


def _narrowed(row: NDArray[np.float32], sampling: Sampling) -> Ids | None:
    """The ids, in order, that typical with top-p, or min-p alone, leaves of a row; None where a list of them would be long."""
    if sampling.typical_p < 1.0:
        ids = typical(row, sampling.typical_p)
        return _nucleus(row[ids], sampling.top_p, ids) if sampling.top_p < 1.0 else ids
    if sampling.min_p > 0.0:
        kept = row >= np.float32(min_logit(float(row.max()), sampling.min_p))
        return np.flatnonzero(kept) if np.count_nonzero(kept) < _WIDE else None
    return None


def _nuclei(logits: NDArray[np.float32], lots: Sequence[Lot]) -> dict[int, Ids]:
    """By row: the ids, in order, of the likeliest tokens that hold top-p. A small window is looked at first."""
    if not lots:
        return {}
    rows = [lot.row for lot in lots]
    masses = np.array([mass(logits[row]) for row in rows])
    ids, values = largest(logits, rows, _WINDOW)
    weights = np.exp(values - values[:, :1])
    enough = weights.sum(axis=1) >= masses * [lot.sampling.top_p for lot in lots]
    kept = _cut_top_p(values, weights, masses, lots) > -np.inf
    return {
        row: np.sort(ids[i, kept[i]]) if enough[i] else _nucleus(logits[row], lots[i].sampling.top_p, None)
        for i, row in enumerate(rows)
    }


def _nucleus(row: NDArray[np.float32], top_p: float, ids: Ids | None) -> Ids:
    """As `_nuclei`, for one row, or for those of its tokens that `ids` names."""
    weights = weigh(row)
    kept = lightest(-row, weights, top_p * float(weights.sum(dtype=np.float64)), passed=False)
    return kept if ids is None else ids[kept]


def _draw_wide(row: NDArray[np.float32], lot: Lot, ids: Ids | None) -> int:
    """Min-p, XTC and the draw for one row of which much is left: of the tokens `ids`, or of all."""
    sampling = lot.sampling
    if ids is not None:
        values = row[ids]
        row = np.full_like(row, -np.inf)
        row[ids] = values
    least = np.float32(min_logit(float(row.max()), sampling.min_p))
    if lot.chance < sampling.xtc_probability:
        row = np.where(row >= least, row, np.float32(-np.inf))
        row[_top_choices(np.arange(len(row)), row.astype(np.float64), sampling.xtc_threshold)] = -np.inf
    return int(row.argmax()) if sampling.temperature == 0.0 else winner(row, sampling.temperature, lot.key, least)


# --- limits by probability ---


def typical(values: NDArray[np.float32] | Values, p: float) -> Ids:
    """Places, in order, of the locally typical ones of `values`: closest to the entropy first, until they hold more than `p`.

    Meister et al., "Locally Typical Sampling" (2023). Ties go to the lower place.
    """
    finite = np.flatnonzero(values > -np.inf)
    logarithms = values[finite].astype(np.float64)
    logarithms -= logarithms.max()
    shares = np.exp(logarithms)
    total = float(shares.sum())
    logarithms -= math.log(total)
    shares /= total
    entropy = -float((shares * logarithms).sum())
    return finite[lightest(np.abs(logarithms + entropy), shares, p, passed=True)]


def lightest(keys: NDArray[np.floating], weights: NDArray[np.floating], limit: float, *, passed: bool) -> Ids:
    """Places of the smallest `keys`, ties by the lower place, up to the one with which their weights reach `limit`.

    With `passed` the weights must exceed it. The places come in their own order. Keys are counted into bins, and only those of the
    bin in which the limit falls are sorted.
    """
    nearest = float(keys.min())
    bins = np.minimum((keys - nearest) * (_BINS / _SPAN), _BINS - 1).astype(np.intp)
    sums = np.cumsum(np.bincount(bins, weights, minlength=_BINS))
    beyond = np.flatnonzero(sums > limit if passed else sums >= limit)
    if not len(beyond):
        return np.arange(len(keys))
    last = int(beyond[0])
    among = np.flatnonzero(bins == last)
    among = among[np.argsort(keys[among], kind="stable")]
    reached = (sums[last - 1] if last else 0.0) + np.cumsum(weights[among], dtype=np.float64)
    over = np.flatnonzero(reached > limit if passed else reached >= limit)
    kept = bins < last
    kept[among[: int(over[0]) + 1 if len(over) else None]] = True
    return np.flatnonzero(kept)
