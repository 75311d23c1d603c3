"""`llorch dev doctor|setup`: the same as `rbees pool dev …` on this machine, for a host that is to run the orchestrator.

What a host is made of is the pool tool's business, so this runs that one and passes its exit code on.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Final

import click

_AS_TYPED: Final = {"ignore_unknown_options": True, "allow_interspersed_args": False, "help_option_names": []}


@click.group()
def dev() -> None:
    """Set this machine up for the orchestrator, and look whether it is well."""


@dev.command(context_settings=_AS_TYPED)
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def doctor(options: tuple[str, ...]) -> int:
    """Examine this machine; the options are those of `rbees pool dev doctor`."""
    return _run_here("doctor", options)


@dev.command(context_settings=_AS_TYPED)
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def setup(options: tuple[str, ...]) -> int:
    """Prepare this machine; the options are those of `rbees pool dev setup`."""
    return _run_here("setup", options)


def _run_here(command: str, options: tuple[str, ...]) -> int:
    # A role that is named in the options stands beside this one's default.
    roles = () if "--role" in options or any(option.startswith("--role=") for option in options) else ("--role", "orcd")
    words = ("pool", "dev", command, *roles, *options)
    try:
        return subprocess.run([sys.executable, "-P", "-m", "rbees", *words], check=False).returncode
    except KeyboardInterrupt:
        # The child got it as well and is about to end.
        return 130
