"""`llorch plan`: what can be typed. What the command does is in `decision_actions.py`."""

from __future__ import annotations

from typing import Any

import click

from rbees.ctl.job_options import run_options
from rbees.ctl.target import Target, asks_orcd


@click.command()
@click.argument("model", metavar="MODEL")
@click.option("--prompt", metavar="TEXT", default="Hello.", help="What would be said: longer prompts take longer. Default: Hello.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Longest answer. Default: what answers of this model usually have.")
@click.option("--n", type=click.IntRange(1, 16), help="Answers to make. Default: 1.")
@run_options
@asks_orcd
async def plan(target: Target, **given: Any) -> int | None:
    """Say what would become of a job for MODEL that came now; nothing is submitted.

    Of a job that would be refused the exit code is the one that submitting it would have.
    """
    from rbees.ctl.decision_actions import plan_job

    return await plan_job(target, **given)
