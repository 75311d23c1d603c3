"""PURE: how much memory a worker for a model will take, from its file's facts, corrected by what workers turned out to take.

The first estimate is the one that pools make (`protocol/demand.py`), with the context and the slots that they give by default.
What a worker of the same model on the same pool and backend took replaces it; what workers of other models there took, as a share
of their estimates, corrects it. What a pool's settings change therefore matters once for each model.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from rbees.protocol.demand import demand
from rbees.protocol.pools import ModelFacts
from rbees.protocol.workers import Backend

USUAL_CTX: Final = 4_096
USUAL_SLOTS: Final = 4
OVERHEAD_BYTES: Final = 64 * 1024 * 1024
"""Compute buffers and the process itself, of each device that a model is spread over."""
WEIGHT: Final = 0.5
"""Of the newest report."""
KEPT: Final = 256
REMEMBERED: Final = 4_096
"""Analytic estimates: a decision asks for the same ones again and again."""
LEAST_SHARE, MOST_SHARE = 0.5, 3.0
"""What other models teach never changes an estimate by more than this: it may have been one odd model."""


@lru_cache(maxsize=REMEMBERED)
def analytic_bytes(facts: ModelFacts, backend: Backend) -> int:
    """What the header says that a worker takes, with the context and the slots that pools give by default."""
    ctx = min(facts.context_length or USUAL_CTX, USUAL_CTX)
    return demand(facts, ctx=ctx, slots=USUAL_SLOTS, backend=backend).total_bytes


@dataclass(slots=True)
class Estimates:
    """Everything learned. Starts empty."""

    _taken: dict[tuple[str, str, Backend], float] = field(default_factory=dict)
    """By model, pool and backend: bytes."""
    _shares: dict[tuple[str, Backend], float] = field(default_factory=dict)
    """By pool and backend: bytes taken for each byte of the analytic estimate."""
    ratios: list[float] = field(default_factory=list)
    """Of the latest workers: what was expected when they were started, over what they took."""

    def need_bytes(self, facts: ModelFacts, pool_id: str, backend: Backend) -> int:
        """What a worker is expected to take on its devices together."""
        taken = self._taken.get((facts.sha256, pool_id, backend))
        if taken is not None:
            return round(taken)
        return round(analytic_bytes(facts, backend) * self._shares.get((pool_id, backend), 1.0))

    def took(self, facts: ModelFacts, pool_id: str, backend: Backend, taken_bytes: int, expected_bytes: int) -> None:
        """A worker that was started with the pool's defaults is ready and takes so much."""
        if taken_bytes <= 0:
            return
        key = (facts.sha256, pool_id, backend)
        before = self._taken.get(key, float(taken_bytes))
        self._taken[key] = before + WEIGHT * (taken_bytes - before)
        share = min(max(taken_bytes / analytic_bytes(facts, backend), LEAST_SHARE), MOST_SHARE)
        known = self._shares.get((pool_id, backend), share)
        self._shares[pool_id, backend] = known + WEIGHT * (share - known)
        self.ratios.append(expected_bytes / taken_bytes)
        del self.ratios[:-KEPT]

    def quantile(self, share: float) -> float:
        """Of `ratios`, so that 1 is an exact estimate; 1 where there are none."""
        ordered = sorted(self.ratios)
        return ordered[min(round(share * (len(ordered) - 1)), len(ordered) - 1)] if ordered else 1.0
