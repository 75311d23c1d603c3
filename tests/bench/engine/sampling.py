"""What a step's sampling costs: 16 rows of 152 000 logits in one call, beside llama.cpp's own chain, a row at a time.

Both draw from the same logits. The chain is driven by its low-level interface, and the array of candidates that it works on is
filled by numpy, as its own `llama_sampler_sample` fills it in C++; that is part of its time, and so is Python's call for each row,
some microseconds. Calls take turns, each on logits that were just written, as after a decode.
"""

from __future__ import annotations

import time
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from rbees.protocol.sampling import Sampling
from rbees.workerd.engine.sampling import Draw, sample
from tests.bench.rows import Row, against
from tests.bench.timing import Samples
from tests.support.llama_chain import LlamaChain

ROWS: Final = 16
WIDTH: Final = 152_000
HISTORY: Final = 600
GOAL: Final = 0.5
NO_EOG: Final = np.array([], dtype=np.int64)
OFF: Final[dict[str, Any]] = {"temperature": 0.8, "top_k": 0, "top_p": 1.0}
CASES: Final[dict[str, tuple[str, bool, dict[str, Any]]]] = {
    "greedy": ("temperature 0", True, {"temperature": 0.0}),
    "top_k_top_p": ("top-k 40, top-p 0.95, temperature 0.8", True, {**OFF, "top_k": 40, "top_p": 0.95}),
    "min_p": ("min-p 0.05, temperature 0.8", True, {**OFF, "min_p": 0.05}),
    "softmax": ("temperature 0.8 alone, from all tokens", True, OFF),
    "top_p_peaked": ("top-p 0.95 without top-k, few likely tokens", True, {**OFF, "top_p": 0.95}),
    "top_p_flat": ("top-p 0.95 without top-k, many likely tokens", False, {**OFF, "top_p": 0.95}),
    "typical": ("typical 0.9, temperature 0.8", True, {**OFF, "typical_p": 0.9}),
    "penalties": (
        "top-k 40, top-p 0.95, repetition, presence and frequency penalty over 64 tokens",
        True,
        {**OFF, "top_k": 40, "top_p": 0.95, "repetition_penalty": 1.1, "presence_penalty": 0.1, "frequency_penalty": 0.1},
    ),
}
"""What is measured, whether the logits are peaked as a trained model's are, and the parameters."""


def measure(short: bool) -> list[Row]:
    """Milliseconds for all rows of one step."""
    rounds = 3 if short else 25
    flat = (np.random.default_rng(1).standard_normal((ROWS, WIDTH)) * 2).astype(np.float32)
    peaked = flat.copy()
    peaked[:, :40] += np.random.default_rng(2).random((ROWS, 40), dtype=np.float32) * 18
    return [_row(name, about, peaked if is_peaked else flat, fields, rounds) for name, (about, is_peaked, fields) in CASES.items()]


def _row(name: str, about: str, logits: NDArray[np.float32], fields: dict[str, Any], rounds: int) -> Row:
    history = np.random.default_rng(3).integers(0, WIDTH, HISTORY).tolist()
    draws = [Draw(Sampling(**fields, seed=row), 0, history, HISTORY // 2) for row in range(ROWS)]
    chains = [LlamaChain(draw.sampling, WIDTH, draws=True) for draw in draws]
    for chain in chains:
        chain.accept(history)
    ours, theirs = [], []
    for turn in range(rounds + 1):
        fresh = logits.copy()
        began = time.perf_counter()
        sample(fresh, draws, NO_EOG)
        took = time.perf_counter() - began
        fresh[:] = logits
        began = time.perf_counter()
        for chain, row in zip(chains, fresh, strict=True):
            chain.apply(row)
        if turn:
            theirs.append((time.perf_counter() - began) * 1000)
            ours.append(took * 1000)
    for chain in chains:
        chain.close()
    mine = Samples(tuple(ours))
    return against(
        f"engine.sampling.{name}",
        mine.median,
        Samples(tuple(theirs)).median,
        "ms",
        GOAL,
        f"{about}: {ROWS} rows of {WIDTH} logits, beside llama.cpp's sampler chain",
        spread=mine.spread,
    )
