"""`rbees poold serve`: the pool daemon's command line."""

from __future__ import annotations

import sys

import click

from rbees.service.flags import settings_flags
from rbees.service.role_settings import PooldSettings


@click.group()
def command() -> None:
    """The pool daemon of a host: reports devices and models, starts and watches workers."""


@command.command()
@settings_flags(PooldSettings)
@click.option("--stop-workers-on-exit", is_flag=True, help="Drain and end the workers too when told to stop.")
def serve(stop_workers_on_exit: bool, **flags: object) -> None:
    """Serve until told to stop. Workers stay for the next daemon unless told otherwise."""
    # The daemon's parts are imported only when it runs: its help must not wait for them.
    from rbees.poold import app
    from rbees.service import logs, settings

    loaded = settings.load("poold", PooldSettings, flags).values
    logs.configure("poold", loaded.log_level, loaded.log_format)
    sys.exit(app.serve(loaded, stop_workers_on_exit))
