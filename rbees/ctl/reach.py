"""One pool command on one host or on several: each gets its way, HTTP or SSH, and all run at once."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import click

from rbees import __version__
from rbees.ctl import over_http
from rbees.ctl.forward import Via
from rbees.ctl.hosts import Host
from rbees.ctl.sinks import Kept, Sink, StraightSink, as_documents, on_board, prefixed
from rbees.protocol import codec
from rbees.protocol.errors import ErrorCode, ErrorEnvelope, ExitCode, RbeesError
from rbees.service import auth
from rbees.service.folders import absolute
from rbees.service.role_settings import CtlSettings
from rbees.terminal.board import Board
from rbees.terminal.output import is_live
from rbees.terminal.text import printable

if TYPE_CHECKING:
    from rbees.ctl.ssh import SshConnections, UnknownHostKey

STREAM: Final = "-"
"""The word by which a command means its standard input or output."""
ELSEWHERE: Final = frozenset({ErrorCode.POOL_UNREACHABLE, ErrorCode.HOST_VERSION})
"""What a host may answer over HTTP while SSH still leads to it."""
_NO_WAY: Final = frozenset({ErrorCode.HOST_UNREACHABLE, ErrorCode.HOST_REFUSED})
"""SSH leads nowhere, which a host that is used by HTTP only need not let it."""


@dataclass(frozen=True, slots=True)
class Errand:
    """What is to be done, by whichever way."""

    words: tuple[str, ...]
    """Those of `rbees-pool`."""
    via: Via | None = None
    token_file: str | None = None
    """Named on the command line; goes before those of the settings."""
    watch_s: float | None = None
    """The words ask for the host's status so often, for somebody who looks on."""

    @property
    def as_json(self) -> bool:
        """The caller is a program."""
        return "--json" in self.words


async def reach(hosts: Sequence[Host], errand: Errand, chosen: CtlSettings) -> int:
    """Run the command on every host; the exit code, of several hosts the worst.

    Raises:
        RbeesError: for a single host, what kept the command from it. For several it is said and the others go on. INVALID_REQUEST
            where several would share one stream.
    """
    if len(hosts) > 1 and STREAM in errand.words:
        message = f"`{STREAM}` is the input or the output of this terminal, which belongs to one host at a time; name only one."
        raise RbeesError(ErrorCode.INVALID_REQUEST, message, field="host")
    interrupted = asyncio.Event()
    async with contextlib.AsyncExitStack() as stack:
        trip = _Trip(errand, chosen, interrupted, stack)
        found = await trip.find_ways(hosts)
        # Until here Ctrl-C ends all at once: nothing has begun that could be told of it.
        _pass_on_interrupts(interrupted)
        if len(hosts) == 1:
            way = found[hosts[0].name]
            if isinstance(way, RbeesError):
                raise way
            if errand.watch_s is not None and is_live(sys.stdout):
                code = await trip.watch(hosts[0], way, errand.watch_s)
            else:
                code = await trip.go(hosts[0], way, StraightSink(takes_input=STREAM in errand.words))
        else:
            code = max(await _all(trip, hosts, found))
        return ExitCode.INTERRUPTED if interrupted.is_set() else code


