"""What a GPU is called, from the lists that Linux distributions install; asked once for each card."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_AMD_NAMES: Final = ("usr/share/libdrm/amdgpu.ids",)
_PCI_NAMES: Final = ("usr/share/misc/pci.ids", "usr/share/hwdata/pci.ids")


def gpu_name(root: Path, vendor_id: str, device_id: str, revision: str) -> str | None:
    """The name, of ids as sysfs writes them (`0x1002`); None where no list of this host has it."""
    vendor, device, revision = (text.removeprefix("0x").lower() for text in (vendor_id, device_id, revision))
    if vendor == "1002":
        for name in _AMD_NAMES:
            found = _in_amd_list(_text(root / name), device, revision)
            if found is not None:
                return found
    for name in _PCI_NAMES:
        found = _in_pci_list(_text(root / name), vendor, device)
        if found is not None:
            return found
    return None


def _in_amd_list(text: str, device: str, revision: str) -> str | None:
    """Lines such as `744C,	C8,	AMD Radeon RX 7900 XTX`."""
    for line in text.splitlines():
        parts = [part.strip() for part in line.split(",", 2)]
        if len(parts) == 3 and parts[0].lower() == device and parts[1].lower() == revision:
            return parts[2]
    return None


def _in_pci_list(text: str, vendor: str, device: str) -> str | None:
    """A line for each vendor, below it one for each device behind a tabulator, with the name on sale in brackets."""
    maker: str | None = None
    for line in text.splitlines():
        if line[:4] == vendor and line[4:6] == "  ":
            maker = line[6:].strip()
        elif maker is not None and line and line[0] not in "\t#":
            return None
        elif maker is not None and line[:1] == "\t" and line[1:5] == device:
            name = line[5:].strip()
            sold_as = name[name.find("[") + 1 : name.rfind("]")] if name.endswith("]") and "[" in name else name
            return f"{_short(maker)} {sold_as}"
    return None


def _short(maker: str) -> str:
    return "AMD" if maker.startswith("Advanced Micro Devices") else maker.split()[0]


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
