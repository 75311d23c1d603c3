"""PURE: how much each model has been asked for lately."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final, NamedTuple

HALF_LIFE_S: Final = 600.0
"""After so long a request counts half."""


class _Count(NamedTuple):
    value: float
    at_s: float


@dataclass(slots=True)
class Uses:
    """Requests by model, the older ones counting less."""

    _counts: dict[str, _Count] = field(default_factory=dict)

    def asked(self, model_sha256: str, now_s: float) -> None:
        """A job for the model has come."""
        self._counts[model_sha256] = _Count(self._value(model_sha256, now_s) + 1.0, now_s)

    def likelihood(self, model_sha256: str, now_s: float) -> float:
        """That somebody asks for the model again soon, from 0 to 1: 0.63 right after one request, 0.86 after one each half-life."""
        return 1.0 - math.exp(-self._value(model_sha256, now_s))

    def _value(self, model_sha256: str, now_s: float) -> float:
        count = self._counts.get(model_sha256)
        return 0.0 if count is None else count.value * 2.0 ** ((count.at_s - now_s) / HALF_LIFE_S)
