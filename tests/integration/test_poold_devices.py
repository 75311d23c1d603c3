"""The pool daemon and NVIDIA's library, in whose place a small one stands that can be made to hang: nothing else may notice."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rbees.host.device_source import sees_all_pids
from rbees.host.nvml import NvmlSource
from tests.support.fake_orcd import FakeOrcd
from tests.support.home import Home, wait_until
from tests.support.pool_host import PoolHost

STUB = Path(__file__).parents[1] / "support/nvml_stub.c"
GIB = 1 << 30


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the stand-in under the name of NVIDIA's library."""
    folder = tmp_path_factory.mktemp("nvml")
    compiler = os.environ.get("CC") or "cc"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(folder / "libnvidia-ml.so.1"), str(STUB)], check=True, timeout=120)
    return folder


@dataclass
class GpuHost:
    """A host with the stand-in for NVIDIA's library."""

    pool: PoolHost
    library: Path

    @property
    def hangs(self) -> Path:
        """While it exists, the library does not answer."""
        return self.pool.home.folder / "hangs"

    @property
    def holder(self) -> Path:
        """Who holds memory of the GPU."""
        return self.pool.home.folder / "holder"

    def serve(self) -> None:
        paths = {"LD_LIBRARY_PATH": str(self.library), "NVML_STUB_HANGS": str(self.hangs), "NVML_STUB_HOLDER": str(self.holder)}
        self.pool.serve(**paths)

    def beats(self) -> list[dict[str, Any]]:
        return self.pool.orcd.of("/heartbeat")

    def device(self, device_id: str) -> dict[str, Any]:
        """As the newest heartbeat has it."""
        found: dict[str, Any] = next(device for device in self.beats()[-1]["devices"] if device["device_id"] == device_id)
        return found

    @property
    def gpu_problem(self) -> str:
        """Why the GPU is ill; that no backend here can use it counts too."""
        return self.device("cuda:0")["problem"] or ""

    def beat_on(self, count: int) -> list[dict[str, Any]]:
        """So many heartbeats from now on."""
        before = len(self.beats())
        wait_until(lambda: len(self.beats()) >= before + count, self.pool.daemon, "go on beating")
        return self.beats()[before : before + count]


@pytest.fixture
def host(home: Home, library: Path) -> Iterator[GpuHost]:
    with FakeOrcd() as orcd:
        yield GpuHost(PoolHost(home, orcd), library)


def test_what_the_library_tells_is_reported(host: GpuHost) -> None:
    host.serve()
    (found,) = [device for device in host.pool.orcd.wait("/register")["devices"] if device["backend"] == "cuda"]
    assert (found["device_id"], found["name"], found["uuid"], found["vendor"]) == ("cuda:0", "NVIDIA Stub", "GPU-stub", "nvidia")
    assert (found["total_bytes"], found["free_bytes"], found["utilization"]) == (8 * GIB, 7 * GIB, 0.42)
    assert (found["temperature_celsius"], found["driver_version"], found["compute_capability"]) == (51, "580.0", "9.0")
    shown = host.pool.home.run("status", program="rbees-pool", environ={"RBEES_POOLD_PORT": str(host.pool.port)})
    assert [line for line in shown.stdout.splitlines() if line.startswith("cuda:0 ")]
    assert [line for line in shown.stdout.splitlines() if line.startswith("cores ")]


def test_a_library_that_hangs_makes_its_devices_ill_and_no_heartbeat_late(host: GpuHost) -> None:
    host.serve()
    host.beat_on(1)
    host.hangs.touch()
    wait_until(lambda: "has not answered" in host.gpu_problem, host.pool.daemon, "notice the hang")
    meanwhile = host.beat_on(10)
    numbers = [beat["seq"] for beat in meanwhile]
    assert numbers == list(range(numbers[0], numbers[0] + 10)), "none was left out"
    gpus = [device for beat in meanwhile for device in beat["devices"] if device["device_id"] == "cuda:0"]
    assert all(not gpu["healthy"] and gpu["free_bytes"] == 7 * GIB for gpu in gpus), "with what was measured last"
    ages = [gpu["age_ms"] for gpu in gpus]
    assert ages == sorted(ages)
    assert ages[0] < ages[-1], "it gets older"
    measured_at_ms = host.device("cpu")["measured_at_ms"]
    wait_until(lambda: host.device("cpu")["measured_at_ms"] > measured_at_ms, host.pool.daemon, "measure others as before")
    assert host.pool.call("GET", "/status").status == 200
    host.hangs.unlink()
    wait_until(lambda: "has not answered" not in host.gpu_problem, host.pool.daemon, "see it answer again")


def test_a_library_that_hangs_from_the_start_holds_up_neither_start_nor_end(host: GpuHost) -> None:
    host.hangs.touch()
    host.serve()
    assert [device["device_id"] for device in host.pool.orcd.wait("/register")["devices"]] == ["cpu"]
    host.beat_on(3)
    assert host.pool.call("GET", "/status").json["device_problems"] == ["NVML does not answer; its driver may hang."]
    assert host.pool.daemon is not None
    assert host.pool.daemon.stop() == 0
    assert host.hangs.exists(), "it hung to the end"


@pytest.mark.gpu
@pytest.mark.skipif(not Path("/dev/nvidiactl").exists(), reason="no NVIDIA driver is here")
def test_a_real_gpu_is_reported() -> None:
    found = NvmlSource().measure()
    assert found
    for device in found:
        assert device.healthy
        assert 0 < device.free_bytes <= device.total_bytes
        assert (device.uuid or "").startswith(("GPU-", "MIG-"))
        assert device.driver_version
        assert device.compute_capability


@pytest.mark.skipif(not sees_all_pids(), reason="in a container that counts processes of its own, NVML's process ids say nothing")
def test_what_a_worker_holds_is_known_by_measurement(host: GpuHost) -> None:
    host.pool.script()
    host.serve()
    facts = host.pool.ready()
    assert facts["held_bytes"].keys() == {"cpu"}
    assert facts["held_bytes"]["cpu"] > 1 << 20
    host.holder.write_text(f"{facts['pid']} {3 * GIB}\n")
    wait_until(
        lambda: host.pool.worker(facts["worker_id"])["held_bytes"].get("cuda:0") == 3 * GIB, host.pool.daemon, "see who holds it"
    )
    (beat,) = host.beat_on(1)
    assert beat["workers"][0]["held_bytes"]["cuda:0"] == 3 * GIB
