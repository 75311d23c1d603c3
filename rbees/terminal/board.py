"""Several things that go on at once, one line each: rewritten on a terminal. rich is imported with the first line."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rbees.terminal.text import printable

if TYPE_CHECKING:
    from rbees.terminal.rich_views import LiveBoard


class Board:
    """The lines of `names`, on stderr, while the context lasts. Only for a terminal (`terminal.output.is_live`)."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._view: LiveBoard | None = None

    def note(self, name: str, text: str) -> None:
        """What is going on there."""
        self._shown().note(name, printable(text))

    def end(self, name: str, text: str, *, well: bool) -> None:
        """It is over there, well or not; the line stays until all are over."""
        self._shown().end(name, printable(text), well=well)

    def _shown(self) -> LiveBoard:
        if self._view is None:
            from rbees.terminal.rich_views import LiveBoard

            self._view = LiveBoard(self._names)
        return self._view

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._view is not None:
            self._view.close()
