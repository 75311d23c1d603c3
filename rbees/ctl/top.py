"""`llorch top`: what can be typed."""

from __future__ import annotations

from typing import Any, Final

import click

from rbees.ctl.target import Target, asks_orcd

SHORTEST_S: Final = 0.5
LONGEST_S: Final = 60.0
"""What orcd takes, said here once more: every command of `llorch` would pay for the import."""


@click.command()
@click.option("--once", is_flag=True, help="Print one picture as plain text and end.")
@click.option(
    "--every",
    "every_s",
    type=click.FloatRange(SHORTEST_S, LONGEST_S),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="How often the picture is renewed.",
)
@asks_orcd
async def top(target: Target, **given: Any) -> int | None:
    """Watch pools, devices, workers, waiting and running jobs as they change.

    Keys: q quits, p holds the picture still, s changes the order (name, busy, memory), up and down look at one pool, a at all.
    With `--json` each picture is a line, and nothing needs a terminal.
    """
    from rbees.ctl.top_actions import show_top

    return await show_top(target, **given)
