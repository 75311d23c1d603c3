"""`llorch top`: follows the cluster and draws it, over restarts of orcd; or prints it once, or as lines of JSON."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Final

import click

from rbees.ctl.target import Target
from rbees.ctl.top_view import ORDERS, Order, View, picture, pool_ids
from rbees.ctl.watching import watch_cluster
from rbees.protocol.cluster import ClusterStatus
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.service.clock import Clock, SystemClock
from rbees.terminal.live_screen import TERMINATED, LiveScreen, until_one_ends
from rbees.terminal.output import is_live, print_json
from rbees.terminal.quantities import duration_text

_NOT_A_TERMINAL: Final = "This is no terminal to draw on; print one picture with `--once`, or lines for programs with `--json`."


async def show_top(target: Target, *, once: bool, every_s: float, as_json: bool) -> int | None:
    """Raises RbeesError: ORCD_UNREACHABLE where nobody answers at first, INVALID_REQUEST where nothing can be drawn."""
    clock = SystemClock()
    if not (once or as_json or sys.stdout.isatty()):
        raise RbeesError(ErrorCode.INVALID_REQUEST, _NOT_A_TERMINAL, field="once")
    if once:
        await _print_once(target, as_json=as_json)
        return None
    if as_json or not is_live(sys.stdout):
        await _print_on(target, clock, every_s, as_json=as_json)
        return None
    return await _draw(target, clock, every_s)


async def _print_once(target: Target, *, as_json: bool) -> None:
    async with target.client() as orcd:
        cluster = await orcd.status()
    _print(cluster, target.url, as_json=as_json)


async def _print_on(target: Target, clock: Clock, every_s: float, *, as_json: bool) -> None:
    """For programs, and for a terminal that can only go on to the next line."""

    def on_break(reason: str) -> None:
        click.echo(f"no word of the orchestrator: {reason}; trying again", err=True)

    async with target.client() as orcd, aclosing(watch_cluster(orcd, clock, every_s, on_break)) as rounds:
        async for cluster in rounds:
            _print(cluster, target.url, as_json=as_json)
            if not as_json:
                click.echo()


def _print(cluster: ClusterStatus, url: str, *, as_json: bool) -> None:
    if as_json:
        print_json(cluster)
    else:
        for line in picture(cluster, View(url), shutil.get_terminal_size((80, 24)).columns):
            click.echo(line.text)
    sys.stdout.flush()


async def _draw(target: Target, clock: Clock, every_s: float) -> int | None:
    async with target.client() as orcd:
        # What refuses at the first call is said on the terminal as it is, before anything is drawn over it.
        sight = Sight(await orcd.status(), target.url, clock)
        screen = sight.screen
        try:
            async with screen, aclosing(watch_cluster(orcd, clock, every_s, sight.broke, heard=True)) as rounds:
                sight.draw()
                await _until_quit(sight, rounds, clock)
        except asyncio.CancelledError:
            if not screen.terminated:
                raise
            return TERMINATED
    return None


async def _until_quit(sight: Sight, rounds: AsyncIterator[ClusterStatus], clock: Clock) -> None:
    """Raises what ends the following, such as a token that is refused after a restart."""

    async def follow() -> None:
        async for cluster in rounds:
            sight.take(cluster)

    async def grow_old() -> None:
        while True:
            await clock.sleep(1.0)
            sight.grow_old()

    await until_one_ends(follow(), grow_old(), sight.over.wait())


class Sight:
    """The newest picture, what keys have made of it, and whether there is word of orcd."""

    def __init__(self, cluster: ClusterStatus, url: str, clock: Clock) -> None:
        self.screen = LiveScreen(self.press, self.draw)
        self.over = asyncio.Event()
        """Somebody wants to quit."""
        self._clock = clock
        self._url = url
        self._newest = self._shown = (cluster, clock.monotonic())
        """The cluster, and when orcd said so."""
        self._order: Order = "name"
        self._pool_id: str | None = None
        self._is_paused = False
        self._break: str | None = None

    def take(self, cluster: ClusterStatus) -> None:
        """There is a newer one."""
        self._newest, self._break = (cluster, self._clock.monotonic()), None
        self.draw()

    def broke(self, reason: str) -> None:
        """There is no word of orcd."""
        self._break = reason
        self.draw()

    def grow_old(self) -> None:
        """Time has passed without news."""
        if self._break is not None:
            self.draw()

    def press(self, key: str) -> None:
        """What keys do; those that do nothing are passed over."""
        match key:
            case "q":
                self.over.set()
            case "p":
                self._is_paused = not self._is_paused
            case "s":
                self._order = ORDERS[(ORDERS.index(self._order) + 1) % len(ORDERS)]
            case "a":
                self._pool_id = None
            case "up" | "down":
                self._step(1 if key == "down" else -1)
            case _:
                return
        self.draw()

    def draw(self) -> None:
        """Show it as it is now, in the size that the terminal has now."""
        if not self._is_paused:
            self._shown = self._newest
        cluster, said_at_s = self._shown
        if self._pool_id not in {pool.pool_id for pool in cluster.pools}:
            self._pool_id = None
        width, height = self.screen.size
        self.screen.paint(picture(cluster, self._view(self._clock.monotonic() - said_at_s), width, height))

    def _step(self, by: int) -> None:
        ids = pool_ids(self._shown[0], self._order)
        if ids:
            at = ids.index(self._pool_id) + by if self._pool_id in ids else 0 if by > 0 else -1
            self._pool_id = ids[at % len(ids)]

    def _view(self, since_s: float) -> View:
        states = ["paused"] if self._is_paused else []
        if self._break is not None:
            silent_s = self._clock.monotonic() - self._newest[1]
            states.append(f"no word for {duration_text(silent_s)}, trying again: {self._break}")
        return View(
            self._url,
            self._order,
            self._pool_id,
            state=", ".join(states) or "live",
            is_moving=not states,
            since_s=0.0 if self._is_paused else since_s,
            keys=self._keys(),
        )

    def _keys(self) -> str:
        if not self.screen.has_keys:
            return "Ctrl-C quits"
        pause = "p go on" if self._is_paused else "p pause"
        return f"q quit  {pause}  s order: {self._order}  up/down one pool  a all pools"
