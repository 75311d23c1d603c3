"""AMD and Intel GPUs by what their Linux drivers (amdgpu, i915, xe) write under `/sys/class/drm`.

AMD ones that ROCm sees are devices of the backend `cuda`: llama.cpp's code for both is one. All others are told of as idle. The
root of the file system is an argument so that tests can lay it out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import psutil

from rbees.host.device_source import NoSuchHardware, sees_all_pids
from rbees.host.gpu_names import gpu_name
from rbees.host.kfd import KfdNode, find_nodes, holders
from rbees.protocol.pools import Device, IdleAccelerator

_VENDORS: Final = {"0x1002": "amd", "0x8086": "intel", "0x10de": "nvidia"}
_SHOWN: Final = {"amd": "AMD GPU", "intel": "Intel GPU", "nvidia": "NVIDIA GPU"}
_CARD: Final = re.compile(r"card\d+")
"""And not `card0-DP-1`, which is a screen's socket."""
_NVIDIA_DRIVERS: Final = frozenset({"nvidia", "nvidia-drm"})
_INTEL_INTEGRATED: Final = "0000:00:02.0"
"""Where the GPU inside an Intel processor has always been."""
_TEMPERATURES: Final = ("edge", "junction", "pkg", "")
"""Sensors by their labels, the one of the whole chip first."""


class DrmSource:
    """Measures AMD GPUs, and what can be seen of Intel's."""

    name = "DRM"

    def __init__(
        self, root: Path = Path("/"), available_bytes: Callable[[], int] | None = None, *, trusts_pids: bool | None = None
    ) -> None:
        self._root = root
        self._available_bytes = available_bytes or (lambda: int(psutil.virtual_memory().available))
        self._trusts_pids = sees_all_pids() if trusts_pids is None else trusts_pids
        self._names: dict[str, str] = {}
        self.held: Mapping[str, Mapping[int, int]] = {}
        self.idle: tuple[IdleAccelerator, ...] = ()

    def measure(self) -> tuple[Device, ...]:
        """The AMD devices now.

        Raises:
            NoSuchHardware: no card here is AMD's or Intel's.
        """
        cards = [card for folder in sorted(self._root.glob("sys/class/drm/card*")) if (card := _card(folder)) is not None]
        if not cards:
            raise NoSuchHardware("no card of AMD or Intel")
        nodes = {node.render_minor: node for node in find_nodes(self._root)}
        devices: list[Device] = []
        idle: list[IdleAccelerator] = []
        held: dict[str, Mapping[int, int]] = {}
        for card in cards:
            node = next((nodes[minor] for minor in card.render_minors if minor in nodes), None)
            reason = self._why_idle(card, node)
            if node is None or reason is not None:
                idle.append(self._idle(card, node, reason or ""))
            else:
                device = self._device(card, node)
                devices.append(device)
                held[device.device_id] = holders(self._root, node.gpu_id) if self._trusts_pids else {}
        self.held, self.idle = held, tuple(idle)
        return tuple(devices)

    def _why_idle(self, card: Card, node: KfdNode | None) -> str | None:
        if card.vendor == "intel":
            return "rbees has no backend for Intel's GPUs."
        if card.vendor == "nvidia":
            return f"Its driver is {card.driver}; install NVIDIA's own to compute on it."
        if node is None:
            return f"ROCm does not see it (driver {card.driver}); see whether /dev/kfd is here and open to this user."
        if (self._root / "dev/nvidiactl").exists():
            return "NVIDIA's devices are here too, and workers count those; one llama.cpp serves one of the two makers."
        return None

    def _device(self, card: Card, node: KfdNode) -> Device:
        told = card.number("mem_info_vram_total")
        problem = "Its driver amdgpu does not tell its memory; look at `dmesg` on this host." if told is None else None
        total, free = self._memory(card, node)
        return Device(
            device_id=f"cuda:{node.index}",
            backend="cuda",
            name=self._name(card),
            memory_architecture="unified" if card.shares_memory(node) else "vram",
            total_bytes=total or 0,
            free_bytes=free or 0,
            healthy=problem is None,
            problem=problem,
            measured_at_ms=0,
            utilization=card.utilization(),
            temperature_celsius=card.temperature_celsius(),
            driver_version=_read(self._root / "sys/module/amdgpu/version") or None,
            compute_capability=node.target,
            vendor="amd",
        )

    def _idle(self, card: Card, node: KfdNode | None, reason: str) -> IdleAccelerator:
        total, free = self._memory(card, node)
        return IdleAccelerator(
            name=self._name(card),
            vendor=card.vendor,
            driver=card.driver,
            address=card.address,
            memory_architecture="unified" if card.shares_memory(node) else "vram",
            total_bytes=total,
            free_bytes=free,
            utilization=card.utilization(),
            temperature_celsius=card.temperature_celsius(),
            compute_capability=node.target if node else None,
            reason=reason,
        )

    def _memory(self, card: Card, node: KfdNode | None) -> tuple[int | None, int | None]:
        """All and free, in bytes: of AMD's what ROCm takes for the device's memory, where it says."""
        if card.vendor != "amd":
            return card.intel_memory()
        own, own_used = card.number("mem_info_vram_total"), card.number("mem_info_vram_used")
        taken = node.memory_bytes if node else 0
        if own is None or own_used is None:
            return own or taken or None, None
        total = taken or own
        if total <= own or not card.shares_memory(node):
            return total, max(0, min(total, own) - own_used)
        # Main memory serves, of which others may have taken some meanwhile.
        mapped, mapped_used = card.number("mem_info_gtt_total") or 0, card.number("mem_info_gtt_used") or 0
        main_free = min(max(0, mapped - mapped_used), self._available_bytes())
        return total, min(total, max(0, own - own_used) + main_free)

    def _name(self, card: Card) -> str:
        # The lists are long, and a card keeps its name.
        if card.address not in self._names:
            listed = gpu_name(self._root, *(card.text(name) for name in ("vendor", "device", "revision")))
            self._names[card.address] = card.text("product_name") or listed or f"{_SHOWN[card.vendor]} {card.text('device')}"
        return self._names[card.address]


