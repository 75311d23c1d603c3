"""NVIDIA devices by NVML: the only user of pynvml.

A call into the driver can hang for ever; `devices.py` runs this source in a thread of its own and draws the consequence.
NVML numbers devices by PCI bus, so workers are started with `CUDA_DEVICE_ORDER=PCI_BUS_ID` and the numbers agree.
"""

from __future__ import annotations

from typing import Any, Final

from rbees.host.device_source import NoSuchHardware
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.pools import Device

_NO_DRIVER: Final = ("NVMLError_LibraryNotFound", "NVMLError_DriverNotLoaded", "NVMLError_NoPermission")


class NvmlSource:
    """Measures every NVIDIA device. `library` is pynvml, or what a test puts in its place."""

    name = "NVML"

    def __init__(self, library: Any = None) -> None:
        self._library = library
        self._initialized = False

    def measure(self) -> tuple[Device, ...]:
        """The devices now.

        Raises:
            NoSuchHardware: there is no NVIDIA driver here.
            RbeesError: BACKEND_UNAVAILABLE.
        """
        if self._library is None:
            import pynvml

            self._library = pynvml
        nvml = self._library
        try:
            if not self._initialized:
                nvml.nvmlInit()
                self._initialized = True
            return tuple(self._measure_device(index) for index in range(nvml.nvmlDeviceGetCount()))
        except nvml.NVMLError as error:
            raise self._translate(error) from None

    def _translate(self, error: Exception) -> Exception:
        kind = type(error).__name__
        if not self._initialized and kind in _NO_DRIVER:
            return NoSuchHardware(kind)
        # After an error such as a lost device the library must be opened anew before it can see the device again.
        self._initialized = False
        reason = kind.removeprefix("NVMLError_")
        return RbeesError(ErrorCode.BACKEND_UNAVAILABLE, f"NVML failed ({reason}); look at `nvidia-smi` and `dmesg` on this host.")

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


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
