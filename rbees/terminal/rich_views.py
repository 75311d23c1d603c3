"""The only user of rich: tables and a line that shows what is being waited for."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text


def show_table(headers: Sequence[str], rows: Sequence[Sequence[str]], console: Console | None = None) -> None:
    """A table as wide as the terminal allows. Cells are data: what looks like markup is shown as it is."""
    table = Table(box=box.SIMPLE_HEAD, header_style="bold")
    for header in headers:
        table.add_column(header, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    (console or Console()).print(table)


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


class _BarWhereKnown(BarColumn):
    def render(self, task):  # type: ignore[no-untyped-def]
        return super().render(task) if task.total is not None else Text("")


class _ShareWhereKnown(TaskProgressColumn):
    def render(self, task):  # type: ignore[no-untyped-def]
        return super().render(task) if task.total is not None else Text("")
