"""SSH servers that stall, drop, lie and end in odd ways: what asyncssh's own server can be made to do and OpenSSH cannot."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import asyncssh
import pytest

from rbees.ctl.hosts import Host, SshTarget
from rbees.ctl.remote import run_remote
from rbees.ctl.sinks import Write
from rbees.ctl.ssh import SshConnections, UnknownHostKey
from rbees.protocol.errors import ErrorCode, RbeesError

Process = asyncssh.SSHServerProcess[bytes]


class Collected:
    """A sink that keeps what it is given."""

    feeds = False
    inherits = False
    lends_keys = False

    def __init__(self) -> None:
        self.stdout = b""
        self.stderr = b""

    def out(self, data: bytes) -> None:
        self.stdout += data

    def err(self, data: bytes) -> None:
        self.stderr += data

    def feed(self, write: Write, end: Callable[[], None]) -> None:
        raise AssertionError("nothing is typed here")

    def finish(self) -> None:
        pass


def mark_of(process: Process) -> bytes:
    assert process.command is not None
    return shlex.split(process.command)[4].encode()


@asynccontextmanager
async def serving(
    tmp_path: Path, handler: Callable[[Process], Awaitable[None]], login_s: float = 30.0
) -> AsyncIterator[tuple[SshConnections, Host]]:
    """Connections to a server on a port of its own, with a key that is known; anybody may log in."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    server = await asyncssh.create_server(
        Anybody, "127.0.0.1", 0, server_host_keys=[key], process_factory=handler, encoding=None, public_key_auth=False
    )
    port = server.sockets[0].getsockname()[1]
    known = tmp_path / "known_hosts"
    known.write_text(f"[127.0.0.1]:{port} {key.export_public_key().decode()}")
    host = Host("odd", SshTarget("127.0.0.1", port, "somebody"), None, False)
    async with SshConnections(known, login_s) as connections:
        yield connections, host
    server.close()
    await server.wait_closed()


class Anybody(asyncssh.SSHServer):
    def begin_auth(self, username: str) -> bool:
        return False


async def run(connections: SshConnections, host: Host, *words: str) -> tuple[int, Collected]:
    sink = Collected()
    await connections.connect(host.ssh)
    return await run_remote(connections, host, words, sink, asyncio.Event()), sink


async def test_what_login_files_print_is_no_data(tmp_path: Path) -> None:
    async def handler(process: Process) -> None:
        process.stdout.write(b"Welcome to odd!\nfortune: " + b"x" * 100_000)
        process.stdout.write(b"\n" + mark_of(process) + b" 4711\nda")
        process.stdout.write(b"ta\n" + mark_of(process) + b" 1\n")
        process.exit(0)

    async with serving(tmp_path, handler) as (connections, host):
        code, sink = await run(connections, host, "models", "list")
    assert code == 0
    assert sink.stdout.startswith(b"data\n")
    assert sink.stdout.endswith(b" 1\n"), "behind the first mark everything is data"
    assert sink.stderr.startswith(b"Welcome to odd!\nfortune: xxx")


async def test_a_login_shell_that_runs_nothing(tmp_path: Path) -> None:
    async def handler(process: Process) -> None:
        process.stdout.write(b"This account is currently not available.\n")
        process.exit(1)

    async with serving(tmp_path, handler) as (connections, host):
        with pytest.raises(RbeesError, match="ended with 1 before it ran anything") as raised:
            await run(connections, host, "status")
    assert raised.value.code is ErrorCode.HOST_UNREACHABLE


@pytest.mark.parametrize("how", ["drop", "silence"])
async def test_an_end_that_is_never_told(tmp_path: Path, how: str) -> None:
    async def handler(process: Process) -> None:
        process.stdout.write(mark_of(process) + b" 4711\nhalf an ans")
        await process.stdout.drain()
        if how == "drop":
            process.channel.get_connection().abort()
        else:
            process.close()

    async with serving(tmp_path, handler) as (connections, host):
        with pytest.raises(RbeesError, match="broke off") as raised:
            await run(connections, host, "status")
    assert raised.value.code is ErrorCode.HOST_UNREACHABLE


