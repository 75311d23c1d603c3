"""Lab mode: a certificate and a token, workers that other hosts can reach, and calls between daemons that trust it."""

from __future__ import annotations

import json
import ssl
import urllib.request
from collections.abc import Iterator

import pytest

from tests.support.certificates import make_certificate
from tests.support.fake_orcd import FakeOrcd
from tests.support.home import Home, wait_until
from tests.support.pool_host import PoolHost
from tests.support.raw_http import request

TOKEN = "rbk_" + "t" * 43


@pytest.fixture
def host(home: Home) -> Iterator[PoolHost]:
    with FakeOrcd() as orcd:
        yield PoolHost(home, orcd)


@pytest.mark.parametrize("everywhere", [False, True])
def test_workers_serve_with_the_pools_certificate(host: PoolHost, everywhere: bool) -> None:
    cert, key = make_certificate(host.home.folder)
    token = host.home.folder / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    host.script()
    flags = ["--tls-cert-file", str(cert), "--tls-key-file", str(key), "--tls-ca-file", str(cert), "--token-file", str(token)]
    if everywhere:
        flags += ["--bind", "0.0.0.0", "--endpoint", f"https://localhost:{host.port}"]
    host.serve(*flags)
    name = "localhost" if everywhere else "127.0.0.1"
    assert host.orcd.wait("/register")["endpoint"] == f"https://{name}:{host.port}"

    trust = ssl.create_default_context(cafile=str(cert))

    def call(url: str, bearer: str, body: object = None) -> object:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {bearer}", "Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=20, context=trust) as answer:
            return json.load(answer)

    call(f"https://{name}:{host.port}/workers/spawn", TOKEN, {"model_ref": "bees"})
    ready = host.orcd.wait("/workers/ready")["ready"]
    assert ready["uri"].startswith(f"https://{name}:")
    health = call(f"{ready['uri']}/health", ready["secret"])
    assert isinstance(health, dict)
    assert health["state"] == "ready"
    assert host.daemon is not None
    host.daemon.kill()
    registrations = len(host.orcd.of("/register"))
    host.serve(*flags)
    again = host.orcd.wait("/register", registrations + 1)
    assert [found["uri"] for found in again["ready"]] == [ready["uri"]]


def test_a_worker_answers_to_the_name_its_pool_is_known_by(host: PoolHost) -> None:
    token = host.home.folder / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    host.script()
    endpoint = f"http://mac.home.arpa:{host.port}"
    host.serve("--bind", "0.0.0.0", "--insecure-lan", "--endpoint", endpoint, "--token-file", str(token))
    bearer = {"Authorization": f"Bearer {TOKEN}", "Host": f"mac.home.arpa:{host.port}"}
    assert request("POST", f"http://127.0.0.1:{host.port}/workers/spawn", {"model_ref": "bees"}, headers=bearer).status == 202
    ready = host.orcd.wait("/workers/ready")["ready"]
    port = int(ready["uri"].removeprefix("http://mac.home.arpa:"))

    def health(name: str) -> int:
        headers = {"Authorization": f"Bearer {ready['secret']}", "Host": f"{name}:{port}"}
        return request("GET", f"http://127.0.0.1:{port}/health", headers=headers).status

    assert health("mac.home.arpa") == 200
    assert health("rebound.example") == 403
    # The pool's own calls need not know that name: the worker is asked to drain before any signal is sent.
    stop = f"http://127.0.0.1:{host.port}/workers/{ready['worker_id']}"
    assert request("DELETE", stop, headers=bearer).status == 202
    wait_until(lambda: request("GET", stop, headers=bearer).json["state"] == "stopped")
    assert "SIGTERM" not in host.log_of(ready["worker_id"])


def test_every_route_but_livez_asks_for_a_proof(host: PoolHost) -> None:
    token = host.home.folder / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    host.serve("--token-file", str(token))
    document = request("GET", f"http://127.0.0.1:{host.port}/openapi.json", headers={"Authorization": f"Bearer {TOKEN}"}).json
    calls = [(method, path) for path, methods in document["paths"].items() for method in methods]
    assert len(calls) > 10
    for method, path in calls:
        answer = request(method.upper(), f"http://127.0.0.1:{host.port}" + path.replace("{", "").replace("}", ""))
        assert answer.status == (200 if path == "/livez" else 401), (method, path)
