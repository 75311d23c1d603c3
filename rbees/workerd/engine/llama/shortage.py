"""Memory that the library could not get, as its log tells it."""

from __future__ import annotations

import re
from typing import Final

from rbees.workerd.engine.shortage import Shortage

_MIB: Final = 1 << 20
_OUT_OF_MEMORY: Final = re.compile(
    r"(failed|unable) to (allocate|reserve)|out of memory|insufficient memory|bad_alloc|cannot allocate memory", re.IGNORECASE
)
_BYTES: Final = re.compile(r"failed to allocate (?P<buffer>\S+ )?(?:\S+ )?buffer of (?:size )?(?P<count>\d+)(?![\d.])")
_MEBIBYTES: Final = (
    re.compile(r"allocating (?P<count>[\d.]+) MiB on device (?P<index>\d+): cudaMalloc failed"),
    re.compile(r"attempted to allocate +(?P<count>[\d.]+) MB"),
    re.compile(r"failed to allocate .*buffer.*size =? *(?P<count>[\d.]+) MiB"),
)


def read_shortage(line: str, before: Shortage | None) -> Shortage | None:
    """What is known of a lack of memory after this line; `before` is what was known, None for no lack.

    One lack is told in several lines, from the inside out: a later one says more only where it says a number.
    """
    if _OUT_OF_MEMORY.search(line) is None:
        return before
    if exact := _BYTES.search(line):
        buffer = (exact["buffer"] or "").strip() or (before.buffer if before else None)
        return Shortage(int(exact["count"]), buffer)
    if before is not None and before.wanted_bytes is not None:
        return before
    for form in _MEBIBYTES:
        if rounded := form.search(line):
            index = rounded.groupdict().get("index")
            return Shortage(round(float(rounded["count"]) * _MIB), f"CUDA{index}" if index is not None else None)
    return before or Shortage()
