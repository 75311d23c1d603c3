"""AMD and Intel GPUs, from trees that are laid out as their drivers write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from rbees.host.device_source import NoSuchHardware
from rbees.host.drm import DrmSource
from rbees.host.gpu_names import gpu_name
from rbees.host.kfd import find_nodes, target_name
from rbees.protocol.pools import Device
from tests.support.sysfs import GIB, MIB, card, kfd_node, lay_out, radeon, radeon_in_processor

OTHER = "NVIDIA's devices are here too"


def source_in(root: Path, available: int = 40 * GIB, trusts_pids: bool = True) -> DrmSource:
    return DrmSource(root, lambda: available, trusts_pids=trusts_pids)


def only(devices: tuple[Device, ...]) -> Device:
    (device,) = devices
    return device


def test_a_radeon_that_rocm_sees(tmp_path: Path) -> None:
    radeon(tmp_path)
    kfd_node(tmp_path, 1, minor=129, target=110000, bank_bytes=24 * GIB - 16 * MIB, gpu_id=4242)
    lay_out(tmp_path, {"usr/share/libdrm/amdgpu.ids": "# ids\n1.0.0\n744C,\tC8,\tAMD Radeon RX 7900 XTX\n744C,\tCC,\tAMD Radeon"})
    lay_out(tmp_path, {"sys/module/amdgpu/version": "6.10.5"})
    found = only(source_in(tmp_path).measure())
    assert (found.device_id, found.backend, found.vendor) == ("cuda:0", "cuda", "amd")
    assert (found.name, found.compute_capability, found.driver_version) == ("AMD Radeon RX 7900 XTX", "gfx1100", "6.10.5")
    assert (found.memory_architecture, found.total_bytes) == ("vram", 24 * GIB - 16 * MIB)
    assert found.free_bytes == 22 * GIB - 16 * MIB
    assert (found.utilization, found.temperature_celsius) == (0.87, 61.0)
    assert (found.healthy, found.problem) == (True, None)


def test_amd_devices_are_numbered_as_rocm_counts_them(tmp_path: Path) -> None:
    radeon(tmp_path, 1, "0000:03:00.0")
    radeon(tmp_path, 2, "0000:0a:00.0")
    kfd_node(tmp_path, 1, minor=130, target=110000, bank_bytes=24 * GIB, gpu_id=1)
    kfd_node(tmp_path, 2, minor=129, target=110000, bank_bytes=24 * GIB, gpu_id=2)
    first, second = source_in(tmp_path).measure()
    assert (first.device_id, second.device_id) == ("cuda:1", "cuda:0"), "cards come in the kernel's order, devices in ROCm's"


def test_a_node_that_may_not_be_read_does_not_count(tmp_path: Path) -> None:
    kfd_node(tmp_path, 1, minor=128, target=110000, bank_bytes=GIB, gpu_id=1)
    kfd_node(tmp_path, 10, minor=130, target=90402, bank_bytes=GIB, gpu_id=3)
    kfd_node(tmp_path, 2, minor=129, target=90010, bank_bytes=GIB, gpu_id=2)
    hidden = tmp_path / "sys/class/kfd/kfd/topology/nodes/1/properties"
    hidden.unlink()
    hidden.mkdir()
    assert [(node.index, node.gpu_id, node.target) for node in find_nodes(tmp_path)] == [(0, "2", "gfx90a"), (1, "3", "gfx942")]


@pytest.mark.parametrize(("version", "name"), [(110501, "gfx1151"), (100300, "gfx1030"), (90010, "gfx90a"), (0, None)])
def test_names_of_targets(version: int, name: str | None) -> None:
    assert target_name(version) == name


def test_a_radeon_inside_a_processor_shares_main_memory(tmp_path: Path) -> None:
    radeon_in_processor(tmp_path)
    kfd_node(tmp_path, 1, minor=128, target=110501, bank_bytes=60 * GIB, gpu_id=7)
    found = only(source_in(tmp_path, available=40 * GIB).measure())
    assert (found.memory_architecture, found.total_bytes, found.compute_capability) == ("unified", 60 * GIB, "gfx1151")
    assert found.free_bytes == 40 * GIB + 412 * MIB, "what is available, and what is left of its own"
    found = only(source_in(tmp_path, available=100 * GIB).measure())
    assert found.free_bytes == 59 * GIB + 412 * MIB, "not more than it may map"


def test_an_older_kernel_gives_rocm_only_what_the_processor_was_given(tmp_path: Path) -> None:
    radeon_in_processor(tmp_path)
    kfd_node(tmp_path, 1, minor=128, target=110501, bank_bytes=512 * MIB, gpu_id=7, processors=16)
    found = only(source_in(tmp_path).measure())
    assert (found.total_bytes, found.free_bytes) == (512 * MIB, 412 * MIB)


def test_a_driver_that_stops_telling_makes_the_device_ill(tmp_path: Path) -> None:
    pci = radeon(tmp_path)
    kfd_node(tmp_path, 1, minor=129, target=110000, bank_bytes=24 * GIB, gpu_id=4242)
    source = source_in(tmp_path)
    assert only(source.measure()).healthy
    (pci / "mem_info_vram_total").unlink()
    found = only(source.measure())
    assert (found.healthy, found.total_bytes, found.free_bytes) == (False, 24 * GIB, 0)
    assert "dmesg" in (found.problem or "")


def test_a_card_that_sleeps_is_not_woken_for_its_sensors(tmp_path: Path) -> None:
    radeon(tmp_path, power__runtime_status="suspended")
    kfd_node(tmp_path, 1, minor=129, target=110000, bank_bytes=24 * GIB, gpu_id=4242)
    found = only(source_in(tmp_path).measure())
    assert (found.utilization, found.temperature_celsius, found.healthy) == (None, None, True)


def test_who_holds_memory_of_a_radeon(tmp_path: Path) -> None:
    radeon(tmp_path)
    kfd_node(tmp_path, 1, minor=129, target=110000, bank_bytes=24 * GIB, gpu_id=4242)
    place = "sys/class/kfd/kfd/proc"
    lay_out(tmp_path, {f"{place}/4711/vram_4242": 3 * GIB, f"{place}/4711/vram_1": 5, f"{place}/4712/vram_4242": "garbage"})
    source = source_in(tmp_path)
    source.measure()
    assert source.held == {"cuda:0": {4711: 3 * GIB}}
    stranger = source_in(tmp_path, trusts_pids=False)
    stranger.measure()
    assert stranger.held == {"cuda:0": {}}


def test_a_radeon_that_rocm_does_not_see_lies_idle(tmp_path: Path) -> None:
    radeon(tmp_path)
    source = source_in(tmp_path)
    assert source.measure() == ()
    (idle,) = source.idle
    assert (idle.name, idle.vendor, idle.driver, idle.address) == ("AMD GPU 0x744c", "amd", "amdgpu", "0000:03:00.0")
    assert (idle.total_bytes, idle.free_bytes) == (24 * GIB - 16 * MIB, 22 * GIB - 16 * MIB)
    assert "/dev/kfd" in idle.reason


def test_beside_nvidia_a_radeon_lies_idle(tmp_path: Path) -> None:
    radeon(tmp_path)
    kfd_node(tmp_path, 1, minor=129, target=110000, bank_bytes=24 * GIB, gpu_id=4242)
    lay_out(tmp_path, {"dev/nvidiactl": ""})
    source = source_in(tmp_path)
    assert source.measure() == ()
    assert OTHER in source.idle[0].reason
    assert source.idle[0].compute_capability == "gfx1100"


def test_an_arc_card_by_xe(tmp_path: Path) -> None:
    card(
        tmp_path,
        0,
        "0000:03:00.0",
        "0x8086",
        "0xe20b",
        "xe",
        tile0__physical_vram_size_bytes=12 * GIB,
        hwmon__hwmon2__temp2_label="pkg",
        hwmon__hwmon2__temp2_input=45000,
        hwmon__hwmon2__temp3_label="vram",
        hwmon__hwmon2__temp3_input=50000,
    )
    lay_out(
        tmp_path,
        {
            "usr/share/misc/pci.ids": "1002  Advanced Micro Devices, Inc. [AMD/ATI]\n\te20b  Wrong\n8086  Intel Corporation\n"
            "\t56a0  DG2 [Arc A770]\n\te20b  Battlemage G21 [Arc B580]\n\t\t8086 1100  Some board\nffff  Illegal Vendor ID"
        },
    )
    source = source_in(tmp_path)
    assert source.measure() == ()
    (idle,) = source.idle
    assert (idle.name, idle.driver, idle.memory_architecture) == ("Intel Arc B580", "xe", "vram")
    assert (idle.total_bytes, idle.free_bytes, idle.temperature_celsius) == (12 * GIB, None, 45.0)
    assert "no backend" in idle.reason


def test_an_arc_card_by_i915(tmp_path: Path) -> None:
    card(tmp_path, 0, "0000:03:00.0", "0x8086", "0x56a0", "i915")
    lay_out(tmp_path / "sys/class/drm/card0", {"lmem_total_bytes": 16 * GIB, "lmem_avail_bytes": 15 * GIB})
    source = source_in(tmp_path)
    source.measure()
    assert (source.idle[0].total_bytes, source.idle[0].free_bytes) == (16 * GIB, 15 * GIB)


def test_a_driver_that_tells_no_size_is_taken_at_its_word(tmp_path: Path) -> None:
    card(tmp_path, 0, "0000:03:00.0", "0x8086", "0x56a0", "i915")
    source = source_in(tmp_path)
    source.measure()
    assert (source.idle[0].memory_architecture, source.idle[0].total_bytes) == ("vram", None)


def test_intels_gpu_inside_a_processor_shares_main_memory(tmp_path: Path) -> None:
    card(tmp_path, 0, "0000:00:02.0", "0x8086", "0x46a6", "i915")
    source = source_in(tmp_path)
    assert source.measure() == ()
    assert (source.idle[0].memory_architecture, source.idle[0].total_bytes) == ("unified", None)


def test_nvidias_cards_are_nvmls_but_for_those_with_the_free_driver(tmp_path: Path) -> None:
    card(tmp_path, 0, "0000:01:00.0", "0x10de", "0x2504", "nvidia")
    with pytest.raises(NoSuchHardware):
        source_in(tmp_path).measure()
    card(tmp_path, 1, "0000:02:00.0", "0x10de", "0x2504", "nouveau")
    source = source_in(tmp_path)
    assert source.measure() == ()
    assert "nouveau" in source.idle[0].reason


def test_other_cards_and_no_cards(tmp_path: Path) -> None:
    with pytest.raises(NoSuchHardware):
        source_in(tmp_path).measure()
    card(tmp_path, 0, "0000:00:01.0", "0x1af4", "0x1050", "virtio-pci")
    with pytest.raises(NoSuchHardware):
        source_in(tmp_path).measure()


def test_lists_of_names_that_lack_the_card(tmp_path: Path) -> None:
    names = "1002  Advanced Micro Devices, Inc. [AMD/ATI]\n\t744c  Navi 31 [Radeon RX 7900 XT]"
    lay_out(tmp_path, {"usr/share/hwdata/pci.ids": names})
    assert gpu_name(tmp_path, "0x1002", "0x744c", "0xc8") == "AMD Radeon RX 7900 XT"
    assert gpu_name(tmp_path, "0x1002", "0x9999", "0xc8") is None
    assert gpu_name(tmp_path, "0x8086", "0x744c", "0x00") is None


def test_numbers_that_make_no_sense_are_not_told(tmp_path: Path) -> None:
    radeon(tmp_path, gpu_busy_percent="", mem_info_vram_used="-1", hwmon__hwmon3__temp1_input="hot")
    kfd_node(tmp_path, 1, minor=129, target=110000, bank_bytes=24 * GIB, gpu_id=4242)
    found = only(source_in(tmp_path).measure())
    assert (found.utilization, found.temperature_celsius) == (None, 78.0)
    assert found.free_bytes == 0
