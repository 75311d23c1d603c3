"""A question before something that cannot be taken back."""

from __future__ import annotations

import sys

import click

from rbees.protocol.errors import ErrorCode, RbeesError


def ask(question: str) -> None:
    """Return after a yes.

    Raises:
        RbeesError: INVALID_REQUEST, where nobody can be asked.
        click.Abort: after a no.
    """
    if not sys.stdin.isatty():
        message = f"{question} Nobody can be asked, as this is no terminal; say `--yes` if that is what you want."
        raise RbeesError(ErrorCode.INVALID_REQUEST, message)
    click.confirm(question, abort=True, err=True)
