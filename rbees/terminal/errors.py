"""A failure on stderr: one sentence and the details that help, or the error envelope where a program asked for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import click

from rbees.protocol import codec
from rbees.protocol.errors import ErrorCode, ErrorEnvelope, RbeesError
from rbees.terminal.text import printable

_FOR_PROGRAMS: Final = frozenset({"field"})
"""Details that name a thing of the API, which somebody at a terminal has not typed; so do numbers of bytes."""


def show_error(error: RbeesError, *, as_json: bool, name: str = "rbees") -> None:
    """Print `error` to stderr; as JSON it is the same envelope that daemons answer with."""
    if as_json:
        click.echo(codec.encode(ErrorEnvelope(error=error.body())).decode(), err=True)
        return
    for line in error_lines(error, name):
        click.echo(line, err=True)


def error_lines(error: RbeesError, name: str) -> list[str]:
    """The sentence with its code, then each detail that says more than the sentence does, and says it to people."""
    sentence = printable(error.message)
    lines = [f"{name}: {sentence} [{error.code}]"]
    for key, value in error.details.items():
        if key in _FOR_PROGRAMS or key.endswith("_bytes"):
            continue
        if isinstance(value, list | tuple) and all(isinstance(part, str) for part in value):
            lines += _listed(key, value, sentence)
        elif isinstance(value, str | int | float) and not isinstance(value, bool) and printable(str(value)) not in sentence:
            lines.append(f"  {key}: {printable(str(value))}")
    if error.code is ErrorCode.INTERNAL and error.correlation_id is not None:
        # The daemon's log has the rest under this id.
        lines.append(f"  correlation_id: {printable(error.correlation_id)}")
    return lines


def _listed(key: str, parts: Sequence[str], sentence: str) -> list[str]:
    """Several values, one below the other; none where the sentence holds each of them."""
    shown = [printable(part) for part in parts]
    return [f"  {key}:", *(f"    {part}" for part in shown)] if any(part not in sentence for part in shown) else []
