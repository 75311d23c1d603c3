"""A page that is drawn again and again on the whole terminal; it can be scrolled where it is longer than that."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from rbees.protocol.errors import RbeesError
from rbees.service.clock import Clock
from rbees.terminal.columns import Line, Page
from rbees.terminal.layout import cut
from rbees.terminal.live_screen import TERMINATED, LiveScreen, until_one_ends
from rbees.terminal.pages import page_lines
from rbees.terminal.text import printable

T = TypeVar("T")


class PageScreen(Generic[T]):
    """Shows what `look` finds, as `page` says it, every `every_s` seconds. `paced`: `look` itself takes that long."""

    def __init__(
        self, look: Callable[[], Awaitable[T]], page: Callable[[T], Page], clock: Clock, every_s: float, *, paced: bool = False
    ) -> None:
        self._look = look
        self._page = page
        self._clock = clock
        self._every_s = every_s
        self._paced = paced
        self._screen = LiveScreen(self._press, self._draw)
        self._over = asyncio.Event()
        self._shown = Page()
        self._trouble: str | None = None
        self._first = 0
        """The line at the top."""

    async def run(self, first: T) -> int | None:
        """Until somebody quits; returns the exit code where that was a signal. Raises what `look` raises, but RbeesError."""
        self._shown = self._page(first)
        try:
            async with self._screen:
                self._draw()
                await until_one_ends(self._look_again(), self._over.wait())
        except asyncio.CancelledError:
            if not self._screen.terminated:
                raise
            return TERMINATED
        return None

    async def _look_again(self) -> None:
        while True:
            if not self._paced:
                await self._clock.sleep(self._every_s)
            try:
                self._shown, self._trouble = self._page(await self._look()), None
            except RbeesError as error:
                self._trouble = f"[{error.code}] trying again: {printable(error.message)}"
            self._draw()

    def _press(self, key: str) -> None:
        match key:
            case "q":
                self._over.set()
            case "up" | "down":
                self._first += 1 if key == "down" else -1
                self._draw()
            case _:
                pass

    def _draw(self) -> None:
        width, height = self._screen.size
        lines = page_lines(self._shown, width)
        room = max(1, height - 1)
        self._first = max(0, min(self._first, len(lines) - room))
        shown = [Line(cut(line.text, width), line.style) for line in lines[self._first : self._first + room]]
        self._screen.paint([*shown, *[Line("")] * (room - len(shown)), self._foot(len(lines) - room, width)][:height])

    def _foot(self, hidden: int, width: int) -> Line:
        if self._trouble is not None:
            return Line(cut(self._trouble, width), "trouble")
        keys = "q quit" if self._screen.has_keys else "Ctrl-C quits"
        if hidden > 0:
            keys += f"{'  up/down scroll' if self._screen.has_keys else ''}  {hidden} more line{'' if hidden == 1 else 's'}"
        return Line(cut(f"{keys}  every {self._every_s:g} s", width), "quiet")
