"""A terminal that a program draws on: a pseudo-terminal, and as much of ECMA-48 as rbees writes to see what stands on it.

What it does not know fails the test, so that nothing is drawn which nobody has looked at.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

from rich.cells import cell_len

from tests.support.home import START_S, STOP_S

_SEQUENCE: Final = re.compile(r"\x1b\[(\??[0-9;]*)([@A-Za-z])")
_TAKE_TERMINAL: Final = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
"""Makes the terminal the one from which the program gets its signals, and becomes the program."""
_PARTIAL: Final = re.compile(r"\x1b(\[\??[0-9;]*)?\Z")


class Picture:
    """The cells of a screen, and whether it is the alternate one and shows a cursor."""

    def __init__(self, columns: int, lines: int) -> None:
        self.columns, self.lines = columns, lines
        self.is_alternate = False
        self.has_cursor = True
        self.was_alternate = False
        self.colours: set[str] = set()
        """Every SGR sequence that was used."""
        self.plain = ""
        """What was written outside of the alternate screen."""
        self._rows = [""] * lines
        self._row = self._column = 0
        self._rest = ""

    def feed(self, text: str) -> None:
        """Draw what a program wrote."""
        text = self._rest + text
        partial = _PARTIAL.search(text)
        self._rest = text[partial.start() :] if partial else ""
        text = text[: partial.start()] if partial else text
        at = 0
        for found in _SEQUENCE.finditer(text):
            self._print(text[at : found.start()])
            self._obey(found.group(1), found.group(2))
            at = found.end()
        self._print(text[at:])

    def resize(self, columns: int, lines: int) -> None:
        """As xterm does: what stands there is kept, as far as there is room."""
        self.columns, self.lines = columns, lines
        self._rows = [*self._rows, *[""] * lines][:lines]

    @property
    def text(self) -> str:
        """What stands there."""
        return "\n".join(row.rstrip() for row in self._rows)

    def _print(self, text: str) -> None:
        assert "\x1b" not in text, f"an escape sequence that nobody knows: {text!r}"
        if not self.is_alternate:
            self.plain += text
            return
        if text:
            assert not any(sign < " " for sign in text), f"a control character was drawn: {text!r}"
            assert self._column == 0, "lines are drawn from their beginning"
            assert cell_len(text) <= self.columns, f"{text!r} does not fit in {self.columns} columns"
            self._rows[self._row], self._column = text, cell_len(text)

    def _obey(self, parameters: str, final: str) -> None:
        match parameters, final:
            case "?1049", "h" | "l":
                self.is_alternate = final == "h"
                self.was_alternate = self.was_alternate or self.is_alternate
            case "?25", "h" | "l":
                self.has_cursor = final == "h"
            case _, "H":
                row, column = (int(number) for number in parameters.split(";"))
                assert 1 <= row <= self.lines, f"line {row} of {self.lines}"
                self._row, self._column = row - 1, column - 1
            case "?2004", "h" | "l":
                pass  # Whether what is pasted comes marked.
            case _, "A" | "C" | "J" | "P" | "@" if not self.is_alternate:
                pass  # The live line on its way back, and a line that is edited.
            case "" | "2", "K":
                pass  # A line is always drawn whole, and this ends it.
            case "2", "J":
                self._rows = [""] * self.lines
            case _, "m":
                self.colours.add(parameters)
            case _:
                raise AssertionError(f"an escape sequence that nobody knows: {parameters!r} {final!r}")


class OnScreen:
    """A program with a terminal of its own: `with OnScreen([…]) as shown: shown.wait_for("words")`."""

    def __init__(self, words: Sequence[str], environ: Mapping[str, str], columns: int = 80, lines: int = 24) -> None:
        self.picture = Picture(columns, lines)
        self._leader, follower = pty.openpty()
        self._set_size(columns, lines)
        self.before = termios.tcgetattr(follower)
        self._follower = follower
        """Kept open, so that the terminal can be looked at when the program is gone."""
        self.process = subprocess.Popen(
            [sys.executable, "-c", _TAKE_TERMINAL, *words],
            stdin=follower,
            stdout=follower,
            stderr=follower,
            env=dict(environ),
            start_new_session=True,
        )

    @property
    def attributes(self) -> list[Any]:
        """Of the terminal, as `termios` gives them."""
        return termios.tcgetattr(self._follower)

    def press(self, keys: str) -> None:
        """As on a keyboard."""
        os.write(self._leader, keys.encode())

    def resize(self, columns: int, lines: int) -> None:
        """As somebody who draws at the corner of the window."""
        self.picture.resize(columns, lines)
        self._set_size(columns, lines)

    def read(self) -> None:
        """Draw what was written by now."""
        while select.select([self._leader], [], [], 0.02)[0]:
            try:
                self.picture.feed(os.read(self._leader, 65_536).decode(errors="replace"))
            except OSError:
                return

    @property
    def shown(self) -> str:
        """What stands there now: on the alternate screen, or what was written before and after it."""
        self.read()
        return self.picture.text if self.picture.is_alternate else self.picture.plain

    def wait_for(self, *words: str, gone: Sequence[str] = (), timeout_s: float = START_S) -> str:
        """What stands on the screen once it holds all `words` and none of `gone`."""
        until_s = time.monotonic() + timeout_s
        while True:
            shown = self.shown
            if all(word in shown for word in words) and not any(word in shown for word in gone):
                return shown
            assert self.process.poll() is None, f"it ended with {self.process.returncode}; it showed:\n{shown}"
            assert time.monotonic() < until_s, f"{words} without {gone} did not come; there stood:\n{shown}"

    def end(self, number: signal.Signals | None = None) -> int:
        """Wait until it ends, after a signal where one is named; its exit code."""
        if number is not None:
            self.process.send_signal(number)
        until_s = time.monotonic() + STOP_S
        while self.process.poll() is None:
            self.read()
            assert time.monotonic() < until_s, f"it did not end; there stood:\n{self.picture.text}"
        self.read()
        return self.process.wait()

    def assert_restored(self) -> None:
        """The terminal is as it was before."""
        assert self.picture.was_alternate, "it never drew"
        assert not self.picture.is_alternate
        assert self.picture.has_cursor
        assert self.attributes == self.before

    def _set_size(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._leader, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(STOP_S)
        os.close(self._leader)
        os.close(self._follower)
