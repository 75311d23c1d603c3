"""The scripts that make a shell complete the names of this program."""

from __future__ import annotations

from typing import Final

import click
from click.shell_completion import ShellComplete, get_completion_class

from rbees.personas import CALLED_NAMES

SHELLS: Final = ("bash", "zsh", "fish")
NAMES: Final = ("rbees", *CALLED_NAMES)


def script(shell: str) -> str:
    """The completion script for all names, to be evaluated by `shell`."""
    return "\n".join(script_of(shell, name) for name in NAMES)


def script_of(shell: str, name: str) -> str:
    """The completion script for one name of the program."""
    kind = get_completion_class(shell)
    assert kind is not None, f"click knows no shell {shell}"
    variable = f"_{name.replace('-', '_')}_COMPLETE".upper()
    # The base class's method: bash's own first runs a bash to ask for its version, and this one may not be the user's.
    return ShellComplete.source(kind(click.Group(), {}, name, variable))
