"""The only user of asyncssh: connections whose host keys are checked, and commands over them. Imported only when SSH is used.

Nothing of the user's ssh_config reaches asyncssh (`ssh_config.py` reads it), no program is started to reach a host, and the keys of
hosts come from one file that the caller names. A connection is made once for each target, however many commands and jumps use it.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import os
import shlex
import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import asyncssh
from asyncssh.public_key import get_default_certificate_algs, get_default_public_key_algs

from rbees.ctl.hosts import SSH_PORT, SshTarget
from rbees.protocol.errors import ErrorCode, RbeesError

CONNECT_S: Final = 10.0
LOGIN_S: Final = 30.0
"""From the first packet until we are in, jump hosts not counted."""
KEEPALIVE_S: Final = 10.0
KEEPALIVES: Final = 3
"""A host that answers none of these is gone."""
CHUNK_BYTES: Final = 65_536


class UnknownHostKey(Exception):
    """The host's key stands in no line of the file; whoever can ask the user does, and calls `trust`."""

    def __init__(self, target: SshTarget, algorithm: str, fingerprint: str, line: str) -> None:
        super().__init__(target.address)
        self.target = target
        self.algorithm = algorithm
        self.fingerprint = fingerprint
        self.line = line
        """As known_hosts wants it."""


class Command:
    """A command that runs on a host: two streams of bytes, and an end."""

    def __init__(self, process: asyncssh.SSHClientProcess[bytes], place: str) -> None:
        self._process = process
        self._place = place

    async def read(self, *, errors: bool = False) -> bytes:
        """Some bytes of stdout, or of stderr; nothing at its end. Raises RbeesError HOST_UNREACHABLE."""
        stream = self._process.stderr if errors else self._process.stdout
        try:
            return await stream.read(CHUNK_BYTES)
        except (asyncssh.Error, OSError):
            raise _broken(self._place) from None

    async def write(self, data: bytes) -> None:
        """Hand bytes to its stdin, and wait while it takes no more."""
        # Who has ended, or is about to, takes nothing; how it ended is told elsewhere.
        with contextlib.suppress(asyncssh.Error, OSError):
            if not self._process.is_closing():
                self._process.stdin.write(data)
                await self._process.stdin.drain()

    def write_end(self) -> None:
        """Its stdin has come to an end."""
        if not self._process.is_closing():
            self._process.stdin.write_eof()

    async def exit_code(self) -> int:
        """How it ended, as a shell would say it. Raises RbeesError HOST_UNREACHABLE, where that was never told."""
        await self._process.wait_closed()
        code = self._process.returncode
        if code is None:
            raise _broken(self._place)
        return code if code >= 0 else 128 - code


