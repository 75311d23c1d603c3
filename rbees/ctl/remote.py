"""`rbees-pool …` on a host, over SSH: how it is started there, interrupted, and what its end means."""

from __future__ import annotations

import asyncio
import secrets
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from rbees import __version__
from rbees.ctl.hosts import Host
from rbees.ctl.sinks import Sink
from rbees.protocol.errors import ErrorCode, ExitCode, RbeesError

if TYPE_CHECKING:
    from rbees.ctl.ssh import Command, SshConnections

INTERRUPT_S: Final = 10.0
"""How long a host may take to pass an interruption on."""
MOST_NOISE_BYTES: Final = 1 << 20
"""Of one line before the first one that counts."""
_BEGIN: Final = """\
PATH=$PATH:$HOME/.local/bin:/usr/local/bin:/opt/homebrew/bin; export PATH
program=$1; shift
case $program in "~/"*) program=$HOME/${program#"~/"} ;; esac
command -v "$program" >/dev/null 2>&1 || { echo "$0 missing"; exit 127; }
echo "$0 $$"
exec "$program" "$@"
"""
"""Told the mark, the program and its words. Says the mark and the process id first: before it comes what login files may print."""
_INTERRUPT: Final = 'kill -s INT -- "-$0" 2>/dev/null || kill -s INT "$0"'


def command_line(mark: str, program: str, words: Sequence[str]) -> str:
    """What the host's login shell is handed. Whatever the words hold, they arrive as they are and as nothing else."""
    return f"exec {shlex.join(['sh', '-c', _BEGIN, mark, program, *words])}"


async def run_remote(connections: SshConnections, host: Host, words: Sequence[str], sink: Sink, interrupted: asyncio.Event) -> int:
    """Run `rbees-pool` there until it ends; the exit code.

    Raises:
        RbeesError: HOST_UNREACHABLE, HOST_WITHOUT_RBEES, HOST_VERSION.
    """
    mark = f"rbees-{secrets.token_hex(8)}"
    command = await connections.run(host.ssh, command_line(mark, host.program, words))
    begin = _Begin(mark, sink)
    reading = asyncio.gather(_copy(command, begin), _copy_errors(command, sink))
    passing = asyncio.create_task(_pass_interruption(connections, host, command, begin, interrupted))
    try:
        if sink.feeds:
            sink.feed(command.write, command.write_end)
        else:
            command.write_end()
        await reading
        code = await command.exit_code()
    finally:
        reading.cancel()
        passing.cancel()
        await asyncio.gather(reading, passing, return_exceptions=True)
    if begin.is_missing:
        raise _without_rbees(host)
    if begin.pid is None:
        message = f"The login shell of {host.name} ended with {code} before it ran anything; see what SSH may do there."
        raise RbeesError(ErrorCode.HOST_UNREACHABLE, message)
    if code == ExitCode.USAGE and not interrupted.is_set():
        await _blame_version(connections, host)
    return code


class _Begin:
    """Watches for the line with the mark; what is before it is no data, what is behind it is."""

    def __init__(self, mark: str, sink: Sink) -> None:
        self._mark = mark.encode()
        self._sink = sink
        self._before = b""
        self.pid: int | None = None
        self.is_missing = False

    def take(self, data: bytes) -> None:
        if self.pid is not None:
            self._sink.out(data)
            return
        *lines, self._before = (self._before + data)[-MOST_NOISE_BYTES:].split(b"\n")
        while lines:
            line = lines.pop(0)
            mark, _, word = line.rpartition(b" ")
            if mark != self._mark:
                self._sink.err(line + b"\n")
            elif word == b"missing":
                self.is_missing = True
            elif word.isdigit():
                self.pid = int(word)
                following, self._before = b"".join(more + b"\n" for more in lines) + self._before, b""
                if following:
                    self._sink.out(following)
                return


async def _copy(command: Command, begin: _Begin) -> None:
    while data := await command.read():
        begin.take(data)


async def _copy_errors(command: Command, sink: Sink) -> None:
    while data := await command.read(errors=True):
        sink.err(data)


async def _pass_interruption(
    connections: SshConnections, host: Host, command: Command, begin: _Begin, interrupted: asyncio.Event
) -> None:
    """Ctrl-C here becomes one there, by a command of its own: not every SSH server passes signals on."""
    await interrupted.wait()
    command.write_end()
    if begin.pid is None:
        return
    killing = await connections.run(host.ssh, shlex.join(["sh", "-c", _INTERRUPT, str(begin.pid)]))
    async with asyncio.timeout(INTERRUPT_S):
        await killing.exit_code()


async def _blame_version(connections: SshConnections, host: Host) -> None:
    """The host did not understand the words: if it runs another version, that is said."""
    mark = f"rbees-{secrets.token_hex(8)}"
    command = await connections.run(host.ssh, command_line(mark, host.program, ["--version"]))
    said = b""
    while data := await command.read():
        said += data
    # Behind the mark stands the process id, and then whatever the program said, perhaps nothing.
    version = said.partition(mark.encode())[2].decode(errors="replace").split()[1:][-1:]
    if version and version != [__version__]:
        message = (
            f"{host.name} runs rbees {version[0]} and this is {__version__}: it does not know the command as it was typed; "
            "bring both to one version."
        )
        raise RbeesError(ErrorCode.HOST_VERSION, message, host_version=version[0], own_version=__version__)


def _without_rbees(host: Host) -> RbeesError:
    message = (
        f"{host.name} has no `{host.program}`; install rbees there with `pipx install '.[llama]'` in a checkout, or name the place "
        f"of `rbees-pool` as `program` in `[hosts.{host.name}]`."
    )
    return RbeesError(ErrorCode.HOST_WITHOUT_RBEES, message)
