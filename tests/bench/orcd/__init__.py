"""The figures of the orchestrator: relayed events, durable jobs, batches, restarts, decisions, waits, mixed fleets, onlookers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tests.bench.orcd import batch, decisions, durable, fleet, onlookers, real_fleet, relay, restart, waits
from tests.bench.rows import Row

PARTS: Final[dict[str, Callable[[bool], list[Row]]]] = {
    "relay": relay.measure,
    "durable": durable.measure,
    "batch": batch.measure,
    "restart": restart.measure,
    "decisions": decisions.measure,
    "fleet": fleet.measure,
    "real_fleet": real_fleet.measure,
    "waits": waits.measure,
    "onlookers": onlookers.measure,
}
"""Each takes True for a short look, which has fewer samples."""
