"""The only user of rich: lines that show what is being waited for, and how many cells a text takes."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

from rich.cells import cell_len, chop_cells, set_cell_size
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Column
from rich.text import Text

__all__ = ["LEAST_PROSE", "LiveBoard", "LiveNotes", "cell_len", "chop_cells", "set_cell_size"]

LEAST_PROSE: Final = 24
"""Letters that a column of sentences needs to be read."""


class _CursorStays(Console):
    """A console that never hides the cursor: a command that is killed could not bring it back."""

    def show_cursor(self, show: bool = True) -> bool:  # noqa: ARG002
        return False


class LiveNotes:
    """One line on stderr that is rewritten while something is awaited and gone afterwards."""

    def __init__(self, console: Console | None = None) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            _BarWhereKnown(bar_width=24),
            _ShareWhereKnown(),
            TimeElapsedColumn(),
            console=console or _CursorStays(stderr=True),
            transient=True,
        )
        self._task = self._progress.add_task("", total=None, start=True)

    def note(self, text: str, progress: float | None = None) -> None:
        """Show `text`, with a bar where `progress` (0 to 1) is known."""
        total = None if progress is None else 1.0
        self._progress.update(self._task, description=text, total=total, completed=progress or 0.0)
        self._progress.start()

    def clear(self) -> None:
        """Take the line away; a later note brings it back."""
        self._progress.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.clear()


class LiveBoard:
    """One line for each name on stderr, with what was said there last. The lines stay when all is over."""

    def __init__(self, names: Sequence[str], console: Console | None = None) -> None:
        self._progress = Progress(
            SpinnerColumn(finished_text=""),
            TextColumn("[bold]{task.fields[name]}", markup=True, table_column=Column(no_wrap=True)),
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
            TimeElapsedColumn(),
            console=console or _CursorStays(stderr=True),
            # What was said gives way to the names, never the other way round.
            expand=True,
        )
        self._tasks = {name: self._progress.add_task("", total=None, name=escape(name)) for name in names}
        self._progress.start()

    def note(self, name: str, text: str) -> None:
        """Show `text` on its line."""
        self._progress.update(self._tasks[name], description=text)

    def end(self, name: str, text: str, *, well: bool) -> None:
        """Stop its clock."""
        self._progress.update(self._tasks[name], description=f"{'done' if well else 'failed'}: {text}", total=1, completed=1)

    def close(self) -> None:
        """Leave the lines as they are."""
        self._progress.stop()


class _BarWhereKnown(BarColumn):
    def render(self, task):  # type: ignore[no-untyped-def]
        return super().render(task) if task.total is not None else Text("")


class _ShareWhereKnown(TaskProgressColumn):
    def render(self, task):  # type: ignore[no-untyped-def]
        return super().render(task) if task.total is not None else Text("")