class SshConnections:
    """The connections of one command of ours; leaving the context closes them all."""

    def __init__(self, known_hosts: Path, login_s: float = LOGIN_S, keepalive_s: float = KEEPALIVE_S) -> None:
        self._known_hosts = known_hosts
        self._login_s = login_s
        self._keepalive_s = keepalive_s
        self._open: dict[SshTarget, asyncssh.SSHClientConnection] = {}
        self._opening: dict[SshTarget, asyncio.Lock] = {}

    async def connect(self, target: SshTarget) -> None:
        """Be connected to the host, through its jump hosts.

        Raises:
            UnknownHostKey: for it or for one on the way.
            RbeesError: HOST_UNREACHABLE, HOST_REFUSED, HOST_KEY_CHANGED; CONFIGURATION, for files that cannot be used.
        """
        await self._connection(target)

    async def run(self, target: SshTarget, line: str) -> Command:
        """Have the login shell of a connected host run `line`. Raises RbeesError HOST_UNREACHABLE, HOST_REFUSED."""
        connection = await self._connection(target)
        try:
            process = await connection.create_process(line, encoding=None)
        except asyncssh.ChannelOpenError:
            raise RbeesError(ErrorCode.HOST_REFUSED, f"{target.address} runs no commands for this user by SSH.") from None
        except (asyncssh.Error, OSError):
            raise _broken(target.address) from None
        return Command(process, target.address)

    def trust(self, unknown: UnknownHostKey) -> None:
        """The user has confirmed the key. Raises RbeesError CONFIGURATION, where it cannot be written down."""
        path = self._known_hosts
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with open(path, "a+b", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
                file.seek(max(file.seek(0, os.SEEK_END) - 1, 0))
                start = b"" if file.read(1) in {b"", b"\n"} else b"\n"
                file.write(start + unknown.line.encode() + b"\n")
        except OSError as error:
            raise _unusable(path, os.strerror(error.errno or 0)) from None

    async def close(self) -> None:
        """End all connections, those through jump hosts before the jump hosts' own."""
        for connection in reversed([*self._open.values()]):
            connection.close()
        for connection in reversed([*self._open.values()]):
            await connection.wait_closed()
        self._open.clear()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def _connection(self, target: SshTarget) -> asyncssh.SSHClientConnection:
        async with self._opening.setdefault(target, asyncio.Lock()):
            connection = self._open.get(target)
            if connection is None or connection.is_closed():
                connection = await self._connect(target)
                self._open[target] = connection
            return connection

    async def _connect(self, target: SshTarget) -> asyncssh.SSHClientConnection:
        through = None
        if target.jumps:
            *before, last = target.jumps
            through = await self._connection(replace(last, jumps=tuple(before)))
        known = self._known()
        seen = _SeesKey()
        try:
            async with asyncio.timeout(self._login_s):
                return await asyncssh.connect(
                    target.host,
                    target.port,
                    tunnel=through or (),
                    config=None,
                    known_hosts=known,
                    host_key_alias=target.host_key_alias,
                    server_host_key_algs=_algorithms(target, known),
                    client_factory=lambda: seen,
                    username=target.user or getpass.getuser(),
                    client_keys=[str(path) for path in target.identity_files if path.is_file()] or (),
                    ignore_encrypted=True,
                    agent_identities=_of_agent(target),
                    pkcs11_provider=None,
                    x509_trusted_certs=None,
                    gss_auth=False,
                    gss_kex=False,
                    password_auth=False,
                    kbdint_auth=False,
                    agent_forwarding=False,
                    connect_timeout=CONNECT_S,
                    login_timeout=0,
                    keepalive_interval=self._keepalive_s,
                    keepalive_count_max=KEEPALIVES,
                )
        except asyncssh.HostKeyNotVerifiable:
            raise self._stranger(target, known, seen.key) from None
        except asyncssh.PermissionDenied:
            raise _refused(target) from None
        except (asyncssh.KeyImportError, ValueError):
            files = ", ".join(str(path) for path in target.identity_files) or "~/.ssh"
            raise RbeesError(ErrorCode.CONFIGURATION, f"A key file for {target.address} cannot be read; see {files}.") from None
        except (asyncssh.Error, OSError, TimeoutError) as error:
            raise _unreachable(target, _reason(error)) from None

    def _known(self) -> asyncssh.SSHKnownHosts:
        try:
            text = self._known_hosts.read_text(encoding="utf-8", errors="replace") if self._known_hosts.exists() else ""
            return asyncssh.import_known_hosts(text)
        except OSError as error:
            raise _unusable(self._known_hosts, os.strerror(error.errno or 0)) from None
        except ValueError:
            raise _unusable(self._known_hosts, "a line of it does not have the form of known_hosts") from None

    def _stranger(
        self, target: SshTarget, known: asyncssh.SSHKnownHosts, key: asyncssh.SSHKey | None
    ) -> UnknownHostKey | RbeesError:
        if key is None or _is_known(target, known):
            return self._changed(target, key)
        kind, encoded = key.export_public_key("openssh").decode().split()[:2]
        return UnknownHostKey(target, kind, key.get_fingerprint(), f"{_place(target)} {kind} {encoded}")

    def _changed(self, target: SshTarget, key: asyncssh.SSHKey | None) -> RbeesError:
        shown = f" (it shows {key.get_fingerprint()})" if key is not None else ""
        return RbeesError(
            ErrorCode.HOST_KEY_CHANGED,
            f"The SSH key of {target.address} is not the one in {self._known_hosts}{shown}; nothing was sent. If the host was set "
            f"up anew, compare the key there and remove the old line with "
            f"`{shlex.join(['ssh-keygen', '-f', str(self._known_hosts), '-R', _place(target)])}`.",
        )


def _place(target: SshTarget) -> str:
    """What the host is called in a file of known keys."""
    name = target.host_key_alias or target.host
    return name if target.port == SSH_PORT else f"[{name}]:{target.port}"


class _SeesKey(asyncssh.SSHClient):
    """Trusts no key that the file does not hold, and remembers the one that was shown."""

    key: asyncssh.SSHKey | None = None

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:  # noqa: ARG002
        """See `asyncssh.SSHClient`."""
        self.key = key
        return False


def _algorithms(target: SshTarget, known: asyncssh.SSHKnownHosts) -> list[str]:
    """Kinds of host keys, those that are known first. The others are asked for as well, so that a changed key shows itself."""
    keys, authorities, *_ = _matching(target, known)
    ours = [algorithm for key in keys for algorithm in key.sig_algorithms]
    certified = get_default_certificate_algs() if authorities else []
    return [name.decode() for name in dict.fromkeys((*certified, *ours, *get_default_public_key_algs()))]


def _is_known(target: SshTarget, known: asyncssh.SSHKnownHosts) -> bool:
    return any(_matching(target, known))


def _matching(target: SshTarget, known: asyncssh.SSHKnownHosts) -> Sequence[Sequence[Any]]:
    """Keys, authorities and so on, by the name that was dialled."""
    return known.match(target.host_key_alias or target.host, "", target.port if target.port != SSH_PORT else None)


def _of_agent(target: SshTarget) -> list[str] | None:
    """Which of the agent's keys may be used; None for all."""
    return [str(path) for path in target.identity_files if path.is_file()] or None if target.identities_only else None


def _reason(error: Exception) -> str:
    if isinstance(error, socket.gaierror):
        return "the name does not resolve"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, asyncssh.ChannelOpenError):
        return "the jump host cannot reach it"
    if isinstance(error, asyncssh.KeyExchangeFailed):
        return "there is no way of encryption that both sides know"
    if isinstance(error, asyncssh.ConnectionLost | ConnectionError):
        return "it ended the connection"
    if isinstance(error, asyncssh.Error):
        return "what answers does not speak SSH as expected"
    return "the host cannot be reached"


def _unreachable(target: SshTarget, reason: str) -> RbeesError:
    message = f"No SSH server answers at {target.address}: {reason}. Start the host or its SSH server, or correct the address."
    return RbeesError(ErrorCode.HOST_UNREACHABLE, message, reason=reason)


def _refused(target: SshTarget) -> RbeesError:
    who = f"{target.user or getpass.getuser()}@{target.address}"
    message = f"The SSH server takes none of our keys for {who}; load the right one with `ssh-add`, or name it in ssh_config."
    return RbeesError(ErrorCode.HOST_REFUSED, message)


def _broken(place: str) -> RbeesError:
    message = f"The connection to {place} broke off; what was begun there may still run."
    return RbeesError(ErrorCode.HOST_UNREACHABLE, message)


def _unusable(path: Path, reason: str) -> RbeesError:
    return RbeesError(ErrorCode.CONFIGURATION, f"The file {path} with the known SSH keys cannot be used: {reason}.")
