"""`rbees up`: the command line of home mode."""

from __future__ import annotations

import click

from rbees.terminal.output import json_option


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
@json_option
def command(model: str | None, port: int | None, model_dirs: tuple[str, ...], as_json: bool) -> int:
    """Run everything on this machine: an orchestrator and a pool, on loopback, with no configuration.

    It stays in the foreground; Ctrl-C ends all of it, a second Ctrl-C at once.
    """
    from rbees.service.home import HomeFile
    from rbees.up.ports import refuse_taken

    if port:
        refuse_taken(port)
    # Taken before anything heavy is imported: a command on the next line of a script should find that a home is starting.
    with HomeFile() as file:
        from rbees.up.session import run

        return run(file, model, port, model_dirs, as_json=as_json)
