"""The figures of the orchestrator: what a relayed event and a durable job cost, and how soon it is back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tests.bench.orcd import durable, relay, restart
from tests.bench.rows import Row

PARTS: Final[dict[str, Callable[[bool], list[Row]]]] = {
    "relay": relay.measure,
    "durable": durable.measure,
    "restart": restart.measure,
}
"""Each takes True for a short look, which has fewer samples."""
