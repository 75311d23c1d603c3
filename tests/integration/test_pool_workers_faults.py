"""Workers without a daemon when something is killed: the command, the worker, the daemon; and what was damaged is cleaned up."""

from __future__ import annotations

import fcntl
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psutil
import pytest

from tests.support.fake_orcd import FakeOrcd
from tests.support.fault_matrix import reached
from tests.support.home import Daemon, Home, entry_point, wait_until
from tests.support.pool_host import PoolHost, is_gone, kill

CLEAN_UP_S: Final = 5.0
"""In which time nothing of a dead worker should be left, on a machine that has time for it."""


@pytest.fixture
def host(home: Home) -> Iterator[PoolHost]:
    with FakeOrcd() as orcd:
        host = PoolHost(home, orcd)
        host.configure()
        yield host


def spawned(host: PoolHost) -> str:
    done = host.tool("spawn", "--model", "bees")
    assert done.returncode == 0, done.said
    return done.stdout.strip()


def test_the_command_is_killed_while_the_model_loads(host: PoolHost) -> None:
    host.script(load_seconds=12)  # Longer than it takes to look at it and to start a daemon.
    command = host.home.start("worker", "spawn", "--model", "bees", program="rbees-pool")
    wait_until(lambda: "is loading" in command.said, command, "start it")
    (process,) = host.home.workers()
    process.send_signal(signal.SIGSTOP)  # So that it has not loaded when it is looked at, however busy this machine is.
    command.kill()
    ((worker_id, facts),) = host.listed().items()
    assert facts["state"] in ("starting", "loading")
    pid = facts["pid"]
    process.send_signal(signal.SIGCONT)
    host.serve()
    assert host.until(worker_id, "ready")["pid"] == pid
    assert host.orcd.wait("/workers/ready")["facts"]["adopted"]


def test_a_killed_worker_is_listed_with_what_can_be_known(host: PoolHost) -> None:
    host.script()
    worker_id = spawned(host)
    kill(host.listed()[worker_id]["pid"])
    facts = host.listed()[worker_id]
    end = facts["end"]
    assert (facts["state"], facts["pid"], end["code"], end["signal"]) == ("failed", None, "WORKER_CRASHED", None)
    assert "no exit status" in end["message"]
    assert end["last_sign_at_ms"] <= end["ended_at_ms"]
    assert any("model_loaded" in line for line in end["log_tail"])
    shown = host.tool("show", worker_id).stdout
    assert "nobody watched" in shown
    assert "model_loaded" in shown
    assert not list((host.state / "workers").glob("*.json"))
    assert not list(host.home.folder.glob("run/workers/*.sock"))

    host.serve()
    report = host.orcd.wait("/workers/failed")
    assert (report["worker_id"], report["while_loading"]) == (worker_id, False)
    assert host.daemon is not None
    host.daemon.kill()
    host.serve()
    assert host.worker(worker_id)["state"] == "failed"
    assert len(host.orcd.of("/workers/failed")) == 1, "it is told once"


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT"])
def test_a_fault_that_nobody_saw_is_told_by_the_log(host: PoolHost, name: str) -> None:
    host.script()
    worker_id = spawned(host)
    psutil.Process(host.listed()[worker_id]["pid"]).send_signal(getattr(signal, name))
    wait_until(lambda: host.listed()[worker_id]["state"] == "failed", what="be seen")
    end = host.listed()[worker_id]["end"]
    assert (end["signal"], end["code"]) == (name, "WORKER_CRASHED")
    assert f"killed by {name} while it was serving" in end["message"]


def test_a_fault_at_load_that_nobody_saw_is_no_reason_to_start_again(host: PoolHost) -> None:
    host.script(load_seconds=30)
    command = host.home.start("worker", "spawn", "--model", "bees", program="rbees-pool")
    wait_until(lambda: "is loading" in command.said, command, "start it")
    command.kill()
    (process,) = host.home.workers()
    process.send_signal(signal.SIGILL)
    wait_until(lambda: is_gone(process.pid))
    ((_, facts),) = host.listed().items()
    assert (facts["state"], facts["end"]["signal"]) == ("failed", "SIGILL")
    assert host.home.workers() == []


