"""Data on stdout: a table for people, aligned columns for pipes, JSON for programs. rich is imported on a terminal only."""

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


def print_json(value: Any) -> None:
    """One JSON document on a line of its own."""
    click.echo(codec.encode(value).decode())


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, empty: str) -> None:
    """Rows under headers; `empty` goes to stderr where there is none, so that a pipe gets nothing."""
    if not rows:
        click.echo(empty, err=True)
        return
    cleaned = [[printable(cell) for cell in row] for row in rows]
    if is_live(sys.stdout):
        from rbees.terminal.rich_views import show_table

        show_table(headers, cleaned)
        return
    for line in aligned([[header.upper() for header in headers], *cleaned]):
        click.echo(line)


def print_pairs(pairs: Sequence[tuple[str, str]]) -> None:
    """Names and values, one pair a line."""
    width = max((len(name) for name, _ in pairs), default=0)
    for name, value in pairs:
        click.echo(f"{name:<{width}}{GAP}{printable(value)}")


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines in which every column starts at the same place."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [GAP.join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
