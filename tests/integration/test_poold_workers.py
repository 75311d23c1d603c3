"""A real pool daemon with real scripted workers: start, watch, logs, stop, crash, and everything a spawn can be refused for."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.fake_orcd import FakeOrcd
from tests.support.home import Home, taken_port, wait_until
from tests.support.pool_host import PoolHost, is_gone, kill
from tests.support.tiny_gguf import write_tiny_gguf

WORKER = "worker-01m85v0jsd2kta03kbjw9kfphe"


@pytest.fixture
def host(home: Home) -> Iterator[PoolHost]:
    with FakeOrcd() as orcd:
        yield PoolHost(home, orcd)


def test_a_worker_lives_and_ends(host: PoolHost) -> None:
    host.script(load_seconds=0.2)
    host.serve()
    registered = host.orcd.wait("/register")
    assert (registered["pool_id"], registered["endpoint"]) == ("host", f"http://127.0.0.1:{host.port}")
    assert registered["devices"][0]["device_id"] == "cpu"
    assert any("bees" in model["aliases"] for model in registered["models"])

    facts = host.ready(slots=2, ctx=512)
    report = host.orcd.wait("/workers/ready")
    assert report["facts"]["worker_id"] == report["ready"]["worker_id"] == facts["worker_id"]
    assert report["ready"]["secret"].startswith("rbk_")
    assert (facts["backend"], facts["devices"], facts["slots"], facts["ctx"]) == ("scripted", ["cpu"], 2, 512)
    assert (facts["load_progress"], facts["adopted"], facts["safe_mode"]) == (1.0, False, False)
    beats = len(host.orcd.of("/heartbeat"))
    wait_until(lambda: len(host.orcd.of("/heartbeat")) > beats + 1)
    assert [worker["state"] for worker in host.orcd.of("/heartbeat")[-1]["workers"]] == ["ready"]

    log = host.call("GET", f"/workers/{facts['worker_id']}/logs")
    assert b"model_loaded" in log.body
    assert log.headers["content-type"] == "text/plain; charset=utf-8"

    by = {"X-Stopped-By": "the orchestrator: It has had no work for 300 s."}
    answer = host.call("DELETE", f"/workers/{facts['worker_id']}", **by)
    assert (answer.status, answer.json["state"]) == (202, "draining")
    ended = host.until(facts["worker_id"], "stopped")
    assert (ended["pid"], ended["end"]["message"]) == (None, "It was stopped by the orchestrator: It has had no work for 300 s.")
    assert is_gone(facts["pid"])
    assert host.call("DELETE", f"/workers/{facts['worker_id']}").status == 202
    assert not host.orcd.of("/workers/failed")
    wait_until(lambda: not list((host.state / "workers").glob("*.json")))


def test_the_same_command_twice_starts_one_worker(host: PoolHost) -> None:
    host.script()
    host.serve()
    assert [host.spawn(worker_id=WORKER) for _ in range(3)] == [WORKER] * 3
    pid = host.until(WORKER, "ready")["pid"]
    assert host.spawn(worker_id=WORKER) == WORKER
    assert [worker.pid for worker in host.home.workers()] == [pid]
    host.call("DELETE", f"/workers/{WORKER}")
    host.until(WORKER, "stopped")
    host.spawn(worker_id=WORKER)
    assert host.worker(WORKER)["state"] == "stopped"


def test_a_killed_worker_is_reported_at_once_with_its_signal_and_last_lines(host: PoolHost) -> None:
    ref = host.script()
    host.serve()
    facts = host.ready()
    kill(facts["pid"])
    report = host.orcd.wait("/workers/failed")
    assert (report["worker_id"], report["signal"], report["code"]) == (facts["worker_id"], "SIGKILL", "WORKER_CRASHED")
    assert (report["while_loading"], report["exit_code"], report["model_ref"]) == (False, None, ref)
    assert any("model_loaded" in line for line in report["log_tail"])
    assert host.worker(facts["worker_id"])["state"] == "failed"
    wait_until(lambda: is_gone(facts["pid"]))


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGILL", "SIGBUS"])
def test_a_processor_fault_at_load_is_tried_once_more_in_safe_mode(host: PoolHost, name: str) -> None:
    host.script(crash_at_load=name, safe_mode_survives=True)
    host.serve()
    facts = host.ready()
    assert facts["safe_mode"]
    assert host.orcd.wait("/workers/ready")["facts"]["safe_mode"]
    assert not host.orcd.of("/workers/failed")
    assert host.log_of(facts["worker_id"]).count("worker_listen") == 2


def test_a_fault_in_safe_mode_too_is_the_end(host: PoolHost) -> None:
    host.script(crash_at_load="SIGSEGV")
    host.serve()
    worker_id = host.spawn()
    report = host.orcd.wait("/workers/failed")
    assert (report["signal"], report["while_loading"]) == ("SIGSEGV", True)
    assert host.log_of(worker_id).count("worker_listen") == 2
    assert len(host.orcd.of("/workers/failed")) == 1


@pytest.mark.parametrize("name", ["SIGKILL", "SIGABRT"])
def test_other_deaths_at_load_are_not_tried_again(host: PoolHost, name: str) -> None:
    host.script(crash_at_load=name, safe_mode_survives=True)
    host.serve()
    worker_id = host.spawn()
    report = host.orcd.wait("/workers/failed")
    assert (report["signal"], report["while_loading"]) == (name, True)
    assert host.log_of(worker_id).count("worker_listen") == 1


def test_a_model_that_does_not_load_is_reported_with_the_workers_own_words(host: PoolHost) -> None:
    host.script(fail_at_load=True)
    host.serve()
    host.spawn()
    report = host.orcd.wait("/workers/failed")
    assert (report["code"], report["exit_code"], report["while_loading"]) == ("MODEL_INCOMPATIBLE", 65, True)


def test_a_worker_that_loads_for_too_long_is_ended(host: PoolHost) -> None:
    host.script(load_seconds=11)
    host.serve("--load-timeout-s", "1.5")
    worker_id = host.spawn()
    report = host.orcd.wait("/workers/failed")
    assert "within 1.5 s" in report["message"]
    assert report["while_loading"]
    assert host.worker(worker_id)["state"] == "failed"


def test_a_worker_that_does_not_listen_is_killed(host: PoolHost) -> None:
    host.script()
    host.serve()
    facts = host.ready()
    psutil.Process(facts["pid"]).send_signal(signal.SIGSTOP)
    host.call("DELETE", f"/workers/{facts['worker_id']}")
    host.until(facts["worker_id"], "stopped")
    assert is_gone(facts["pid"])


def test_no_secret_where_others_can_look(host: PoolHost) -> None:
    host.script()
    host.serve(HF_TOKEN="canary", AWS_SECRET_ACCESS_KEY="canary")
    facts = host.ready()
    secret = host.orcd.wait("/workers/ready")["ready"]["secret"]
    for process in host.home.processes():
        shown = Path(f"/proc/{process.pid}/cmdline").read_bytes() + Path(f"/proc/{process.pid}/environ").read_bytes()
        assert secret.encode() not in shown
    assert b"canary" not in Path(f"/proc/{facts['pid']}/environ").read_bytes()
    assert host.daemon is not None
    assert secret not in host.daemon.said + host.log_of(facts["worker_id"])
    for path in host.state.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
        assert not path.is_file() or secret.encode() not in path.read_bytes(), path
    assert secret not in host.call("GET", "/status").body.decode()


def test_ready_calls_of_strangers_are_refused(host: PoolHost) -> None:
    host.script(load_seconds=600)
    host.serve()
    worker_id = host.spawn()
    forged = {
        "worker_id": worker_id,
        "nonce": "x",
        "pid": 1,
        "model_ref": "bees",
        "model_sha256": None,
        "uri": "http://127.0.0.1:1",
        "secret": "rbk_forged",
        "backend": "scripted",
        "memory_bytes": 0,
        "memory_architecture": "ram",
        "capabilities": [],
        "slots": 1,
        "ctx": 64,
        "load_ms": 1.0,
    }
    path = f"/internal/workers/{worker_id}/ready"
    assert host.call("POST", path, forged).status == 401
    assert host.call("POST", path, forged, Authorization="Bearer rbk_forged").status == 401
    unknown = host.call("POST", f"/internal/workers/{WORKER}/ready", forged)
    assert (unknown.status, unknown.error["message"]) == (401, host.call("POST", path, forged).error["message"])
    assert _answer_to_a_head(host, path).startswith(b"HTTP/1.1 401 "), "nothing is read before the proof"
    assert host.worker(worker_id)["state"] in ("starting", "loading")


def _answer_to_a_head(host: PoolHost, path: str) -> bytes:
    """What is answered to a request whose body never comes."""
    with socket.create_connection(("127.0.0.1", host.port), timeout=30) as connection:
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 10000000\r\n\r\n"
        connection.sendall(head.encode())
        return connection.recv(65_536)


def test_spawns_that_are_refused(host: PoolHost) -> None:
    tiny = write_tiny_gguf(host.models / "tiny.gguf", layers=1, width=32, heads=2, heads_kv=1)
    write_tiny_gguf(host.models / "short.gguf", layers=1, width=32, heads=2, heads_kv=1, context_length=8)
    (host.models / "cut.gguf").write_bytes(tiny.read_bytes()[:9000])
    (host.models / "zip.gguf").write_bytes(b"PK\x03\x04" + bytes(500))
    outside = shutil.copy(tiny, host.home.folder / "outside.gguf")
    (host.models / "link.gguf").symlink_to(outside)
    host.script()
    host.serve()
    for keywords, status, code in (
        ({"model_ref": "beees"}, 404, "MODEL_NOT_FOUND"),
        ({"model_ref": f"file:{host.models}/missing.gguf"}, 404, "MODEL_NOT_FOUND"),
        ({"model_ref": f"file:{outside}"}, 404, "MODEL_NOT_FOUND"),
        ({"model_ref": "link"}, 404, "MODEL_NOT_FOUND"),
        ({"model_ref": "file:/etc/passwd"}, 404, "MODEL_NOT_FOUND"),
        ({"model_ref": "hf:org/repo"}, 404, "MODEL_NOT_FOUND"),
        ({"model_ref": "file:/a/../b"}, 400, "INVALID_REQUEST"),
        ({"model_ref": "cut"}, 422, "MODEL_INCOMPATIBLE"),
        ({"model_ref": "zip"}, 422, "MODEL_INCOMPATIBLE"),
        ({"model_ref": "short"}, 422, "MODEL_INCOMPATIBLE"),
        ({"model_ref": "tiny", "ctx": 1_000_000}, 422, "MODEL_INCOMPATIBLE"),
        ({"model_ref": "tiny", "devices": ["cpu:99"]}, 400, "INVALID_REQUEST"),
        ({"model_ref": "tiny", "devices": ["metal:0"]}, 422, "BACKEND_UNAVAILABLE"),
        ({"model_ref": "tiny", "backend": "metal"}, 422, "BACKEND_UNAVAILABLE"),
        ({"model_ref": "tiny", "gpu_layers": 4}, 400, "INVALID_REQUEST"),
        ({"model_ref": "tiny", "kv_type_k": "q2_k"}, 400, "INVALID_REQUEST"),
        ({"model_ref": "tiny", "kv_type_v": "q8_0", "flash_attention": "off"}, 400, "INVALID_REQUEST"),
        ({"model_ref": "tiny", "kv_type_k": "q8_0"}, 422, "MODEL_INCOMPATIBLE"),
        ({"model_ref": "bees", "backend": "cuda"}, 422, "MODEL_INCOMPATIBLE"),
        ({"model_ref": "bees", "worker_id": "../../etc/x"}, 400, "INVALID_REQUEST"),
        ({"model_ref": "bees", "slots": 0}, 400, "INVALID_REQUEST"),
        ({"model_ref": "bees", "model_sha256": "0" * 64}, 404, "MODEL_NOT_FOUND"),
    ):
        found, error = host.refusal(**keywords)
        assert (found, error["code"]) == (status, code), (keywords, error)
        assert error["message"][-1] in ".?"
    assert host.refusal("beees")[1]["details"]["close_names"] == ["bees"]
    assert host.home.workers() == []


def test_a_model_that_is_too_large_is_refused_with_the_numbers(host: PoolHost) -> None:
    write_tiny_gguf(host.models / "tiny.gguf", layers=1, width=32, heads=2, heads_kv=1)
    host.serve("--memory-reserve-bytes", str(1 << 50))
    status, error = host.refusal("tiny")
    assert (status, error["code"]) == (422, "INSUFFICIENT_VRAM")
    details = error["details"]
    assert details["missing_bytes"] == details["needed_bytes"] - details["available_bytes"]
    assert details["needed_bytes"] == details["weights_bytes"] + details["kv_bytes"] + details["compute_bytes"]


def test_unknown_workers(host: PoolHost) -> None:
    host.serve()
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/logs")):
        answer = host.call(method, f"/workers/{WORKER}{path}")
        assert (answer.status, answer.error["code"]) == (404, "WORKER_NOT_FOUND")
    assert host.call("GET", "/workers/..%2f..%2fetc/logs").status == 404


def test_logs_are_followed_to_the_end(host: PoolHost) -> None:
    host.script()
    host.serve()
    facts = host.ready()
    url = f"http://127.0.0.1:{host.port}/workers/{facts['worker_id']}/logs?follow=true"
    reader = subprocess.Popen(
        [sys.executable, "-c", f"import urllib.request,sys; [print(l) for l in urllib.request.urlopen({url!r})]"],
        stdout=subprocess.PIPE,
        env={**os.environ, "NO_PROXY": "*"},
    )
    host.call("DELETE", f"/workers/{facts['worker_id']}")
    output, _ = reader.communicate(timeout=30)
    assert reader.returncode == 0
    assert b"worker_listen" in output


def test_new_files_are_served_without_a_restart(host: PoolHost) -> None:
    host.serve()
    assert host.refusal()[0] == 404
    host.script()
    host.ready()
    assert any("bees" in model["aliases"] for model in host.call("GET", "/models").json["models"])


def test_model_folders_may_be_named_by_way_of_others(host: PoolHost) -> None:
    host.script()
    daemon = host.serve("--model-dirs", f"{host.models}/../models", "--model-dirs", "/no/such/folder")
    assert any("bees" in model["aliases"] for model in host.call("GET", "/models").json["models"])
    assert "model_dir_missing" in daemon.said


def test_a_taken_port_ends_the_daemon_with_a_sentence(home: Home) -> None:
    with taken_port() as port:
        done = home.run("poold", "serve", "--port", str(port))
    assert done.returncode == 75
    assert f"Another program listens on 127.0.0.1:{port}" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_second_daemon_on_the_same_state_is_refused(host: PoolHost) -> None:
    host.serve()
    done = host.home.run("poold", "serve", "--port", "0")
    assert done.returncode == 75
    assert "ALREADY_RUNNING" in done.stderr
    assert f" at http://127.0.0.1:{host.port})" in done.stderr


@pytest.mark.parametrize(
    "flags", [("--bind", "0.0.0.0"), ("--pool-id", "a/b"), ("--tls-cert-file", "/x"), ("--orcd-url", "localhost:8080")]
)
def test_unsafe_or_senseless_settings_end_with_78(home: Home, flags: tuple[str, ...]) -> None:
    done = home.run("poold", "serve", "--port", "0", *flags)
    assert (done.returncode, "Traceback" in done.stderr) == (78, False), done.stderr
    assert "CONFIGURATION" in done.stderr


def test_a_state_folder_that_cannot_be_used_ends_with_78(home: Home) -> None:
    (home.folder / "poold" / "lock").mkdir(parents=True)
    (home.folder / "poold").chmod(0o700)
    done = home.run("poold", "serve", "--port", "0")
    assert (done.returncode, "Traceback" in done.stderr) == (78, False), done.stderr
    assert "--state-dir" in done.stderr


def test_a_token_is_asked_for_and_sent(host: PoolHost) -> None:
    token = host.home.folder / "token"
    token.write_text("rbk_" + "a" * 43)
    token.chmod(0o600)
    host.script()
    host.serve("--token-file", str(token))
    for method, path in (("GET", "/status"), ("GET", "/models"), ("GET", "/workers"), ("GET", "/metrics"), ("GET", "/docs")):
        assert host.call(method, path).status == 401, path
    assert host.call("POST", "/workers/spawn", {"model_ref": "bees"}).status == 401
    assert host.call("POST", "/register-with", {"orcd_url": "http://127.0.0.1:1"}).status == 401
    bearer = {"Authorization": "Bearer rbk_" + "a" * 43}
    answer = host.call("POST", "/workers/spawn", {"model_ref": "bees"}, **bearer)
    assert answer.status == 202
    secret = host.orcd.wait("/workers/ready")["ready"]["secret"]
    assert host.orcd.authorizations == {bearer["Authorization"]}
    answer = host.call("POST", "/register-with", {"orcd_url": host.orcd.url}, **bearer)
    assert [ready["secret"] for ready in answer.json["ready"]] == [secret]


def test_an_orchestrator_can_call_first(host: PoolHost) -> None:
    url = host.orcd.url
    host.script()
    daemon = host.home.start("poold", "serve", "--port", str(host.port), "--model-dirs", str(host.models), "--pool-id", "host")
    wait_until(lambda: "daemon_ready" in daemon.said, daemon)
    assert host.call("GET", "/status").json["orcd_url"] is None
    worker_id = host.spawn()
    host.until(worker_id, "ready")
    answer = host.call("POST", "/register-with", {"orcd_url": url})
    assert (answer.status, answer.json["ready"]) == (200, []), "without a token it could be anyone who calls"
    assert [ready["worker_id"] for ready in host.orcd.wait("/register")["ready"]] == [worker_id]
    host.orcd.wait("/heartbeat")
    daemon.kill()
    count = len(host.orcd.of("/register"))
    daemon = host.home.start("poold", "serve", "--port", str(host.port), "--model-dirs", str(host.models), "--pool-id", "host")
    again = host.orcd.wait("/register", count + 1)
    assert [ready["worker_id"] for ready in again["ready"]] == [worker_id]


@pytest.mark.parametrize("note", ["garbage", "http://:1"])
def test_a_url_that_nobody_can_call_does_not_harm_the_daemon(home: Home, note: str) -> None:
    with FakeOrcd() as orcd:
        host = PoolHost(home, orcd)
        host.state.mkdir(mode=0o700)
        (host.state / "orcd_url").write_text(note)
        daemon = home.start("poold", "serve", "--port", str(host.port))
        wait_until(lambda: "daemon_ready" in daemon.said, daemon)
        for url in ("http://:1", "http://a:99999", "http://[::1", f"http://{'a' * 80}.x:1"):
            answer = host.call("POST", "/register-with", {"orcd_url": url})
            assert (answer.status, answer.error["code"]) == (400, "INVALID_REQUEST"), url
        assert host.call("GET", "/status").json["orcd_url"] is None
        # The form is right and nobody is there.
        assert host.call("POST", "/register-with", {"orcd_url": "http://no.such.name.invalid:1"}).status == 200
        wait_until(lambda: "orcd_call_failed" in daemon.said, daemon)
        assert host.call("POST", "/register-with", {"orcd_url": orcd.url}).status == 200
        orcd.wait("/heartbeat")


def test_sigterm_is_not_held_up_by_someone_who_follows_a_log(host: PoolHost) -> None:
    host.script()
    daemon = host.serve()
    facts = host.ready()
    with socket.create_connection(("127.0.0.1", host.port)) as follower:
        path = f"/workers/{facts['worker_id']}/logs?follow=true"
        follower.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert follower.recv(100).startswith(b"HTTP/1.1 200")
        assert daemon.stop(timeout_s=25) == 0, "what runs would have 30 s"
    assert not is_gone(facts["pid"])


def test_a_configured_orchestrator_stays_the_only_one(host: PoolHost) -> None:
    host.serve()
    answer = host.call("POST", "/register-with", {"orcd_url": "http://127.0.0.1:9"})
    assert (answer.status, answer.error["code"]) == (403, "FORBIDDEN")
    assert host.call("POST", "/register-with", {"orcd_url": host.orcd.url}).status == 200


def test_an_orchestrator_that_forgot_is_told_everything_again(host: PoolHost) -> None:
    host.script()
    host.serve()
    host.ready()
    host.orcd.wait("/register")
    host.orcd.knows_pools = False
    again = host.orcd.wait("/register", 2)
    assert len(again["ready"]) == 1
    assert json.dumps(again["models"])


def test_the_operators_own_command(host: PoolHost) -> None:
    host.script()
    daemon = host.serve()
    tool = ["--poold-url", daemon.url]
    assert "cpu" in host.home.run("status", *tool, program="rbees-pool").stdout
    refused = host.home.run("worker", "spawn", "--model", "bees", "--gpu-layers", "3", *tool, program="rbees-pool")
    assert (refused.returncode, "`gpu_layers` is for cuda and metal" in refused.stderr) == (2, True)
    options = ["--kv-type-k", "q8_0", "--load-mode", "none", "--gpu-layers", "all"]
    spawned = host.home.run("worker", "spawn", "--model", "bees", *options, *tool, program="rbees-pool")
    assert spawned.returncode == 0, spawned.said
    worker_id = spawned.stdout.strip()
    words = psutil.Process(host.worker(worker_id)["pid"]).cmdline()
    assert {"--kv-type-k=q8_0", "--kv-type-v=f16", "--load-mode=none"} <= set(words)
    listed = host.home.run("worker", "list", "--json", *tool, program="rbees-pool").json
    assert [worker["worker_id"] for worker in listed["workers"]] == [worker_id]
    assert "model_loaded" in host.home.run("worker", "logs", worker_id, *tool, program="rbees-pool").stdout
    assert host.home.run("worker", "stop", worker_id, *tool, program="rbees-pool").returncode == 0
    assert host.home.workers() == []
    assert "bees" in host.home.run("models", "list", *tool, program="rbees-pool").stdout
    assert "sha256" in host.home.run("models", "info", "bees", *tool, program="rbees-pool").stdout
    unknown = host.home.run("models", "info", "beees", *tool, program="rbees-pool")
    assert (unknown.returncode, "did you mean bees" in unknown.stderr) == (1, True)
    (host.models / "cut.gguf").write_bytes(b"PK\x03\x04" + bytes(500))
    wait_until(lambda: "cut.gguf" in host.home.run("models", "list", *tool, program="rbees-pool").stderr, host.daemon, "find it")
    broken = host.home.run("models", "info", "cut", *tool, program="rbees-pool")
    assert (broken.returncode, "[MODEL_INCOMPATIBLE]" in broken.stderr, "GGUF" in broken.stderr) == (1, True, True), broken.said
    nobody = host.home.run("status", "--poold-url", "http://127.0.0.1:9", program="rbees-pool")
    assert (nobody.returncode, "POOL_UNREACHABLE" in nobody.stderr) == (69, True)
