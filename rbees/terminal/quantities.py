"""Bytes, durations and counts as people read them. No clock is read here: ages come in as durations."""

from __future__ import annotations

from typing import Final

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")
_SPANS: Final = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min"))


def bytes_text(count: int) -> str:
    """`1536` as `1.5 KiB`."""
    value, unit = float(count), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{count} B" if unit == 0 else f"{value:.1f} {_UNITS[unit]}"


def share_text(part: int, whole: int) -> str:
    """`1536` of `25 << 30` as `0.0/25.0 GiB`: both in the unit of the whole."""
    unit = 0
    while whole >= 1024 ** (unit + 1) and unit < len(_UNITS) - 1:
        unit += 1
    size = 1024**unit
    return f"{part}/{whole} B" if unit == 0 else f"{part / size:.1f}/{whole / size:.1f} {_UNITS[unit]}"


def duration_text(seconds: float) -> str:
    """`0.25` as `250 ms`, `75` as `1.2 min`."""
    if seconds < 1:
        return f"{max(0.0, seconds) * 1000:.0f} ms"
    for span, unit in _SPANS:
        if seconds >= span:
            return f"{seconds / span:.1f} {unit}"
    return f"{seconds:.1f} s"


def counted(count: int, what: str) -> str:
    """`1`, `model` as `1 model`, `2` as `2 models`."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def count_text(count: int) -> str:
    """`1100048` as `1.1 M`."""
    for size, unit in ((1_000_000_000, "B"), (1_000_000, "M"), (1_000, "k")):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return str(count)