@pytest.mark.parametrize("name", ["SIGABRT", "SIGKILL"])
def test_a_death_that_the_command_sees_is_told_with_its_signal(host: PoolHost, name: str) -> None:
    host.script(crash_at_load=name)
    done = host.tool("spawn", "--model", "bees")
    assert (done.returncode, "[WORKER_CRASHED]" in done.stderr, f"killed by {name}" in done.stderr) == (1, True, True), done.said
    ((_, facts),) = host.listed().items()
    assert (facts["state"], facts["end"]["signal"]) == ("failed", name)
    assert f"failed ({name})" in host.tool("list").stdout


def test_a_model_that_does_not_load_is_told_in_the_workers_own_words(host: PoolHost) -> None:
    host.script(fail_at_load=True)
    done = host.tool("spawn", "--model", "bees")
    assert (done.returncode, "[MODEL_INCOMPATIBLE]" in done.stderr) == (1, True), done.said
    ((_, facts),) = host.listed().items()
    assert facts["end"]["exit_code"] == 65


def test_a_processor_fault_is_tried_once_more_in_safe_mode(host: PoolHost) -> None:
    host.script(crash_at_load="SIGILL", safe_mode_survives=True)
    worker_id = spawned(host)
    facts = host.listed()[worker_id]
    assert (facts["state"], facts["safe_mode"]) == ("ready", True)
    assert host.log_of(worker_id).count("worker_listen") == 2


def loading(host: PoolHost) -> tuple[Daemon, psutil.Process]:
    """A command that waits for its worker, and the worker, which stands still; what is started of it later loads at once."""
    host.script(load_seconds=600)
    command = host.home.start("worker", "spawn", "--model", "bees", program="rbees-pool")
    wait_until(lambda: "is loading" in command.said, command, "start it")
    (process,) = host.home.workers()
    process.send_signal(signal.SIGSTOP)
    host.script()
    return command, process


def crash(process: psutil.Process) -> None:
    """A fault of a process that stands still. It takes the signal, and names it in its log, as soon as it goes on."""
    process.send_signal(signal.SIGSEGV)
    process.send_signal(signal.SIGCONT)


def test_a_worker_that_a_daemon_adopted_meanwhile_is_started_again_once(host: PoolHost) -> None:
    command, process = loading(host)
    daemon = host.serve()
    assert "worker_adopt" in daemon.said
    crash(process)
    assert command.wait(120) == 0, command.said
    (worker_id,) = command.stdout.split()
    facts = host.until(worker_id, "ready")
    assert (facts["safe_mode"], [worker.pid for worker in host.home.workers()]) == (True, [facts["pid"]])
    assert host.log_of(worker_id).count("worker_listen") == 2
    assert not list((host.state / "workers").glob("*.ended")), "it lives"

    # What is noted of its end would be told by the next daemon, and the process be ended where its record is lost.
    daemon.kill()
    (host.state / "workers" / f"{worker_id}.json").unlink()
    host.serve()
    assert host.until(worker_id, "ready")["pid"] == facts["pid"]
    assert list(host.listed()) == [worker_id]
    assert not host.orcd.of("/workers/failed")


def test_a_worker_that_another_command_follows_is_started_again_once(host: PoolHost) -> None:
    command, process = loading(host)
    (worker_id,) = host.listed()
    follower = host.home.start("worker", "logs", "-f", worker_id, program="rbees-pool")
    wait_until(lambda: "worker_listen" in follower.stdout, follower, "follow it")
    crash(process)
    assert command.wait(120) == 0, command.said
    facts = host.listed()[worker_id]
    assert (facts["state"], facts["safe_mode"], [worker.pid for worker in host.home.workers()]) == ("ready", True, [facts["pid"]])
    wait_until(lambda: "model_loaded" in follower.stdout, follower, "go on with the second try")
    assert host.log_of(worker_id).count("worker_listen") == 2
    assert host.tool("stop", worker_id).returncode == 0
    assert follower.wait(60) == 0
    assert is_gone(facts["pid"])


