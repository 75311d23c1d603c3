"""`rbees-pool dev doctor` on real daemons, ports and processes that die of real signals."""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_ctl_reach_hosts import listening
from tests.support.home import Home, free_port, taken_port

POOL = {"endpoint": "http://127.0.0.1:1", "last_heartbeat_age_ms": 1, "devices": [], "models": [], "workers": []}
POOLS = [
    {**POOL, "pool_id": "attic", "state": "live", "version": "9.9"},
    {**POOL, "pool_id": "cellar", "state": "lost", "version": "9.9"},
]


def examine(home: Home, *words: str, program: str = "rbees-pool", **environ: str) -> tuple[int, dict[str, list[Any]]]:
    """The exit code and the findings by check."""
    ports = {"RBEES_POOLD_PORT": str(free_port()), "RBEES_ORCD_PORT": str(free_port())}
    done = home.run("dev", "doctor", *words, "--json", program=program, environ={**ports, **environ}, timeout_s=120)
    assert done.returncode in (0, 1), done.said
    found: dict[str, list[Any]] = {}
    for finding in done.json["findings"]:
        found.setdefault(finding["check"], []).append(finding)
    assert done.json["healthy"] == (done.returncode == 0)
    return done.returncode, found


def verdicts(found: dict[str, list[Any]], check: str) -> list[str]:
    return [finding["verdict"] for finding in found[check]]


def test_a_host_that_is_well_and_runs_everything(home: Home) -> None:
    home.up()
    code, found = examine(home)
    assert code == 0, found
    for check in ("python", "compiler", "settings", "folders", "backend", "ports", "poold", "orcd", "clock", "versions"):
        assert verdicts(found, check) == ["ok"], found[check]
    assert len(found["versions"][0]["details"]["peers"]) == 2
    assert home.run("dev", "doctor", program="llorch").stdout.startswith("ok       python")


def test_lab_daemons_on_their_own_ports(home: Home) -> None:
    orcd, poold = home.serve_orcd(), home.serve_poold()
    ports = {"RBEES_ORCD_PORT": orcd.url.rpartition(":")[2], "RBEES_POOLD_PORT": poold.url.rpartition(":")[2]}
    code, found = examine(home, "--role", "orcd", "--role", "poold", **ports)
    assert code == 0, found
    assert [port["details"]["state"] for port in found["ports"]] == ["ours", "ours"]
    # Nothing names the orchestrator but the port on which it runs here.
    assert verdicts(found, "orcd") == ["ok"]


def test_what_fails_is_said_with_what_to_do(home: Home) -> None:
    with taken_port() as port:
        code, found = examine(home, "--orcd-url", "http://127.0.0.1:9", RBEES_POOLD_PORT=str(port), CXX="/nowhere/c++")
    assert code == 1
    assert "another `port`" in found["ports"][0]["message"]
    assert "connection refused" in found["orcd"][0]["message"]
    assert (verdicts(found, "orcd"), verdicts(found, "ports"), verdicts(found, "compiler")) == (["failed"], ["failed"], ["warning"])


def test_an_address_that_this_host_does_not_have(home: Home) -> None:
    _, found = examine(home, RBEES_POOLD_BIND="192.0.2.1")
    assert "correct `bind`" in found["ports"][0]["message"]


def test_a_range_of_ports_that_leaves_workers_none(home: Home) -> None:
    with taken_port() as port:
        span = {"RBEES_POOLD_WORKER_PORT_FIRST": str(port), "RBEES_POOLD_WORKER_PORT_LAST": str(port)}
        _, found = examine(home, **span)
    assert verdicts(found, "ports") == ["ok", "failed"]
    assert "worker_port_last" in found["ports"][1]["message"]


def test_settings_and_folders_that_no_daemon_would_take(home: Home) -> None:
    (home.folder / "config.toml").write_text("[poold]\nprot = 1\n")
    home.folder.chmod(0o755)
    code, found = examine(home)
    assert code == 1
    assert "`port`" in found["settings"][0]["message"]
    assert "chmod 700" in found["folders"][0]["message"]
    assert verdicts(found, "backend") == ["ok"]
    assert found["backend"][0]["message"].endswith("loads a model and decodes 16 tokens.")
    home.folder.chmod(0o700)


@pytest.mark.parametrize(("spared", "verdict"), [("--safe-mode", "warning"), ("--nothing", "failed")])
def test_a_kernel_that_kills_its_process(home: Home, tmp_path: Path, spared: str, verdict: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        f"if 'try' in sys.orig_argv and {spared!r} not in sys.orig_argv:\n"
        "    os.kill(os.getpid(), signal.SIGILL)\n"
    )
    _, found = examine(home, PYTHONPATH=str(tmp_path))
    assert verdicts(found, "backend") == [verdict]
    assert "SIGILL" in found["backend"][0]["message"]
    assert ("-mno-amx-tile" in found["backend"][0]["message"]) == (verdict == "warning")


def test_peers_of_other_versions_silent_pools_and_another_time(home: Home) -> None:
    with other_orcd({"title": "rbees orcd", "version": "8.8"}, behind_s=3600) as url:
        (home.folder / "config.toml").write_text(f'[hosts.mac]\nurl = "{url}"\n[hosts.gone]\nurl = "http://127.0.0.1:9"\n')
        code, found = examine(home, "--orcd-url", url)
    assert code == 0
    assert "poold cellar runs 9.9" in found["versions"][0]["message"]
    assert "orcd runs 8.8" in found["versions"][0]["message"]
    assert "host mac runs 8.8" in found["versions"][0]["message"]
    assert verdicts(found, "hosts") == ["ok", "warning"]
    assert "silent: cellar;" in found["pools"][0]["message"]
    assert "behind" in found["clock"][0]["message"]


def test_a_token_is_sent_only_to_hosts_that_are_to_have_one(home: Home) -> None:
    token = home.folder / "token"
    token.write_text(f"rbk_{secrets.token_urlsafe(32)}")
    token.chmod(0o600)
    with listening() as (stranger, to_stranger), listening() as (known, to_known):
        (home.folder / "config.toml").write_text(
            f'[ctl]\ntoken_file = "{token}"\n[hosts.stranger]\nurl = "{stranger}"\n'
            f'[hosts.known]\nurl = "{known}"\ntoken_file = "{token}"\n'
        )
        examine(home)
    assert (to_stranger, to_known) == ([None], [f"Bearer {token.read_text()}"])


def test_a_stranger_where_the_orchestrator_should_be(home: Home) -> None:
    with other_orcd({"title": "a shop", "version": "1"}) as url:
        code, found = examine(home, "--orcd-url", url)
    assert (code, verdicts(found, "orcd")) == (1, ["failed"])


@contextmanager
def other_orcd(info: dict[str, str], behind_s: int = 0) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"info": info} if self.path == "/openapi.json" else {"pools": POOLS}).encode()
            self.send_response_only(200)
            self.send_header("Date", formatdate(time.time() + behind_s, usegmt=True))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()
