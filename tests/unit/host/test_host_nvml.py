"""What is made of NVML's answers, good and bad: whole GPUs, GPUs divided by MIG, lost ones, and who holds their memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from rbees.host.device_source import NoSuchHardware
from rbees.host.nvml import LOOK_AGAIN_EVERY, NvmlSource
from rbees.protocol.errors import ErrorCode, RbeesError
from tests.support.host_facts import GIB

RTX = "GPU-5c0f1a3e-0000-1111-2222-333344445555"
A100 = "GPU-a1000000-0000-1111-2222-333344445555"
FIRST_PART = "MIG-0c757cd7-e942-5726-a0b8-0e8fb7067135"
SECOND_PART = "MIG-1d868de8-e942-5726-a0b8-0e8fb7067135"


@dataclass
class Board:
    """A GPU or an instance on it, as the library knows it."""

    name: str | bytes
    uuid: str
    total: int | None = 12 * GIB
    free: int = 10 * GIB
    busy: int | None = 25
    processes: dict[int, int | None] | None = field(default_factory=dict)
    is_part: bool = False
    parts: list[Board | None] | None = None
    """None in it: a place without an instance. None instead of it: MIG is off."""


def rtx(**more: Any) -> Board:
    return Board("NVIDIA GeForce RTX 3060", RTX, **more)


def part(uuid: str, **more: Any) -> Board:
    return Board("NVIDIA A100-SXM4-40GB MIG 1g.5gb", uuid, total=5 * GIB, free=4 * GIB, busy=None, is_part=True, **more)


def a100(*parts: Board | None) -> Board:
    return Board(b"NVIDIA A100-SXM4-40GB", A100, total=40 * GIB, free=30 * GIB, parts=list(parts))


class Nvml:
    """A pynvml of some boards; handles are the boards themselves."""

    NVML_TEMPERATURE_GPU = 0
    NVML_DEVICE_MIG_ENABLE = 1

    class NVMLError(Exception):
        pass

    class NVMLError_NotSupported(NVMLError):
        pass

    class NVMLError_FunctionNotFound(NVMLError):
        pass

    class NVMLError_NoPermission(NVMLError):
        pass

    class NVMLError_NotFound(NVMLError):
        pass

    class NVMLError_LibraryNotFound(NVMLError):
        pass

    class NVMLError_GpuIsLost(NVMLError):
        pass

    def __init__(self, *boards: Board, fails_with: type[Exception] | None = None, is_old: bool = False) -> None:
        self.boards = boards or (rtx(), Board(b"NVIDIA H200", A100, free=9 * GIB, busy=None))
        self.fails_with = fails_with
        self.is_old = is_old
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
        return len(self.boards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Board:
        if index in self.lost:
            raise self.NVMLError_GpuIsLost
        return self.boards[index]

    def nvmlDeviceGetMigMode(self, board: Board) -> list[int]:
        if self.is_old:
            raise self.NVMLError_FunctionNotFound
        if board.busy is None and board.parts is None:
            raise self.NVMLError_NotSupported
        return [int(board.parts is not None), 0]

    def nvmlDeviceGetMaxMigDeviceCount(self, board: Board) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, board: Board, index: int) -> Board:
        parts = board.parts or []
        found = parts[index] if index < len(parts) else None
        if found is None:
            raise self.NVMLError_NotFound
        return found

    def nvmlDeviceGetUUID(self, board: Board) -> str:
        return board.uuid

    def nvmlDeviceGetName(self, board: Board) -> str | bytes:
        return board.name

    def nvmlDeviceGetMemoryInfo(self, board: Board) -> Any:
        if board.total is None:
            raise self.NVMLError_NotSupported
        return SimpleNamespace(total=board.total, free=board.free, used=board.total - board.free)

    def nvmlDeviceGetCudaComputeCapability(self, board: Board) -> tuple[int, int]:
        if board.is_part:
            raise self.NVMLError_NotSupported
        return (8, 6)

    def nvmlDeviceGetUtilizationRates(self, board: Board) -> Any:
        if board.busy is None:
            raise self.NVMLError_NotSupported
        return SimpleNamespace(gpu=board.busy, memory=3)

    def nvmlDeviceGetTemperature(self, board: Board, sensor: int) -> int:
        if board.is_part:
            raise self.NVMLError_NotSupported
        return 41

    def nvmlDeviceGetComputeRunningProcesses(self, board: Board) -> list[Any]:
        if board.processes is None:
            raise self.NVMLError_NoPermission
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in board.processes.items()]

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.65.06"


def source_of(library: Nvml, trusts_pids: bool = True) -> NvmlSource:
    return NvmlSource(library, trusts_pids=trusts_pids)


def test_whole_gpus_go_by_their_numbers() -> None:
    first, second = source_of(Nvml()).measure()
    assert (first.device_id, first.backend, first.memory_architecture, first.vendor) == ("cuda:0", "cuda", "vram", "nvidia")
    assert (first.name, first.uuid) == ("NVIDIA GeForce RTX 3060", RTX)
    assert (first.total_bytes, first.free_bytes, first.utilization) == (12 * GIB, 10 * GIB, 0.25)
    assert (first.compute_capability, first.driver_version, first.temperature_celsius) == ("8.6", "580.65.06", 41)
    assert (second.device_id, second.name, second.utilization) == ("cuda:1", "NVIDIA H200", None)


def test_a_driver_that_knows_no_instances_is_as_good() -> None:
    assert [device.device_id for device in source_of(Nvml(is_old=True)).measure()] == ["cuda:0", "cuda:1"]


def test_instances_are_devices_and_all_devices_of_the_host_go_by_uuids_then() -> None:
    library = Nvml(rtx(), a100(part(FIRST_PART), None, part(SECOND_PART)))
    whole, first, second = source_of(library).measure()
    assert (whole.device_id, whole.uuid, whole.utilization) == (f"cuda:{RTX}", RTX, 0.25)
    assert [first.device_id, second.device_id] == [f"cuda:{FIRST_PART}", f"cuda:{SECOND_PART}"]
    assert (first.name, first.total_bytes, first.free_bytes) == ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", 5 * GIB, 4 * GIB)
    assert (first.utilization, first.temperature_celsius, first.compute_capability) == (None, 41, "8.6"), "the board answers for it"


def test_a_divided_gpu_without_instances_lies_idle() -> None:
    source = source_of(Nvml(a100()))
    assert source.measure() == ()
    (idle,) = source.idle
    assert (idle.name, idle.total_bytes) == ("NVIDIA A100-SXM4-40GB", 40 * GIB)
    assert "nvidia-smi mig -cgi" in idle.reason


def test_a_lost_divided_gpu_keeps_its_instances_and_the_names_of_the_others() -> None:
    library = Nvml(rtx(), a100(part(FIRST_PART)))
    source = source_of(library)
    source.measure()
    library.lost = {1}
    whole, lost = source.measure()
    assert (whole.device_id, whole.healthy) == (f"cuda:{RTX}", True)
    assert (lost.device_id, lost.healthy) == (f"cuda:{FIRST_PART}", False)
    assert "GpuIsLost" in (lost.problem or "")


def test_who_holds_how_much() -> None:
    boards = (rtx(processes={4711: 3 * GIB, 4712: None}), a100(part(FIRST_PART, processes=None)))
    source = source_of(Nvml(*boards))
    source.measure()
    assert source.held == {f"cuda:{RTX}": {4711: 3 * GIB}, f"cuda:{FIRST_PART}": {}}


def test_process_ids_of_another_count_are_not_taken_for_our_own() -> None:
    source = source_of(Nvml(rtx(processes={4711: 3 * GIB})), trusts_pids=False)
    source.measure()
    assert source.held == {"cuda:0": {}}


def test_a_gpu_without_memory_of_its_own_shares_the_processors() -> None:
    (found,) = source_of(Nvml(Board("NVIDIA GB10", RTX, total=None))).measure()
    assert (found.memory_architecture, found.healthy) == ("unified", True)
    assert 0 < found.free_bytes <= found.total_bytes


def test_no_driver_means_no_such_hardware() -> None:
    with pytest.raises(NoSuchHardware):
        source_of(Nvml(fails_with=Nvml.NVMLError_LibraryNotFound)).measure()


def test_a_failing_driver_is_a_problem_and_is_opened_anew() -> None:
    library = Nvml()
    source = source_of(library)
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
    source = source_of(library)
    source.measure()
    library.lost = {0}
    lost, other = source.measure()
    assert (lost.device_id, lost.name, lost.healthy) == ("cuda:0", "NVIDIA GeForce RTX 3060", False)
    assert "GpuIsLost" in (lost.problem or "")
    assert (other.device_id, other.healthy, other.problem) == ("cuda:1", True, None)
    library.lost = set()
    assert all(device.healthy for device in source.measure())


def test_a_device_that_was_lost_from_the_start_is_shown_too() -> None:
    library = Nvml()
    library.lost = {1}
    _, lost = source_of(library).measure()
    assert (lost.device_id, lost.healthy, lost.total_bytes) == ("cuda:1", False, 0)


def test_the_library_is_opened_anew_once_in_a_while_for_a_lost_device() -> None:
    library = Nvml()
    library.lost = {0}
    source = source_of(library)
    for _ in range(LOOK_AGAIN_EVERY):
        source.measure()
    assert library.times_opened == 1
    source.measure()
    assert (library.opened, library.times_opened) == (1, 2)
