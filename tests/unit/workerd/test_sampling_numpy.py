"""Vectorised sampling against a slow reference; the edges of its parameters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from rbees.protocol import codec
from rbees.protocol.sampling import Sampling
from rbees.workerd.engine.largest import largest
from rbees.workerd.engine.logprobs import Rated, message
from rbees.workerd.engine.sampling import Draw, sample
from tests.support.slow_sampling import slow_token

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


def reference(row: np.ndarray, draw: Draw, allowed: list[int] | None = None) -> int:
    token, _ = slow_token(
        row.tolist(),
        draw.sampling,
        choice=draw.choice,
        tokens=draw.tokens,
        prompt_length=draw.prompt_length,
        allowed=allowed,
    )
    return token


@pytest.mark.parametrize("width", [300, 5_003, 20_000])
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
    assert largest(logits, [0], 5)[0][0].tolist() == [0, 1, 2, 3, 4]
    logits[0, [19_999, 12_000, 77]] = 1.0
    assert largest(logits, [0], 4)[0][0].tolist() == [77, 12_000, 19_999, 0]


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
    drawn = tokens(logits, draws)
    assert drawn == [reference(row, draw, allowed) for row, draw in zip(logits, draws, strict=True)]
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
    draws = [at(0, Sampling(temperature=t, logprobs=True)) for t in (0.0, 0.7, 0.0)]
    assert tokens(logits, draws) == [None, None, 0]


def test_the_extremes_of_every_range_draw_a_token() -> None:
    logits = (np.random.default_rng(10).standard_normal((1, 9_000)) * 5).astype(np.float32)
    extremes: list[dict[str, Any]] = [
        {"temperature": 5e-324},
        {"temperature": 5e-324, "top_k": 0, "top_p": 1.0},
        {"top_p": 5e-324},
        {"top_p": 5e-324, "top_k": 0},
        {"top_p": 1 - 1e-16, "top_k": 0},
        {"min_p": 1.0, "top_k": 0, "top_p": 1.0},
        {"min_p": 5e-324, "top_k": 0, "top_p": 1.0},
        {"typical_p": 5e-324, "top_k": 0},
        {"typical_p": 1 - 1e-16},
        {"repetition_penalty": 10.0, "presence_penalty": 2.0, "frequency_penalty": 2.0, "penalty_last_n": -1},
        {"dry_multiplier": 100.0, "dry_base": 100.0, "dry_allowed_length": 1, "dry_penalty_last_n": -1},
        {"xtc_probability": 1.0, "xtc_threshold": 5e-324, "top_k": 0, "top_p": 1.0},
        {"xtc_probability": 1.0, "xtc_threshold": 5e-324, "temperature": 0.0},
        {"logit_bias": dict.fromkeys(range(1_024), -100.0), "top_k": 1_000_000},
    ]
    for fields in extremes:
        sampling = Sampling(**fields)
        codec.decode(codec.encode(sampling), Sampling)
        draw = Draw(sampling, 0, [7, 8, 9] * 300, 3)
        assert tokens(logits, [draw]) == [reference(logits[0], draw)], fields


def test_logprobs_are_the_models_own() -> None:
    logits = (np.random.default_rng(11).standard_normal((2, 5_000)) * 4).astype(np.float32)
    exact = logits[0] - np.log(np.exp(logits[0].astype(np.float64)).sum())
    order = np.argsort(-logits[0])
    banned = int(order[0])
    sampling = Sampling(temperature=0, logit_bias={banned: -100.0}, repetition_penalty=2.0, logprobs=True, top_logprobs=3)
    first, second = sample(logits, [at(4, sampling), at(4, Sampling())], NO_EOG)
    assert first is not None
    assert second is not None
    assert second.logprob is None
    assert first.logprob is not None
    assert first.token == first.logprob.token == order[1]
    assert first.logprob.logprob == pytest.approx(exact[order[1]], abs=2e-6)
    assert [token for token, _ in first.logprob.top] == order[:3].tolist()
    assert [value for _, value in first.logprob.top] == pytest.approx(exact[order[:3]].tolist(), abs=2e-6)


def test_a_piece_that_is_no_text_by_itself_says_its_bytes() -> None:
    pieces = {1: b" caf", 2: b"\xc3", 3: b"\xef\xbf\xbd"}
    said = message(Rated(2, -0.5, ((2, -0.5), (1, -1.0), (3, -2.0))), pieces.__getitem__)
    assert codec.encode(said) == (
        b'{"token_id":2,"text":"\xef\xbf\xbd","bytes":[195],"logprob":-0.5,"top":['
        b'{"token_id":2,"text":"\xef\xbf\xbd","bytes":[195],"logprob":-0.5},'
        b'{"token_id":1,"text":" caf","logprob":-1.0},{"token_id":3,"text":"\xef\xbf\xbd","logprob":-2.0}]}'
    )


def test_xtc_has_a_random_number_of_its_own() -> None:
    logits = np.log(np.array([[0.5, 0.3, 0.2]], dtype=np.float32))
    sampling = Sampling(temperature=0, xtc_probability=0.25, seed=6)
    drawn = [tokens(logits, [at(position, sampling)])[0] for position in range(2_000)]
    # All three are top choices; where XTC acts, the least likely of them is left.
    assert set(drawn) == {0, 2}
    assert abs(drawn.count(2) / 2_000 - 0.25) < 0.03
