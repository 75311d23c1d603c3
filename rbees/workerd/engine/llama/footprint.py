"""What a loaded model takes, buffer by buffer, as the library writes it into its log."""

from __future__ import annotations

import re
from typing import Final

_BUFFER: Final = re.compile(r"(\S+) +(model|KV|RS|output|compute|LoRA) buffer size = +([\d.]+) MiB")
_REPEATED: Final = frozenset({"compute", "output"})
"""Reserved anew when something changes; the newest line holds."""
_MIB: Final = 1 << 20


class Footprint:
    """Bytes by kind of content and by the name of the buffer, such as `CPU`, `CPU_REPACK`, `CUDA0`."""

    def __init__(self) -> None:
        self.buffers: dict[tuple[str, str], int] = {}
        self._settled: dict[tuple[str, str], int] = {}

    def note(self, line: str) -> None:
        """Take up what the line says, if it is about a buffer."""
        found = _BUFFER.search(line)
        if found is None:
            return
        name, kind, mib = found.groups()
        before = (self._settled if kind in _REPEATED else self.buffers).get((kind, name), 0)
        self.buffers[kind, name] = before + round(float(mib) * _MIB)

    def settle(self) -> None:
        """A context is made: what is said of compute buffers from now on is of another one and comes on top."""
        self._settled = dict(self.buffers)

    def bytes_on(self, devices: tuple[str, ...]) -> int:
        """All buffers of the devices that the library calls so; `CUDA0` has those whose names begin with it."""
        return sum(size for (_, name), size in self.buffers.items() if name.split("_")[0] in devices)
