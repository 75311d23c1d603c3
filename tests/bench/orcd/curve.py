"""Figures by the size of something, as lines over two logarithmic axes, in plain SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final
from xml.sax.saxutils import escape

WIDTH: Final = 640
HEIGHT: Final = 360
LEFT: Final = 70
RIGHT: Final = 150
TOP: Final = 30
BOTTOM: Final = 50
COLOURS: Final = ("#3a6ea5", "#3a8f5c", "#c0504d", "#8064a2", "#b8860b")

Point = tuple[float, float]


def draw(title: str, across: str, up: str, lines: Mapping[str, Sequence[Point]], goal: float | None = None) -> str:
    """The SVG document. Every decade has a rule; `goal` is a dashed one."""
    points = [point for line in lines.values() for point in line]
    xs = _decades([x for x, _ in points])
    ys = _decades([y for _, y in points] + ([] if goal is None else [goal]))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        _text((LEFT + WIDTH - RIGHT) / 2, 18, title),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, across),
        f'<text transform="translate(16 {HEIGHT / 2}) rotate(-90)" text-anchor="middle" fill="#444444">{escape(up)}</text>',
    ]
    for decade in range(xs[0], xs[1] + 1):
        x = _x(10.0**decade, xs)
        parts += [_rule(x, TOP, x, HEIGHT - BOTTOM), _text(x, HEIGHT - BOTTOM + 16, f"{10.0**decade:g}")]
    for decade in range(ys[0], ys[1] + 1):
        y = _y(10.0**decade, ys)
        parts += [_rule(LEFT, y, WIDTH - RIGHT, y), _text(LEFT - 8, y + 4, f"{10.0**decade:g}", "end")]
    if goal is not None:
        y = _y(goal, ys)
        parts += [_rule(LEFT, y, WIDTH - RIGHT, y, dashed=True), _text(WIDTH - RIGHT + 6, y + 4, f"goal {goal:g}", "start")]
    for position, (name, line) in enumerate(lines.items()):
        colour = COLOURS[position % len(COLOURS)]
        path = " ".join(f"{_x(x, xs):.1f},{_y(y, ys):.1f}" for x, y in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{_x(x, xs):.1f}" cy="{_y(y, ys):.1f}" r="3" fill="{colour}"/>' for x, y in line]
        y = TOP + 16 * position + 8
        parts.append(f'<rect x="{WIDTH - RIGHT + 6}" y="{y - 8}" width="10" height="10" fill="{colour}"/>')
        parts.append(_text(WIDTH - RIGHT + 22, y + 1, name, "start"))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _decades(values: Sequence[float]) -> tuple[int, int]:
    return math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))


def _x(value: float, decades: tuple[int, int]) -> float:
    return LEFT + (math.log10(value) - decades[0]) / max(decades[1] - decades[0], 1) * (WIDTH - LEFT - RIGHT)


def _y(value: float, decades: tuple[int, int]) -> float:
    return HEIGHT - BOTTOM - (math.log10(value) - decades[0]) / max(decades[1] - decades[0], 1) * (HEIGHT - TOP - BOTTOM)


def _rule(x1: float, y1: float, x2: float, y2: float, *, dashed: bool = False) -> str:
    stroke = 'stroke="#444444" stroke-dasharray="4 3"' if dashed else 'stroke="#dddddd"'
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {stroke}/>'


def _text(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="#444444">{escape(text)}</text>'
