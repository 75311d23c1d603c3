"""The draw: spread as the probabilities say, free of patterns along every coordinate, and steady under rounding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from rbees.protocol.sampling import Sampling
from rbees.workerd.engine.chance import BLOCK, XTC, key_of, luck, most_luck, uniform
from rbees.workerd.engine.sampling import Draw, sample
from tests.support.slow_sampling import Reference

NO_EOG = np.array([], dtype=np.int64)
FLAT: dict[str, Any] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}
COORDINATES = ("seed", "choice", "position")


def drawn(rows: np.ndarray, draws: Sequence[Draw]) -> list[int]:
    return [one.token for one in sample(rows.copy(), draws, NO_EOG) if one is not None]


def at(position: int, sampling: Sampling, choice: int = 0) -> Draw:
    return Draw(sampling, choice, tokens=[9] * (2 + position), prompt_length=2)


def keys_along(coordinate: str, count: int) -> list[int]:
    """The keys of draws that are neighbours in one coordinate."""
    return [key_of(*(i if name == coordinate else 5 for name in COORDINATES)) for i in range(count)]


def excess(counts: np.ndarray, expected: np.ndarray) -> float:
    """Chi-square of the counts in standard deviations above its mean: beyond 4.5 once in 100 000 tables or so."""
    freedom = counts.size - 1
    return float((((counts - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom))


def chances(keys: Sequence[int], ids: np.ndarray) -> np.ndarray:
    """Luck as numbers that should be spread evenly over (0, 1)."""
    return np.exp(-np.exp(-luck(keys, np.tile(ids, (len(keys), 1)))))


@pytest.mark.parametrize("coordinate", COORDINATES)
def test_luck_is_gumbel_distributed_over_neighbouring_draws_and_tokens(coordinate: str) -> None:
    values = chances(keys_along(coordinate, 400), np.arange(1_000, 1_500))
    counts = np.bincount((values.reshape(-1) * 1_000).astype(int), minlength=1_000)
    assert excess(counts, np.full(1_000, values.size / 1_000)) < 4.5
    rare = np.count_nonzero(values > 1 - 1e-4)
    assert abs(rare - values.size * 1e-4) < 5 * np.sqrt(values.size * 1e-4)


@pytest.mark.parametrize("coordinate", COORDINATES)
@pytest.mark.parametrize("step", [1, 2, 7, BLOCK, 64 * BLOCK])
def test_no_token_knows_the_luck_of_its_neighbours_nor_of_the_next_draw(coordinate: str, step: int) -> None:
    ids = np.arange(300)
    here = chances(keys_along(coordinate, 701), np.concatenate([ids, ids + step]))
    others = {"another token": here[:-1, 300:], "the next draw": here[1:, :300], "both": here[1:, 300:]}
    for name, there in others.items():
        pairs = (here[:-1, :300].reshape(-1) * 24).astype(int) * 24 + (there.reshape(-1) * 24).astype(int)
        counts = np.bincount(pairs, minlength=24 * 24)
        # With a step smaller than the ids there are, a pair may share a token with another pair; that adds no excess.
        assert excess(counts, np.full(24 * 24, pairs.size / 24**2)) < 4.5, name


def test_the_luckiest_of_a_block_is_any_of_its_tokens_and_as_lucky_as_they_say() -> None:
    counts = np.zeros(BLOCK)
    for key in keys_along("position", 300):
        whose, most = most_luck(key, 40)
        every = luck([key], np.arange(40 * BLOCK)[None])[0].reshape(40, BLOCK)
        assert every.max(axis=1).tolist() == most.tolist()
        assert (every.argmax(axis=1) + np.arange(40) * BLOCK).tolist() == whose.tolist()
        counts += np.bincount(whose % BLOCK, minlength=BLOCK)
    assert excess(counts, np.full(BLOCK, counts.sum() / BLOCK)) < 4.5


@pytest.mark.parametrize("coordinate", COORDINATES)
@pytest.mark.parametrize(
    "fields",
    [
        FLAT,
        {**FLAT, "temperature": 0.6},
        {**FLAT, "top_k": 30},
        {**FLAT, "top_p": 0.8},
        {**FLAT, "min_p": 0.1},
        {**FLAT, "top_k": 20, "typical_p": 0.7, "temperature": 1.7},
    ],
    ids=str,
)
def test_tokens_are_drawn_as_often_as_their_probability_says(coordinate: str, fields: dict[str, Any]) -> None:
    """Four thousand neighbouring draws, from a vocabulary of several blocks whose likely tokens stand close together."""
    logits = (np.random.default_rng(4).standard_normal(700)).astype(np.float32)
    logits[120:140] += 3.0
    places = [{**dict.fromkeys(COORDINATES, 3), coordinate: i} for i in range(4_000)]
    draws = [at(p["position"], Sampling(**fields, seed=p["seed"]), p["choice"]) for p in places]
    tokens = np.array(drawn(np.tile(logits, (len(draws), 1)), draws))
    shares = np.zeros(700)
    for token, logit in Reference(Sampling(**fields)).run(logits.tolist(), []).candidates:
        shares[token] = np.exp(logit / fields["temperature"])
    shares /= shares.sum()
    assert shares[tokens].min() > 0.0
    counts, likely = np.bincount(tokens, minlength=700), shares * len(tokens) >= 8
    if not likely.all():
        counts, shares = (np.append(values[likely], values[~likely].sum()) for values in (counts, shares))
    counts, expected = counts[shares > 0], shares[shares > 0] * len(tokens)
    assert len(counts) > 8
    assert excess(counts, expected) < 4.5


def test_what_chance_xtc_has_is_of_its_own() -> None:
    key = key_of(1, 2, 3)
    assert len({uniform(key, XTC), uniform(key, XTC + 1), uniform(key_of(1, 2, 4), XTC), uniform(key_of(2, 1, 3), XTC)}) == 4


@pytest.mark.parametrize(
    ("fields", "most"),
    [({"top_k": 40}, 0.01), ({"top_k": 40, "top_p": 0.95}, 0.01), ({**FLAT, "min_p": 0.05}, 0.01), (FLAT, 0.01)],
    ids=["top-k", "top-k and top-p", "min-p", "all"],
)
def test_logits_that_were_rounded_otherwise_seldom_draw_another_token(fields: dict[str, Any], most: float) -> None:
    """Noise of 0.002 moves the probabilities by 0.2 to 0.3 %. By the order of the logits 13 % of the draws would change."""
    rng = np.random.default_rng(6)
    changed = 0
    for number in range(20):
        row = rng.standard_normal(152_000).astype(np.float32)
        rounded = row + rng.standard_normal(152_000).astype(np.float32) * np.float32(0.002)
        draws = [at(position, Sampling(**{"temperature": 0.7, "top_p": 1.0, **fields}, seed=number)) for position in range(40)]
        before, after = (drawn(np.tile(logits, (40, 1)), draws) for logits in (row, rounded))
        changed += sum(one != other for one, other in zip(before, after, strict=True))
    assert changed <= most * 800


def test_tokens_behind_the_vocabulary_or_cut_off_change_no_draw() -> None:
    """The same tokens can be drawn: from a wider vocabulary, a masked one, and by top-k or min-p among them."""
    rng = np.random.default_rng(7)
    few = np.sort(rng.choice(9_000, 12, replace=False))
    row = np.full(9_000, -np.inf, dtype=np.float32)
    row[few] = rng.standard_normal(12)
    wide = np.append(row, np.full(33, -np.inf, dtype=np.float32))
    noisy = np.where(np.isfinite(row), row, row[few].min() - 5)
    cases = [(row, FLAT), (wide, FLAT), (noisy, {**FLAT, "top_k": 12}), (noisy, {**FLAT, "min_p": 0.001})]
    answers = [
        [drawn(logits[None], [at(position, Sampling(**fields, seed=8))])[0] for position in range(60)] for logits, fields in cases
    ]
    least = np.exp(float(row[few].min() - row[few].max()))
    assert least > 0.001
    assert answers[0] == answers[1] == answers[2] == answers[3]
