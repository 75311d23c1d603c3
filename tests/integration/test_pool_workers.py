"""`rbees-pool worker …` on a host without a daemon: the command starts, lists, follows and stops, and a later daemon takes over."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator

import psutil
import pytest

from rbees.host import worker_log
from rbees.pool.local_workers import DaemonRuns, LocalWorkers
from rbees.pool.state import OwnState
from rbees.protocol.pools import SpawnCommand
from rbees.service.lock import ProcessLock
from rbees.service.role_settings import PooldSettings
from tests.support.fake_orcd import FakeOrcd
from tests.support.home import Finished, Home, entry_point, free_port, taken_port, wait_until
from tests.support.pool_host import PoolHost, is_gone
from tests.support.screens import OnScreen
from tests.support.tiny_gguf import write_tiny_gguf


@pytest.fixture
def host(home: Home) -> Iterator[PoolHost]:
    with FakeOrcd() as orcd:
        host = PoolHost(home, orcd)
        host.configure()
        yield host


def test_a_worker_lives_and_ends_without_a_daemon(host: PoolHost) -> None:
    host.script(load_seconds=0.2)
    spawned = host.tool("spawn", "--model", "bees", "--slots", "2", "--ctx", "512")
    assert spawned.returncode == 0, spawned.said
    worker_id = spawned.stdout.strip()
    facts = host.listed()[worker_id]
    assert (facts["state"], facts["slots"], facts["ctx"], facts["end"]) == ("ready", 2, 512, None)
    assert facts["held_bytes"]["cpu"] > 0
    process = psutil.Process(facts["pid"])
    assert os.getsid(process.pid) == process.pid, "it must outlive the login in which it was started"
    assert [os.readlink(f"/proc/{process.pid}/fd/{number}") for number in (0, 1, 2)] == [
        "/dev/null",
        *[str(host.state / "workers" / f"{worker_id}.log")] * 2,
    ]
    described = host.tool("show", worker_id).stdout
    assert "64.0 MiB, measured once its model was loaded" in described
    assert "2 slots of 512 tokens" in described
    (seen,) = host.home.run("status", "--json", program="rbees-pool").json["workers"]
    listed = host.listed()[worker_id]
    assert [seen[key] for key in ("worker_id", "state", "memory_bytes", "pid")] == [
        listed[key] for key in ("worker_id", "state", "memory_bytes", "pid")
    ]
    row = next(line for line in host.home.run("status", program="rbees-pool").stdout.splitlines() if worker_id in line)
    assert {"ready", "MiB"} <= set(row.split())
    assert "model_loaded" in host.tool("logs", worker_id).stdout
    shown = host.tool("show", worker_id)
    assert str(process.pid) in shown.stdout.split(), shown.stdout

    stopped = host.tool("stop", worker_id)
    assert stopped.returncode == 0, stopped.said
    assert is_gone(process.pid)
    assert not list((host.state / "workers").glob("*.json"))
    ended = host.listed()[worker_id]
    assert (ended["state"], ended["pid"], ended["end"]["code"]) == ("stopped", None, None)
    assert "model_loaded" in host.tool("logs", worker_id).stdout
    assert host.tool("stop", worker_id).returncode == 0
    unknown = host.tool("show", "worker-01m85v0jsd2kta03kbjw9kfphe")
    assert (unknown.returncode, "[WORKER_NOT_FOUND]" in unknown.stderr) == (1, True)


def test_a_daemon_that_starts_later_adopts_it_and_reports_it(host: PoolHost) -> None:
    host.script()
    worker_id = host.tool("spawn", "--model", "bees").stdout.strip()
    pid = host.listed()[worker_id]["pid"]
    host.serve()
    registered = host.orcd.wait("/register")
    assert [(w["worker_id"], w["pid"], w["state"], w["adopted"]) for w in registered["workers"]] == [
        (worker_id, pid, "ready", True)
    ]
    assert registered["ready"][0]["secret"].startswith("rbk_")
    assert host.listed()[worker_id]["pid"] == pid
    assert host.tool("stop", worker_id).returncode == 0
    assert is_gone(pid)


def test_a_worker_of_a_daemon_is_stopped_when_the_daemon_is_gone(host: PoolHost) -> None:
    host.script()
    daemon = host.serve()
    facts = host.ready()
    assert daemon.stop() == 0
    assert host.listed()[facts["worker_id"]]["pid"] == facts["pid"]
    assert host.tool("stop", facts["worker_id"]).returncode == 0
    assert is_gone(facts["pid"])
    host.serve()
    assert host.worker(facts["worker_id"])["state"] == "stopped", "what ended is remembered"
    assert not host.orcd.of("/workers/failed")


def test_jobs_run_on_a_worker_that_no_daemon_started(host: PoolHost) -> None:
    host.script()
    worker_id = host.tool("spawn", "--model", "bees").stdout.strip()
    host.home.serve_orcd()
    host.home.serve_poold(host.port)
    wait_until(lambda: worker_id in host.home.llorch("pool", "status").stdout, what="be known")
    done = host.home.llorch("jobs", "submit", "--model", "bees", "--max-tokens", "4", "--prompt", "Of bees")
    assert done.returncode == 0, done.said
    assert [worker.pid for worker in host.home.workers()] == [host.listed()[worker_id]["pid"]], "no other was needed"


def test_a_daemon_that_listens_elsewhere_is_found_by_its_lock(host: PoolHost) -> None:
    host.script()
    elsewhere = free_port()
    daemon = host.home.start("poold", "serve", "--port", str(elsewhere), "--model-dirs", str(host.models))
    wait_until(lambda: "daemon_ready" in daemon.said, daemon, "become ready")
    worker_id = host.tool("spawn", "--model", "bees").stdout.strip()
    assert f"--callback-url=http://127.0.0.1:{elsewhere}/internal" in " ".join(
        psutil.Process(host.listed()[worker_id]["pid"]).cmdline()
    )
    assert host.tool("stop", worker_id).returncode == 0


def test_the_own_daemon_comes_before_a_stranger_at_the_port_of_the_settings(host: PoolHost) -> None:
    host.script()
    options = ["--port", "0", "--model-dirs", str(host.models), "--pool-id", "ours"]
    with Home() as stranger:
        stranger.serve_poold(host.port)
        ours = host.home.start("poold", "serve", *options)
        wait_until(lambda: "daemon_ready" in ours.said, ours, "become ready")

        def ask(*words: str) -> Finished:
            return host.home.run(*words, program="rbees-pool")

        assert ask("status", "--json").json["pool_id"] == "ours"
        worker_id = host.tool("spawn", "--model", "bees").stdout.strip()
        assert list(host.listed()) == [worker_id]
        assert "bees" in ask("models", "list").stdout
        assert ask("models", "info", "bees").returncode == 0
        assert "bees" in ask("fit", "bees", "--json").json["model"]["ref"]
        refused = ask("models", "delete", "bees", "--yes")
        assert (refused.returncode, f"{worker_id} serves" in refused.stderr) == (75, True), refused.said
        assert "poold ours" in ask("dev", "doctor", "--json").stdout
        named = ask("status", "--json", "--poold-url", f"http://127.0.0.1:{host.port}")
        assert named.json["pool_id"] != "ours", "a name that was given counts before all"
        assert ours.stop() == 0
        assert ask("status", "--json").json["pool_id"] != "ours", "nobody is here, so the settings count"
    assert not ask("status", "--json").json["daemon"]
    assert host.tool("stop", worker_id).returncode == 0


def test_on_a_terminal_workers_are_a_table_and_logs_are_harmless(host: PoolHost) -> None:
    host.script()
    worker_id = host.tool("spawn", "--model", "bees").stdout.strip()
    with (host.state / "workers" / f"{worker_id}.log").open("a") as log:
        log.write("general.name = \x1b]0;mine\x07\x1b[2J\n")

    def shown(*words: str) -> str:
        with OnScreen([*entry_point("rbees-pool"), "worker", *words], host.home.environ(TERM="xterm"), columns=80) as screen:
            assert screen.end() == 0
        return screen.picture.plain

    lines = shown("list").splitlines()
    assert all(len(line) <= 80 for line in lines)
    (row,) = (line for line in lines if worker_id in line)
    assert {"ready", "cpu"} <= set(row.split())
    assert "ripted.json" in row, "the end of a reference tells one from another"
    assert any(line.startswith("no room for: ") for line in lines)
    assert "general.name = ␛]0;mine␇␛[2J" in shown("logs", worker_id)
    assert "general.name = \x1b" in host.tool("logs", worker_id).stdout
    assert host.tool("stop", worker_id).returncode == 0
    assert "It was stopped by `rbees-pool worker stop`." in [line.strip() for line in shown("list").splitlines()]


@pytest.fixture
def own(host: PoolHost, monkeypatch: pytest.MonkeyPatch) -> OwnState:
    """The same host within this process."""
    monkeypatch.setenv("RBEES_HOME", str(host.home.folder))
    host.state.mkdir(mode=0o700)
    return OwnState(PooldSettings(model_dirs=(str(host.models),)), host.state)


async def stopped(keeper: LocalWorkers, worker_id: str) -> None:
    """End a worker that was started in this process."""
    await keeper.stop_worker(worker_id, "a test.")
    async with asyncio.timeout(60):
        while (await keeper.worker(worker_id)).state != "stopped":  # noqa: ASYNC110 - a state of another process
            await asyncio.sleep(0.01)


async def test_a_daemon_that_starts_meanwhile_is_left_to_start_it(host: PoolHost, own: OwnState) -> None:
    host.script()
    async with LocalWorkers(own, print) as keeper:
        with ProcessLock(own.folder / "lock"), pytest.raises(DaemonRuns):
            await keeper.spawn(SpawnCommand(model_ref="bees"))
        assert (await keeper.workers()).workers == ()
    assert not list((own.folder / "workers").glob("*.json"))


async def test_starts_at_once_are_one_after_the_other(host: PoolHost, own: OwnState) -> None:
    """Each sees the ports and the memory that the others have taken, though none of them has seen the others begin."""
    first = free_port()
    host.script()
    own = OwnState(PooldSettings(model_dirs=(str(host.models),), worker_port_first=first, worker_port_last=first + 40), own.folder)
    keepers = [LocalWorkers(own, print) for _ in range(4)]
    for keeper in keepers:
        await keeper.__aenter__()
    answers = await asyncio.gather(*(keeper.spawn(SpawnCommand(model_ref="bees")) for keeper in keepers))
    commands = [" ".join(worker.cmdline()) for worker in host.home.workers()]
    ports = {command.partition("--port=")[2].partition(" ")[0] for command in commands}
    assert (len(commands), len(ports)) == (4, 4), commands
    for keeper, answer in zip(keepers, answers, strict=True):
        await stopped(keeper, answer.worker_id)
        await keeper.__aexit__(None, None, None)


async def test_a_checksum_that_is_not_known_is_computed_first(
    host: PoolHost, own: OwnState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rbees.host.model_store.HASH_AT_ONCE_BYTES", 0)
    host.script()
    said: list[str] = []
    async with LocalWorkers(own, said.append) as keeper:
        answer = await keeper.spawn(SpawnCommand(model_ref="bees"))
        await stopped(keeper, answer.worker_id)
    assert len(said) == 1
    assert "checksum" in said[0]


def test_both_ways_refuse_the_same_in_the_same_words(host: PoolHost) -> None:
    write_tiny_gguf(host.models / "tiny.gguf", layers=1, width=32, heads=2, heads_kv=1)
    host.script()
    refused = (
        (("--model", "beees"), 1, "MODEL_NOT_FOUND"),
        (("metal", "--model", "tiny"), 69, "BACKEND_UNAVAILABLE"),
        (("metal", "--gpu", "0", "--model", "tiny"), 69, "BACKEND_UNAVAILABLE"),
        (("--device", "metal:0", "--model", "tiny"), 69, "BACKEND_UNAVAILABLE"),
        (("--device", "cpu:99", "--model", "tiny"), 2, "INVALID_REQUEST"),
        (("--model", "tiny", "--ctx", "1000000"), 1, "MODEL_INCOMPATIBLE"),
    )
    with taken_port() as port:
        host.configure(worker_port_first=port, worker_port_last=port)
        directly = [host.tool("spawn", *words) for words, _, _ in (*refused, (("--model", "bees"), 75, "ADDRESS_IN_USE"))]
        host.serve()
        by_daemon = [host.tool("spawn", *words) for words, _, _ in (*refused, (("--model", "bees"), 75, "ADDRESS_IN_USE"))]
    for (words, exit_code, code), alone, served in zip(
        (*refused, (("--model", "bees"), 75, "ADDRESS_IN_USE")), directly, by_daemon, strict=True
    ):
        assert (alone.returncode, f"[{code}]" in alone.stderr) == (exit_code, True), (words, alone.said)
        assert alone.stderr == served.stderr, words
        assert served.returncode == exit_code
    assert host.home.workers() == []


def test_no_memory_is_refused_with_the_numbers(host: PoolHost) -> None:
    write_tiny_gguf(host.models / "tiny.gguf", layers=1, width=32, heads=2, heads_kv=1)
    host.configure(memory_reserve_bytes=1 << 50)
    done = host.tool("spawn", "--model", "tiny", "--json")
    assert done.returncode == 1, done.said
    assert '"code":"INSUFFICIENT_VRAM"' in done.stderr
    assert '"missing_bytes"' in done.stderr


@pytest.mark.parametrize("with_daemon", [False, True])
def test_a_log_is_followed_over_its_rotation_to_the_end_of_the_worker(host: PoolHost, with_daemon: bool) -> None:
    host.script()
    if with_daemon:
        host.serve()
    worker_id = host.tool("spawn", "--model", "bees").stdout.strip()
    log = host.state / "workers" / f"{worker_id}.log"
    follower = host.home.start("worker", "logs", worker_id, "-f", program="rbees-pool")
    wait_until(lambda: "model_loaded" in follower.stdout, follower, "show what there is")
    with log.open("ab") as file:
        file.write(b"".join(b"line %07d\n" % number for number in range(200_000)))
    wait_until(lambda: "line 0199999" in follower.stdout, follower, "show what came")
    assert worker_log.shorten(log, limit_bytes=1 << 20)
    with log.open("ab") as file:
        file.write(b"after\n")
    wait_until(lambda: follower.stdout.endswith("after\n"), follower, "go on")
    assert host.tool("stop", worker_id).returncode == 0
    assert follower.wait() == 0
    lines = follower.stdout.splitlines()
    assert [line for line in lines if line.startswith("line ")] == [f"line {number:07d}" for number in range(200_000)]


def test_a_worker_outlives_the_terminal_in_which_it_was_started(host: PoolHost) -> None:
    host.script(load_seconds=6)
    command = host.home.start("worker", "spawn", "--model", "bees", program="rbees-pool")
    wait_until(lambda: "is loading" in command.said, command, "start it")
    os.killpg(command.pid, signal.SIGHUP)  # What the end of a terminal sends to all that was started in it.
    assert command.wait() != 0
    (facts,) = host.listed().values()
    assert not is_gone(facts["pid"])
    wait_until(lambda: host.listed()[facts["worker_id"]]["state"] == "ready", what="become ready")


def test_what_ended_long_ago_is_asked_for_by_its_id(host: PoolHost) -> None:
    host.script()
    worker_id = host.tool("spawn", "--model", "bees").stdout.strip()
    host.tool("stop", worker_id)
    ended = host.state / "workers" / f"{worker_id}.ended"
    seen_ms = host.listed()[worker_id]["end"]["ended_at_ms"]
    ended.write_text(ended.read_text().replace(str(seen_ms), str(seen_ms - 25 * 3_600_000)))
    assert host.listed() == {}
    assert host.tool("show", worker_id).returncode == 0
