"""`rbees ctl`, also called `llorch`: the groups of commands. Each one imports what it calls only when it is used."""

from __future__ import annotations

import click

from rbees.ctl.chat import chat
from rbees.ctl.dev import dev
from rbees.ctl.jobs import jobs
from rbees.ctl.models import models
from rbees.ctl.plan import plan
from rbees.ctl.pools import pool
from rbees.ctl.run import run
from rbees.ctl.top import top
from rbees.ctl.vectors import embed, rerank


@click.group(name="ctl", no_args_is_help=True)
def command() -> None:
    """The operator's client: answers, chats, jobs, pools, models, plans, vectors, and a live view."""


command.add_command(run)
command.add_command(chat)
command.add_command(jobs)
command.add_command(pool)
command.add_command(models)
command.add_command(plan)
command.add_command(top)
command.add_command(embed)
command.add_command(rerank)
command.add_command(dev)
