"""A daemon's process: its signals, systemd's socket, TLS between two of them."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from rbees.clients.http import HttpClient
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.service.auth import BearerAuth, Token, tls_client_context, tls_server_context
from rbees.service.clock import ManualClock
from rbees.service.notify import Notifier
from tests.support.service_app import serving

SECRET = "rbk_" + "a" * 43
DAEMON = """
import asyncio, sys
from rbees.service import logs
from rbees.service.daemon import run_daemon

async def main(stopping):
    if sys.argv[1] == "stray":
        asyncio.get_running_loop().call_soon(lambda: (_ for _ in ()).throw(ValueError("the-canary-sings")))
        await asyncio.sleep(0.2)
        return 3
    print("up", flush=True)
    await stopping.wait()
    print("draining", flush=True)
    if sys.argv[1] == "stubborn":
        await asyncio.sleep(60)
    return 7

logs.configure("test", "info", "json")
sys.exit(run_daemon(main))
"""


@contextlib.contextmanager
def daemon(how: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", DAEMON, how]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_drains(number: signal.Signals) -> None:
    with daemon("willing") as process:
        assert line(process) == "up"
        process.send_signal(number)
        assert line(process) == "draining"
        assert process.wait(30) == 7
        assert process.stderr is not None
        logged = json.loads(process.stderr.read())
        assert (logged["action"], logged["signal"]) == ("daemon_stop", number.name)


def test_the_second_signal_ends_at_once() -> None:
    with daemon("stubborn") as process:
        assert line(process) == "up"
        process.send_signal(signal.SIGTERM)
        assert line(process) == "draining"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130


def test_a_stray_failure_is_logged_without_its_text() -> None:
    with daemon("stray") as process:
        assert process.wait(30) == 3
        assert process.stderr is not None
        text = process.stderr.read()
        logged = json.loads(text)
        assert (logged["action"], logged["exception"][0]["type"]) == ("loop_failure", "ValueError")
        assert "canary" not in text.replace(json.dumps(logged["exception"][0]["frames"]), "")


@pytest.mark.parametrize("abstract", [False, True])
async def test_systemd_is_told(tmp_path_factory: pytest.TempPathFactory, abstract: bool) -> None:
    if abstract and sys.platform != "linux":
        pytest.fail("abstract sockets are Linux's; mark the test for another platform")
    folder = tmp_path_factory.mktemp("n")
    address = f"@rbees-test-{os.getpid()}" if abstract else str(folder / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address.replace("@", "\0") if abstract else address)
        systemd.settimeout(5)
        clock = ManualClock()
        notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "4000000", "WATCHDOG_PID": str(os.getpid())})
        notifier.ready()
        notifier.status("two\nlines")
        task = asyncio.create_task(notifier.watchdog(clock))
        await clock.advance(4.5)
        task.cancel()
        notifier.stopping()
        told = [systemd.recv(100).decode() for _ in range(6)]
    assert told == ["READY=1", "STATUS=two lines", "WATCHDOG=1", "WATCHDOG=1", "WATCHDOG=1", "STOPPING=1"]
    notifier.ready()  # Nobody listens any more, and nothing happens.


class Certificates:
    """A certificate for 127.0.0.1 that vouches for itself, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.cert, self.key = folder / "cert.pem", folder / "key.pem"
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "rbees test")])
        now = datetime.datetime.now(datetime.UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(now - datetime.timedelta(minutes=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(key, hashes.SHA256())
        )
        self.cert.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        self.key.touch(mode=0o600)
        self.key.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )


async def reason(client: HttpClient) -> str:
    async with client:
        with pytest.raises(RbeesError) as caught:
            await client.call("GET", "/readyz")
    assert caught.value.code is ErrorCode.POOL_UNREACHABLE
    return str(caught.value.details["reason"])


async def test_two_daemons_speak_tls(tmp_path: Path) -> None:
    files = Certificates(tmp_path)
    tls = tls_server_context(files.cert, files.key)
    async with serving(tls=tls, authenticator=BearerAuth(Token(SECRET))) as server:
        assert server.url.startswith("https://")
        trusting = tls_client_context(files.cert)
        async with HttpClient(server.url, token=SECRET, ssl=trusting, unreachable=ErrorCode.POOL_UNREACHABLE) as client:
            await client.call("GET", "/readyz")
        distrusting = HttpClient(server.url, token=SECRET, unreachable=ErrorCode.POOL_UNREACHABLE)
        assert "not trusted" in await reason(distrusting)
        plain = HttpClient(server.url.replace("https", "http"), token=SECRET, unreachable=ErrorCode.POOL_UNREACHABLE)
        assert "broke off" in await reason(plain)
        other_name = HttpClient(server.url.replace("127.0.0.1", "localhost"), ssl=trusting, unreachable=ErrorCode.POOL_UNREACHABLE)
        assert "not trusted" in await reason(other_name)


async def test_tls_where_the_other_side_speaks_none(tmp_path: Path) -> None:
    files = Certificates(tmp_path)
    async with serving() as server:
        speaking = HttpClient(
            server.url.replace("http", "https"), ssl=tls_client_context(files.cert), unreachable=ErrorCode.POOL_UNREACHABLE
        )
        assert "TLS" in await reason(speaking)
