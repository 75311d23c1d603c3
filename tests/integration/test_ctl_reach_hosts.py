"""`llorch pool … --host`: by HTTP where a real pool daemon answers, else by SSH; several hosts at once."""

from __future__ import annotations

import contextlib
import json
import secrets
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psutil
import pytest

from tests.integration.test_ctl_reach_ssh import configure, in_terminal, pool, trust, write_tool
from tests.support.fake_orcd import FakeOrcd
from tests.support.home import Home, entry_point, wait_until
from tests.support.pool_host import PoolHost
from tests.support.sshd import Sshd


@pytest.fixture
def host(home: Home) -> Iterator[PoolHost]:
    """A host with a real pool daemon and one model, which the settings call `attic`. No SSH server is there."""
    with FakeOrcd() as orcd:
        host = PoolHost(home, orcd)
        host.script()
        host.serve()
        (home.folder / "config.toml").write_text(f'[hosts.attic]\nurl = "http://127.0.0.1:{host.port}"\nssh = "127.0.0.1:1"\n')
        yield host


def sshd(home: Home, name: str) -> Sshd:
    server = Sshd(home.folder / name)
    write_tool(server)
    return server


def test_a_command_goes_by_http_where_the_daemon_answers(home: Home, host: PoolHost) -> None:
    listed = pool(home, "models", "list", "--host", "attic", "--json")
    assert listed.returncode == 0, listed.stderr
    assert ["bees"] in [model["aliases"] for model in json.loads(listed.stdout)["models"]]
    spawned = pool(home, "worker", "spawn", "--model", "bees", "--host", "attic")
    assert spawned.returncode == 0, spawned.stderr
    assert host.worker(spawned.stdout.strip())["state"] == "ready"
    assert pool(home, "models", "info", "nothing", "--host", "attic").returncode == 1
    lacking = pool(home, "worker", "spawn", "--backend", "metal", "--model", "bees", "--host", "attic")
    assert lacking.returncode == 1
    assert "not on metal" in lacking.stderr


def test_ctrl_c_ends_a_command_that_goes_by_http(home: Home, host: PoolHost) -> None:
    worker_id = host.ready()["worker_id"]
    running = home.start("pool", "worker", "logs", worker_id, "-f", "--host", "attic", program="llorch")
    wait_until(lambda: "model_loaded" in running.stdout, running, "show the log")
    running.send(signal.SIGINT)
    assert running.wait() == 130
    assert "Traceback" not in running.said


def test_a_command_that_goes_by_http_ends_with_the_one_that_asked(home: Home, host: PoolHost) -> None:
    worker_id = host.ready()["worker_id"]
    running = home.start("pool", "worker", "logs", worker_id, "-f", "--host", "attic", program="llorch")
    wait_until(lambda: "model_loaded" in running.stdout, running, "show the log")
    children = psutil.Process(running.pid).children()
    assert children
    running.kill()
    wait_until(lambda: not any(child.is_running() for child in children), what="end with it")


def test_status_comes_from_the_host_where_orcd_does_not_know_it(home: Home, host: PoolHost) -> None:
    # Named, so that no orchestrator of somebody else on this machine is asked.
    orcd = ("--orcd-url", "http://127.0.0.1:1")
    done = pool(home, "status", "--host", "attic", *orcd)
    assert done.returncode == 0, done.stderr
    assert "pool        host at http://127.0.0.1:" in done.stdout
    nobody = pool(home, "status", "--host", "nowhere.invalid", *orcd)
    assert "[ORCD_UNREACHABLE]" in nobody.stderr


def test_what_only_the_host_itself_can_do_goes_by_ssh(home: Home, host: PoolHost) -> None:
    refused = pool(home, "say", "it", "--host", "attic")
    assert "[HOST_UNREACHABLE]" in refused.stderr
    assert "No SSH server answers at 127.0.0.1:1" in refused.stderr
    assert "knows no command `rbees-pool say it`" in refused.stderr
    assert "because `rbees-pool models verify` needs the host" in pool(home, "models", "verify", "--host", "attic").stderr
    forced = pool(home, "say", "it", "--host", "attic", "--via", "http")
    assert forced.returncode == 2
    assert "needs the host itself" in forced.stderr
    asked = pool(home, "models", "list", "--host", "attic", "--via", "ssh").stderr
    assert "No SSH server" in asked
    assert "SSH was tried" not in asked, "whoever asked for it knows"


def test_both_ways_to_the_real_tool_say_the_same(home: Home, host: PoolHost) -> None:
    with Sshd(home.folder / "mac", {"RBEES_HOME": str(home.folder)}) as server:
        configure(home, server)
        trust(home, server)
        settings = home.folder / "config.toml"
        (tool,) = entry_point("rbees-pool")
        text = settings.read_text().replace(f"{server.folder}/rbees-pool", tool)
        settings.write_text(f'{text}url = "http://127.0.0.1:{host.port}"\n[poold]\nport = {host.port}\n')
        by_http, by_ssh = (pool(home, "models", "list", "--json", "--host", "mac", "--via", via) for via in ("http", "ssh"))
        assert (by_http.returncode, by_ssh.returncode) == (0, 0), by_ssh.stderr
        assert json.loads(by_http.stdout) == json.loads(by_ssh.stdout)
        nothing = pool(home, "models", "info", "nothing", "--host", "mac", "--via", "ssh")
        assert nothing.returncode == 1
        assert "[MODEL_NOT_FOUND]" in nothing.stderr


