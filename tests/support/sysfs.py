"""File systems of a kernel, laid out in a folder: cards as amdgpu, i915 and xe show them, and what else device facts come from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

MIB = 1 << 20
GIB = 1 << 30


def lay_out(root: Path, files: Mapping[str, object]) -> None:
    """Write each file with its content and the line end that the kernel puts behind it."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")


def card(root: Path, number: int, address: str, vendor: str, device: str, driver: str, **files: object) -> Path:
    """`/sys/class/drm/card<number>` and the PCI device that it links to, which is returned.

    `files` are further ones of that device, with two underscores for each slash.
    """
    pci = root / "sys/devices/pci0000:00" / address
    lay_out(
        pci,
        {
            "vendor": vendor,
            "device": device,
            "revision": "0xc8",
            "uevent": f"DRIVER={driver}\nPCI_CLASS=30000\nPCI_ID={vendor[2:]}:{device[2:]}\nPCI_SLOT_NAME={address}",
            f"drm/renderD{128 + number}/dev": f"226:{128 + number}",
            **{name.replace("__", "/"): content for name, content in files.items()},
        },
    )
    place = root / f"sys/class/drm/card{number}"
    place.mkdir(parents=True)
    (place / "device").symlink_to(pci)
    # A screen's socket, which has a device too.
    (root / f"sys/class/drm/card{number}-DP-1").mkdir()
    (root / f"sys/class/drm/card{number}-DP-1/device").symlink_to(place)
    return pci


def radeon(root: Path, number: int = 1, address: str = "0000:03:00.0", **files: object) -> Path:
    """A Radeon RX 7900 XTX, as amdgpu of Linux 6.8 shows it."""
    told = {
        "mem_info_vram_total": 24 * GIB - 16 * MIB,
        "mem_info_vram_used": 2 * GIB,
        "mem_info_gtt_total": 32 * GIB,
        "mem_info_gtt_used": 50 * MIB,
        "gpu_busy_percent": 87,
        "power__runtime_status": "active",
        "hwmon__hwmon3__name": "amdgpu",
        "hwmon__hwmon3__in0_label": "vddgfx",
        "hwmon__hwmon3__temp1_label": "edge",
        "hwmon__hwmon3__temp1_input": 61000,
        "hwmon__hwmon3__temp2_label": "junction",
        "hwmon__hwmon3__temp2_input": 78000,
    }
    return card(root, number, address, "0x1002", "0x744c", "amdgpu", **{**told, **files})


def radeon_in_processor(root: Path, number: int = 0, address: str = "0000:c4:00.0", **files: object) -> Path:
    """The Radeon 8060S inside a Ryzen AI Max, which was given half a gigabyte of its own."""
    told = {
        "mem_info_vram_total": 512 * MIB,
        "mem_info_vram_used": 100 * MIB,
        "mem_info_gtt_total": 60 * GIB,
        "mem_info_gtt_used": 1 * GIB,
        "gpu_busy_percent": 0,
        "power__runtime_status": "active",
        "hwmon__hwmon1__in0_label": "vddgfx",
        "hwmon__hwmon1__in1_label": "vddnb",
        "hwmon__hwmon1__temp1_label": "edge",
        "hwmon__hwmon1__temp1_input": 39000,
    }
    return card(root, number, address, "0x1002", "0x1586", "amdgpu", **{**told, **files})


def kfd_node(root: Path, node: int, *, minor: int, target: int, bank_bytes: int, gpu_id: int, processors: int = 0) -> None:
    """A GPU among the nodes of `/sys/class/kfd`; node 0 is always that of the processors."""
    place = "sys/class/kfd/kfd/topology/nodes"
    lay_out(
        root,
        {
            f"{place}/0/properties": "cpu_cores_count 16\nsimd_count 0\nmem_banks_count 1\ngfx_target_version 0",
            f"{place}/0/gpu_id": 0,
            f"{place}/{node}/properties": f"cpu_cores_count {processors}\nsimd_count 192\nmem_banks_count 1\n"
            f"gfx_target_version {target}\nvendor_id 4098\ndrm_render_minor {minor}\nunique_id 18446744073709551615",
            f"{place}/{node}/gpu_id": gpu_id,
            f"{place}/{node}/mem_banks/0/properties": f"heap_type 1\nsize_in_bytes {bank_bytes}\nflags 0\nwidth 384",
        },
    )


def numa_node(root: Path, node: int, processors: str, total_kb: int, free_kb: int, inactive_file_kb: int = 0) -> None:
    """A node of main memory, as `/sys/devices/system/node` shows it."""
    lay_out(
        root / f"sys/devices/system/node/node{node}",
        {
            "cpulist": processors,
            "meminfo": f"Node {node} MemTotal:       {total_kb} kB\nNode {node} MemFree:        {free_kb} kB\n"
            f"Node {node} Inactive(file): {inactive_file_kb} kB\nNode {node} SReclaimable:   0 kB\n"
            f"Node {node} HugePages_Total:     0",
        },
    )
