"""Tables fit whatever stands in them and however narrow the terminal is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from rbees.terminal.columns import Column
from rbees.terminal.layout import beside, cut, fitted
from rbees.terminal.text import printable

words = st.text(max_size=30).map(printable)
columns = st.lists(st.builds(Column, words, st.integers(0, 3), st.integers(0, 12), *[st.booleans()] * 4), min_size=1, max_size=6)


@given(columns, st.data(), st.integers(1, 120))
def test_no_line_is_wider_than_it_may_be_but_for_names_which_are_never_broken(
    given_columns: list[Column], data: st.DataObject, width: int
) -> None:
    row = st.tuples(*[words for _ in given_columns])
    rows = data.draw(st.lists(row, max_size=6))
    table = fitted(given_columns, rows, width)
    names = [cells[index] for cells in rows for index, column in enumerate(given_columns) if column.whole]
    assert cell_len(table.heading) <= width
    for line in table.lines:
        assert cell_len(line) <= width or any(name and line.endswith(name) for name in names)
    for cells in rows:
        for column, cell in zip(given_columns, cells, strict=True):
            if column.whole and not column.rank:
                assert any(cell.rstrip() in line for line in table.lines) or not cell.strip()


@given(words, words, st.integers(0, 60))
def test_a_text_that_is_cut_fits(left: str, right: str, width: int) -> None:
    assert cell_len(cut(left, width)) <= width
    assert cell_len(beside(left, right, width)) <= width
