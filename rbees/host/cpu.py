"""The device `cpu`: processors and main memory, within the limits of the control groups this process lives in.

Asks psutil about the machine, and of Linux its own files. Models of the backends `cpu` and `scripted` run on this device.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import psutil

from rbees.host.numa import allowed_nodes
from rbees.host.processor_features import features_of_linux, features_of_macos
from rbees.protocol.pools import Device
from rbees.service.cgroup import ControlGroups
from rbees.service.cores import usable_cores

DEVICE_ID: Final = "cpu"
_MODEL_NAME = re.compile(r"^(?:model name|Model)\s*:\s*(.+)$", re.MULTILINE)


class CpuSource:
    """Measures the processors and the main memory. `root` is where the file systems of the kernel are looked for."""

    name = "CPU"

    def __init__(self, groups: ControlGroups | None = None, root: Path = Path("/")) -> None:
        self._groups = groups or ControlGroups()
        self._root = root
        self._model: str | None = None
        self._features: tuple[str, ...] = ()
        self._measured_before = False

    def measure(self) -> tuple[Device, ...]:
        """One device; utilisation is that of the whole machine since the last call, and unknown at the first."""
        if self._model is None:
            self._features = processor_features(self._root)
            self._model = processor_name(self._root)
        busy_percent, known = psutil.cpu_percent(interval=None), self._measured_before
        self._measured_before = True
        memory = psutil.virtual_memory()
        nodes, some_are_forbidden = allowed_nodes(self._root)
        totals, frees = [memory.total], [memory.available]
        limit = self._groups.memory_limit()
        if limit is not None:
            totals.append(limit.limit_bytes)
            frees.append(limit.free_bytes)
        if some_are_forbidden:
            totals.append(sum(node.total_bytes for node in nodes))
            frees.append(sum(node.free_bytes for node in nodes))
        return (
            Device(
                device_id=DEVICE_ID,
                backend="cpu",
                name=self._model,
                memory_architecture="unified" if _is_apple_silicon() else "ram",
                total_bytes=min(totals),
                free_bytes=min(frees),
                measured_at_ms=0,
                utilization=busy_percent / 100 if known else None,
                physical_cores=usable_cores(self._groups),
                logical_cores=_usable_processors(self._groups),
                features=self._features,
                numa=nodes if len(nodes) > 1 else (),
            ),
        )


def processor_name(root: Path = Path("/")) -> str:
    """What the operating system calls the processor."""
    if sys.platform == "darwin":
        return _sysctl("-n", "machdep.cpu.brand_string").strip() or platform.machine()
    return parse_processor_name(_cpuinfo(root)) or platform.machine() or "CPU"


def processor_features(root: Path = Path("/")) -> tuple[str, ...]:
    """Its instructions that matter to kernels."""
    return features_of_macos(_sysctl("hw.optional")) if sys.platform == "darwin" else features_of_linux(_cpuinfo(root))


def parse_processor_name(cpuinfo: str) -> str | None:
    """The model in the text of /proc/cpuinfo; None where it has none."""
    found = _MODEL_NAME.search(cpuinfo)
    return found.group(1).strip() if found else None


def _usable_processors(groups: ControlGroups) -> int:
    """As the scheduler counts them, two for a core with two threads; not more than the quota of the control groups."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else psutil.cpu_count() or 1
    return max(1, min(count, groups.processor_limit() or count))


def _cpuinfo(root: Path) -> str:
    try:
        return (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _sysctl(*words: str) -> str:
    try:
        answer = subprocess.run(["/usr/sbin/sysctl", *words], capture_output=True, timeout=2, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.decode("utf-8", "replace")


def _is_apple_silicon() -> bool:
    return sys.platform == "darwin" and platform.machine() == "arm64"