async def test_a_host_that_falls_silent_is_given_up(tmp_path: Path) -> None:
    silent, passed = asyncio.Event(), asyncio.Event()

    async def handler(process: Process) -> None:
        process.stdout.write(mark_of(process) + b" 4711\nhalf an ans")
        await process.stdout.drain()
        # Time for the answer to pass the gate, which then shuts without closing either side.
        await asyncio.sleep(0.2)
        silent.set()

    async def gate(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        pumps = [asyncio.create_task(pump(reader, inner_writer)), asyncio.create_task(pump(inner_reader, writer))]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pumping in pumps:
            pumping.cancel()
        inner_writer.close()
        writer.close()
        await asyncio.gather(*pumps, inner_writer.wait_closed(), writer.wait_closed(), return_exceptions=True)
        passed.set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(4096):
            if not silent.is_set():
                writer.write(data)

    async with serving(tmp_path, handler) as (_, host):
        port = host.ssh.port
        listener = await asyncio.start_server(gate, "127.0.0.1", 0)
        gate_port = listener.sockets[0].getsockname()[1]
        known = tmp_path / "known_hosts"
        known.write_text(known.read_text().replace(str(port), str(gate_port)))
        async with SshConnections(known, keepalive_s=0.3) as connections:
            beyond = replace(host, ssh=replace(host.ssh, port=gate_port))
            with pytest.raises(RbeesError, match="broke off"):
                await run(connections, beyond, "status")
        await passed.wait()
        listener.close()
        await listener.wait_closed()


async def test_a_signal_is_told_as_a_shell_would(tmp_path: Path) -> None:
    async def handler(process: Process) -> None:
        process.stdout.write(mark_of(process) + b" 4711\n")
        process.exit_with_signal("TERM")

    async with serving(tmp_path, handler) as (connections, host):
        assert (await run(connections, host, "status"))[0] == 128 + 15


async def test_several_commands_share_a_connection(tmp_path: Path) -> None:
    connections_seen = set()

    async def handler(process: Process) -> None:
        connections_seen.add(process.get_extra_info("peername"))
        process.stdout.write(mark_of(process) + b" 4711\n")
        process.exit(0)

    async with serving(tmp_path, handler) as (connections, host):
        await asyncio.gather(*(run(connections, host, "status") for _ in range(5)))
    assert len(connections_seen) == 1


@pytest.mark.parametrize(
    ("says", "reason"), [(b"", "no answer in time"), (b"HTTP/1.1 400 Bad Request\r\n" * 5000, "does not speak SSH")]
)
async def test_what_listens_is_no_ssh_server(tmp_path: Path, says: bytes, reason: str) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(says)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    target = SshTarget("127.0.0.1", server.sockets[0].getsockname()[1], "somebody")
    async with SshConnections(tmp_path / "known_hosts", login_s=0.5) as connections:
        with pytest.raises(RbeesError, match=reason) as raised:
            await connections.connect(target)
    assert raised.value.code is ErrorCode.HOST_UNREACHABLE
    server.close()
    await server.wait_closed()


async def test_a_key_is_trusted_only_after_it_was_confirmed(tmp_path: Path) -> None:
    async def handler(process: Process) -> None:
        process.exit(0)

    async with serving(tmp_path, handler) as (_, host):
        known = tmp_path / "folder" / "known_hosts"
        async with SshConnections(known) as connections:
            with pytest.raises(UnknownHostKey) as raised:
                await connections.connect(host.ssh)
            assert not known.exists()
            connections.trust(raised.value)
            await connections.connect(host.ssh)
        assert known.stat().st_mode & 0o777 == 0o600
        assert known.parent.stat().st_mode & 0o777 == 0o700


async def test_a_file_of_known_keys_that_cannot_be_read(tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    known.write_text("one-word\n")
    async with SshConnections(known) as connections:
        with pytest.raises(RbeesError, match="form of known_hosts") as raised:
            await connections.connect(SshTarget("127.0.0.1", 1))
    assert raised.value.code is ErrorCode.CONFIGURATION
