"""`rbees up`: the command line of home mode."""

from __future__ import annotations

import re
from typing import Final

import click

from rbees.terminal.output import json_option

_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#\s*]+/?", re.IGNORECASE)
_HOST: Final = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*", re.IGNORECASE)


def _origins(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if not _ORIGIN.fullmatch(value):
            message = f"{value!r} is no origin; write scheme and host as the browser shows them, such as http://localhost:3000."
            raise click.BadParameter(message)
    return values


def _hosts(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if not _HOST.fullmatch(value):
            raise click.BadParameter(f"{value!r} is no name of a host; write it without scheme and port, such as bees.example.")
    return values


@click.command(name="up")
@click.option("--model", metavar="REF", help="Make this model ready before the first job.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on. Default: 8080, or a free one where that is taken.")
@click.option(
    "--model-dir",
    "model_dirs",
    multiple=True,
    metavar="FOLDER",
    type=click.Path(exists=True, file_okay=False),
    help="Look for GGUF files here too; may be given several times.",
)
@click.option(
    "--allow-origin",
    "origins",
    multiple=True,
    metavar="URL",
    callback=_origins,
    help="Let pages of this origin call from a browser, such as http://localhost:3000; may be given several times.",
)
@click.option(
    "--allow-host",
    "hosts",
    multiple=True,
    metavar="NAME",
    callback=_hosts,
    help="Answer to this name too, by which a tunnel or a proxy calls; may be given several times.",
)
@click.option(
    "--ctx",
    type=click.IntRange(64, 16_777_216),
    metavar="TOKENS",
    help="Most tokens of a prompt and its answer together; a model trained for less takes less. Default: 4096.",
)
@json_option
def command(
    model: str | None,
    port: int | None,
    model_dirs: tuple[str, ...],
    origins: tuple[str, ...],
    hosts: tuple[str, ...],
    ctx: int | None,
    as_json: bool,
) -> int:
    """Run everything on this machine: an orchestrator and a pool, on loopback, with no configuration.

    It stays in the foreground; Ctrl-C ends all of it, a second Ctrl-C at once.
    """
    from rbees.service.home import HomeFile
    from rbees.up.ports import refuse_taken

    if port:
        refuse_taken(port)
    # Taken before anything heavy is imported: a command on the next line of a script should find that a home is starting.
    with HomeFile() as file:
        from rbees.up.home_mode import Callers
        from rbees.up.session import run

        return run(file, model, port, model_dirs, Callers(origins, hosts), ctx, as_json=as_json)
