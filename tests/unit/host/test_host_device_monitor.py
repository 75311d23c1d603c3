"""Measuring in the background: nobody waits for a source that hangs, and one that fails is reported as such."""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
from pathlib import Path

import pytest
import structlog

from rbees.host.device_source import NoSuchHardware
from rbees.host.devices import MEASURE_LIMIT_S, DeviceMonitor
from rbees.host.drm import DrmSource
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.pools import Device, IdleAccelerator
from rbees.service.clock import ManualClock, SystemClock
from tests.support.host_facts import GIB, device
from tests.support.sysfs import kfd_node, radeon

NOBODY = 1 << 30
"""More than any system counts processes."""


class Source:
    """Answers, fails or hangs as told; each measurement is announced by `measured`."""

    def __init__(self, name: str, *devices: Device) -> None:
        self.name = name
        self.devices = devices
        self.failure: Exception | None = None
        self.entered = threading.Event()
        self.release = threading.Event()
        self.release.set()

    def measure(self) -> tuple[Device, ...]:
        self.entered.set()
        self.release.wait(10)
        if self.failure:
            raise self.failure
        return self.devices


async def test_devices_of_all_sources_with_the_time_of_measurement() -> None:
    clock = SystemClock()
    monitor = DeviceMonitor([Source("NVML", device("cuda:0")), Source("CPU", device("cpu"))], clock)
    monitor.start()
    await monitor.wait_first()
    monitor.stop()
    found = monitor.devices()
    assert [each.device_id for each in found] == ["cpu", "cuda:0"]
    assert all(abs(each.measured_at_ms - clock.unix_ms()) < 10_000 for each in found)


def test_a_source_that_hangs_makes_its_devices_unhealthy_and_delays_nobody() -> None:
    clock = ManualClock()
    source = Source("NVML", device("cuda:0"))
    monitor = DeviceMonitor([source], clock)
    reading = monitor._readings["NVML"]
    monitor._measure_once(source, reading)
    assert monitor.devices()[0].healthy
    source.release.clear()
    hanging = threading.Thread(target=monitor._measure_once, args=(source, reading))
    source.entered.clear()
    hanging.start()
    source.entered.wait(10)
    assert monitor.devices()[0].healthy
    clock._monotonic += MEASURE_LIMIT_S + 1
    (found,) = monitor.devices()
    assert not found.healthy
    assert found.problem == "NVML has not answered for 3 s; the driver may hang."
    assert found.age_ms == 3000, "of what was measured before"
    source.release.set()
    hanging.join(10)
    assert monitor.devices()[0].healthy


def test_a_file_of_a_driver_that_is_never_read_to_its_end_holds_nobody_up(tmp_path: Path) -> None:
    """A real source, blocked in the kernel: of a pipe nobody writes to, opening waits for ever."""
    place = radeon(tmp_path) / "mem_info_vram_used"
    kfd_node(tmp_path, 1, minor=129, target=110000, bank_bytes=GIB, gpu_id=1)
    clock = ManualClock()
    source = DrmSource(tmp_path)
    monitor = DeviceMonitor([source, Source("CPU", device("cpu"))], clock)
    reading = monitor._readings["DRM"]
    monitor._measure_once(source, reading)
    place.unlink()
    os.mkfifo(place)
    blocked = threading.Thread(target=monitor._measure_once, args=(source, reading))
    blocked.start()
    with open(place, "wb", buffering=0) as pipe:
        # Opened, so the source reads it now; what comes is not the end.
        clock._monotonic += MEASURE_LIMIT_S + 1
        monitor._measure_once(monitor._sources[1], monitor._readings["CPU"])
        cpu, gpu = monitor.devices()
        assert (cpu.healthy, gpu.healthy, gpu.age_ms) == (True, False, 3000)
        assert gpu.problem == "DRM has not answered for 3 s; the driver may hang."
        assert blocked.is_alive()
        pipe.write(b"1024")
    blocked.join(10)
    assert not blocked.is_alive()
    assert [each.healthy for each in monitor.devices()] == [True, True]


def test_the_log_tells_once_of_a_source_that_hangs_and_of_its_return() -> None:
    clock = ManualClock()
    source = Source("NVML", device("cuda:0"))
    with structlog.testing.capture_logs() as told:
        monitor = DeviceMonitor([source], clock)
        reading = monitor._readings["NVML"]
        monitor._measure_once(source, reading)
        reading.busy_since_s = clock.monotonic()
        clock._monotonic += MEASURE_LIMIT_S + 1
        for _ in range(3):
            monitor.devices()
        monitor._measure_once(source, reading)
    assert [line["event"] for line in told] == ["device source hangs", "device source answers again"]


