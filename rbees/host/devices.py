"""The devices of this host, as last measured: one background thread for each source, so that no caller ever waits.

A source (NVML, Metal, DRM, CPU; one gateway file each) may be slow, fail in any way or hang. Its devices are then reported as
unhealthy with the reason, from the last good measurement, and it is asked again. The threads are daemons: a driver that never
returns cannot hold up the end of the process.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from rbees.host.cpu import DEVICE_ID, CpuSource
from rbees.host.device_source import NoSuchHardware, Source, TellsHolders, TellsIdle
from rbees.host.drm import DrmSource
from rbees.host.metal import MetalSource
from rbees.host.nvml import NvmlSource
from rbees.host.process import resident_bytes
from rbees.protocol.errors import RbeesError
from rbees.protocol.pools import Device, IdleAccelerator, WorkerFacts
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
    measured_at_s: float = 0.0
    """Monotonic time of the last good measurement."""
    told_silent: bool = False
    """The log says already that the running measurement does not end."""


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

    def idle(self) -> tuple[IdleAccelerator, ...]:
        """Accelerators on which no worker can run, as last measured; never blocks."""
        return tuple(each for source in self._sources if isinstance(source, TellsIdle) for each in source.idle)

    def held_bytes(self, pid: int) -> dict[str, int]:
        """What a process holds, by device id: of accelerators as last measured, where their drivers tell; of main memory now."""
        told = [source.held for source in self._sources if isinstance(source, TellsHolders)]
        held = {device_id: by_pid[pid] for by_device in told for device_id, by_pid in by_device.items() if pid in by_pid}
        resident = resident_bytes(pid)
        return held if resident is None else {DEVICE_ID: resident, **held}

    def seen(self, worker: WorkerFacts) -> WorkerFacts:
        """The worker, with what its process was seen to hold."""
        held = {} if worker.pid is None else self.held_bytes(worker.pid)
        return msgspec.structs.replace(worker, held_bytes=held) if held else worker

    def problems(self) -> tuple[str, ...]:
        """Of each source that fails or has not answered yet, why, in a sentence; also where it never had a device to report."""
        silent = [
            f"{name} does not answer; its driver may hang." for name, reading in self._readings.items() if not reading.measured
        ]
        return (*silent, *(reading.problem for reading in self._readings.values() if reading.problem is not None))

    def _as_of_now(self, name: str, reading: _Reading) -> tuple[Device, ...]:
        problem, busy_since_s, now_s = reading.problem, reading.busy_since_s, self._clock.monotonic()
        if busy_since_s is not None:
            silent_s = now_s - busy_since_s
            if silent_s > MEASURE_LIMIT_S:
                problem = f"{name} has not answered for {silent_s:.0f} s; the driver may hang."
                if not reading.told_silent:
                    reading.told_silent = True
                    self._log.warning("device source hangs", action="device_health", source=name, problem=problem)
        # A device that was ill at the measurement has its own reason.
        marks = {} if problem is None else {"healthy": False, "problem": problem}
        age_ms = round((now_s - reading.measured_at_s) * 1000)
        return tuple(msgspec.structs.replace(device, age_ms=age_ms, **marks) for device in reading.devices)

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
        except NoSuchHardware:
            raise
        except Exception as error:  # Drivers and their bindings are foreign programs; nothing they do may end the measuring.
            devices, problem = reading.devices, f"{source.name} failed unexpectedly ({type(error).__name__}); the log says where."
            if problem != reading.problem:
                self._log.error("device source failed", action="device_failure", source=source.name, exc_info=True)
        if problem is None:
            now_ms, reading.measured_at_s = self._clock.unix_ms(), self._clock.monotonic()
            reading.devices = tuple(msgspec.structs.replace(device, measured_at_ms=now_ms) for device in devices)
        if reading.told_silent:
            reading.told_silent = False
            self._log.warning("device source answers again", action="device_health", source=source.name, problem=problem)
        elif problem != reading.problem:
            self._log.warning("device health changed", action="device_health", source=source.name, problem=problem)
        reading.problem, reading.busy_since_s, reading.measured = problem, None, True


def sources_of_this_host() -> tuple[Source, ...]:
    """The sources that this operating system can have."""
    return (CpuSource(), MetalSource()) if sys.platform == "darwin" else (CpuSource(), NvmlSource(), DrmSource())
