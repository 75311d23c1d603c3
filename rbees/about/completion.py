"""`rbees completion SHELL`: the script that makes a shell complete every name of this program."""

from __future__ import annotations

import click

from rbees.terminal.completion import SHELLS, script


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
