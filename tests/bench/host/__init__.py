"""The figures of a host: what its pool daemon costs, how fast models come from other pools, and how far its estimates are off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tests.bench.host import fit, heartbeat, lan
from tests.bench.rows import Row

PARTS: Final[dict[str, Callable[[bool], list[Row]]]] = {
    "fit": fit.measure,
    "fit_loads": fit.measure_loads,
    "heartbeat": heartbeat.measure,
    "lan": lan.measure,
    "lan_sources": lan.measure_sources,
}
"""Each takes True for a short look, which has fewer samples."""
