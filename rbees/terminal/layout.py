"""Tables that fit a width: what is too wide is shortened or left out, column by column. Counts cells, of which some signs take two.

A cell is data: whoever fills it has made it harmless (`terminal.text.printable`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rbees.terminal.columns import Column
from rbees.terminal.rich_views import cell_len, set_cell_size

GAP: Final = "  "
CUT: Final = "…"


@dataclass(frozen=True, slots=True)
class Table:
    """Lines of one width, the heading first, and the titles for which there was no room."""

    heading: str
    lines: tuple[str, ...]
    left_out: tuple[str, ...]


def fitted(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> Table:
    """The rows under their headings, no line wider than `width`. Columns in which nothing stands are not shown."""
    kept = [index for index in range(len(columns)) if any(row[index] for row in rows)]
    widths = {index: max(cell_len(text) for text in (columns[index].title, *(row[index] for row in rows))) for index in kept}
    least = {index: min(widths[index], max(columns[index].least, len(columns[index].title))) for index in kept}
    least |= {index: widths[index] for index in kept if not columns[index].least}
    left_out = []
    while _total(kept, least) > width and (spare := max(kept, key=lambda index: columns[index].rank)) in _droppable(kept, columns):
        kept.remove(spare)
        left_out.append(columns[spare].title)
    _shorten(kept, widths, least, width)

    def line(cells: Sequence[str]) -> str:
        return cut(
            GAP.join(
                _filled(_short(cells[index], widths[index], columns[index]), widths[index], columns[index].right) for index in kept
            ),
            width,
        ).rstrip()

    return Table(line([column.title for column in columns]), tuple(line(row) for row in rows), tuple(reversed(left_out)))


def cut(text: str, width: int) -> str:
    """`text`, or as much of it as fits with a sign that there is more."""
    if cell_len(text) <= width:
        return text
    return f"{set_cell_size(text, width - 1)}{CUT}" if width > 0 else ""


def beside(left: str, right: str, width: int) -> str:
    """Both on one line, the right one at its end; where there is too little room that is cut first."""
    room = width - cell_len(left) - len(GAP)
    return cut(left, width) if room < 1 else f"{left}{GAP}{_filled(cut(right, room), room, True)}"


def _total(kept: Sequence[int], widths: dict[int, int]) -> int:
    return sum(widths[index] for index in kept) + len(GAP) * (len(kept) - 1)


def _droppable(kept: Sequence[int], columns: Sequence[Column]) -> list[int]:
    return [index for index in kept if columns[index].rank]


def _shorten(kept: Sequence[int], widths: dict[int, int], least: dict[int, int], width: int) -> None:
    """Take from the widest that can be shortened, until the line fits or none can."""
    over = _total(kept, widths) - width
    while over > 0:
        able = [index for index in kept if widths[index] > least[index]]
        if not able:
            return
        widest = max(able, key=widths.__getitem__)
        others = [widths[index] for index in able if index != widest]
        step = min(over, widths[widest] - least[widest], max(1, widths[widest] - max(others, default=0)))
        widths[widest] -= step
        over -= step


def _short(text: str, width: int, column: Column) -> str:
    if not column.tail or cell_len(text) <= width:
        return cut(text, width)
    end = len(text)
    while end and cell_len(text[end - 1 :]) < width:
        end -= 1
    return f"{CUT}{text[end:]}" if width > 0 else ""


def _filled(text: str, width: int, right: bool) -> str:
    space = " " * (width - cell_len(text))
    return space + text if right else text + space
