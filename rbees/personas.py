"""The names of the program as data: each role, and every other name it is called by. Imports nothing, so that anyone may ask."""

from __future__ import annotations

from typing import Final, NamedTuple


class Persona(NamedTuple):
    """One word after `rbees`."""

    module: str
    """Where its click command lies, under the name `command`."""
    summary: str
    is_daemon: bool = False
    """A daemon's own name without a subcommand means `serve`."""


PERSONAS: Final[dict[str, Persona]] = {
    "up": Persona("rbees.up.command", "Run everything on this machine, ready to use."),
    "orcd": Persona("rbees.orcd.command", "The orchestrator daemon: accepts jobs and decides where they run.", is_daemon=True),
    "poold": Persona("rbees.poold.command", "The pool daemon of a host: reports devices, keeps workers.", is_daemon=True),
    "workerd": Persona("rbees.workerd.command", "One model in one process.", is_daemon=True),
    "ctl": Persona("rbees.ctl.command", "The operator's client: jobs, pools, models. Also called llorch."),
    "pool": Persona("rbees.pool.command", "The local tool of a pool host: its models and workers."),
    "config": Persona("rbees.about.config", "Show the settings and where each comes from."),
    "completion": Persona("rbees.about.completion", "Print the completion script of a shell."),
    "version": Persona("rbees.about.version", "Show the versions of what is installed."),
}

CALLED_NAMES: Final[dict[str, str]] = {
    "rbees-orcd": "orcd",
    "rbees-poold": "poold",
    "pool-managerd": "poold",
    "rbees-workerd": "workerd",
    "rbees-ctl": "ctl",
    "llorch": "ctl",
    "rbees-pool": "pool",
}
"""The other names of this program, and the role that each means."""
