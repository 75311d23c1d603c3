"""The device `cpu`: processors and main memory, within the limits of the control groups this process lives in.

Asks psutil about the machine. Models of the backends `cpu` and `scripted` run on this device.
"""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import psutil

from rbees.protocol.pools import Device
from rbees.service.cgroup import ControlGroups
from rbees.service.cores import usable_cores

DEVICE_ID: Final = "cpu"
_MODEL_NAME = re.compile(r"^(?:model name|Model)\s*:\s*(.+)$", re.MULTILINE)


class CpuSource:
    """Measures the processors and the main memory."""

    name = "CPU"

    def __init__(self, groups: ControlGroups | None = None) -> None:
        self._groups = groups or ControlGroups()
        self._model: str | None = None

    def measure(self) -> tuple[Device, ...]:
        """One device; utilisation is that since the last call."""
        if self._model is None:
            self._model = processor_name()
        memory = psutil.virtual_memory()
        limit = self._groups.memory_limit()
        return (
            Device(
                device_id=DEVICE_ID,
                backend="cpu",
                name=self._model,
                memory_architecture="unified" if _is_apple_silicon() else "ram",
                total_bytes=min(memory.total, limit.limit_bytes) if limit else memory.total,
                free_bytes=min(memory.available, limit.free_bytes) if limit else memory.available,
                measured_at_ms=0,
                utilization=psutil.cpu_percent(interval=None) / 100,
                physical_cores=usable_cores(self._groups),
            ),
        )


def processor_name() -> str:
    """What the operating system calls the processor."""
    if sys.platform == "darwin":
        return _sysctl_brand() or platform.machine()
    return parse_processor_name(_cpuinfo()) or platform.machine() or "CPU"


def parse_processor_name(cpuinfo: str) -> str | None:
    """The model in the text of /proc/cpuinfo; None where it has none."""
    found = _MODEL_NAME.search(cpuinfo)
    return found.group(1).strip() if found else None


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _sysctl_brand() -> str | None:
    try:
        answer = subprocess.run(["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, timeout=2, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.decode("utf-8", "replace").strip() or None


def _is_apple_silicon() -> bool:
    return sys.platform == "darwin" and platform.machine() == "arm64"
