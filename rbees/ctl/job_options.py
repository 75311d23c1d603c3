"""Options that every command has which submits a job: for which model, how urgent, how long."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

PRIORITIES: Final = ("interactive", "batch")

_RUN: Final = (
    click.option(
        "--priority", type=click.Choice(PRIORITIES), help="`batch` waits while interactive jobs do. Default: interactive."
    ),
    click.option("--timeout-ms", type=click.IntRange(min=1), help="Longest run, from first dispatch. Default: 300000."),
    click.option("--deadline-ms", type=click.IntRange(min=1), help="Give up so long after acceptance. Default: never."),
)


def model_option(kind: str | None = None) -> Callable[[F], F]:
    """The model, of this kind where not every one will do (`an embedding model`)."""
    of_kind = "" if kind is None else f" of {kind}"
    return click.option("--model", required=True, metavar="REF", help=f"Alias, `hf:org/repo…` or `file:/path.gguf`{of_kind}.")


def run_options(command: F) -> F:
    """How the job is run."""
    for option in reversed(_RUN):
        command = option(command)
    return command
