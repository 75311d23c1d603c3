"""Vectorised sampling against a slow reference; draws that depend on nothing but seed, choice and position."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rbees.protocol.sampling import Sampling
from rbees.workerd.engine.sampling import Draw, sample, top_k, uniform

NO_EOG = np.array([], dtype=np.int64)


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
    draws = [Draw(Sampling(temperature=0.3 * i, top_k=top_k_, top_p=top_p, seed=11), 0, i) for i in range(6)]
    expected = [reference(row, draw) for row, draw in zip(logits, draws, strict=True)]
    assert sample(logits, draws, NO_EOG) == expected


def test_rows_of_one_batch_may_differ_in_everything() -> None:
    rng = np.random.default_rng(8)
    logits = (rng.standard_normal((5, 9_000)) * 2).astype(np.float32)
    draws = [
        Draw(Sampling(temperature=0), 0, 3),
        Draw(Sampling(temperature=1.0, top_k=0, top_p=1.0, seed=1), 0, 3),
        Draw(Sampling(temperature=2.0, top_k=7, top_p=0.9, seed=2), 1, 3),
        Draw(Sampling(temperature=0.7, top_k=0, top_p=0.3, seed=3), 0, 4),
        Draw(Sampling(temperature=0.7, seed=4), 0, 5),
    ]
    together = sample(logits.copy(), draws, NO_EOG)
    alone = [sample(logits[i : i + 1].copy(), draws[i : i + 1], NO_EOG)[0] for i in range(5)]
    assert together == alone == [reference(row, draw) for row, draw in zip(logits, draws, strict=True)]


def test_ties_go_to_the_lowest_id() -> None:
    logits = np.zeros((1, 20_000), dtype=np.float32)
    assert sample(logits, [Draw(Sampling(temperature=0), 0, 0)], NO_EOG) == [0]
    assert top_k(logits, 5)[0].tolist() == [0, 1, 2, 3, 4]
    logits[0, [19_999, 12_000, 77]] = 1.0
    assert top_k(logits, 4)[0].tolist() == [77, 12_000, 19_999, 0]


def test_ignore_eos_never_draws_an_end() -> None:
    logits = np.zeros((1, 300), dtype=np.float32)
    logits[0, 5] = 9.0
    assert sample(logits, [Draw(Sampling(temperature=0, ignore_eos=True), 0, 0)], np.array([5])) == [0]


def test_rows_that_are_not_finite_have_no_token() -> None:
    logits = np.zeros((3, 300), dtype=np.float32)
    logits[0, 9] = np.nan
    logits[1] = -np.inf
    draws = [Draw(Sampling(temperature=t), 0, 0) for t in (0.0, 0.7, 0.0)]
    assert sample(logits, draws, NO_EOG) == [None, None, 0]


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
        (token,) = sample(logits, [Draw(Sampling(temperature=1.0, top_p=1.0, seed=3), 0, position)], NO_EOG)
        assert token is not None
        counts[token] += 1
    assert [round(c / 6_000, 1) for c in counts] == [0.5, 0.3, 0.2]
