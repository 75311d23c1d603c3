"""NVIDIA devices by NVML: the only user of pynvml.

A call into the driver can hang for ever; `devices.py` runs this source in a thread of its own and draws the consequence.
NVML numbers devices by PCI bus, so workers are started with `CUDA_DEVICE_ORDER=PCI_BUS_ID` and the numbers agree. CUDA counts
otherwise as soon as one GPU of the host is divided by MIG, so there every device is named by its uuid, instances of divided GPUs
being devices of their own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec
import psutil

from rbees.host.device_source import NoSuchHardware, sees_all_pids
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.pools import Device, IdleAccelerator

LOOK_AGAIN_EVERY: Final = 30
"""Measurements between two attempts to see a lost device again; opening NVML can take a second on a host with many devices."""
_NO_DRIVER: Final = ("NVMLError_LibraryNotFound", "NVMLError_DriverNotLoaded", "NVMLError_NoPermission")
_NOT_TOLD: Final = frozenset({"NVMLError_NotSupported", "NVMLError_FunctionNotFound", "NVMLError_NoPermission"})
"""What this device, this driver or this user cannot be told; the device itself is well."""


class NvmlSource:
    """Measures every NVIDIA device. `library` is pynvml, or what a test puts in its place.

    `trusts_pids`: the processes that NVML names are those of the same ids here; found out unless given.
    """

    name = "NVML"

    def __init__(self, library: Any = None, *, trusts_pids: bool | None = None) -> None:
        self._library = library
        self._trusts_pids = sees_all_pids() if trusts_pids is None else trusts_pids
        self._initialized = False
        self._last: dict[int, tuple[Device, ...]] = {}
        self._divided: dict[int, bool] = {}
        self._with_losses = 0
        """Measurements in a row in which some device could not be asked."""
        self._holders: dict[str, Mapping[int, int]] = {}
        self._empty: list[IdleAccelerator] = []
        self.held: Mapping[str, Mapping[int, int]] = {}
        self.idle: tuple[IdleAccelerator, ...] = ()

    def measure(self) -> tuple[Device, ...]:
        """The devices now. One that cannot be asked is marked as unhealthy; only if the library itself fails do all go.

        Raises:
            NoSuchHardware: there is no NVIDIA driver here.
            RbeesError: BACKEND_UNAVAILABLE.
        """
        if self._library is None:
            import pynvml

            self._library = pynvml
        nvml = self._library
        self._holders, self._empty = {}, []
        try:
            self._open()
            devices = tuple(self._measure_all(nvml.nvmlDeviceGetCount()))
        except nvml.NVMLError as error:
            raise self._translate(error) from None
        self._with_losses = 0 if all(device.healthy for device in devices) else self._with_losses + 1
        self.held, self.idle = self._holders, tuple(self._empty)
        return devices

    def _open(self) -> None:
        """Initialize the library, and once in a while anew: it does not see a lost device again otherwise."""
        if self._with_losses >= LOOK_AGAIN_EVERY:
            self._close()
        if not self._initialized:
            self._library.nvmlInit()
            self._initialized = True

    def _close(self) -> None:
        """Undo `nvmlInit`, which only counts its calls: without this the next one would open nothing."""
        if self._initialized:
            with contextlib.suppress(self._library.NVMLError):
                self._library.nvmlShutdown()
        self._initialized, self._with_losses = False, 0

    def _translate(self, error: Exception) -> Exception:
        if not self._initialized and type(error).__name__ in _NO_DRIVER:
            return NoSuchHardware(type(error).__name__)
        self._close()
        return RbeesError(
            ErrorCode.BACKEND_UNAVAILABLE, f"NVML failed ({_reason(error)}); look at `nvidia-smi` and `dmesg` on this host."
        )

    def _measure_all(self, count: int) -> Iterator[Device]:
        for index in range(count):
            # What is lost keeps its name, and so do the others because of it.
            with contextlib.suppress(self._library.NVMLError):
                self._divided[index] = self._is_divided(self._library.nvmlDeviceGetHandleByIndex(index))
        by_uuid = any(self._divided.get(index, False) for index in range(count))
        for index in range(count):
            yield from self._measure_or_mark(index, by_uuid)

    def _is_divided(self, handle: Any) -> bool:
        mode = self._optional(self._library.nvmlDeviceGetMigMode, handle)
        return mode is not None and mode[0] == self._library.NVML_DEVICE_MIG_ENABLE

    def _measure_or_mark(self, index: int, by_uuid: bool) -> tuple[Device, ...]:
        """The device, or what was last known of it with the reason why it cannot be used: the others are as good as ever."""
        try:
            handle = self._library.nvmlDeviceGetHandleByIndex(index)
            if self._divided.get(index, False):
                devices = tuple(self._measure_instances(handle))
            else:
                devices = (self._measure_device(handle, handle, None if by_uuid else index),)
            self._last[index] = devices
        except self._library.NVMLError as error:
            problem = f"NVML cannot ask this device ({_reason(error)}); look at `nvidia-smi` and `dmesg` on this host."
            last = self._last.get(index) or (_never_seen(index),)
            return tuple(msgspec.structs.replace(device, healthy=False, problem=problem) for device in last)
        return devices

    def _measure_instances(self, parent: Any) -> Iterator[Device]:
        """The parts that MIG divided a GPU into. Numbers without a part are those of parts that could be made."""
        nvml, any_found = self._library, False
        for number in range(nvml.nvmlDeviceGetMaxMigDeviceCount(parent)):
            try:
                handle = nvml.nvmlDeviceGetMigDeviceHandleByIndex(parent, number)
            except nvml.NVMLError_NotFound:
                continue
            any_found = True
            yield self._measure_device(handle, parent, None)
        if not any_found:
            self._empty.append(self._without_instances(parent))

    def _measure_device(self, handle: Any, board: Any, index: int | None) -> Device:
        """A whole GPU or an instance on it; `board` answers what instances cannot. Without an index it is named by its uuid."""
        nvml = self._library
        memory = self._optional(nvml.nvmlDeviceGetMemoryInfo, handle)
        capability = self._optional(nvml.nvmlDeviceGetCudaComputeCapability, board)
        utilization = self._optional(nvml.nvmlDeviceGetUtilizationRates, handle)
        uuid = _text(nvml.nvmlDeviceGetUUID(handle))
        device_id = f"cuda:{uuid if index is None else index}"
        self._holders[device_id] = self._holders_on(handle)
        # GPUs that share the processors' memory have none of their own to tell.
        main = psutil.virtual_memory() if memory is None else None
        return Device(
            device_id=device_id,
            backend="cuda",
            name=_text(nvml.nvmlDeviceGetName(handle)),
            memory_architecture="vram" if main is None else "unified",
            total_bytes=memory.total if main is None else main.total,
            free_bytes=memory.free if main is None else main.available,
            measured_at_ms=0,
            utilization=None if utilization is None else utilization.gpu / 100,
            temperature_celsius=self._optional(nvml.nvmlDeviceGetTemperature, board, nvml.NVML_TEMPERATURE_GPU),
            driver_version=_text(nvml.nvmlSystemGetDriverVersion()),
            compute_capability=None if capability is None else f"{capability[0]}.{capability[1]}",
            vendor="nvidia",
            uuid=uuid,
        )

    def _holders_on(self, handle: Any) -> Mapping[int, int]:
        """Bytes by process id; those of processes that the driver names without a number are missing."""
        if not self._trusts_pids:
            return {}
        processes = self._optional(self._library.nvmlDeviceGetComputeRunningProcesses, handle) or ()
        return {process.pid: process.usedGpuMemory for process in processes if process.usedGpuMemory is not None}

    def _without_instances(self, board: Any) -> IdleAccelerator:
        memory = self._optional(self._library.nvmlDeviceGetMemoryInfo, board)
        return IdleAccelerator(
            name=_text(self._library.nvmlDeviceGetName(board)),
            vendor="nvidia",
            driver="nvidia",
            memory_architecture="vram",
            total_bytes=None if memory is None else memory.total,
            free_bytes=None if memory is None else memory.free,
            reason="It is in MIG mode and has no instance; make one (`nvidia-smi mig -cgi … -C`) or leave the mode "
            "(`nvidia-smi -mig 0`).",
        )

    def _optional(self, query: Any, *arguments: Any) -> Any:
        """What some devices, drivers and users cannot be told: None then."""
        try:
            return query(*arguments)
        except self._library.NVMLError as error:
            if type(error).__name__ in _NOT_TOLD:
                return None
            raise


def _never_seen(index: int) -> Device:
    return Device(
        device_id=f"cuda:{index}",
        backend="cuda",
        name="NVIDIA device",
        memory_architecture="vram",
        total_bytes=0,
        free_bytes=0,
        measured_at_ms=0,
        vendor="nvidia",
    )


def _reason(error: Exception) -> str:
    return type(error).__name__.removeprefix("NVMLError_")


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