def test_where_no_daemon_answers_ssh_is_the_way(home: Home) -> None:
    with sshd(home, "mac") as server:
        configure(home, server)
        trust(home, server)
        settings = home.folder / "config.toml"
        settings.write_text(settings.read_text() + 'url = "http://127.0.0.1:1"\n')
        tool = server.folder / "rbees-pool"
        tool.write_text('#!/bin/sh\necho "$@"\n')
        done = pool(home, "models", "list", "--host", "mac")
        assert done.stdout == "models list\n"
        assert "going by SSH" in done.stderr
        forced = pool(home, "models", "list", "--host", "mac", "--via", "http")
        assert forced.returncode == 69
        assert "[POOL_UNREACHABLE]" in forced.stderr


def test_a_token_goes_only_where_the_settings_say(home: Home) -> None:
    token = home.folder / "token"
    token.write_text(f"rbk_{secrets.token_urlsafe(32)}")
    token.chmod(0o600)
    settings = home.folder / "config.toml"
    with listening() as (url, seen):
        plain = f'[poold]\ntoken_file = "{token}"\n[hosts.attic]\nurl = "{url}"\nssh = "127.0.0.1:1"\n'
        settings.write_text(plain)
        pool(home, "models", "list", "--host", "attic", "--via", "http")
        assert seen == [None]
        settings.write_text(f'{plain}token_file = "{token}"\n')
        pool(home, "models", "list", "--host", "attic", "--via", "http")
        assert seen == [None, f"Bearer {token.read_text()}"]


@contextlib.contextmanager
def listening() -> Iterator[tuple[str, list[str | None]]]:
    """A server that refuses everybody: its url, and the `Authorization` of those who came."""
    seen: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers["Authorization"])
            self.send_response(401)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", seen
        server.shutdown()
        thread.join()


def test_several_hosts_at_once(home: Home) -> None:
    with sshd(home, "mac") as mac, sshd(home, "attic") as attic:
        configure(home, mac, attic)
        trust(home, mac, attic)
        done = pool(home, "apart", "--host", "mac,attic", "--host", "mac")
        assert done.returncode == 0, done.stderr
        assert sorted(done.stdout.splitlines()) == ["attic: data", "mac: data"]
        assert sorted(done.stderr.splitlines()) == ["attic: note", "mac: note"]
        assert sorted(pool(home, "apart", "--all").stdout.splitlines()) == ["attic: data", "mac: data"]
        attic.stop()
        mixed = pool(home, "end", "3", "--all")
        assert mixed.returncode == 69
        assert mixed.stderr.startswith("attic: No SSH server answers at 127.0.0.1:")


def test_ctrl_c_reaches_every_host(home: Home) -> None:
    with sshd(home, "mac") as mac, sshd(home, "attic") as attic:
        configure(home, mac, attic)
        trust(home, mac, attic)
        running = home.start("pool", "wait", "/dev/null", "--all", program="llorch")
        wait_until(lambda: running.stdout.count("ready") == 2, running, "run on both")
        running.send(signal.SIGINT)
        assert running.wait() == 130
        assert sorted(running.stdout.splitlines()[2:]) == ["attic: interrupted", "mac: interrupted"]


def test_programs_get_a_document_for_each_line_of_each_host(home: Home, host: PoolHost) -> None:
    settings = home.folder / "config.toml"
    settings.write_text(f'{settings.read_text()}[hosts.cellar]\nurl = "http://127.0.0.1:1"\nssh = "127.0.0.1:1"\n')
    done = pool(home, "models", "list", "--json", "--all")
    (told,) = (json.loads(line) for line in done.stdout.splitlines())
    assert told["host"] == "attic"
    assert ["bees"] in [model["aliases"] for model in told["output"]["models"]]
    (failed,) = (json.loads(line) for line in done.stderr.splitlines())
    assert (failed["host"], failed["error"]["code"]) == ("cellar", "HOST_UNREACHABLE")


def test_a_terminal_shows_a_line_for_each_host(home: Home) -> None:
    with sshd(home, "mac") as mac, sshd(home, "attic") as attic:
        configure(home, mac, attic)
        trust(home, mac, attic)
        said, code = in_terminal(home, "", "pool", "apart", "--all")
        assert code == 0
        assert said.count("done: ") >= 2
        assert said.rstrip().endswith("mac: data")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("models", "list"), "Name the hosts"),
        (("modles", "list"), "Did you mean"),
        (("models", "list", "--all"), "there is none"),
        (("models", "list", "--host", "-oProxyCommand=x"), "takes names of hosts"),
        (("models", "list", "--host", "a", "--all"), "leave `--host` out"),
        (("models", "list", "--host", "mac,,attic"), "takes names of hosts"),
    ],
)
def test_what_names_no_host(home: Home, words: tuple[str, ...], said: str) -> None:
    done = pool(home, *words)
    assert done.returncode == 2
    assert said in done.stderr


def test_help_is_that_of_the_command_itself(home: Home) -> None:
    assert "--model" in pool(home, "worker", "spawn", "--help").stdout
