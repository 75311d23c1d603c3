"""The vectorised chain beside llama.cpp's own on the same logits: the same candidates are left, with the same probabilities."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp as ll
import numpy as np
import pytest

from rbees.protocol.sampling import Sampling
from rbees.workerd.engine.chance import luck
from rbees.workerd.engine.dry import Breakers, find_breakers, penalise_repeats
from rbees.workerd.engine.penalties import add_bias, penalise
from rbees.workerd.engine.truncation import Lot, draw_lots
from tests.support.llama_chain import LlamaChain

HAIKU = Path(__file__).parents[2] / "rbees" / "host" / "data" / "models" / "haiku.gguf"
OFF: dict[str, Any] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}
CASES: list[dict[str, Any]] = [
    {"top_k": 40},
    {"top_k": 1},
    {"top_p": 0.9},
    {"top_p": 0.2},
    {"min_p": 0.05},
    {"min_p": 0.001},
    {"typical_p": 0.6},
    {"typical_p": 0.95, "top_k": 40},
    {"xtc_probability": 1.0, "xtc_threshold": 0.05},
    {"xtc_probability": 1.0, "xtc_threshold": 0.02, "top_k": 40, "temperature": 0.6},
    {"top_k": 40, "top_p": 0.95, "min_p": 0.05, "temperature": 0.7},
    {"top_k": 100, "typical_p": 0.9, "top_p": 0.9, "min_p": 0.02, "xtc_probability": 1.0, "xtc_threshold": 0.1, "temperature": 1.4},
    {"typical_p": 0.9, "top_p": 0.8, "min_p": 0.1},
    {"logit_bias": {3: 5.0, 4: -100.0}, "min_p": 0.02},
    {"repetition_penalty": 1.3, "top_k": 60},
    {"repetition_penalty": 0.8, "presence_penalty": 0.5, "frequency_penalty": -0.3, "penalty_last_n": 20, "top_k": 60},
]
DRAWS = 500
DECIDED = 1e-3
"""By so much the best sum of logit and luck has to exceed the next: llama.cpp's float32 temperature shifts them a little."""
OFTEN = 0.03
"""A candidate with this share of the probability is missing from all draws once in four million times."""


def rows() -> list[np.ndarray]:
    rng = np.random.default_rng(12)
    peaked = rng.standard_normal(3_000) * 3
    peaked[rng.integers(0, 3_000, 20)] += 8
    return [(rng.standard_normal(500) * 2).astype(np.float32), peaked.astype(np.float32)]


def check(changed: np.ndarray, sampling: Sampling, expected: dict[int, float]) -> None:
    """Each of many draws must take the one among the expected candidates whose logit and luck add up to most."""
    ids, keys = np.array(list(expected)), list(range(DRAWS))
    logits = np.array(list(expected.values()), dtype=np.float64)
    sums = logits + luck(keys, np.tile(ids, (DRAWS, 1)))
    drawn = draw_lots(np.tile(changed, (DRAWS, 1)), [Lot(key, sampling, key, 0.0) for key in keys])
    assert set(drawn) <= set(expected)
    best = np.partition(sums, -2, axis=1)[:, -2:] if len(ids) > 1 else np.array([[0.0, 1.0]] * DRAWS)
    decided = best[:, 1] - best[:, 0] > DECIDED
    assert decided.sum() > 0.9 * DRAWS
    assert np.array(drawn)[decided].tolist() == ids[sums.argmax(axis=1)][decided].tolist()
    shares = np.exp(logits - logits.max())
    assert set(ids[shares > OFTEN * shares.sum()].tolist()) <= set(drawn)


@pytest.mark.parametrize("fields", CASES, ids="+".join)
def test_the_same_candidates_are_left_with_the_same_probabilities(fields: dict[str, Any]) -> None:
    sampling = Sampling(**{**OFF, **fields})
    history = np.random.default_rng(13).integers(0, 400, 100).tolist()
    for row in rows():
        chain = LlamaChain(sampling, len(row))
        chain.accept(history)
        expected = chain.survivors(row)
        chain.close()
        changed = row.copy()
        add_bias(changed, sampling)
        penalise(changed, sampling, history)
        check(changed, sampling, expected)


def test_penalised_logits_are_equal_to_the_bit() -> None:
    penalties: dict[str, Any] = {"repetition_penalty": 1.17, "presence_penalty": 0.31, "frequency_penalty": 0.13}
    sampling = Sampling(**OFF, **penalties, penalty_last_n=50)
    history = np.random.default_rng(14).integers(0, 60, 200).tolist()
    for row in rows():
        chain = LlamaChain(sampling, len(row))
        chain.accept(history)
        expected = chain.survivors(row)
        chain.close()
        penalise(row, sampling, history)
        assert [expected[i] for i in range(len(row))] == row.tolist()


@pytest.fixture(scope="module")
def vocab() -> Iterator[Any]:
    params = ll.llama_model_default_params()
    params.vocab_only = True
    model = ll.llama_model_load_from_file(str(HAIKU).encode(), params)
    yield ll.llama_model_get_vocab(model)
    ll.llama_model_free(model)


def breakers_of(vocab: Any, texts: tuple[str, ...]) -> Breakers:
    def piece(token: int) -> bytes:
        buffer = ctypes.create_string_buffer(256)
        return buffer.raw[: ll.llama_token_to_piece(vocab, token, buffer, 256, 0, False)]

    def tokenize(text: str) -> list[int]:
        ids = (ll.llama_token * 64)()
        return list(ids[: ll.llama_tokenize(vocab, text.encode(), len(text.encode()), ids, 64, False, False)])

    return find_breakers(texts, ll.llama_vocab_n_tokens(vocab), piece, tokenize)


@pytest.mark.parametrize("texts", [("\n", ":", '"', "*"), (), ("the moon",), ("rain\n", "e t")])
@pytest.mark.parametrize(("allowed", "window", "base"), [(2, 64, 1.75), (1, 1_000, 1.1), (3, 20, 4.0), (2, 400, 1.0)])
def test_dry_penalises_as_llama_does(vocab: Any, texts: tuple[str, ...], allowed: int, window: int, base: float) -> None:
    width = ll.llama_vocab_n_tokens(vocab)
    sampling = Sampling(
        **OFF,
        dry_multiplier=0.8,
        dry_base=base,
        dry_allowed_length=allowed,
        dry_penalty_last_n=window,
        dry_sequence_breakers=texts,
    )
    breakers = breakers_of(vocab, texts)
    rng = np.random.default_rng(15)
    penalised = 0
    for case in range(30):
        # Few different tokens, so that there is much to repeat; among them those that breakers are made of.
        among = [*rng.integers(0, width, 3).tolist(), *list(breakers.tails)[case % 7 :: 97][:2]]
        history = rng.choice(among, 120).tolist()
        chain = LlamaChain(sampling, width, vocab=vocab)
        chain.accept(history)
        zeros = np.zeros(width, dtype=np.float32)
        expected = chain.survivors(zeros)
        chain.close()
        penalise_repeats(zeros, sampling, history, breakers)
        assert zeros.tolist() == pytest.approx([expected[i] for i in range(width)], rel=1e-6)
        penalised += int(np.count_nonzero(zeros))
    assert penalised > 5
