"""Looking on at a host over SSH: it sends what it finds as JSON, one document a round, and the picture is drawn here.

So keys, the size of the terminal and its end are this machine's own matter, and nothing that a host sends drives the terminal.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import click

from rbees.ctl.hosts import Host
from rbees.ctl.sinks import LAST_NOTES, LineSink, Sink
from rbees.protocol import codec
from rbees.protocol.codec import Message
from rbees.protocol.errors import ErrorCode, ErrorEnvelope, ExitCode, RbeesError
from rbees.protocol.pools import HostStatus, PoolStatus
from rbees.service.clock import SystemClock
from rbees.terminal.columns import Page
from rbees.terminal.host_page import status_page
from rbees.terminal.page_screen import PageScreen

Run = Callable[[tuple[str, ...], Sink, asyncio.Event], Awaitable[int]]
"""Runs a command of `rbees-pool` there until it ends or the event interrupts it; its exit code."""

LEAVE_S: Final = 5.0
"""So long whoever quits waits for the command on the host to end."""


class _Kind(Message, frozen=True, kw_only=True):
    """Tells the two documents apart: only a daemon's has an id."""

    pool_id: str | None = None


async def watch_remote(host: Host, every_s: float, run: Run, interrupted: asyncio.Event) -> int:
    """Draw `rbees-pool status` of the host again and again until somebody quits; the exit code.

    Raises:
        RbeesError: what `run` raises; what the host's command said as it failed; HOST_VERSION, where that is not understood.
    """
    rounds, leave = _Rounds(host), asyncio.Event()
    remote = asyncio.ensure_future(run(("status", f"--watch={every_s:g}", "--json"), rounds.sink, leave))
    drawing = asyncio.create_task(_draw(rounds, every_s))
    interrupting = asyncio.create_task(interrupted.wait())
    try:
        await asyncio.wait({remote, drawing, interrupting}, return_when=asyncio.FIRST_COMPLETED)
        has_quit, has_ended = drawing.done(), remote.done()
        # The terminal is given back before anything is said on it.
        drawing.cancel()
        await asyncio.gather(drawing, return_exceptions=True)
        if not has_ended:
            leave.set()
            await asyncio.wait({remote}, timeout=LEAVE_S)
    finally:
        for task in (drawing, interrupting, remote):
            task.cancel()
        await asyncio.gather(drawing, interrupting, remote, return_exceptions=True)
    if has_ended:
        code = remote.result()
        rounds.tell(code)
        return code
    return (drawing.result() if has_quit else None) or ExitCode.OK


async def _draw(rounds: _Rounds, every_s: float) -> int | None:
    first = await rounds.next()
    return await PageScreen(rounds.next, rounds.page, SystemClock(), every_s, paced=True).run(first)


class _Rounds:
    """What the host has sent: its newest round, and the last of what it said besides."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._newest: asyncio.Queue[str] = asyncio.Queue(1)
        self._said: deque[str] = deque(maxlen=LAST_NOTES)
        self.sink: Sink = LineSink(self._take, self._said.append)

    def _take(self, line: str) -> None:
        if self._newest.full():
            self._newest.get_nowait()
        self._newest.put_nowait(line)

    async def next(self) -> PoolStatus | HostStatus:
        """The next round, once it comes. Raises RbeesError HOST_VERSION."""
        line = await self._newest.get()
        try:
            of_daemon = codec.decode(line, _Kind).pool_id is not None
            return codec.decode(line, PoolStatus) if of_daemon else codec.decode(line, HostStatus)
        except RbeesError:
            message = f"What {self._host.name} says of itself is not understood here; bring rbees to one version on both."
            raise RbeesError(ErrorCode.HOST_VERSION, message) from None

    def page(self, found: PoolStatus | HostStatus) -> Page:
        """What is drawn of it."""
        return status_page(found, f"{self._host.ssh.address}, by SSH")

    def tell(self, code: int) -> None:
        """Pass on why the command there ended by itself. Raises RbeesError, where it named an error."""
        *lines, last = self._said or ("",)
        try:
            error = codec.decode(last, ErrorEnvelope).error
        except RbeesError:
            lines.append(last)
            error = None
        for line in filter(None, lines):
            click.echo(f"{self._host.name}: {line}", err=True)
        if error is not None and code:
            raise RbeesError.from_body(error)
