"""Tables that fit a width: what is too wide is shortened or left out, column by column. Counts cells, of which some signs take two.

A cell is data: whoever fills it has made it harmless (`terminal.text.printable`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rbees.terminal.columns import Column
from rbees.terminal.rich_views import LEAST_PROSE, cell_len, chop_cells, set_cell_size

GAP: Final = "  "
CUT: Final = "…"


@dataclass(frozen=True, slots=True)
class Table:
    """Lines under a heading, and the titles for which there was no room, or none beside the others."""

    heading: str
    lines: tuple[str, ...]
    """No wider than asked for, but for what must stay whole and is wider by itself."""
    left_out: tuple[str, ...]
    beneath: tuple[str, ...] = ()
    """What stands beneath each row instead."""


def fitted(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> Table:
    """The rows under their headings. Columns in which nothing stands are not shown."""
    titles = [column.title.upper() for column in columns]
    kept = [index for index in range(len(columns)) if any(row[index] for row in rows)]
    widths = {index: max(cell_len(text) for text in (titles[index], *(row[index] for row in rows))) for index in kept}
    least = {index: _least(columns[index], titles[index], [row[index] for row in rows], widths[index]) for index in kept}
    needed = {index: least[index] for index in kept if not columns[index].rank and not columns[index].whole}
    beneath = []
    for index in [index for index in kept if columns[index].whole]:
        room = width - sum(needed.values()) - len(GAP) * len(needed)
        if widths[index] <= room:
            pass
        elif index == kept[0]:
            fitting = [cell_len(row[index]) for row in rows if cell_len(row[index]) <= room]
            widths[index] = least[index] = min(max((cell_len(titles[index]), *fitting)), max(room, 0))
        else:
            kept.remove(index)
            beneath.append(index)
            continue
        needed[index] = widths[index]
    left_out = []
    while _total(kept, least) > width and (spare := max(kept, key=lambda index: columns[index].rank)) in _droppable(kept, columns):
        kept.remove(spare)
        left_out.append(spare)
    _shorten(kept, widths, least, width)
    indent = " " * (widths[kept[0]] + len(GAP) if kept and widths[kept[0]] < width // 2 else len(GAP))

    def line(cells: dict[int, str]) -> str:
        return cut(GAP.join(_filled(cells.get(index, ""), widths[index], columns[index].right) for index in kept), width).rstrip()

    def lines(row: Sequence[str]) -> list[str]:
        alone = kept[0] if kept and columns[kept[0]].whole and cell_len(row[kept[0]]) > widths[kept[0]] else None
        parts = {index: _parts(row[index], widths[index], columns[index]) for index in kept if index != alone}
        height = max((len(some) for some in parts.values()), default=0)
        beside = [line({index: some[number] for index, some in parts.items() if number < len(some)}) for number in range(height)]
        above = [] if alone is None else [row[alone]]
        return [*above, *beside, *(f"{indent}{row[index]}" for index in beneath if row[index])]

    return Table(
        line({index: cut(titles[index], widths[index]) for index in kept}),
        tuple(text for row in rows for text in lines(row)),
        tuple(columns[index].title for index in reversed(left_out)),
        tuple(columns[index].title for index in beneath),
    )


def fold(text: str, width: int) -> list[str]:
    """`text` in lines of at most `width` cells, broken between words, and within one only where it is wider by itself."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if cell_len(longer) <= width:
            lines[-1] = longer
        elif cell_len(word) <= width:
            lines.append(word)
        else:
            lines += chop_cells(word, max(width, 2))
    return lines if lines[0] or len(lines) == 1 else lines[1:]


def cut(text: str, width: int) -> str:
    """`text`, or as much of it as fits with a sign that there is more."""
    if cell_len(text) <= width:
        return text
    return f"{set_cell_size(text, width - 1)}{CUT}" if width > 0 else ""


def beside(left: str, right: str, width: int) -> str:
    """Both on one line, the right one at its end; where there is too little room that is cut first."""
    room = width - cell_len(left) - len(GAP)
    return cut(left, width) if room < 1 else f"{left}{GAP}{_filled(cut(right, room), room, True)}"


def _least(column: Column, title: str, cells: Sequence[str], natural: int) -> int:
    """Cells to which the column can be shortened, and its title be read."""
    if column.whole:
        return natural
    if column.prose:
        longest = max((cell_len(word) for cell in cells for word in cell.split()), default=0)
        return min(natural, max(column.least or LEAST_PROSE, longest, cell_len(title)))
    return min(natural, max(column.least, cell_len(title))) if column.least else natural


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


def _parts(text: str, width: int, column: Column) -> list[str]:
    """What stands on each line of a cell."""
    return fold(text, width) if column.prose and not column.whole else [_short(text, width, column)]


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
