"""Which accelerators this machine has, and what is installed to build programs for them; asks the file system only.

A driver may be missing or broken here, so nothing that needs one is asked.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Final

from rbees.host.build_flags import Hardware, has_amx_in_vm

_VENDORS: Final = {"0x10de": "nvidia", "0x1002": "amd", "0x8086": "intel"}
_USUAL_PLACES: Final = {"nvcc": "/usr/local/cuda/bin", "hipcc": "/opt/rocm/bin"}


def find_hardware(root: Path = Path("/")) -> Hardware:
    """What is here; `root` is where the file systems of the kernel are looked for."""
    vendors = {_VENDORS.get(_text(file)) for file in root.glob("sys/class/drm/card*/device/vendor")}
    return Hardware(
        apple_silicon=sys.platform == "darwin" and platform.machine() == "arm64",
        nvidia="nvidia" in vendors or (root / "dev/nvidiactl").exists(),
        amd="amd" in vendors,
        intel="intel" in vendors,
        nvcc=find_program("nvcc") is not None,
        hipcc=find_program("hipcc") is not None,
        glslc=find_program("glslc") is not None,
        amx_in_vm=has_amx_in_vm(_text(root / "proc/cpuinfo")),
    )


def find_program(name: str) -> Path | None:
    """Where a compiler is: on the path, or where its vendor puts it."""
    usual = _USUAL_PLACES.get(name, "")
    found = shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", os.defpath), usual)))
    return Path(found) if found else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
