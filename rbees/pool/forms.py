"""`rbees pool forms`: for `llorch`, which of these commands a daemon can serve from afar. Made from the commands themselves."""

from __future__ import annotations

from collections.abc import Iterator

import click

from rbees.terminal.output import print_json

PEER_OPTION = "poold_url"
"""A command that takes the url of a daemon needs nothing else of the host."""


@click.command(hidden=True)
@click.pass_context
def forms(context: click.Context) -> None:
    """Print every command by its words, and whether it goes over HTTP."""
    assert context.parent is not None
    print_json(dict(_forms(context.parent.command)))


def _forms(command: click.Command, words: str = "") -> Iterator[tuple[str, bool]]:
    if not isinstance(command, click.Group):
        yield words, any(parameter.name == PEER_OPTION for parameter in command.params)
        return
    for name, child in sorted(command.commands.items()):
        if not child.hidden:
            yield from _forms(child, f"{words} {name}".strip())
