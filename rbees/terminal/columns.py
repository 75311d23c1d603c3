"""What a table is made of before anybody knows how wide it may be. Imports no rich, so that plain output does not pay for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Style = Literal["plain", "heading", "chosen", "trouble", "quiet"]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of text and what it is."""

    text: str
    style: Style = "plain"


@dataclass(frozen=True, slots=True)
class Column:
    """How one column behaves where room is short."""

    title: str
    rank: int = 0
    """Of those with the highest rank one is left out first; 0 stays."""
    least: int = 0
    """Cells that it may be shortened to; 0 for what is only worth something whole, such as a figure."""
    right: bool = False
    tail: bool = False
    """Its end tells one from another, as with ids: the beginning is given up first."""
    whole: bool = False
    """Names and references, which somebody may copy: never shortened or broken. In the first column one that finds no room stands
    on a line of its own above the rest of its row; another column stands beneath its rows as soon as one of its cells finds none.
    """
    prose: bool = False
    """Sentences: folded between their words, into `least` cells or as many as can be read."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table's content."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]
    empty: str
    """What is said where there are no rows."""


@dataclass(frozen=True, slots=True)
class Page:
    """Names with their values, then tables."""

    pairs: Sequence[tuple[str, str]] = ()
    sheets: Sequence[Sheet] = ()
