"""The vectorised chain against the slow one, for generated logits, tokens and parameters, alone and in mixed batches."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rbees.protocol.sampling import Sampling
from rbees.workerd.engine.chance import luck
from rbees.workerd.engine.dry import Breakers, prolonged
from rbees.workerd.engine.largest import largest
from rbees.workerd.engine.race import winner, winners
from rbees.workerd.engine.sampling import Draw, sample
from rbees.workerd.engine.truncation import Lot, draw_lots
from tests.support.slow_sampling import Reference, Tails, slow_luck, slow_repeats, slow_token

NO_EOG = np.array([], dtype=np.int64)
DECIDED = 1e-5
SHARES = st.floats(0.01, 1.0)
SAMPLINGS = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.3, 0.8, 2.0]),
    top_k=st.sampled_from([0, 1, 2, 7, 40, 1_000_000]),
    top_p=st.just(1.0) | SHARES,
    min_p=st.just(0.0) | SHARES,
    typical_p=st.just(1.0) | SHARES,
    repetition_penalty=st.sampled_from([1.0, 0.5, 1.3]),
    presence_penalty=st.sampled_from([0.0, -1.0, 0.5]),
    frequency_penalty=st.sampled_from([0.0, 0.25]),
    penalty_last_n=st.sampled_from([-1, 0, 3, 64]),
    xtc_probability=st.sampled_from([0.0, 0.5, 1.0]),
    xtc_threshold=st.floats(0.01, 0.5),
    logit_bias=st.dictionaries(st.integers(0, 4), st.floats(-9, 9), max_size=3),
    seed=st.integers(0, 1 << 53),
)


@st.composite
def rows(draw: st.DrawFn) -> list[float]:
    """Logits of which some are equal, in a vocabulary small enough for the slow path or large enough for the folded one."""
    width = draw(st.sampled_from([5, 33, 300, 3_000, 12_000]))
    levels = draw(st.sampled_from([3, 40, 100_000]))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    grid = np.round(rng.standard_normal(width) * levels / 3) / levels * draw(st.sampled_from([1.0, 8.0, 30.0]))
    row: list[float] = grid.astype(np.float32).tolist()
    return row


@settings(max_examples=150, deadline=None)
@given(row=rows(), sampling=SAMPLINGS, tokens=st.lists(st.integers(0, 4), max_size=30), xtc=st.floats(0, 1, exclude_max=True))
def test_every_key_draws_what_the_slow_chain_draws(row: list[float], sampling: Sampling, tokens: list[int], xtc: float) -> None:
    chain = Reference(sampling).run(row, tokens, xtc_chance=xtc)
    assume(chain.margin > DECIDED)
    changed = np.array([Reference(sampling).changed(row, tokens, {})], dtype=np.float32)
    for key in range(7):
        chain.margin = 1.0
        expected = chain.pick(partial(slow_luck, key))
        if chain.margin > DECIDED:
            assert draw_lots(changed, [Lot(0, sampling, key, xtc)]) == [expected]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, (1 << 64) - 1), st.lists(st.integers(0, 1 << 20), min_size=1, max_size=40), st.integers(0, 9))
def test_luck_is_what_the_slow_luck_is_whatever_stands_beside_it(key: int, ids: list[int], other: int) -> None:
    slow = [slow_luck(key, token) for token in ids]
    assert luck([other, key], np.array([ids[::-1], ids]))[1].tolist() == pytest.approx(slow, rel=1e-12)


@settings(max_examples=100, deadline=None)
@given(row=rows(), temperature=st.sampled_from([5e-324, 0.01, 0.3, 1.0, 100.0]), cut=st.floats(0, 1), key=st.integers(0, 1 << 60))
def test_the_search_of_a_vocabulary_finds_who_wins_among_its_listed_tokens(
    row: list[float], temperature: float, cut: float, key: int
) -> None:
    values = np.array(row, dtype=np.float32)
    values[np.random.default_rng(key).random(len(row)) < cut] = -np.inf
    assume(np.isfinite(values.max()))
    ids = np.flatnonzero(np.isfinite(values))[::-1]
    with np.errstate(over="ignore"):
        sums = (values[ids].astype(np.float64) - values.max()) / temperature + luck([key], ids[None])[0]
    assert winner(values, temperature, key) == ids[sums.argmax()]
    least = values[ids[key % len(ids)]]
    assert winner(values, temperature, key, least) == ids[np.where(values[ids] >= least, sums, -np.inf).argmax()]
    assert winners(ids[None], values[None, ids].astype(np.float64), np.array([temperature]), [key]) == [ids[sums.argmax()]]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(SAMPLINGS, st.integers(0, 3), st.lists(st.integers(0, 4), max_size=12)), min_size=1, max_size=6),
    st.integers(0, 1 << 32),
    st.none() | st.sets(st.integers(0, 299), min_size=1, max_size=9),
)
def test_a_batch_draws_what_each_row_draws_alone(
    jobs: list[tuple[Sampling, int, list[int]]], seed: int, allowed: set[int] | None
) -> None:
    logits = (np.random.default_rng(seed).standard_normal((len(jobs), 300)) * 3).astype(np.float32)
    mask = None if allowed is None else np.packbits([i in allowed for i in range(320)], bitorder="little").view("<u4")
    draws = [Draw(sampling, choice, [1, *tokens], 1, mask) for sampling, choice, tokens in jobs]
    together = sample(logits.copy(), draws, NO_EOG)
    for i, draw in enumerate(draws):
        assert sample(logits[i : i + 1].copy(), [draw], NO_EOG)[0] == together[i]
        expected, margin = slow_token(
            logits[i].tolist(), draw.sampling, choice=draw.choice, tokens=draw.tokens, prompt_length=1, allowed=allowed
        )
        drawn = together[i]
        assert drawn is not None
        assert drawn.token == expected or margin <= DECIDED


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 1 << 32), st.sampled_from([5, 64, 700, 30_000]), st.integers(1, 300), st.sampled_from([1, 3, 1_000]))
def test_the_largest_are_those_of_a_sort(seed: int, width: int, k: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    logits = np.round(rng.standard_normal((4, width)) * levels).astype(np.float32)
    logits[1, rng.random(width) < 0.9] = -np.inf
    logits[2] = 0.0
    logits[3, :-1] = -np.inf
    ids, values = largest(logits, [3, 0, 1, 2], k)
    for i, row in enumerate([3, 0, 1, 2]):
        order = np.lexsort((np.arange(width), -logits[row]))[:k]
        finite = order[np.isfinite(logits[row, order])]
        assert ids[i, : len(finite)].tolist() == finite.tolist()
        assert values[i, : len(finite)].tolist() == logits[row, finite].tolist()
        assert np.isneginf(values[i, len(finite) :]).all()


@settings(max_examples=300, deadline=None)
@given(
    tokens=st.lists(st.integers(0, 3), max_size=60),
    window=st.sampled_from([-1, 0, 5, 40]),
    allowed=st.integers(1, 4),
    base=st.sampled_from([1.0, 1.0000001, 1.75, 50.0, 100.0]),
    breakers=st.dictionaries(
        st.integers(0, 3), st.lists(st.lists(st.integers(0, 3), max_size=2).map(tuple), min_size=1, max_size=2), max_size=2
    ),
)
def test_repetitions_are_found_as_by_looking_at_every_place(
    tokens: list[int], window: int, allowed: int, base: float, breakers: Tails
) -> None:
    sampling = Sampling(dry_multiplier=0.5, dry_base=base, dry_allowed_length=allowed, dry_penalty_last_n=window)
    expected = slow_repeats(tokens, sampling, breakers)
    found = prolonged(tokens, sampling, Breakers({token: tuple(tails) for token, tails in breakers.items()}))
    # A length is counted only as far as the penalty grows with it.
    furthest = allowed + (0 if base == 1.0 else 10**9 if base < 1.000001 else int(88.7228391 / np.log(base)))
    assert found == {token: min(length, furthest) for token, length in expected.items()}
