"""The only user of rich: tables, a line that shows what is being waited for, and how many cells a text takes."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

from rich import box
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Column, Table
from rich.text import Text

__all__ = ["LEAST_PROSE", "LiveBoard", "LiveNotes", "cell_len", "set_cell_size", "show_table"]

LEAST_PROSE: Final = 24
"""Letters that a column of sentences needs to be read."""
_GAP: Final = 2


def show_table(headers: Sequence[str], rows: Sequence[Sequence[str]], console: Console | None = None) -> None:
    """A table as wide as the terminal allows. Cells are data: what looks like markup is shown as it is.

    Ids, references and numbers are never folded, for somebody may copy them: only sentences are. Columns without a word are left
    out, and where the rest is still too wide each row becomes a block of lines.
    """
    console = console or Console()
    kept = [column for column in range(len(headers)) if any(row[column] for row in rows)]
    widths = {column: max(len(text[column]) for text in (headers, *rows)) for column in kept}
    prose = {column for column in kept if widths[column] > LEAST_PROSE and _is_prose([row[column] for row in rows])}
    least = sum(LEAST_PROSE if column in prose else widths[column] for column in kept) + _GAP * len(kept)
    if least > console.width and len(kept) > 1:
        _show_blocks(headers, rows, kept, console)
        return
    table = Table(box=box.SIMPLE_HEAD, header_style="bold")
    for column in kept:
        is_prose = column in prose
        table.add_column(headers[column], no_wrap=not is_prose, overflow="fold", min_width=LEAST_PROSE if is_prose else None)
    for row in rows:
        table.add_row(*(Text(row[column]) for column in kept))
    console.print(table)


def _is_prose(cells: Sequence[str]) -> bool:
    """Whether these are sentences that can be folded between their words."""
    words = [word for cell in cells for word in cell.split()]
    return len(words) > sum(map(bool, cells)) and max(map(len, words)) <= LEAST_PROSE


def _show_blocks(headers: Sequence[str], rows: Sequence[Sequence[str]], kept: Sequence[int], console: Console) -> None:
    width = max(len(headers[column]) for column in kept)
    for row in rows:
        for column in kept:
            if row[column]:
                # The terminal breaks what is longer than its line, and copies it whole.
                console.print(Text(f"{headers[column]:<{width}}", style="bold"), Text(row[column]), soft_wrap=True)
        console.print()


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
