"""`rbees orcd`: the command line of the orchestrator."""

from __future__ import annotations

import asyncio
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
