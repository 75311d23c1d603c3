"""What it costs to ask a host about itself."""

from __future__ import annotations

import sys

from tests.bench.rows import Row, at_most
from tests.bench.timing import alternately
from tests.support.home import Home, entry_point, free_port

LIST_GOAL_MS = 300.0


def measure(short: bool) -> list[Row]:
    """`rbees-pool models list` and `worker list` without a daemon, beside an interpreter that starts."""
    with Home() as home:
        environ = home.environ(RBEES_POOLD_PORT=str(free_port()))
        asked = [[*entry_point("rbees-pool"), *words] for words in (("models", "list"), ("worker", "list"))]
        models, workers, _ = alternately([*asked, [sys.executable, "-c", "pass"]], 5 if short else 21, environ)
    return [
        at_most(
            "host.models_list",
            models.median,
            "ms",
            LIST_GOAL_MS,
            "wall time of `rbees-pool models list` without a daemon, with the packaged model",
            spread=models.spread,
        ),
        at_most(
            "host.worker_list",
            workers.median,
            "ms",
            None,
            "wall time of `rbees-pool worker list` without a daemon, where no worker is",
            spread=workers.spread,
        ),
    ]
