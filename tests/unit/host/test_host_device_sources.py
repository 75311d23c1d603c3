"""The gateways to device facts: what they make of the answers of NVML, macOS and Linux, good and bad."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rbees.host.backends import Installation, problem_of, with_backend_problems
from rbees.host.cpu import CpuSource, parse_processor_name
from rbees.host.device_source import NoSuchHardware
from rbees.host.metal import MetalSource, parse_gpu_names, parse_working_set
from rbees.host.nvml import LOOK_AGAIN_EVERY, NvmlSource
from rbees.protocol.errors import ErrorCode, RbeesError
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


class Nvml:
    """A pynvml of two boards, of which one cannot tell its utilisation."""

    NVML_TEMPERATURE_GPU = 0

    class NVMLError(Exception):
        pass

    class NVMLError_NotSupported(NVMLError):
        pass

    class NVMLError_LibraryNotFound(NVMLError):
        pass

    class NVMLError_GpuIsLost(NVMLError):
        pass

    def __init__(self, fails_with: type[Exception] | None = None) -> None:
        self.fails_with = fails_with
        self.lost: set[int] = set()
        self.opened = 0
        """As the real one counts: so many calls of `nvmlInit` more than of `nvmlShutdown`."""
        self.times_opened = 0

    def nvmlShutdown(self) -> None:
        assert self.opened
        self.opened -= 1

    def nvmlInit(self) -> None:
        self.times_opened += self.opened == 0
        self.opened += 1
        if self.fails_with is self.NVMLError_LibraryNotFound:
            raise self.NVMLError_LibraryNotFound

    def nvmlDeviceGetCount(self) -> int:
        if self.fails_with is not None:
            raise self.fails_with
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        if index in self.lost:
            raise self.NVMLError_GpuIsLost
        return index

    def nvmlDeviceGetName(self, handle: int) -> str | bytes:
        return b"NVIDIA H200" if handle else "NVIDIA RTX 3060"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        return SimpleNamespace(total=12 * GIB, free=(10 - handle) * GIB, used=2 * GIB)

    def nvmlDeviceGetCudaComputeCapability(self, handle: int) -> tuple[int, int]:
        return (8, 6)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        if handle:
            raise self.NVMLError_NotSupported
        return SimpleNamespace(gpu=25, memory=3)

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:
        return 41

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.65.06"


def test_nvml_devices() -> None:
    first, second = NvmlSource(Nvml()).measure()
    assert (first.device_id, first.backend, first.name, first.memory_architecture) == ("cuda:0", "cuda", "NVIDIA RTX 3060", "vram")
    assert (first.total_bytes, first.free_bytes, first.utilization) == (12 * GIB, 10 * GIB, 0.25)
    assert (first.compute_capability, first.driver_version, first.temperature_celsius) == ("8.6", "580.65.06", 41)
    assert (second.device_id, second.name, second.utilization) == ("cuda:1", "NVIDIA H200", None)


def test_no_driver_means_no_such_hardware() -> None:
    with pytest.raises(NoSuchHardware):
        NvmlSource(Nvml(Nvml.NVMLError_LibraryNotFound)).measure()


def test_a_failing_driver_is_a_problem_and_is_opened_anew() -> None:
    library = Nvml()
    source = NvmlSource(library)
    source.measure()
    library.fails_with = Nvml.NVMLError_GpuIsLost
    with pytest.raises(RbeesError) as caught:
        source.measure()
    assert caught.value.code is ErrorCode.BACKEND_UNAVAILABLE
    assert "GpuIsLost" in caught.value.message
    library.fails_with = None
    assert len(source.measure()) == 2
    assert (library.opened, library.times_opened) == (1, 2)


def test_one_lost_device_leaves_the_others_as_they_are() -> None:
    library = Nvml()
    source = NvmlSource(library)
    source.measure()
    library.lost = {0}
    lost, other = source.measure()
    assert (lost.device_id, lost.name, lost.healthy) == ("cuda:0", "NVIDIA RTX 3060", False)
    assert "GpuIsLost" in (lost.problem or "")
    assert (other.device_id, other.healthy, other.problem) == ("cuda:1", True, None)
    library.lost = set()
    assert all(device.healthy for device in source.measure())


def test_a_device_that_was_lost_from_the_start_is_shown_too() -> None:
    library = Nvml()
    library.lost = {1}
    _, lost = NvmlSource(library).measure()
    assert (lost.device_id, lost.healthy, lost.total_bytes) == ("cuda:1", False, 0)


def test_the_library_is_opened_anew_once_in_a_while_for_a_lost_device() -> None:
    library = Nvml()
    library.lost = {0}
    source = NvmlSource(library)
    for _ in range(LOOK_AGAIN_EVERY):
        source.measure()
    assert library.times_opened == 1
    source.measure()
    assert (library.opened, library.times_opened) == (1, 2)


def test_gpu_names_of_macos() -> None:
    assert parse_gpu_names(json.dumps(APPLE_SILICON)) == ("Apple M2 Max (38 GPU cores)",)
    assert parse_gpu_names(json.dumps(OLD_INTEL)) == ("AMD Radeon Pro 5500M",)
    assert parse_gpu_names('{"SPDisplaysDataType": []}') == ()


@pytest.mark.parametrize("answer", ["", "{}", "[]", "not json", '{"SPDisplaysDataType": [3]}', '{"SPDisplaysDataType": 3}'])
def test_answers_of_the_profiler_that_make_no_sense(answer: str) -> None:
    with pytest.raises(RbeesError):
        parse_gpu_names(answer)


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
    source.measure()
    assert sum("system_profiler" in name for name in asked) == 1


def test_a_mac_without_metal() -> None:
    with pytest.raises(NoSuchHardware):
        MetalSource(lambda command: '{"SPDisplaysDataType": []}').measure()


def test_processor_names() -> None:
    assert parse_processor_name("processor\t: 0\nmodel name\t: AMD EPYC 9B45\nflags : x\n") == "AMD EPYC 9B45"
    assert parse_processor_name("Model\t\t: Raspberry Pi 5 Model B Rev 1.0\n") == "Raspberry Pi 5 Model B Rev 1.0"
    assert parse_processor_name("processor: 0\n") is None


def test_this_machine_has_a_cpu() -> None:
    (found,) = CpuSource().measure()
    assert found.device_id == "cpu"
    assert 0 < found.free_bytes <= found.total_bytes
    assert found.physical_cores is not None
    assert found.physical_cores >= 1


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
