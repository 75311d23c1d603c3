"""An answer on stdout as it comes: written and flushed token by token, ended with a line feed where the model wrote none."""

from __future__ import annotations

from typing import TextIO

from rbees.terminal.output import is_live
from rbees.terminal.text import visible

_DIM = "\x1b[2m"
_NOT_DIM = "\x1b[22m"


class AnswerWriter:
    """On a terminal control characters are made visible; into a pipe or a file every character goes as it is.

    What a model thinks is shown on a terminal only, dimmed and apart from what it says.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._dims = is_live(stream)
        self._at_line_start = True
        self._thinking = False

    def think(self, text: str) -> None:
        """Show a thought now."""
        if self._is_terminal and text:
            self._thinking = True
            self._stream.write(f"{_DIM}{visible(text)}{_NOT_DIM}" if self._dims else visible(text))
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
        self._stream.write(visible(text) if self._is_terminal else text)
        self._stream.flush()
        self._at_line_start = text.endswith("\n")

    def begin(self, number: int) -> None:
        """Head the next of several answers."""
        self.finish()
        self._stream.write(f"\n[{number}]\n")

    def finish(self) -> None:
        """End the last line."""
        if not self._at_line_start:
            self._stream.write("\n")
            self._at_line_start = True
        self._stream.flush()
