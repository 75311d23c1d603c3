"""What ROCm counts as its devices: the nodes of the kernel's compute driver for AMD (`/sys/class/kfd`), in its order.

HIP, and so llama.cpp, numbers GPUs as these nodes are numbered, leaving out those that this user may not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PLACE: Final = "sys/class/kfd/kfd"
_FRAME_BUFFER_HEAPS: Final = (1, 2)
"""Of HSA's heap types: visible to the processors, and not."""


@dataclass(frozen=True, slots=True)
class KfdNode:
    """A GPU that ROCm sees."""

    index: int
    """HIP's number."""
    gpu_id: str
    """The kernel's own number, by which it accounts for processes."""
    render_minor: int
    """Of its `/dev/dri/renderD…`."""
    target: str | None
    """What kernels are built for, such as `gfx1100`."""
    memory_bytes: int
    """What ROCm takes for its memory; 0 where it does not say."""
    has_processors: bool
    """The node has CPU cores too: it shares their memory."""


def find_nodes(root: Path) -> tuple[KfdNode, ...]:
    """All GPUs that ROCm sees, as it numbers them. Blocks on sysfs."""
    nodes: list[KfdNode] = []
    folders = [folder for folder in root.glob(f"{_PLACE}/topology/nodes/*") if folder.name.isdecimal()]
    for folder in sorted(folders, key=lambda folder: int(folder.name)):
        properties = _properties(folder / "properties")
        if properties.get("simd_count", 0) > 0:
            nodes.append(_node(len(nodes), folder, properties))
    return tuple(nodes)


def holders(root: Path, gpu_id: str) -> Mapping[int, int]:
    """Bytes of a GPU's memory by process id."""
    found = {}
    for file in root.glob(f"{_PLACE}/proc/[0-9]*/vram_{gpu_id}"):
        try:
            found[int(file.parent.name)] = int(file.read_text(encoding="ascii"))
        except (OSError, ValueError):
            continue  # The process has just ended.
    return found


def target_name(version: int) -> str | None:
    """`110501` as `gfx1151`: the last two parts are single hexadecimal digits. None for the 0 of a node without a GPU."""
    return f"gfx{version // 10000}{version // 100 % 100:x}{version % 100:x}" if version > 0 else None


def _node(index: int, folder: Path, properties: Mapping[str, int]) -> KfdNode:
    banks = [_properties(file) for file in folder.glob("mem_banks/*/properties")]
    try:
        gpu_id = (folder / "gpu_id").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        gpu_id = ""
    return KfdNode(
        index=index,
        gpu_id=gpu_id,
        render_minor=properties.get("drm_render_minor", -1),
        target=target_name(properties.get("gfx_target_version", 0)),
        memory_bytes=sum(bank.get("size_in_bytes", 0) for bank in banks if bank.get("heap_type") in _FRAME_BUFFER_HEAPS),
        has_processors=properties.get("cpu_cores_count", 0) > 0,
    )


def _properties(file: Path) -> dict[str, int]:
    """Lines of a name and a number; none of them where the file may not be read."""
    try:
        lines = file.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return {}
    pairs = (line.split() for line in lines)
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}
