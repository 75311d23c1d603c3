"""Where main memory lies: the nodes of a machine whose processors are nearer to some of it, as far as this process may use them.

The root of the file system is an argument so that tests can lay it out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from rbees.protocol.pools import NumaNode

_MEMORY_LINE: Final = re.compile(r"^Node \d+ (\S+):\s+(\d+) kB$", re.MULTILINE)
_FREE: Final = ("MemFree", "Inactive(file)", "SReclaimable")
"""What nobody has, and what the kernel gives back on demand."""


def allowed_nodes(root: Path = Path("/")) -> tuple[tuple[NumaNode, ...], bool]:
    """The nodes that have memory and may be used, by number, and whether that leaves others out. None on other systems."""
    nodes = [node for folder in root.glob("sys/devices/system/node/node[0-9]*") if (node := _node(folder)) is not None]
    allowed = _allowed(root / "proc/self/status")
    chosen = [node for node in sorted(nodes, key=lambda node: node.node) if allowed is None or node.node in allowed]
    return tuple(chosen), 0 < len(chosen) < len(nodes)


def parse_list(text: str) -> Iterator[int]:
    """`0,2-3` as 0, 2, 3; parts that make no sense are left out."""
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if first.isdecimal() and (last.isdecimal() or not last):
            yield from range(int(first), int(last or first) + 1)


def _node(folder: Path) -> NumaNode | None:
    told = {name: int(value) << 10 for name, value in _MEMORY_LINE.findall(_read(folder / "meminfo"))}
    total = told.get("MemTotal", 0)
    if total == 0:
        return None
    return NumaNode(
        node=int(folder.name.removeprefix("node")),
        processors=_read(folder / "cpulist").strip(),
        total_bytes=total,
        free_bytes=min(total, sum(told.get(name, 0) for name in _FREE)),
    )


def _allowed(status: Path) -> frozenset[int] | None:
    """The nodes on which this process may have memory; None where the system does not say."""
    found = re.search(r"^Mems_allowed_list:\s*(\S+)$", _read(status), re.MULTILINE)
    return frozenset(parse_list(found.group(1))) if found else None


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
