"""Apple GPUs by `system_profiler`, `sysctl` and `ioreg`: memory is shared with the processors.

How much of it the GPU may hold at once is Metal's recommended working set: `iogpu.wired_limit_mb` where the owner set it,
else two thirds of the memory on machines up to 36 GB and three quarters on larger ones.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import psutil

from rbees.host.device_source import NoSuchHardware
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.pools import Device

_PROFILER: Final = ("/usr/sbin/system_profiler", "SPDisplaysDataType", "-json")
_SYSCTL: Final = ("/usr/sbin/sysctl", "hw.memsize", "iogpu.wired_limit_mb")
_IOREG: Final = ("/usr/sbin/ioreg", "-a", "-r", "-d", "1", "-c", "IOAccelerator")
_COMMAND_LIMIT_S: Final = 10.0
_LARGE_MEMORY_BYTES: Final = 36 << 30


@dataclass(frozen=True, slots=True)
class MetalGpu:
    """A GPU that speaks Metal."""

    name: str
    support: str
    """What it can do, as the profiler writes it: `spdisplays_metal3`."""


class MetalSource:
    """Measures the Apple GPU. The names do not change, so the profiler (which takes seconds) is asked once."""

    name = "Metal"

    def __init__(self, run: Callable[[tuple[str, ...]], str] | None = None) -> None:
        self._run = run or _run
        self._gpus: tuple[MetalGpu, ...] | None = None

    def measure(self) -> tuple[Device, ...]:
        """The devices now.

        Raises:
            NoSuchHardware: no GPU here speaks Metal.
            RbeesError: BACKEND_UNAVAILABLE.
        """
        if self._gpus is None:
            self._gpus = parse_gpus(self._run(_PROFILER))
        if not self._gpus:
            raise NoSuchHardware("no Metal device")
        working_set_bytes = parse_working_set(self._run(_SYSCTL))
        utilizations = parse_utilizations(self._run(_IOREG))
        available_bytes = psutil.virtual_memory().available
        return tuple(
            Device(
                device_id=f"metal:{index}",
                backend="metal",
                name=gpu.name,
                memory_architecture="unified",
                total_bytes=working_set_bytes,
                free_bytes=min(working_set_bytes, available_bytes),
                measured_at_ms=0,
                # Of several nobody says which is which.
                utilization=utilizations[0] if len(utilizations) == len(self._gpus) == 1 else None,
                compute_capability=gpu.support.removeprefix("spdisplays_") or None,
                vendor="apple" if gpu.name.startswith("Apple") else None,
            )
            for index, gpu in enumerate(self._gpus)
        )


def parse_gpus(profile: str) -> tuple[MetalGpu, ...]:
    """The Metal-capable GPUs in the JSON of `system_profiler SPDisplaysDataType -json`.

    Raises:
        RbeesError: BACKEND_UNAVAILABLE: it is not such a document.
    """
    try:
        entries = json.loads(profile)["SPDisplaysDataType"]
        return tuple(MetalGpu(_gpu_name(entry), _support(entry)) for entry in entries if _speaks_metal(entry))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise RbeesError(ErrorCode.BACKEND_UNAVAILABLE, "The answer of `system_profiler` makes no sense.") from None


def parse_utilizations(registry: str) -> tuple[float, ...]:
    """How busy each GPU is, 0 to 1, from the property list of `ioreg -a -c IOAccelerator`; none where it has no such thing."""
    # Only a Mac pays for the parser.
    import plistlib
    from xml.parsers.expat import ExpatError

    try:
        entries = plistlib.loads(registry.encode())
        told = [entry.get("PerformanceStatistics", {}).get("Device Utilization %") for entry in entries]
    except (ValueError, TypeError, AttributeError, ExpatError, plistlib.InvalidFileException):
        return ()
    return tuple(min(100, value) / 100 for value in told if isinstance(value, int) and value >= 0)


def parse_working_set(sysctl: str) -> int:
    """The bytes that the GPU may hold, from the `name: value` lines of sysctl.

    Raises:
        RbeesError: BACKEND_UNAVAILABLE: the memory size is missing.
    """
    values = {}
    for line in sysctl.splitlines():
        name, _, value = line.partition(":")
        if value.strip().isdecimal():
            values[name.strip()] = int(value)
    memory_bytes = values.get("hw.memsize", 0)
    if memory_bytes <= 0:
        raise RbeesError(ErrorCode.BACKEND_UNAVAILABLE, "`sysctl hw.memsize` told no memory size.")
    wired_limit_bytes = values.get("iogpu.wired_limit_mb", 0) << 20
    default_bytes = memory_bytes * 3 // 4 if memory_bytes > _LARGE_MEMORY_BYTES else memory_bytes * 2 // 3
    return min(memory_bytes, wired_limit_bytes or default_bytes)


def _speaks_metal(entry: dict[str, Any]) -> bool:
    return entry.get("sppci_device_type", "spdisplays_gpu") == "spdisplays_gpu" and "metal" in _support(entry)


def _support(entry: dict[str, Any]) -> str:
    return str(entry.get("spdisplays_mtlgpufamilysupport") or entry.get("spdisplays_metal") or "")


def _gpu_name(entry: dict[str, Any]) -> str:
    name = str(entry.get("sppci_model") or entry["_name"])
    cores = entry.get("sppci_cores")
    return f"{name} ({cores} GPU cores)" if cores else name


def _run(command: tuple[str, ...]) -> str:
    try:
        # sysctl exits 1 when one of the names does not exist and still prints the others.
        done = subprocess.run(command, capture_output=True, timeout=_COMMAND_LIMIT_S, check=False)
    except FileNotFoundError:
        raise NoSuchHardware(command[0]) from None
    except (OSError, subprocess.TimeoutExpired):
        raise RbeesError(ErrorCode.BACKEND_UNAVAILABLE, f"`{command[0]}` did not answer.") from None
    return done.stdout.decode("utf-8", "replace")
