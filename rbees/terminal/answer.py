"""An answer on stdout as it comes: written and flushed token by token, ended with a line feed where the model wrote none."""

from __future__ import annotations

from typing import TextIO

from rbees.terminal.text import visible


class AnswerWriter:
    """On a terminal control characters are made visible; into a pipe or a file every character goes as it is."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._at_line_start = True

    def write(self, text: str) -> None:
        """Show `text` now. Raises BrokenPipeError where the reader is gone."""
        if not text:
            return
        self._stream.write(visible(text) if self._is_terminal else text)
        self._stream.flush()
        self._at_line_start = text.endswith("\n")

    def finish(self) -> None:
        """End the last line."""
        if not self._at_line_start:
            self._stream.write("\n")
            self._at_line_start = True
        self._stream.flush()
