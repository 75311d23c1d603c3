"""The figures of a host: what its operator waits for, what its daemon costs, how well it estimates, how fast models come."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tests.bench.host import commands, fit, heartbeat, lan, spawning
from tests.bench.rows import Row

PARTS: Final[dict[str, Callable[[bool], list[Row]]]] = {
    "commands": commands.measure,
    "spawning": spawning.measure,
    "fit": fit.measure,
    "fit_loads": fit.measure_loads,
    "heartbeat": heartbeat.measure,
    "lan": lan.measure,
    "lan_sources": lan.measure_sources,
}
"""Each takes True for a short look, which has fewer samples."""