def test_a_stop_of_what_has_ended_says_so(host: PoolHost) -> None:
    host.script()
    failed, stopped = spawned(host), spawned(host)
    kill(host.listed()[failed]["pid"])
    assert host.tool("stop", stopped).stdout == ""
    for _ in range(2):
        again = [host.tool("stop", worker_id) for worker_id in (failed, stopped)]
        assert [done.returncode for done in again] == [0, 0]
        assert again[0].stdout.startswith(f"{failed} had ended already: The worker ended while it was serving")
        assert again[0].stdout.endswith("[WORKER_CRASHED]\n")
        assert again[1].stdout == f"{stopped} had ended already: It was stopped by `rbees-pool worker stop`.\n"
        if host.daemon is None:
            host.serve()


def test_a_stop_goes_on_when_its_command_was_killed(host: PoolHost) -> None:
    host.script()
    worker_id = spawned(host)
    process = psutil.Process(host.listed()[worker_id]["pid"])
    process.send_signal(signal.SIGSTOP)
    command = host.home.start("worker", "stop", worker_id, program="rbees-pool")
    record = host.state / "workers" / f"{worker_id}.json"
    wait_until(lambda: '"stop_asked":true' in record.read_text(), command, "write it down")
    command.kill()
    process.send_signal(signal.SIGCONT)
    host.serve()
    host.until(worker_id, "stopped")
    assert not host.orcd.of("/workers/failed"), "an end that was wanted is no failure"


def test_a_worker_that_died_while_it_was_stopped_is_no_failure(host: PoolHost) -> None:
    host.script()
    worker_id = spawned(host)
    process = psutil.Process(host.listed()[worker_id]["pid"])
    process.send_signal(signal.SIGSTOP)
    command = host.home.start("worker", "stop", worker_id, program="rbees-pool")
    record = host.state / "workers" / f"{worker_id}.json"
    wait_until(lambda: '"stop_asked":true' in record.read_text(), command, "write it down")
    command.kill()
    process.kill()
    wait_until(lambda: is_gone(process.pid))
    host.serve()
    assert host.worker(worker_id)["state"] == "stopped"
    assert not host.orcd.of("/workers/failed")


def test_a_worker_that_does_not_listen_is_killed(host: PoolHost) -> None:
    host.script()
    worker_id = spawned(host)
    pid = host.listed()[worker_id]["pid"]
    psutil.Process(pid).send_signal(signal.SIGSTOP)
    done = host.tool("stop", worker_id, timeout_s=90)
    assert done.returncode == 0, done.said
    assert is_gone(pid)


def test_records_that_are_lost_or_damaged_come_back(host: PoolHost) -> None:
    host.script()
    daemon = host.serve()
    lost, damaged = host.ready()["worker_id"], host.ready()["worker_id"]
    paths = {worker_id: host.state / "workers" / f"{worker_id}.json" for worker_id in (lost, damaged)}
    wait_until(lambda: all('"was_ready":true' in path.read_text() for path in paths.values()), daemon, "be written down")
    before = {worker_id: path.read_bytes() for worker_id, path in paths.items()}
    paths[lost].unlink()
    paths[damaged].write_bytes(b'{"spec"')
    wait_until(lambda: all(is_written(paths[name], before[name]) for name in paths), daemon, "be mended")
    assert daemon.said.count("record_lost") == 2
    assert {host.worker(worker_id)["state"] for worker_id in paths} == {"ready"}


def is_written(path: Path, content: bytes) -> bool:
    return path.exists() and path.read_bytes() == content


