"""`rbees orcd`: the command line of the orchestrator."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rbees.service.flags import settings_flags
from rbees.service.role_settings import OrcdSettings

if TYPE_CHECKING:
    from rbees.protocol.database import DatabaseReport


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
@click.argument("file", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--job", "job_id", metavar="ID", help="Only what concerns this job.")
@click.option("--policy-plugin", "plugin", metavar="NAME", help="The policy plug-in that decided then; its code is run.")
@click.option("--all", "everything", is_flag=True, help="Also turns in which nothing happened.")
@click.option("--json", "as_json", is_flag=True, help="One line of JSON for each turn.")
@click.option("--state-dir", metavar="DIR", help="Folder of the state, where the settings name another and no FILE is named.")
def replay(
    file: Path | None, job_id: str | None, plugin: str | None, everything: bool, as_json: bool, state_dir: str | None
) -> int:
    """Make every decision again from the log of events FILE, and say whether they are the same.

    The logs are in the folder `events` of the state folder, one for each run of orcd; without FILE it is the latest. Exits 1 if
    a decision differs.
    """
    from rbees.orcd import event_log, upkeep
    from rbees.orcd import replay as again
    from rbees.protocol.errors import ErrorCode, RbeesError

    file = file or upkeep.latest_events(_settings(state_dir))
    turns = different = decisions = told = 0
    for turn in again.replay(file, plugin):
        turns += 1
        told += again.concerns(turn, job_id)
        decisions += len(turn.effects)
        different += not turn.same
        if everything or not turn.same or again.concerns(turn, job_id):
            if as_json:
                click.echo(again.as_json(turn))
            else:
                for line in again.lines_of(turn, job_id):
                    click.echo(line)
    if job_id is not None and not told:
        raise RbeesError(ErrorCode.JOB_NOT_FOUND, f"{file} tells of no job `{job_id}`; each run of orcd has a log of its own.")
    verdict = "every decision is the same" if not different else f"{different} turns differ"
    ending = "" if event_log.is_whole(file) else " It has no end: orcd still runs, was killed or reached the limit, or it was cut."
    click.echo(f"{file}: {turns} events, {decisions} decisions; {verdict}.{ending}", err=True)
    return 1 if different else 0


@command.group()
def db() -> None:
    """Look through the orchestrator's state, or copy it, also while it runs."""


_state_dir = click.option("--state-dir", metavar="DIR", help="Folder of the state, where the settings name another.")
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


@db.command()
@_state_dir
@_json
def check(state_dir: str | None, as_json: bool) -> int:
    """Look whether the state is whole: the file, its schema, and every job's course.

    Nothing is changed. An orchestrator that runs is asked to look itself. Exits 1 if something is wrong.
    """
    from rbees.orcd import upkeep
    from rbees.protocol import codec

    report = upkeep.check(_settings(state_dir))
    if as_json:
        click.echo(codec.encode(report))
    else:
        _tell_troubles(report)
        verdict = "no trouble found" if not report.troubles else f"{_troubles(report)} found"
        click.echo(f"{_contents(report)}; {verdict}.")
        if report.troubles:
            click.echo("Only what could be read was counted. docs/backup.md says how to go back to a backup.", err=True)
    return 1 if report.troubles else 0


@db.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@_state_dir
@_json
def backup(file: Path, force: bool, state_dir: str | None, as_json: bool) -> int:
    """Copy the state into FILE, consistent, also while the orchestrator runs.

    The copy is looked through as `rbees orcd db check` does; one with troubles is not kept, and the command exits 1. It holds
    prompts and answers, so only its owner may read it. See docs/backup.md for how to go back to it.
    """
    from rbees.orcd import upkeep
    from rbees.protocol import codec

    made = upkeep.backup(_settings(state_dir), file, overwrite=force)
    report, kept = made.report, not made.report.troubles
    if as_json:
        click.echo(codec.encode({"file": str(file) if kept else None, "size_bytes": made.size_bytes, "report": report}))
    elif kept:
        click.echo(f"{_contents(report)}; {made.size_bytes} bytes in {file}.")
    else:
        _tell_troubles(report)
        click.echo(f"{_troubles(report)} found in the copy, which was not kept; see `rbees orcd db check`.")
    return 0 if kept else 1


def _settings(state_dir: str | None) -> OrcdSettings:
    from rbees.service import settings

    return settings.load("orcd", OrcdSettings, {"state_dir": state_dir}).values


def _contents(report: DatabaseReport) -> str:
    return f"{report.jobs} jobs, {report.unended_jobs} of them not ended, {report.events} events, schema {report.schema_version}"


def _troubles(report: DatabaseReport) -> str:
    count = len(report.troubles) + report.further_troubles
    return f"{count} trouble{'' if count == 1 else 's'}"


def _tell_troubles(report: DatabaseReport) -> None:
    for trouble in report.troubles:
        click.echo(f"{f'job {trouble.job_id}' if trouble.job_id else 'the database'}: {trouble.what}")
    if report.further_troubles:
        click.echo(f"and {report.further_troubles} more")
