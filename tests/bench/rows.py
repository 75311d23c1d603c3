"""One figure as a row, rows as a file and as a table. Knows nothing of how anything is measured."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

RESULTS: Final = Path("build/bench.json")


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One figure. `goal` is the most (with `least`: the least) that `ratio` may be, or that `value` may be without a peer."""

    name: str
    """`spine.…`: the suite, then the figure."""
    value: float
    unit: str
    peer: float | None = None
    """What the peer needed in the same run, in the same unit."""
    ratio: float | None = None
    goal: float | None = None
    least: bool = False
    holds: bool | None = None
    """None where the figure is only reported."""
    about: str = ""
    """What was measured, and against which peer."""
    spread: tuple[float, float] | None = None
    """The smallest and largest of the values that `value` is the median of."""


def at_most(name: str, value: float, unit: str, goal: float | None, about: str, **more: Any) -> Row:
    """A figure that has no peer: `value` should not exceed `goal`."""
    holds = None if goal is None else value <= goal
    return Row(name=name, value=value, unit=unit, goal=goal, holds=holds, about=about, **more)


def against(
    name: str, value: float, peer: float, unit: str, goal: float | None, about: str, *, least: bool = False, **more: Any
) -> Row:
    """A figure beside its peer: `value / peer` should not exceed `goal`, or with `least` reach it."""
    ratio = value / peer
    holds = None if goal is None else ratio >= goal if least else ratio <= goal
    return Row(name=name, value=value, unit=unit, peer=peer, ratio=ratio, goal=goal, least=least, holds=holds, about=about, **more)


def load(path: Path) -> list[Row]:
    """The rows of earlier runs; none where there is no such file."""
    return msgspec.json.decode(path.read_bytes(), type=list[Row]) if path.exists() else []


def save(rows: Iterable[Row], path: Path) -> None:
    """Write the rows as a list of objects, a line each, so that runs can be compared by eye too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(msgspec.to_builtins(row)) for row in rows)
    path.write_text(f"[\n{lines}\n]\n")


def merge(earlier: Sequence[Row], fresh: Sequence[Row], whole_suites: Collection[str]) -> list[Row]:
    """The fresh rows in place of the earlier ones of the same names, and of everything that suites which ran whole once had."""
    names = {row.name for row in fresh}
    kept = [row for row in earlier if row.name not in names and suite_of(row) not in whole_suites]
    return sorted([*kept, *fresh], key=suite_of)


def suite_of(row: Row) -> str:
    """The first word of a row's name."""
    return row.name.partition(".")[0]


def cells(row: Row) -> tuple[str, str, str, str, str]:
    """Name, value, peer and ratio, goal, and whether it holds, as text."""
    spread = f" ({number(row.spread[0])}–{number(row.spread[1])})" if row.spread else ""
    beside = "" if row.peer is None or row.ratio is None else f"{number(row.peer)} {row.unit}, × {row.ratio:.2f}"
    goal = "" if row.goal is None else f"{'≥' if row.least else '≤'} {'× ' if row.ratio is not None else ''}{row.goal:g}"
    verdict = {True: "yes", False: "**no**", None: "reported"}[row.holds]
    return row.name, f"{number(row.value)} {row.unit}{spread}", beside, goal, verdict


def number(value: float) -> str:
    """Three significant figures, without an exponent."""
    if value == 0:
        return "0"
    digits = max(0, 2 - len(str(int(abs(value)))) + 1) if abs(value) >= 1 else 3
    return f"{value:.{digits}f}"


def table(rows: Sequence[Row]) -> str:
    """The rows for a terminal."""
    head = ("figure", "value (smallest–largest)", "peer, ratio", "goal", "holds")
    lines = [head, *(cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)
