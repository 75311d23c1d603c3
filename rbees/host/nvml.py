"""NVIDIA devices by NVML: the only user of pynvml.

A call into the driver can hang for ever; `devices.py` runs this source in a thread of its own and draws the consequence.
NVML numbers devices by PCI bus, so workers are started with `CUDA_DEVICE_ORDER=PCI_BUS_ID` and the numbers agree.
"""

from __future__ import annotations

import contextlib
from typing import Any, Final

import msgspec

from rbees.host.device_source import NoSuchHardware
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.pools import Device

LOOK_AGAIN_EVERY: Final = 30
"""Measurements between two attempts to see a lost device again; opening NVML can take a second on a host with many devices."""
_NO_DRIVER: Final = ("NVMLError_LibraryNotFound", "NVMLError_DriverNotLoaded", "NVMLError_NoPermission")


class NvmlSource:
    """Measures every NVIDIA device. `library` is pynvml, or what a test puts in its place."""

    name = "NVML"

    def __init__(self, library: Any = None) -> None:
        self._library = library
        self._initialized = False
        self._last: dict[int, Device] = {}
        self._with_losses = 0
        """Measurements in a row in which some device could not be asked."""

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
        try:
            self._open()
            devices = tuple(self._measure_or_mark(index) for index in range(nvml.nvmlDeviceGetCount()))
        except nvml.NVMLError as error:
            raise self._translate(error) from None
        self._with_losses = 0 if all(device.healthy for device in devices) else self._with_losses + 1
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

    def _measure_or_mark(self, index: int) -> Device:
        """The device, or what was last known of it with the reason why it cannot be used: the others are as good as ever."""
        try:
            device = self._last[index] = self._measure_device(index)
        except self._library.NVMLError as error:
            problem = f"NVML cannot ask this device ({_reason(error)}); look at `nvidia-smi` and `dmesg` on this host."
            last = self._last.get(index) or _never_seen(index)
            return msgspec.structs.replace(last, healthy=False, problem=problem)
        return device

    def _measure_device(self, index: int) -> Device:
        nvml = self._library
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        capability = self._optional(nvml.nvmlDeviceGetCudaComputeCapability, handle)
        utilization = self._optional(nvml.nvmlDeviceGetUtilizationRates, handle)
        return Device(
            device_id=f"cuda:{index}",
            backend="cuda",
            name=_text(nvml.nvmlDeviceGetName(handle)),
            memory_architecture="vram",
            total_bytes=memory.total,
            free_bytes=memory.free,
            measured_at_ms=0,
            utilization=None if utilization is None else utilization.gpu / 100,
            temperature_celsius=self._optional(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU),
            driver_version=_text(nvml.nvmlSystemGetDriverVersion()),
            compute_capability=None if capability is None else f"{capability[0]}.{capability[1]}",
        )

    def _optional(self, query: Any, *arguments: Any) -> Any:
        """What some devices cannot answer (MIG slices, old boards)."""
        try:
            return query(*arguments)
        except self._library.NVMLError_NotSupported:
            return None


def _never_seen(index: int) -> Device:
    return Device(
        device_id=f"cuda:{index}",
        backend="cuda",
        name="NVIDIA device",
        memory_architecture="vram",
        total_bytes=0,
        free_bytes=0,
        measured_at_ms=0,
    )


def _reason(error: Exception) -> str:
    return type(error).__name__.removeprefix("NVMLError_")


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
