"""What it costs to start a command."""

from __future__ import annotations

import sys

from tests.bench.rows import Row, against
from tests.bench.timing import alternately
from tests.support.home import Home, entry_point

HELP_GOAL = 8.0
LIST_GOAL = 1.6


def measure(short: bool) -> list[Row]:
    """`rbees --help` beside `python -c pass`; `llorch jobs list` beside an interpreter that imports what it cannot do without."""
    rounds = 5 if short else 21
    with Home() as home:
        home.serve_orcd()
        environ = home.environ(RBEES_CTL_ORCD_URL=home.url)
        bare = [sys.executable, "-c", "pass"]
        shown, empty = alternately([[*entry_point("rbees"), "--help"], bare], rounds, environ)
        imports = [sys.executable, "-c", "import aiohttp, click, rich"]
        listed, imported = alternately([[*entry_point("llorch"), "jobs", "list"], imports], rounds, environ)
    return [
        against(
            "spine.help",
            shown.median,
            empty.median,
            "ms",
            HELP_GOAL,
            "wall time of `rbees --help` beside `python -c pass`",
            spread=shown.spread,
        ),
        against(
            "spine.jobs_list",
            listed.median,
            imported.median,
            "ms",
            LIST_GOAL,
            'wall time of `llorch jobs list` against a running orcd beside `python -c "import aiohttp, click, rich"`',
            spread=listed.spread,
        ),
    ]
