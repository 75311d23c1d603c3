"""The matrix of faults: what is caused and expected, at which size, and the figures that tests reach.

Tests run at a small size, so that all of them fit into `make test`. `make faults` sets FAULT_SIZE to `full`, which is the size that
docs/reliability.md tells of, and loads `tests.support.fault_rows`, which prints what was recorded here.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from tests.bench.rows import Row, number

FULL: Final = os.environ.get("FAULT_SIZE") == "full"


@dataclass(frozen=True)
class Fault:
    """A row of the matrix."""

    what: str
    caused: str
    expected: str


MATRIX: Final = {
    "worker_death": Fault("worker dies in mid-stream", "kill -9 under load", "the stream goes on from its last token on another"),
    "schema_death": Fault("… under a JSON schema", "kill -9", "the same valid JSON"),
    "hang": Fault("worker hangs", "SIGSTOP, later SIGCONT", "seen by missing beats; what it sends later is dropped"),
    "remains": Fault("remains of a dead worker", "kill -9; an entry without a process", "reaped and cleared away"),
    "poold_death": Fault("poold dies", "kill -9, again and again under load", "workers live on and are adopted"),
    "poold_state": Fault("poold's state erased", "kill -9, folder deleted", "found again among the processes"),
    "orcd_death": Fault(
        "orcd dies", "kill -9, again and again, with a queue", "journal read, workers attached to, streams resumed"
    ),
    "orcd_stall": Fault("orcd stands still", "SIGSTOP, later SIGCONT", "nobody else is blamed for silence, streams go on"),
    "early_answer": Fault("answer before its sync", "strace shows the order", "never"),
    "partition": Fault("partition", "pool cut off in its network namespace", "short: nothing; long: on elsewhere, then adopted"),
    "half_open": Fault("half-open TCP", "packets vanish in mid-stream", "noticed, on elsewhere"),
    "never_read": Fault("clients that never read", "smallest receive buffers", "bounded, cut off; others feel nothing"),
    "client_gone": Fault("client gone", "connection closed, `cancel_on_disconnect`", "cancelled in the engine, slot free"),
    "slow_clients": Fault("slow heads and bodies", "sockets that trickle", "cut off; `/livez` answers"),
    "disk_full": Fault("disk full", "strace injects ENOSPC", "507 for new work, reads go on"),
    "io_error": Fault("EIO at a sync", "strace injects EIO", "exit 74, what was accepted is there"),
    "slow_sync": Fault("slow sync", "strace delays fdatasync", "slower, and nothing else"),
    "poison": Fault("poison job", "engine dies on a marker", "suspects run alone; two deaths alone end it"),
    "crash_loop": Fault("worker dies while loading, again and again", "SIGKILL at load", "pauses, then the breaker; reason shown"),
    "silence": Fault("all heartbeats stop at once", "orcd cut off from three pools", "nothing is moved"),
    "reconnect": Fault("many pools come back at once", "kill -9 of orcd under 200 pools", "let in by and by, soon all are there"),
    "overload": Fault("overload × 10", "ten times what the queue takes", "429 with Retry-After before any work"),
    "sigterm": Fault("SIGTERM under load", "SIGTERM to orcd", "503 for new work, the running finishes, exit 0"),
    "migration": Fault("migration killed", "kill -9 at any moment", "the old schema or the new"),
    "second_orcd": Fault("second orcd on one file", "started beside the first", "exit 75, the first goes on"),
    "clock": Fault("wall clock jumps an hour", "clock of both daemons moved to and fro", "nothing"),
}
"""By the word with which tests record their figures."""

_found: list[Row] = []


def size(small: int, full: int) -> int:
    """How much of something a test takes."""
    return full if FULL else small


def reached(fault: str, figure: str, value: float, unit: str = "", *, goal: float | None = None, strict: bool = True) -> None:
    """Record and print what a test reached. A figure above its goal fails the test, unless it is not `strict`: times depend on the
    machine and are only reported.
    """
    assert fault in MATRIX, fault
    holds = None if goal is None else value <= goal
    about = f"{MATRIX[fault].what}: {MATRIX[fault].caused}"
    _found.append(Row(name=f"orcd.faults.{fault}.{figure}", value=value, unit=unit, goal=goal, holds=holds, about=about))
    aim = "" if goal is None else f" (at most {goal:g})"
    print(f"{fault}: {figure.replace('_', ' ')} {_written(value)} {unit}{aim}")
    assert holds is not False or not strict, f"{figure}: {value:g} {unit}, at most {goal:g}"


def figures() -> list[Row]:
    """All that was reached, in the order of the matrix; of what several tests reached, the worst."""
    worst: dict[str, Row] = {}
    for row in _found:
        if row.name not in worst or row.value > worst[row.name].value:
            worst[row.name] = row
    order = list(MATRIX)
    return sorted(worst.values(), key=lambda row: order.index(fault_of(row)))


def fault_of(row: Row) -> str:
    """The word of the matrix that a figure belongs to."""
    return row.name.split(".")[2]


def figure_of(row: Row) -> str:
    """A figure in words, with what it may be at most."""
    words = f"{row.name.split('.')[3].replace('_', ' ')} {_written(row.value)}{' ' + row.unit if row.unit else ''}"
    return words if row.goal is None else f"{words} ({'≤' if row.holds else '**above**'} {row.goal:g})"


def _written(value: float) -> str:
    return f"{value:.0f}" if value == int(value) else number(value)


def table(rows: Iterable[Row]) -> str:
    """The matrix in Markdown, with the figures reached."""
    reached_by: dict[str, list[str]] = {}
    for row in rows:
        reached_by.setdefault(fault_of(row), []).append(figure_of(row))
    lines = ["| fault | how it is caused | expected | reached |", "|---|---|---|---|"]
    for word, fault in MATRIX.items():
        if word in reached_by:
            lines.append(f"| {fault.what} | {fault.caused} | {fault.expected} | {'; '.join(reached_by[word])} |")
    return "\n".join(lines)


def quantile(values: Iterable[float], share: float) -> float:
    """The smallest value that `share` of all do not exceed; 0 where there are none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0