@dataclass(frozen=True)
class Card:
    """One card of `/sys/class/drm`, read when asked."""

    folder: Path
    vendor: str
    driver: str
    address: str
    """On the PCI bus."""

    def text(self, name: str) -> str:
        """A file of the device; empty where it has none."""
        return _read(self.folder / "device" / name)

    def number(self, name: str) -> int | None:
        """The same as a number."""
        return _number(self.folder / "device" / name)

    @cached_property
    def render_minors(self) -> tuple[int, ...]:
        """The numbers of its `/dev/dri/renderD…`: one, or none."""
        return tuple(int(path.name.removeprefix("renderD")) for path in self.folder.glob("device/drm/renderD[0-9]*"))

    def shares_memory(self, node: KfdNode | None) -> bool:
        """True of a GPU inside a processor."""
        if self.vendor == "intel":
            return self.address == _INTEL_INTEGRATED
        # Only those have a northbridge, whose voltage the driver shows.
        labels = {_read(file) for file in self.folder.glob("device/hwmon/hwmon*/in*_label")}
        return "vddnb" in labels or (node is not None and node.has_processors)

    def utilization(self) -> float | None:
        """0 to 1; None where the driver does not say."""
        busy = None if self._sleeps else self.number("gpu_busy_percent")
        return None if busy is None else busy / 100

    def temperature_celsius(self) -> float | None:
        """Of the chip as a whole, where a sensor tells."""
        if self._sleeps:
            return None
        found = {
            _read(file.with_name(file.name.replace("_input", "_label"))): _number(file)
            for file in sorted(self.folder.glob("device/hwmon/hwmon*/temp*_input"), reverse=True)
        }
        told = [value for label in _TEMPERATURES if (value := found.get(label)) is not None]
        return told[0] / 1000 if told else None

    def intel_memory(self) -> tuple[int | None, int | None]:
        """Local memory and what of it is free, in bytes, as far as the driver tells: xe by tiles, i915 in Intel's own builds."""
        device = self.folder / "device"
        tiles = [*device.glob("tile*/physical_vram_size_bytes"), *device.glob("tile*/memory/physical_vram_size_bytes")]
        sizes = [size for file in tiles if (size := _number(file))]
        told = [_first_number(self.folder / name, device / name) for name in ("lmem_total_bytes", "lmem_avail_bytes")]
        return sum(sizes) or told[0], told[1]

    @property
    def _sleeps(self) -> bool:
        """Asking its sensors would wake it."""
        return self.text("power/runtime_status") == "suspended"


def _card(folder: Path) -> Card | None:
    """The card, if it is one to be told of: NVIDIA's own driver is asked by NVML."""
    vendor = _VENDORS.get(_read(folder / "device/vendor"))
    if vendor is None or not _CARD.fullmatch(folder.name):
        return None
    facts = dict(line.partition("=")[::2] for line in _read(folder / "device/uevent").splitlines())
    driver = facts.get("DRIVER", "")
    if vendor == "nvidia" and (driver in _NVIDIA_DRIVERS or not driver):
        return None
    return Card(folder, vendor, driver or "none", facts.get("PCI_SLOT_NAME", folder.name))


def _first_number(*files: Path) -> int | None:
    return next((value for file in files if (value := _number(file)) is not None), None)


def _number(file: Path) -> int | None:
    text = _read(file)
    return int(text) if text.isdecimal() else None


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
