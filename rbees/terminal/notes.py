"""What is being waited for, on stderr: a live line on a terminal, else a plain line for each change.

A log that a program collects gets few lines: the same text again, or progress within the same quarter, is not repeated.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TextIO

from rbees.terminal.output import is_live
from rbees.terminal.text import printable

if TYPE_CHECKING:
    from rbees.terminal.rich_views import LiveNotes


class Notes(AbstractContextManager["Notes"], Protocol):
    """Somewhere to say what is going on; leaving the context clears it."""

    def note(self, text: str, progress: float | None = None) -> None:
        """Say what is awaited; `progress` is 0 to 1 where it is known."""
        ...

    def keep(self, text: str) -> None:
        """Say something that stays when all is over."""
        ...

    def clear(self) -> None:
        """Make room for data on the same terminal."""
        ...


class PlainNotes:
    """Lines on a stream."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._last: tuple[str, int] | None = None

    def note(self, text: str, progress: float | None = None) -> None:
        """See `Notes`."""
        said = (text, -1 if progress is None else int(progress * 4))
        if said == self._last:
            return
        self._last = said
        share = "" if progress is None else f" {progress:.0%}"
        self._stream.write(f"{text}{share}\n")
        self._stream.flush()

    def keep(self, text: str) -> None:
        """See `Notes`."""
        self.note(text)

    def clear(self) -> None:
        """See `Notes`; what was written stays."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return None


class SilentNotes(PlainNotes):
    """For programs: nothing is said."""

    def note(self, text: str, progress: float | None = None) -> None:
        """See `Notes`."""


class _LiveSafe:
    """The live line, imported with its first note: an answer that comes at once never pays for rich."""

    def __init__(self) -> None:
        self._view: LiveNotes | None = None

    def note(self, text: str, progress: float | None = None) -> None:
        if self._view is None:
            from rbees.terminal.rich_views import LiveNotes

            self._view = LiveNotes()
        self._view.note(printable(text), progress)

    def keep(self, text: str) -> None:
        self.clear()
        sys.stderr.write(f"{printable(text)}\n")
        sys.stderr.flush()

    def clear(self) -> None:
        if self._view is not None:
            self._view.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.clear()


def aside(text: str) -> None:
    """Lines on stderr beside a conversation; dimmed on a terminal."""
    shown = "\n".join(printable(line) for line in text.split("\n"))
    sys.stderr.write(f"\x1b[2m{shown}\x1b[22m\n" if shown and is_live(sys.stderr) else f"{shown}\n")
    sys.stderr.flush()


def notes(*, silent: bool = False) -> Notes:
    """The notes that fit this process's stderr."""
    if silent:
        return SilentNotes(sys.stderr)
    return _LiveSafe() if is_live(sys.stderr) else PlainNotes(sys.stderr)
