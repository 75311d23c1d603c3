"""Tables that fit a width."""

from __future__ import annotations

import pytest
from rich.cells import cell_len

from rbees.terminal.columns import Column, Page, Sheet
from rbees.terminal.layout import beside, cut, fitted
from rbees.terminal.pages import page_lines, print_page

COLUMNS = (Column("POOL", least=6), Column("NAME", rank=2, least=6), Column("FREE", right=True), Column("ABOUT", rank=1, least=8))
ROWS = [("attic", "a graphics card with a long name", "7.5 GiB", ""), ("日本の家", "cpu", "112.0 GiB", "It does not answer.")]


def test_with_room_everything_is_shown_and_figures_stand_at_the_right() -> None:
    table = fitted(COLUMNS, ROWS, 100)
    assert table.heading.split() == ["POOL", "NAME", "FREE", "ABOUT"]
    assert table.left_out == ()
    assert "a graphics card with a long name    7.5 GiB" in table.lines[0]
    assert "112.0 GiB  It does not answer." in table.lines[1]


def test_the_longest_is_shortened_first_and_then_columns_are_left_out() -> None:
    shortened = fitted(COLUMNS, ROWS, 60)
    assert "a graphics card w…" in shortened.lines[0]
    assert shortened.left_out == ()
    few = fitted(COLUMNS, ROWS, 26)
    assert few.left_out == ("ABOUT", "NAME")
    assert few.heading.split() == ["POOL", "FREE"]
    assert "112.0 GiB" in few.lines[1]


@pytest.mark.parametrize("width", [1, 5, 10, 20, 40, 80, 200])
def test_no_line_is_wider_than_it_may_be(width: int) -> None:
    table = fitted(COLUMNS, ROWS, width)
    assert all(cell_len(line) <= width for line in (table.heading, *table.lines))


def test_of_an_id_the_end_stays() -> None:
    columns = (Column("WORKER", least=8, tail=True),)
    assert fitted(columns, [("worker-01m8ktn04ef49",), ("日本の🐝日本の🐝",), ("short",)], 9).lines == (
        "…tn04ef49",
        "…日本の🐝",
        "short",
    )


def test_columns_without_a_word_are_not_shown() -> None:
    assert fitted(COLUMNS, [("attic", "", "1 B", "")], 80).heading.split() == ["POOL", "FREE"]


NAME = "worker-01m8ktn04ef49rz348snqnecgt"
LONG = "hf:bartowski/Meta-Llama-3.1-8B-Instruct-GGUF@0123456789012345678901234567890123456789::file=Meta-Llama-3.1-8B-Q4_K_M.gguf"


def test_a_name_without_room_stands_above_its_row_and_no_column_goes_for_it() -> None:
    columns = (Column("model", whole=True), Column("architecture", rank=1), Column("size", right=True))
    table = fitted(columns, [(LONG, "llama", "4.6 GiB"), ("haiku", "llama", "2.1 MiB")], 80)
    assert (table.heading, *table.lines) == (
        "MODEL  ARCHITECTURE     SIZE",
        LONG,
        "       llama         4.6 GiB",
        "haiku  llama         2.1 MiB",
    )
    assert fitted(columns[:1], [(LONG,)], 80).lines == (LONG,)


def test_columns_go_for_a_name_that_then_has_room() -> None:
    columns = (Column("worker", whole=True), Column("model", rank=1), Column("memory", right=True))
    table = fitted(columns, [(NAME, "a model of a long name", "93.6 MiB")], 50)
    assert table.lines == (f"{NAME}  93.6 MiB",)
    assert table.left_out == ("model",)


def test_references_in_another_column_stand_beneath_their_rows() -> None:
    columns = (Column("name", whole=True), Column("source", whole=True), Column("about", prose=True))
    rows = [("haiku", "", "Small enough to ship."), ("llama31", LONG, "Llama 3.1 8B, with a context of 128 thousand tokens.")]
    table = fitted(columns, rows, 40)
    assert (table.heading, *table.lines) == (
        "NAME     ABOUT",
        "haiku    Small enough to ship.",
        "llama31  Llama 3.1 8B, with a context of",
        "         128 thousand tokens.",
        f"         {LONG}",
    )
    assert table.beneath == ("source",)
    assert LONG in fitted(columns, rows, 180).lines[1]


def test_sentences_are_folded_and_never_the_names_in_them() -> None:
    columns = (Column("where", prose=True), Column("why", prose=True))
    table = fitted(columns, [(f"{NAME} on cpu at attic", "All slots are taken, and two jobs wait for one of them.")], 70)
    assert NAME in table.lines[0]
    assert " ".join(" ".join(line[35:] for line in table.lines).split()).endswith("two jobs wait for one of them.")


def test_a_sign_that_takes_two_cells_is_not_halved() -> None:
    assert cut("日本語", 6) == "日本語"
    assert [cell_len(cut("日本語", width)) <= width for width in range(7)] == [True] * 7
    assert cut("日本語", 4) == "日 …"


def test_two_texts_on_one_line() -> None:
    assert beside("left", "right", 12) == "left   right"
    assert beside("left", "a long reason", 12) == "left  a lon…"
    assert beside("left and more", "right", 8) == "left an…"


PAGE = Page(
    pairs=(("pool", "attic"), ("reports to", "nobody\x1b[31m")),
    sheets=(Sheet(COLUMNS, ROWS, "nothing"), Sheet(COLUMNS, (), "No worker runs.")),
)


def test_a_page_in_a_pipe_is_whole(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    # Programs that read lines from a terminal leave it to those that they start.
    monkeypatch.setenv("COLUMNS", "30")
    print_page(PAGE)
    said = capsys.readouterr()
    assert "a graphics card with a long name" in said.out
    assert "\x1b" not in said.out
    assert said.err == "No worker runs.\n"


def test_a_sentence_beside_a_name_is_folded() -> None:
    page = Page(pairs=(("ill", "cuda:0: It does not answer, and nobody knows why it should."), ("idle", "")))
    lines = [line.text for line in page_lines(page, 40)]
    assert lines == ["ill   cuda:0: It does not answer, and", "      nobody knows why it should.", "idle  "]


def test_a_page_says_what_it_has_no_room_for() -> None:
    lines = page_lines(PAGE, 30)
    assert all(cell_len(line.text) <= 30 for line in lines)
    assert lines[0].text == "pool        attic"
    assert "\x1b" not in "".join(line.text for line in lines)
    assert lines[1].text == "reports to  nobody␛[31m"
    assert [line.text for line in lines if line.style == "quiet"] == ["no room for: NAME", "No worker runs."]
