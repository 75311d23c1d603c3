"""`rbees pool` (also `rbees-pool`): this host's models and workers, through its pool daemon, or directly where none runs."""

from __future__ import annotations

import click

from rbees.pool.dev import dev
from rbees.pool.fit import fit
from rbees.pool.forms import forms
from rbees.pool.git import git
from rbees.pool.models import models
from rbees.pool.status import status
from rbees.pool.workers import worker


@click.group()
def command() -> None:
    """The local tool of a pool host: its models and workers."""


command.add_command(status)
command.add_command(models)
command.add_command(fit)
command.add_command(worker)
command.add_command(git)
command.add_command(dev)
command.add_command(forms)
