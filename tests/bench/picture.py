"""Rows as a picture: one bar per figure, as a share of its goal, in plain SVG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from xml.sax.saxutils import escape

from tests.bench.rows import Row, number

ROW_HEIGHT: Final = 26
LABELS_WIDTH: Final = 270
GOAL_X: Final = 470
WIDTH: Final = 760
MOST: Final = 1.6
"""Bars longer than this share of the goal are cut off."""


def draw(rows: Sequence[Row]) -> str:
    """The SVG document. Green bars hold their goal, which the line marks; the label says on which side of it they should end."""
    height = ROW_HEIGHT * (len(rows) + 2)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="{GOAL_X}" y="16" text-anchor="middle" fill="#444444">goal</text>',
        f'<line x1="{GOAL_X}" y1="22" x2="{GOAL_X}" y2="{height - 12}" stroke="#444444" stroke-dasharray="4 3"/>',
    ]
    parts += [_bar(row, ROW_HEIGHT * (position + 1)) for position, row in enumerate(rows)]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _bar(row: Row, y: int) -> str:
    assert row.goal is not None
    reached = row.value if row.ratio is None else row.ratio
    share = min(max(reached / row.goal, 0.0), MOST)
    width = share * (GOAL_X - LABELS_WIDTH)
    unit = f"× {row.ratio:.2f}" if row.ratio is not None else f"{number(row.value)} {row.unit}"
    unit += f" ({'≥' if row.least else '≤'} {row.goal:g})"
    colour = "#3a8f5c" if row.holds else "#c0504d"
    middle = y + ROW_HEIGHT / 2 + 4
    return (
        f'<text x="{LABELS_WIDTH - 8}" y="{middle}" text-anchor="end" fill="#222222">{escape(row.name)}</text>'
        f'<rect x="{LABELS_WIDTH}" y="{y + 4}" width="{width:.1f}" height="{ROW_HEIGHT - 8}" fill="{colour}"/>'
        f'<text x="{max(LABELS_WIDTH + width, GOAL_X) + 8:.1f}" y="{middle}" fill="#222222">{escape(unit)}</text>'
    )
