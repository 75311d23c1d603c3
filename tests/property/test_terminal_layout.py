"""Tables fit whatever stands in them and however narrow the terminal is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from rbees.terminal.columns import Column
from rbees.terminal.layout import beside, cut, fitted
from rbees.terminal.text import printable

words = st.text(max_size=30).map(printable)
columns = st.lists(
    st.builds(Column, words, st.integers(0, 3), st.integers(0, 12), st.booleans(), st.booleans()), min_size=1, max_size=6
)


@given(columns, st.data(), st.integers(1, 120))
def test_no_line_is_wider_than_it_may_be(given_columns: list[Column], data: st.DataObject, width: int) -> None:
    row = st.tuples(*[words for _ in given_columns])
    rows = data.draw(st.lists(row, max_size=6))
    table = fitted(given_columns, rows, width)
    assert all(cell_len(line) <= width for line in (table.heading, *table.lines))
    assert len(table.lines) == len(rows)


@given(words, words, st.integers(0, 60))
def test_a_text_that_is_cut_fits(left: str, right: str, width: int) -> None:
    assert cell_len(cut(left, width)) <= width
    assert cell_len(beside(left, right, width)) <= width