class _Trip:
    """One errand: what is learned of the hosts on the way, and the connections to them."""

    def __init__(self, errand: Errand, chosen: CtlSettings, interrupted: asyncio.Event, stack: contextlib.AsyncExitStack) -> None:
        self.errand = errand
        self._chosen = chosen
        self._interrupted = interrupted
        self._stack = stack
        self._connections: SshConnections | None = None
        self._why_ssh = ""
        """What keeps the errand from going by HTTP, as a sentence; the same for all hosts."""

    async def find_ways(self, hosts: Sequence[Host]) -> dict[str, Via | RbeesError]:
        """How each host is reached, with SSH connected where it is used, or what is in the way."""
        forms = asyncio.create_task(over_http.read_forms()) if self.errand.via != "ssh" else None
        ways = await asyncio.gather(*(self._way(host, forms) for host in hosts))
        found = {host.name: way for host, way in zip(hosts, ways, strict=True)}
        by_ssh = [host for host in hosts if found[host.name] == "ssh"]
        failed = await self._connect(by_ssh) if by_ssh else {}
        return {**found, **{name: self._told(error) for name, error in failed.items()}}

    def _told(self, error: RbeesError) -> RbeesError:
        """Why SSH was tried, behind what became of it: the host's daemon may well answer."""
        if self._why_ssh and error.code in _NO_WAY:
            error.message = f"{error.message} {self._why_ssh}"
        return error

    async def _connect(self, hosts: Sequence[Host]) -> dict[str, RbeesError]:
        """Be connected to all of them by SSH; what is in the way to some. Unknown keys are asked about one by one."""
        connections = await self._ssh()
        from rbees.ctl.ssh import UnknownHostKey

        failed: dict[str, RbeesError] = {}
        waiting = list(hosts)
        while waiting:
            ends = await asyncio.gather(*(_connected(connections, host) for host in waiting))
            unknown = {end.line: end for end in ends if isinstance(end, UnknownHostKey)}
            refused = {line: refusal for line, key in unknown.items() if (refusal := _confirm(connections, key)) is not None}
            failed |= {host.name: end for host, end in zip(waiting, ends, strict=True) if isinstance(end, RbeesError)}
            strangers = [(host, end.line) for host, end in zip(waiting, ends, strict=True) if isinstance(end, UnknownHostKey)]
            failed |= {host.name: refused[line] for host, line in strangers if line in refused}
            waiting = [host for host, line in strangers if line not in refused]
        return failed

    async def go(self, host: Host, way: Via, sink: Sink) -> int:
        """Run the command there; the exit code. Raises RbeesError."""
        try:
            if way == "http":
                token_file = self.errand.token_file or host.token_file
                return await over_http.run_over_http(host, self.errand.words, token_file, sink, self._interrupted)
            from rbees.ctl.remote import run_remote

            return await run_remote(await self._ssh(), host, self.errand.words, sink, self._interrupted)
        finally:
            sink.finish()

    async def watch(self, host: Host, way: Via, every_s: float) -> int:
        """Show the host's status again and again on this terminal; the exit code. Raises RbeesError."""
        if way == "http":
            # The command that draws runs here, with the terminal's own keys.
            return await self.go(host, way, StraightSink(draws=True))
        from rbees.ctl.remote import run_remote
        from rbees.ctl.remote_watch import watch_remote

        connections = await self._ssh()

        async def run(words: tuple[str, ...], sink: Sink, interrupted: asyncio.Event) -> int:
            return await run_remote(connections, host, words, sink, interrupted)

        return await watch_remote(host, every_s, run, self._interrupted)

    async def _way(self, host: Host, forms: asyncio.Task[over_http.Forms] | None) -> Via | RbeesError:
        try:
            return await self._chosen_way(host, forms)
        except RbeesError as error:
            return error

    async def _chosen_way(self, host: Host, forms: asyncio.Task[over_http.Forms] | None) -> Via:
        if forms is None:
            return "ssh"
        known = await forms
        form = over_http.form_of(self.errand.words, known)
        lacks = over_http.needs_host(self.errand.words, form, known)
        if lacks is None and "--poold-url" in self.errand.words:
            lacks = "--poold-url"
        if self.errand.via is None and (lacks or not host.url):
            if lacks is not None:
                self._why_ssh = _why_ssh(lacks, self.errand.words, form)
            return "ssh"
        if lacks is not None:
            message = f"`{lacks}` needs the host itself; leave `--via http` out."
            raise RbeesError(ErrorCode.INVALID_REQUEST, message, field="via")
        if host.url is None:
            message = (
                f"{host.name} lies behind a jump host; name the url of its poold in `[hosts.{host.name}]`, or leave `--via` out."
            )
            raise RbeesError(ErrorCode.INVALID_REQUEST, message, field="via")
        token_file = self.errand.token_file or host.token_file
        token = auth.read_secret(token_file) if token_file else None
        try:
            version = await over_http.ask_version(host, host.url, token)
        except RbeesError as error:
            if self.errand.via == "http" or not (error.code in ELSEWHERE or not host.is_url_known):
                raise
            if host.is_url_known:
                self._note(
                    f"{host.name}: nothing to talk to at {host.url} ({error.details.get('reason', error.code)}); going by SSH"
                )
            return "ssh"
        if version != __version__:
            self._note(f"{host.name}: runs rbees {version}, and this is {__version__}")
        return "http"

    def _note(self, text: str) -> None:
        if not self.errand.as_json:
            click.echo(text, err=True)

    async def _ssh(self) -> SshConnections:
        if self._connections is None:
            from rbees.ctl.ssh import SshConnections

            self._connections = await self._stack.enter_async_context(SshConnections(absolute(self._chosen.known_hosts_file)))
        return self._connections


