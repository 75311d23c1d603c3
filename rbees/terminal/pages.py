"""Pages of tables on stdout: as wide as the terminal on one, in full elsewhere; once, or again and again."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from rbees.protocol.errors import RbeesError
from rbees.terminal.columns import Column, Line, Page, Sheet
from rbees.terminal.output import GAP, aligned, is_live, print_json, print_pairs
from rbees.terminal.text import printable

if TYPE_CHECKING:
    from rbees.service.clock import Clock

SHORTEST_S: Final = 0.5
LONGEST_S: Final = 3_600.0
USUAL_S: Final = 2.0

T = TypeVar("T")
Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def watch_option(command: Decorated) -> Decorated:
    """The option of a command that can go on showing."""
    return click.option(
        "--watch",
        "watch_s",
        is_flag=False,
        flag_value=str(USUAL_S),
        type=click.FloatRange(SHORTEST_S, LONGEST_S),
        metavar="[SECONDS]",
        help=f"Go on, and show it again every {USUAL_S:g} or so many seconds.",
    )(command)


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[str]], *, empty: str) -> None:
    """A page of one table; `empty` goes to stderr where it has no rows, so that a pipe gets nothing."""
    print_page(Page(sheets=(Sheet(columns, rows, empty),)))


def print_page(page: Page) -> None:
    """The page once: as wide as the terminal is, and whole into a pipe, whatever COLUMNS says: many programs set it by the way."""
    if not is_live(sys.stdout):
        _print_in_full(page)
        return
    for line in page_lines(page, shutil.get_terminal_size((80, 24)).columns):
        is_bold = line.style == "heading"
        click.echo(f"\x1b[1m{line.text}\x1b[0m" if is_bold else line.text, err=line.style == "quiet")


def page_lines(page: Page, width: int) -> list[Line]:
    """The page in lines no wider than `width`, but for names that must stay whole and are wider by themselves."""
    from rbees.terminal.layout import cut, fold
    from rbees.terminal.rich_views import LEAST_PROSE

    names = max((len(name) for name, _ in page.pairs), default=0)
    lines = []
    for name, value in page.pairs:
        # Values are sentences as well, which are read to their end.
        folded = fold(printable(value), max(LEAST_PROSE, width - names - len(GAP)))
        lines += [
            Line(cut(f"{one:<{names}}{GAP}{part}", width)) for one, part in zip((name, *[""] * len(folded)), folded, strict=False)
        ]
    for sheet in page.sheets:
        lines += [*([Line("")] if lines else []), *_sheet_lines(sheet, width)]
    return lines


async def show_again(
    look: Callable[[], Awaitable[T]], page: Callable[[T], Page], clock: Clock, every_s: float, *, as_json: bool
) -> int | None:
    """Look and show for ever; what fails after the first time is told and tried again. Returns an exit code.

    Raises:
        RbeesError: the first look failed.
    """
    first = await look()
    if not as_json and is_live(sys.stdout):
        from rbees.terminal.page_screen import PageScreen

        return await PageScreen(look, page, clock, every_s).run(first)
    found: T | None = first
    while True:
        if found is not None:
            if as_json:
                print_json(found)
            else:
                print_page(page(found))
                click.echo()
            sys.stdout.flush()
        await clock.sleep(every_s)
        try:
            found = await look()
        except RbeesError as error:
            found = None
            click.echo(f"{printable(error.message)} [{error.code}]; trying again", err=True)


def _print_in_full(page: Page) -> None:
    if page.pairs:
        print_pairs(page.pairs)
    for number, sheet in enumerate(page.sheets):
        if number or page.pairs:
            click.echo()
        if not sheet.rows:
            click.echo(sheet.empty, err=True)
            continue
        cells = [[printable(cell) for cell in row] for row in sheet.rows]
        for line in aligned([[column.title.upper() for column in sheet.columns], *cells]):
            click.echo(line)


def _sheet_lines(sheet: Sheet, width: int) -> list[Line]:
    from rbees.terminal.layout import cut, fitted

    if not sheet.rows:
        return [Line(cut(sheet.empty, width), "quiet")]
    table = fitted(sheet.columns, [[printable(cell) for cell in row] for row in sheet.rows], width)
    lines = [Line(table.heading, "heading"), *(Line(text) for text in table.lines)]
    if table.beneath:
        lines.append(Line(cut(f"beneath each: {', '.join(table.beneath)}", width), "quiet"))
    if table.left_out:
        lines.append(Line(cut(f"no room for: {', '.join(table.left_out)}", width), "quiet"))
    return lines
