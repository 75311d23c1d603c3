"""The devices of this host, as last measured: one background thread for each source, so that no caller ever waits.

A source (NVML, Metal, CPU; one gateway file each) may be slow, fail or hang. Its devices are then reported as unhealthy
with the reason, from the last good measurement. The threads are daemons: a driver that never returns cannot hold up the
end of the process.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from rbees.host.cpu import CpuSource
from rbees.host.device_source import NoSuchHardware, Source
from rbees.host.metal import MetalSource
from rbees.host.nvml import NvmlSource
from rbees.protocol.errors import RbeesError
from rbees.protocol.pools import Device
from rbees.service import logs
from rbees.service.clock import Clock

MEASURE_INTERVAL_S: Final = 2.0
MEASURE_LIMIT_S: Final = 2.0


@dataclass(slots=True)
class _Reading:
    """The newest state of one source; written by its thread as whole values, read by everyone."""

    devices: tuple[Device, ...] = ()
    problem: str | None = None
    busy_since_s: float | None = None
    """Monotonic time at which the running measurement began."""
    measured: bool = False


class DeviceMonitor:
    """Measures all sources every two seconds and answers at once with what is known."""

    def __init__(self, sources: Sequence[Source], clock: Clock) -> None:
        self._clock = clock
        self._log = logs.logger()
        self._readings = {source.name: _Reading() for source in sources}
        self._sources = tuple(sources)
        self._stop = threading.Event()

    def start(self) -> None:
        """Begin to measure."""
        for source in self._sources:
            threading.Thread(target=self._measure_for_ever, args=(source,), name=f"measure-{source.name}", daemon=True).start()

    def stop(self) -> None:
        """End the threads once their present measurement returns."""
        self._stop.set()

    async def wait_first(self, limit_s: float = MEASURE_LIMIT_S) -> None:
        """Until each source has answered once, but no longer than `limit_s` seconds."""
        deadline_s = self._clock.monotonic() + limit_s
        # The threads know nothing of the event loop; looking a few times at start is simpler than waking it from them.
        while self._clock.monotonic() < deadline_s and not all(reading.measured for reading in self._readings.values()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    def devices(self) -> tuple[Device, ...]:
        """All devices as last measured, by id; never blocks."""
        found = [device for name, reading in self._readings.items() for device in self._as_of_now(name, reading)]
        return tuple(sorted(found, key=lambda device: device.device_id))

    def problems(self) -> tuple[str, ...]:
        """Of each source that fails or has not answered yet, why, in a sentence; also where it never had a device to report."""
        silent = [
            f"{name} does not answer; its driver may hang." for name, reading in self._readings.items() if not reading.measured
        ]
        return (*silent, *(reading.problem for reading in self._readings.values() if reading.problem is not None))

    def _as_of_now(self, name: str, reading: _Reading) -> tuple[Device, ...]:
        problem, busy_since_s = reading.problem, reading.busy_since_s
        if busy_since_s is not None:
            silent_s = self._clock.monotonic() - busy_since_s
            if silent_s > MEASURE_LIMIT_S:
                problem = f"{name} has not answered for {silent_s:.0f} s; the driver may hang."
        if problem is None:
            return reading.devices
        return tuple(msgspec.structs.replace(device, healthy=False, problem=problem) for device in reading.devices)

    def _measure_for_ever(self, source: Source) -> None:
        reading = self._readings[source.name]
        while not self._stop.is_set():
            try:
                self._measure_once(source, reading)
            except NoSuchHardware:
                reading.busy_since_s, reading.measured = None, True
                return
            self._stop.wait(MEASURE_INTERVAL_S)

    def _measure_once(self, source: Source, reading: _Reading) -> None:
        reading.busy_since_s = self._clock.monotonic()
        try:
            devices, problem = source.measure(), None
        except RbeesError as error:
            devices, problem = reading.devices, error.message
        now_ms = self._clock.unix_ms()
        if problem is None:
            reading.devices = tuple(msgspec.structs.replace(device, measured_at_ms=now_ms) for device in devices)
        if problem != reading.problem:
            self._log.warning("device health changed", action="device_health", source=source.name, problem=problem)
        reading.problem, reading.busy_since_s, reading.measured = problem, None, True


def sources_of_this_host() -> tuple[Source, ...]:
    """The sources that this operating system can have."""
    return (CpuSource(), MetalSource() if sys.platform == "darwin" else NvmlSource())
