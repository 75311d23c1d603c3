"""Runs of several servers in turns, so that all see the same weather, and prompts that have nothing in common."""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from tests.bench.engine.models import VOCABULARY_SIZE

T = TypeVar("T")

_ORDINARY_TOKENS = 100_000
"""Ids below this are ordinary text in Qwen2's vocabulary."""
assert _ORDINARY_TOKENS < VOCABULARY_SIZE


def prompt(number: int, length: int) -> tuple[int, ...]:
    """Token ids of a prompt; another one for each number."""
    return tuple(np.random.default_rng(number).integers(1_000, _ORDINARY_TOKENS, length).tolist())


async def in_turns(runs: Mapping[str, Callable[[int], Awaitable[T]]], rounds: int) -> dict[str, list[T]]:
    """What each run gives in each round, told its number; the order changes with the round, and round 0 only warms up."""
    results: dict[str, list[T]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name in list(runs) if turn % 2 else reversed(list(runs)):
            result = await runs[name](turn)
            if turn:
                results[name].append(result)
    return results


def median_of(values: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """The median, and the smallest and largest."""
    return statistics.median(values), (min(values), max(values))