def test_without_a_daemon_a_damaged_record_costs_no_worker(host: PoolHost) -> None:
    host.script()
    worker_id = spawned(host)
    pid = host.listed()[worker_id]["pid"]
    (host.state / "workers" / f"{worker_id}.json").write_bytes(b"\xff")
    assert host.listed()[worker_id]["pid"] == pid
    assert host.tool("stop", worker_id).returncode == 0
    assert is_gone(pid)


def test_a_running_daemon_takes_in_what_it_does_not_know(host: PoolHost) -> None:
    """An entry whose process is gone, and a process whose entry came late, as a start that outlived its daemon would leave them."""
    host.script()
    dead, living = spawned(host), spawned(host)
    folder = host.state / "workers"
    records = {worker_id: (folder / f"{worker_id}.json").read_bytes() for worker_id in (dead, living)}
    pids = {worker_id: host.listed()[worker_id]["pid"] for worker_id in records}
    for path in folder.glob("*.json"):
        path.unlink()
    kill(pids[dead])
    daemon = host.serve()
    wait_until(lambda: host.worker(living)["state"] == "ready", daemon, "find it by its command line")
    (folder / f"{dead}.json").write_bytes(records[dead])
    begun = time.monotonic()
    report = host.orcd.wait("/workers/failed", timeout_s=30)
    assert report["worker_id"] == dead
    wait_until(lambda: not (folder / f"{dead}.json").exists(), daemon, "be cleared away")
    reached("remains", "entry_gone_after", time.monotonic() - begun, "s", goal=CLEAN_UP_S, strict=False)
    assert host.worker(living)["pid"] == pids[living]


def test_nothing_of_a_dead_worker_is_left_in_the_process_list(host: PoolHost) -> None:
    host.script()
    host.serve()
    facts = host.ready()
    kill(facts["pid"])
    begun = time.monotonic()
    wait_until(lambda: not psutil.pid_exists(facts["pid"]), host.daemon, "be reaped")
    reached("remains", "child_reaped_after", time.monotonic() - begun, "s", goal=CLEAN_UP_S, strict=False)


def test_the_first_process_of_a_container_reaps_workers_that_it_did_not_start(host: PoolHost) -> None:
    """A command started the worker and ended, so that its child became that of process 1, which is the daemon."""
    host.script()
    script = f'{entry_point("rbees-pool")[0]} worker spawn --model bees; exec "$@"'
    container = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script, "sh"]
    daemon = host.home.start_in(container, "poold", "serve")
    wait_until(lambda: "worker_adopt" in daemon.said and "daemon_ready" in daemon.said, daemon, "adopt it")
    (worker,) = host.home.workers()
    kill(worker.pid)
    begun = time.monotonic()
    wait_until(lambda: not psutil.pid_exists(worker.pid), daemon, "reap it")
    reached("remains", "orphan_reaped_after", time.monotonic() - begun, "s", goal=CLEAN_UP_S, strict=False)
    assert [facts["state"] for facts in host.call("GET", "/workers").json["workers"]] == ["failed"]


def test_a_daemon_does_not_wait_for_a_command_that_stands_still(host: PoolHost) -> None:
    host.script()
    host.serve()
    assert host.daemon is not None
    host.daemon.stop()
    with (host.state / "workers" / "lock").open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        daemon = host.serve()
        assert "table_held" in daemon.said
    host.ready()


def test_a_second_kill_of_the_daemon_leaves_nothing_behind(host: PoolHost) -> None:
    """A daemon that is killed while it starts a worker: the next one finds the process, or that there is none."""
    host.script(load_seconds=1)
    for _ in range(3):
        daemon = host.serve()
        host.spawn()
        daemon.kill()
    host.serve()
    known = {worker["pid"] for worker in host.call("GET", "/workers").json["workers"] if worker["pid"]}
    assert known == {worker.pid for worker in host.home.workers()}
    for worker in host.call("GET", "/workers").json["workers"]:
        host.until(worker["worker_id"], "ready", "failed")
