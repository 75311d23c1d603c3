"""What is made of macOS's answers about its GPUs, and which backends are installed to use devices."""

from __future__ import annotations

import json
import plistlib
from pathlib import Path

import pytest

from rbees.host.backends import Installation, problem_of, with_backend_problems
from rbees.host.device_source import NoSuchHardware
from rbees.host.metal import MetalGpu, MetalSource, parse_gpus, parse_utilizations, parse_working_set
from rbees.protocol.errors import RbeesError
from rbees.service.extras import install_command
from tests.support.host_facts import GIB, device

APPLE_SILICON = {
    "SPDisplaysDataType": [
        {
            "_name": "Apple M2 Max",
            "spdisplays_mtlgpufamilysupport": "spdisplays_metal3",
            "spdisplays_ndrvs": [{"_name": "Color LCD"}],
            "spdisplays_vendor": "sppci_vendor_Apple",
            "sppci_bus": "spdisplays_builtin",
            "sppci_cores": "38",
            "sppci_device_type": "spdisplays_gpu",
            "sppci_model": "Apple M2 Max",
        }
    ]
}
OLD_INTEL = {
    "SPDisplaysDataType": [
        {"_name": "kHW_IntelHD4000", "sppci_model": "Intel HD Graphics 4000", "sppci_device_type": "spdisplays_gpu"},
        {
            "_name": "kHW_AMD",
            "sppci_model": "AMD Radeon Pro 5500M",
            "spdisplays_metal": "spdisplays_metalfeaturesetfamily21",
            "sppci_device_type": "spdisplays_gpu",
        },
    ]
}


def ioreg(*percents: object) -> str:
    """As `ioreg -a -r -d 1 -c IOAccelerator` prints it, but for most of it."""
    entries = [
        {"IOClass": "AGXAcceleratorG14X", "PerformanceStatistics": {"Device Utilization %": value, "Tiler Utilization %": 3}}
        for value in percents
    ]
    return plistlib.dumps(entries).decode()


def test_gpus_of_macos() -> None:
    assert parse_gpus(json.dumps(APPLE_SILICON)) == (MetalGpu("Apple M2 Max (38 GPU cores)", "spdisplays_metal3"),)
    assert [gpu.name for gpu in parse_gpus(json.dumps(OLD_INTEL))] == ["AMD Radeon Pro 5500M"]
    assert parse_gpus('{"SPDisplaysDataType": []}') == ()


def test_how_busy_gpus_of_macos_are() -> None:
    assert parse_utilizations(ioreg(23)) == (0.23,)
    assert parse_utilizations(ioreg(0, 250)) == (0.0, 1.0)
    assert parse_utilizations(ioreg("much", -4)) == ()


@pytest.mark.parametrize("answer", ["", "nothing", "<plist><array><integer>3</integer></array></plist>", "<plist><dict/>"])
def test_a_registry_that_makes_no_sense_tells_nothing(answer: str) -> None:
    assert parse_utilizations(answer) == ()


@pytest.mark.parametrize("answer", ["", "{}", "[]", "not json", '{"SPDisplaysDataType": [3]}', '{"SPDisplaysDataType": 3}'])
def test_answers_of_the_profiler_that_make_no_sense(answer: str) -> None:
    with pytest.raises(RbeesError):
        parse_gpus(answer)


@pytest.mark.parametrize(
    ("sysctl", "expected"),
    [
        (f"hw.memsize: {16 * GIB}\niogpu.wired_limit_mb: 0\n", 16 * GIB * 2 // 3),
        (f"hw.memsize: {64 * GIB}\n", 48 * GIB),
        (f"hw.memsize: {64 * GIB}\niogpu.wired_limit_mb: 57344\n", 56 * GIB),
        (f"hw.memsize: {16 * GIB}\niogpu.wired_limit_mb: 99999999\n", 16 * GIB),
    ],
)
def test_the_working_set_of_metal(sysctl: str, expected: int) -> None:
    assert parse_working_set(sysctl) == expected


@pytest.mark.parametrize("sysctl", ["", "hw.memsize: lots", "sysctl: unknown oid 'hw.memsize'"])
def test_a_missing_memory_size_is_an_error(sysctl: str) -> None:
    with pytest.raises(RbeesError):
        parse_working_set(sysctl)


def test_metal_devices() -> None:
    asked = []

    def run(command: tuple[str, ...]) -> str:
        asked.append(command[0])
        if "ioreg" in command[0]:
            return ioreg(40)
        return json.dumps(APPLE_SILICON) if "system_profiler" in command[0] else f"hw.memsize: {96 * GIB}\n"

    source = MetalSource(run)
    (found,) = source.measure()
    assert (found.device_id, found.backend, found.memory_architecture, found.total_bytes) == (
        "metal:0",
        "metal",
        "unified",
        72 * GIB,
    )
    assert found.free_bytes <= found.total_bytes
    assert (found.utilization, found.compute_capability, found.vendor) == (0.4, "metal3", "apple")
    source.measure()
    assert sum("system_profiler" in name for name in asked) == 1


def test_a_mac_without_metal() -> None:
    with pytest.raises(NoSuchHardware):
        MetalSource(lambda command: '{"SPDisplaysDataType": []}').measure()


def test_backends_are_recognised_by_their_libraries(tmp_path: Path) -> None:
    (tmp_path / "libggml-cuda.so").touch()
    assert problem_of("cpu", tmp_path) is None
    assert problem_of("cuda", tmp_path) is None
    assert "without metal" in (problem_of("metal", tmp_path) or "")
    assert problem_of("scripted", None) is None
    assert install_command("llama") in (problem_of("cpu", None) or "")


def test_what_was_installed_meanwhile_is_seen_at_the_next_look(tmp_path: Path) -> None:
    folders: list[Path | None] = [None, tmp_path]
    installation = Installation(lambda: folders.pop(0))
    assert "pip install" in (installation.problems["cpu"] or "")
    (tmp_path / "libggml-cuda.so").touch()
    installation.look()
    assert (installation.problems["cpu"], installation.problems["cuda"]) == (None, None)


def test_accelerators_without_a_backend_are_marked(tmp_path: Path) -> None:
    problems = Installation(lambda: tmp_path).problems
    cpu, gpu = with_backend_problems([device("cpu"), device("cuda:0")], problems)
    assert cpu.healthy
    assert not gpu.healthy
    assert "-DGGML_CUDA=on" in (gpu.problem or "")


def test_a_library_for_rocm_serves_amd_and_one_for_cuda_nvidia(tmp_path: Path) -> None:
    (tmp_path / "libggml-hip.so").touch()
    installation = Installation(lambda: tmp_path)
    assert installation.problems["cuda"] is None, "some device of the backend can be used"
    devices = [device("cuda:0", vendor="nvidia"), device("cuda:1", vendor="amd"), device("cuda:2")]
    nvidia, amd, unnamed = with_backend_problems(devices, installation.problems, installation.of_vendors)
    assert (nvidia.healthy, amd.healthy, unnamed.healthy) == (False, True, True)
    assert "-DGGML_CUDA=on" in (nvidia.problem or "")
    (tmp_path / "libggml-hip.so").rename(tmp_path / "libggml-cuda.so")
    installation.look()
    nvidia, amd, _ = with_backend_problems(devices, installation.problems, installation.of_vendors)
    assert (nvidia.healthy, amd.healthy) == (True, False)
    assert "without ROCm" in (amd.problem or "")
    assert "-DGGML_HIP=on" in (amd.problem or "")
