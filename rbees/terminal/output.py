"""Data on stdout: names with their values for people, aligned columns for pipes, JSON for programs. Tables are in `pages`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final, TextIO, TypeVar

import click

from rbees.protocol import codec
from rbees.terminal.text import printable

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

GAP: Final = "  "


def json_option(command: Decorated) -> Decorated:
    """The flag that every command has."""
    return click.option("as_json", "--json", is_flag=True, help="Print JSON for programs.")(command)


def is_live(stream: TextIO) -> bool:
    """True for a terminal on which lines can be rewritten."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def columns(stream: TextIO) -> int:
    """Cells in a line of this terminal, now; where it does not say, more than any text has."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or sys.maxsize
    except OSError:
        return sys.maxsize


def print_json(value: Any) -> None:
    """One JSON document on a line of its own."""
    click.echo(codec.encode(value).decode())


def print_pairs(pairs: Sequence[tuple[str, str]]) -> None:
    """Names and values, one pair a line."""
    width = max((len(name) for name, _ in pairs), default=0)
    for name, value in pairs:
        click.echo(f"{name:<{width}}{GAP}{printable(value)}")


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines in which every column starts at the same place."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [GAP.join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