def _why_ssh(lacks: str, words: Sequence[str], form: str | None) -> str:
    if form is None and lacks != "--poold-url":
        typed = " ".join(printable(word) for word in words[:2] if not word.startswith("-"))
        return f"SSH was tried because rbees {__version__} here knows no command `rbees-pool {typed}`, which the host may."
    return f"SSH was tried because `{lacks}` needs the host itself."


async def _all(trip: _Trip, hosts: Sequence[Host], found: dict[str, Via | RbeesError]) -> list[int]:
    """Every host at once; the exit code of each. On a terminal each has a line, and what they print comes when all are done."""
    as_json = trip.errand.as_json
    if as_json or not is_live(sys.stderr):
        return await asyncio.gather(*(_one(trip, host, found[host.name], _sink(host, as_json=as_json)) for host in hosts))
    kept = {host.name: Kept() for host in hosts}

    async def one(host: Host) -> int:
        code = await _one(trip, host, found[host.name], on_board(host, board, kept[host.name]))
        board.end(host.name, kept[host.name].last, well=code == ExitCode.OK)
        return code

    with Board([host.name for host in hosts]) as board:
        codes = await asyncio.gather(*(one(host) for host in hosts))
    for host, code in zip(hosts, codes, strict=True):
        kept[host.name].show(host, with_errors=code != ExitCode.OK)
    return codes


async def _one(trip: _Trip, host: Host, way: Via | RbeesError, sink: Sink) -> int:
    try:
        if isinstance(way, RbeesError):
            raise way
        return await trip.go(host, way, sink)
    except RbeesError as error:
        sink.err(_said(error, as_json=trip.errand.as_json))
        sink.finish()
        return error.exit_code


def _sink(host: Host, *, as_json: bool) -> Sink:
    return as_documents(host) if as_json else prefixed(host)


def _said(error: RbeesError, *, as_json: bool) -> bytes:
    """A failure as a line of the host's stderr."""
    if as_json:
        return codec.encode(ErrorEnvelope(error=error.body())) + b"\n"
    return f"{printable(error.message)} [{error.code}]\n".encode()


async def _connected(connections: SshConnections, host: Host) -> UnknownHostKey | RbeesError | None:
    """None once it is so, else what is in the way."""
    from rbees.ctl.ssh import UnknownHostKey

    try:
        await connections.connect(host.ssh)
    except (UnknownHostKey, RbeesError) as error:
        return error
    return None


def _confirm(connections: SshConnections, unknown: UnknownHostKey) -> RbeesError | None:
    """Have the user look at a key that is seen for the first time; None once it is trusted."""
    seen = f"{unknown.target.address} shows an SSH key that is not known yet: {unknown.algorithm} {unknown.fingerprint}"
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        message = (
            f"{seen}. Run the command in a terminal to confirm it, or add the line of `ssh-keyscan` to the file of known keys; on "
            "the host, `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` and the like show the right ones."
        )
        return RbeesError(ErrorCode.HOST_KEY_UNKNOWN, message, fingerprint=unknown.fingerprint)
    if not _ask(f"{seen}.\nIs that the key of this host? It is then remembered."):
        message = f"The SSH key of {unknown.target.address} was not confirmed; nothing was sent."
        return RbeesError(ErrorCode.HOST_KEY_UNKNOWN, message, fingerprint=unknown.fingerprint)
    connections.trust(unknown)
    return None


def _ask(question: str) -> bool:
    # While nothing else goes on, Ctrl-C means no: the event loop would keep it to itself until the question is answered.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return click.confirm(question, err=True)
    finally:
        signal.signal(signal.SIGINT, before)


def _pass_on_interrupts(interrupted: asyncio.Event) -> None:
    """The first Ctrl-C is for the commands on the hosts; the second one ends the command here at once."""
    loop, main = asyncio.get_running_loop(), asyncio.current_task()
    assert main is not None

    def on_signal() -> None:
        if interrupted.is_set():
            main.cancel()
        interrupted.set()

    loop.add_signal_handler(signal.SIGINT, on_signal)
