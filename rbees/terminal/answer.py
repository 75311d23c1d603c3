"""An answer on stdout as it comes: written and flushed token by token, ended with a line feed where the model wrote none."""

from __future__ import annotations

from collections.abc import Callable
from typing import TextIO

from rbees.terminal.output import is_live
from rbees.terminal.text import visible
from rbees.terminal.wrapping import Wrapping

_DIM = "\x1b[2m"
_NOT_DIM = "\x1b[22m"


class AnswerWriter:
    """On a terminal control characters are made visible; into a pipe or a file every character goes as it is.

    What a model thinks is shown on a terminal only, dimmed and apart from what it says. Where `width` gives a terminal's cells, its
    lines are broken between words.
    """

    def __init__(self, stream: TextIO, width: Callable[[], int] | None = None) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._width = width if self._is_terminal else None
        self._wrapping = Wrapping()
        self._dims = is_live(stream)
        self._at_line_start = True
        self._thinking = False

    def think(self, text: str) -> None:
        """Show a thought now."""
        if self._is_terminal and text:
            self._thinking = True
            self._show(visible(text))
            self._stream.flush()
            self._at_line_start = text.endswith("\n")

    def write(self, text: str) -> None:
        """Show `text` now. Raises BrokenPipeError where the reader is gone."""
        if not text:
            return
        if self._thinking:
            self.finish()
            self._stream.write("\n")
            self._thinking = False
        self._show(visible(text) if self._is_terminal else text)
        self._stream.flush()
        self._at_line_start = text.endswith("\n")

    def begin(self, number: int) -> None:
        """Head the next of several answers."""
        self.finish()
        self._stream.write(f"\n[{number}]\n")

    def finish(self) -> None:
        """End the last line."""
        if self._width is not None:
            self._put(self._wrapping.rest(self._width()))
            self._wrapping = Wrapping()
        if not self._at_line_start:
            self._stream.write("\n")
            self._at_line_start = True
        self._stream.flush()

    def _show(self, text: str) -> None:
        self._put(text if self._width is None else self._wrapping.take(text, self._width()))

    def _put(self, text: str) -> None:
        if text:
            self._stream.write(f"{_DIM}{text}{_NOT_DIM}" if self._thinking and self._dims else text)
