"""`rbees pool forms`: for `llorch`, which of these commands a daemon can serve from afar. Made from the commands themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.terminal.output import print_json

PEER_OPTION = "poold_url"
"""A command that takes the url of a daemon needs nothing else of the host, unless it is given a `HostOption`."""


class HostOption(click.Option):
    """An option that means something of the host itself, such as a folder: with it no daemon serves the command from afar."""


def check_host_option(option: str, value: Any) -> None:
    """See that the command was not sent to a daemon that may be another host's, where its words would mean that host's things.

    Raises:
        RbeesError: INVALID_REQUEST.
    """
    if value is not None and is_peer_named():
        message = (
            f"`{option}` means a folder of the host where the command runs, and no daemon takes it; leave it out, or run the "
            "command on that host, by SSH with `llorch pool … --host NAME`."
        )
        raise RbeesError(ErrorCode.INVALID_REQUEST, message, field=option.lstrip("-").replace("-", "_"))


def is_peer_named() -> bool:
    """Whether the command that runs was told a daemon, which may be another host's."""
    return click.get_current_context().params.get(PEER_OPTION) is not None


@click.command(hidden=True)
@click.pass_context
def forms(context: click.Context) -> None:
    """Print every command by its words, with the options that need the host itself; null where all of it does."""
    assert context.parent is not None
    print_json(dict(_forms(context.parent.command)))


def _forms(command: click.Command, words: str = "") -> Iterator[tuple[str, list[str] | None]]:
    if not isinstance(command, click.Group):
        goes = any(parameter.name == PEER_OPTION for parameter in command.params)
        of_host = [name for parameter in command.params if isinstance(parameter, HostOption) for name in parameter.opts]
        yield words, of_host if goes else None
        return
    for name, child in sorted(command.commands.items()):
        if not child.hidden:
            yield from _forms(child, f"{words} {name}".strip())
