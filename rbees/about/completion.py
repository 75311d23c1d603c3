"""`rbees completion SHELL`: the script that makes a shell complete every name of this program."""

from __future__ import annotations

import click
from click.shell_completion import ShellComplete, get_completion_class

from rbees.personas import CALLED_NAMES

SHELLS = ("bash", "zsh", "fish")


def script(shell: str) -> str:
    """The completion script for all names, to be evaluated by `shell`."""
    kind = get_completion_class(shell)
    assert kind is not None, f"click knows no shell {shell}"
    return "\n".join(_script_for(kind, name) for name in ("rbees", *CALLED_NAMES))


@click.command(name="completion", no_args_is_help=True)
@click.argument("shell", type=click.Choice(SHELLS))
def command(shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash:  echo 'eval "$(rbees completion bash)"' >> ~/.bashrc
    zsh:   echo 'eval "$(rbees completion zsh)"' >> ~/.zshrc
    fish:  rbees completion fish > ~/.config/fish/completions/rbees.fish
    """
    click.echo(script(shell), nl=False)


def _script_for(kind: type[ShellComplete], name: str) -> str:
    variable = f"_{name.replace('-', '_')}_COMPLETE".upper()
    # The base class's method: bash's own first runs a bash to ask for its version, and this one may not be the user's.
    return ShellComplete.source(kind(click.Group(), {}, name, variable))
