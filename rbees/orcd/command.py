"""`rbees orcd`: the command line of the orchestrator."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click

from rbees.service.flags import settings_flags
from rbees.service.role_settings import OrcdSettings


@click.group()
def command() -> None:
    """The orchestrator daemon: accepts jobs and decides where they run."""


@command.command()
@settings_flags(OrcdSettings)
def serve(**flags: Any) -> int:
    """Serve until told to stop. Every flag is also a setting, see `rbees config show`."""
    # What only the running daemon needs is imported here, so that help texts come quickly.
    from rbees.orcd import app
    from rbees.service import logs, settings
    from rbees.service.daemon import run_daemon

    values = settings.load("orcd", OrcdSettings, flags).values
    logs.configure("orcd", values.log_level, values.log_format)

    async def main(stopping: asyncio.Event) -> int:
        return await app.serve(values, stopping)

    return run_daemon(main)


@command.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--job", "job_id", metavar="ID", help="Only what concerns this job.")
@click.option("--all", "everything", is_flag=True, help="Also turns in which nothing happened.")
@click.option("--json", "as_json", is_flag=True, help="One line of JSON for each turn.")
def replay(file: Path, job_id: str | None, everything: bool, as_json: bool) -> int:
    """Make every decision again from the log of events FILE, and say whether they are the same.

    The logs are in the folder `events` of the state folder. Exits 1 if a decision differs.
    """
    from rbees.orcd import replay as again

    turns = different = decisions = 0
    for turn in again.replay(file):
        turns += 1
        decisions += len(turn.effects)
        different += not turn.same
        if everything or not turn.same or again.concerns(turn, job_id):
            if as_json:
                click.echo(again.as_json(turn))
            else:
                for line in again.lines_of(turn, job_id):
                    click.echo(line)
    verdict = "every decision is the same" if not different else f"{different} turns differ"
    click.echo(f"{turns} events, {decisions} decisions; {verdict}.", err=True)
    return 1 if different else 0
