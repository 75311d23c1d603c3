"""Vectorised sampling against a slow reference; draws that depend on nothing but seed, choice and position."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import pytest

from rbees.protocol.sampling import Sampling
from rbees.workerd.engine.sampling import Draw, sample, top_k, uniform

NO_EOG = np.array([], dtype=np.int64)


def at(position: int, sampling: Sampling, *, choice: int = 0, mask: np.ndarray | None = None) -> Draw:
    """A draw behind a prompt of two tokens and `position` tokens of the answer."""
    return Draw(sampling, choice, tokens=[9] * (2 + position), prompt_length=2, mask=mask)


def allowing(ids: Iterable[int], width: int) -> np.ndarray:
    mask = np.zeros((width + 31) // 32, dtype=np.uint32)
    for i in ids:
        mask[i // 32] |= np.uint32(1 << i % 32)
    return mask


def tokens(logits: np.ndarray, draws: list[Draw], eog: np.ndarray = NO_EOG) -> list[int | None]:
    """The tokens alone, from a copy of `logits`."""
    return [drawn.token if drawn else None for drawn in sample(logits.copy(), draws, eog)]


def reference(row: np.ndarray, draw: Draw) -> int:
    """Sort everything, cut, draw: one step after the other, in plain Python."""
    sampling = draw.sampling
    order = sorted(range(len(row)), key=lambda i: (-float(row[i]), i))
    if sampling.temperature == 0:
        return order[0]
    if sampling.top_k:
        order = order[: sampling.top_k]
    peak = float(row[order[0]])
    weights = [math.exp(float(row[i]) - peak) for i in order]
    if sampling.top_p < 1:
        total, running, kept = math.fsum(weights), 0.0, 0
        for kept, weight in enumerate(weights, 1):  # noqa: B007
            running += weight
            if running >= sampling.top_p * total:
                break
        order = order[:kept]
    if sampling.top_k == 0 and sampling.top_p >= 1:
        order = sorted(order)
    weights = [math.exp((float(row[i]) - peak) / sampling.temperature) for i in order]
    point = uniform(sampling.seed, draw.choice, draw.position) * math.fsum(weights)
    for i, weight in zip(order, weights, strict=True):
        point -= weight
        if point < 0:
            return i
    return order[-1]


@pytest.mark.parametrize("width", [300, 5_003, 40_000])
@pytest.mark.parametrize("top_k_", [0, 1, 40, 100_000])
@pytest.mark.parametrize("top_p", [0.5, 0.95, 1.0])
def test_every_path_equals_the_reference(width: int, top_k_: int, top_p: float) -> None:
    rng = np.random.default_rng(7)
    logits = (rng.standard_normal((6, width)) * 3).astype(np.float32)
    draws = [at(i, Sampling(temperature=0.3 * i, top_k=top_k_, top_p=top_p, seed=11)) for i in range(6)]
    expected = [reference(row, draw) for row, draw in zip(logits, draws, strict=True)]
    assert tokens(logits, draws) == expected


def test_rows_of_one_batch_may_differ_in_everything() -> None:
    rng = np.random.default_rng(8)
    logits = (rng.standard_normal((5, 9_000)) * 2).astype(np.float32)
    draws = [
        at(3, Sampling(temperature=0)),
        at(3, Sampling(temperature=1.0, top_k=0, top_p=1.0, seed=1)),
        at(3, Sampling(temperature=2.0, top_k=7, top_p=0.9, seed=2), choice=1),
        at(4, Sampling(temperature=0.7, top_k=0, top_p=0.3, seed=3)),
        at(5, Sampling(temperature=0.7, seed=4)),
    ]
    together = tokens(logits, draws)
    alone = [tokens(logits[i : i + 1], draws[i : i + 1])[0] for i in range(5)]
    assert together == alone == [reference(row, draw) for row, draw in zip(logits, draws, strict=True)]


def test_ties_go_to_the_lowest_id() -> None:
    logits = np.zeros((1, 20_000), dtype=np.float32)
    assert tokens(logits, [at(0, Sampling(temperature=0))]) == [0]
    assert top_k(logits, 5)[0].tolist() == [0, 1, 2, 3, 4]
    logits[0, [19_999, 12_000, 77]] = 1.0
    assert top_k(logits, 4)[0].tolist() == [77, 12_000, 19_999, 0]


def test_ignore_eos_never_draws_an_end() -> None:
    logits = np.zeros((1, 300), dtype=np.float32)
    logits[0, 5] = 9.0
    assert tokens(logits, [at(0, Sampling(temperature=0, ignore_eos=True))], np.array([5])) == [0]


@pytest.mark.parametrize("top_k_", [0, 1, 40])
@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_only_what_the_mask_allows_is_drawn(top_k_: int, temperature: float) -> None:
    width = 20_011
    logits = np.random.default_rng(9).standard_normal((40, width)).astype(np.float32)
    allowed = [3, 31, 32, 12_345, 20_010]
    draws = [
        at(i, Sampling(temperature=temperature, top_k=top_k_, top_p=0.99, seed=i), mask=allowing(allowed, width)) for i in range(40)
    ]
    masked = np.full_like(logits, -np.inf)
    masked[:, allowed] = logits[:, allowed]
    drawn = tokens(logits, draws)
    assert drawn == [reference(row, draw) for row, draw in zip(masked, draws, strict=True)]
    assert set(drawn) == set(allowed)


def test_a_mask_shorter_than_the_vocabulary_allows_nothing_beyond_it_and_an_empty_one_leaves_no_token() -> None:
    logits = np.arange(300, dtype=np.float32)[None, :]
    assert tokens(logits, [at(0, Sampling(), mask=allowing([5], 32))]) == [5]
    assert tokens(logits, [at(0, Sampling(), mask=allowing([], 300))]) == [None]
    assert tokens(
        np.vstack([logits, logits]), [at(0, Sampling(temperature=0), mask=allowing([7], 300)), at(0, Sampling(temperature=0))]
    ) == [7, 299]


def test_rows_that_are_not_finite_have_no_token() -> None:
    logits = np.zeros((3, 300), dtype=np.float32)
    logits[0, 9] = np.nan
    logits[1] = -np.inf
    draws = [at(0, Sampling(temperature=t)) for t in (0.0, 0.7, 0.0)]
    assert tokens(logits, draws) == [None, None, 0]


def test_draws_are_spread_evenly_and_differ_by_every_coordinate() -> None:
    values = [uniform(5, 0, position) for position in range(4_000)]
    assert abs(sum(values) / len(values) - 0.5) < 0.02
    assert min(values) >= 0
    assert max(values) < 1
    assert len({uniform(1, 2, 3), uniform(2, 2, 3), uniform(1, 3, 3), uniform(1, 2, 4), uniform(2, 1, 3)}) == 5


def test_drawn_shares_follow_the_probabilities() -> None:
    logits = np.log(np.array([[0.5, 0.3, 0.2]], dtype=np.float32))
    counts = [0, 0, 0]
    for position in range(6_000):
        (token,) = tokens(logits, [at(position, Sampling(temperature=1.0, top_p=1.0, seed=3))])
        assert token is not None
        counts[token] += 1
    assert [round(c / 6_000, 1) for c in counts] == [0.5, 0.3, 0.2]
