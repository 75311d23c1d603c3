"""Rows into docs/benchmarks.md: the tables between its marks, the line about the machine, and the picture beside it."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.bench.picture import draw
from tests.bench.rows import Row, cells, suite_of

DOCUMENT: Final = Path("docs/benchmarks.md")
PICTURE: Final = Path("docs/images/benchmarks.svg")


def write(rows: Sequence[Row]) -> None:
    """Replace what stands between `<!-- bench:NAME -->` and `<!-- end:NAME -->` for each suite that was measured."""
    text = DOCUMENT.read_text()
    for suite in sorted({suite_of(row) for row in rows}):
        text = replace_between(text, suite, markdown([row for row in rows if suite_of(row) == suite]))
    DOCUMENT.write_text(replace_between(text, "machine", machine()))
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(draw([row for row in rows if row.goal is not None]))


def replace_between(text: str, name: str, content: str) -> str:
    """`text` with the part between the marks of `name` replaced; both marks must be there once."""
    marked = re.compile(rf"(<!-- bench:{re.escape(name)} -->\n).*?(<!-- end:{re.escape(name)} -->)", re.DOTALL)
    replaced, count = marked.subn(lambda match: f"{match[1]}{content}\n{match[2]}", text)
    assert count == 1, f"{DOCUMENT} has no place for `{name}`"
    return replaced


def markdown(rows: Sequence[Row]) -> str:
    """One table, with what each figure is as its first column."""
    lines = ["| what | value | peer, ratio | goal | holds |", "|---|---|---|---|---|"]
    for row in rows:
        name, *rest = cells(row)
        lines.append(f"| {row.about} (`{name}`) | {' | '.join(rest)} |")
    return "\n".join(lines)


def machine() -> str:
    """What these figures were taken on, and in what company."""
    return (
        f"Measured on {os.cpu_count()} cores of {_processor()}, {_memory_gb():.0f} GB of memory, {platform.system()} "
        f"{platform.release().split('-')[0]}, Python {platform.python_version()}. {_company()}"
    )


def _company() -> str:
    """Figures of a machine that others use as well mean less, and the reader must know."""
    load = f"The load average at the end was {os.getloadavg()[0]:.1f}"
    if hasattr(os, "sched_getscheduler") and os.sched_getscheduler(0) != os.SCHED_OTHER:
        return f"{load}: others used the machine too, so everything measured ran at real-time priority (`chrt -r 1`)."
    return f"{load}."


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _memory_gb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
