"""The figures of the spine: what a command, an idle daemon, a first token and a relayed token cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tests.bench.rows import Row
from tests.bench.spine import commands, first_job, idle, relay

PARTS: Final[dict[str, Callable[[bool], list[Row]]]] = {
    "commands": commands.measure,
    "idle": idle.measure,
    "first_job": first_job.measure,
    "relay": relay.measure,
}
"""Each takes True for a short look, which has fewer samples."""