def test_measurements_have_an_age() -> None:
    clock = ManualClock()
    source = Source("CPU", device("cpu"))
    monitor = DeviceMonitor([source], clock)
    clock._monotonic += 100
    monitor._measure_once(source, monitor._readings["CPU"])
    clock._monotonic += 1.5
    (found,) = monitor.devices()
    assert (found.age_ms, found.healthy) == (1500, True)


def test_who_holds_what_and_which_accelerators_lie_idle() -> None:
    first, second = Source("NVML", device("cuda:0")), Source("DRM")
    idle = IdleAccelerator(name="Arc", vendor="intel", memory_architecture="vram", reason="There is no backend.")
    first.held = {"cuda:0": {os.getpid(): 7, 1: 9}, "cuda:1": {1: 3}}  # type: ignore[attr-defined]
    second.held, second.idle = {"cuda:2": {os.getpid(): 5}}, (idle,)  # type: ignore[attr-defined]
    monitor = DeviceMonitor([first, second, Source("CPU", device("cpu"))], ManualClock())
    held = monitor.held_bytes(os.getpid())
    assert held.pop("cpu") > 1 << 20, "this process is in main memory too"
    assert held == {"cuda:0": 7, "cuda:2": 5}
    assert monitor.idle() == (idle,)
    assert monitor.held_bytes(NOBODY) == {}


def test_a_source_that_fails_keeps_its_devices_with_the_reason() -> None:
    source = Source("NVML", device("cuda:0"))
    monitor = DeviceMonitor([source], ManualClock())
    reading = monitor._readings["NVML"]
    monitor._measure_once(source, reading)
    source.failure = RbeesError(ErrorCode.BACKEND_UNAVAILABLE, "NVML failed (GpuIsLost).")
    monitor._measure_once(source, reading)
    (found,) = monitor.devices()
    assert (found.healthy, found.problem) == (False, "NVML failed (GpuIsLost).")
    source.failure = None
    monitor._measure_once(source, reading)
    assert monitor.devices()[0].healthy


async def test_a_source_that_breaks_is_logged_with_its_trace_and_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rbees.host.devices.MEASURE_INTERVAL_S", 0.001)
    source, broken = Source("DRM", device("rocm:0")), threading.Event()
    source.failure = ValueError("invalid literal")
    measure, counted = source.measure, itertools.count()

    def counting() -> tuple[Device, ...]:
        if next(counted) == 3:
            broken.set()
        return measure()

    source.measure = counting  # type: ignore[method-assign]
    with structlog.testing.capture_logs() as told:
        monitor = DeviceMonitor([source], SystemClock())
        monitor.start()
        assert await asyncio.to_thread(broken.wait, 30), "it is measured again"
        assert monitor.problems() == ("DRM failed unexpectedly (ValueError); the log says where.",)
        source.failure = None
        async with asyncio.timeout(30):
            while not monitor.devices():  # noqa: ASYNC110 - a state of another thread
                await asyncio.sleep(0.001)
        assert monitor.devices()[0].healthy
        monitor.stop()
    assert [line.get("exc_info") for line in told] == [True, None, None], "the same failure is told once"


async def test_missing_hardware_is_asked_for_once() -> None:
    source = Source("NVML")
    source.failure = NoSuchHardware("none")
    monitor = DeviceMonitor([source], SystemClock())
    monitor.start()
    await monitor.wait_first()
    assert monitor.devices() == ()


async def test_a_source_that_fails_or_hangs_from_the_start_is_told_of_without_any_device() -> None:
    failing, hanging, absent = Source("NVML"), Source("Metal"), Source("None")
    failing.failure = RbeesError(ErrorCode.BACKEND_UNAVAILABLE, "The driver does not fit its library.")
    absent.failure = NoSuchHardware()
    hanging.release.clear()
    monitor = DeviceMonitor([failing, hanging, absent], SystemClock())
    monitor.start()
    await monitor.wait_first(1.0)
    assert monitor.devices() == ()
    assert monitor.problems() == ("Metal does not answer; its driver may hang.", "The driver does not fit its library.")
    monitor.stop()
    hanging.release.set()
