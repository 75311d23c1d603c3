"""Workers outlive their pool daemon: adoption after crashes, restarts, lost state; and the ways to end them all."""

from __future__ import annotations

import asyncio
import shutil
import signal
import time
from collections.abc import Iterator

import psutil
import pytest

from rbees.clients.control import read_control
from tests.support.fake_orcd import FakeOrcd
from tests.support.home import Home, wait_until
from tests.support.pool_host import PoolHost, is_gone, kill


@pytest.fixture
def host(home: Home) -> Iterator[PoolHost]:
    with FakeOrcd() as orcd:
        yield PoolHost(home, orcd)


def test_a_killed_daemon_finds_its_workers_again(host: PoolHost) -> None:
    host.script()
    daemon = host.serve()
    before = [host.ready(), host.ready()]
    secrets = {report["ready"]["worker_id"]: report["ready"]["secret"] for report in host.orcd.of("/workers/ready")}
    daemon.kill()
    registrations = len(host.orcd.of("/register"))
    begun = time.monotonic()
    host.serve()
    registered = host.orcd.wait("/register", registrations + 1)
    print(f"adopted after {time.monotonic() - begun:.2f} s")
    assert {worker["worker_id"]: worker["pid"] for worker in registered["workers"]} == {
        facts["worker_id"]: facts["pid"] for facts in before
    }
    assert all(worker["adopted"] and worker["state"] == "ready" for worker in registered["workers"])
    assert {ready["worker_id"]: ready["secret"] for ready in registered["ready"]} == secrets
    assert len(host.home.workers()) == 2
    assert not host.orcd.of("/workers/failed")
    worker_id = before[0]["worker_id"]
    assert host.spawn(worker_id=worker_id) == worker_id
    assert len(host.home.workers()) == 2
    assert b"model_loaded" in host.call("GET", f"/workers/{worker_id}/logs").body
    host.call("DELETE", f"/workers/{worker_id}")
    host.until(worker_id, "stopped")


def test_sigterm_leaves_the_workers_running(host: PoolHost) -> None:
    host.script()
    daemon = host.serve()
    facts = host.ready()
    assert daemon.stop() == 0
    assert "workers_stay" in daemon.said
    assert "rbees-pool worker stop" in daemon.said
    assert "rbees poold serve --stop-workers-on-exit" in daemon.said, "where flags said what commands cannot know"
    assert not is_gone(facts["pid"])
    host.serve()
    assert host.worker(facts["worker_id"])["pid"] == facts["pid"]


def test_sigterm_ends_the_workers_where_that_was_asked_for(host: PoolHost) -> None:
    host.script(load_seconds=3)
    daemon = host.serve("--stop-workers-on-exit")
    ready, loading = host.ready(), host.worker(host.spawn())
    assert daemon.stop() == 0
    assert "workers_stay" not in daemon.said
    assert is_gone(ready["pid"])
    assert is_gone(loading["pid"])
    assert not host.orcd.of("/workers/failed")
    assert not list((host.state / "workers").glob("*.json"))


def test_an_adopted_worker_that_dies_is_reported_without_a_status(host: PoolHost) -> None:
    host.script()
    host.serve().kill()
    host.serve()
    facts = host.ready()
    assert host.daemon is not None
    host.daemon.kill()
    host.serve()
    kill(facts["pid"])
    report = host.orcd.wait("/workers/failed")
    assert (report["worker_id"], report["signal"], report["exit_code"]) == (facts["worker_id"], None, None)
    assert not report["while_loading"]


def test_a_worker_that_died_meanwhile_is_reported_and_forgotten(host: PoolHost) -> None:
    host.script()
    daemon = host.serve()
    facts = host.ready()
    daemon.kill()
    kill(facts["pid"])
    wait_until(lambda: is_gone(facts["pid"]))
    host.serve()
    report = host.orcd.wait("/workers/failed")
    assert (report["worker_id"], report["while_loading"]) == (facts["worker_id"], False)
    assert host.call("GET", "/status").json["workers"] == []
    assert not list((host.state / "workers").glob("*.json"))


def test_a_worker_that_loads_during_a_restart_becomes_ready(host: PoolHost) -> None:
    host.script(load_seconds=12)  # Longer than a daemon takes to start.
    daemon = host.serve()
    worker_id = host.spawn()
    pid = host.worker(worker_id)["pid"]
    daemon.kill()
    host.serve()
    assert host.until(worker_id, "ready")["pid"] == pid
    assert host.orcd.wait("/workers/ready")["facts"]["adopted"]


def test_a_lost_state_folder_costs_no_worker(host: PoolHost) -> None:
    host.script()
    daemon = host.serve()
    facts = host.ready(slots=3, ctx=256)
    daemon.kill()
    host.lose_state()
    host.serve()
    found = host.worker(facts["worker_id"])
    same = ("pid", "model_ref", "model_sha256", "backend", "devices", "slots", "ctx", "uri")
    assert {name: found[name] for name in same} == {name: facts[name] for name in same}
    assert found["state"] == "ready"
    host.spawn(worker_id=facts["worker_id"])
    assert len(host.home.workers()) == 1


def test_a_worker_that_lost_its_socket_lives_on_and_comes_back(host: PoolHost) -> None:
    host.script()
    daemon = host.serve()
    facts = host.ready()
    worker_id, process = facts["worker_id"], psutil.Process(facts["pid"])
    daemon.kill()
    process.send_signal(signal.SIGSTOP)  # So that it cannot mend its socket at once.
    shutil.rmtree(host.home.folder / "run")
    daemon = host.serve("--load-timeout-s", "0.5")
    assert "worker_silent" in daemon.said
    assert [worker["worker_id"] for worker in host.orcd.wait("/register", 2)["workers"]] == [worker_id]
    time.sleep(1.5)
    silent = host.worker(worker_id)
    assert (silent["state"], silent["pid"], silent["adopted"]) == ("starting", facts["pid"], True)
    process.send_signal(signal.SIGCONT)
    assert host.until(worker_id, "ready")["pid"] == facts["pid"]
    assert not host.orcd.of("/workers/failed")
    assert "control_restored" in host.log_of(worker_id)


def test_another_pool_on_the_same_machine_adopts_nothing(host: PoolHost) -> None:
    host.script()
    daemon = host.serve()
    facts = host.ready()
    daemon.kill()
    host.serve("--state-dir", str(host.home.folder / "other"))
    assert host.call("GET", "/status").json["workers"] == []
    assert not is_gone(facts["pid"])


def test_the_control_socket_tells_what_adoption_needs(host: PoolHost) -> None:
    host.script()
    host.serve()
    facts = host.ready()
    (socket,) = host.home.folder.glob("run/workers/*.sock")
    assert socket.stat().st_mode & 0o777 == 0o600
    info = asyncio.run(read_control(socket))
    assert (info.worker_id, info.pid, info.state) == (facts["worker_id"], facts["pid"], "ready")
    host.call("DELETE", f"/workers/{facts['worker_id']}")
    host.until(facts["worker_id"], "stopped")
    assert not socket.exists()
