"""Text that cannot drive a terminal, and figures as people read them."""

from __future__ import annotations

import io

import pytest

from rbees.protocol.errors import ErrorBody, ErrorCode, RbeesError
from rbees.terminal.answer import AnswerWriter
from rbees.terminal.columns import Column
from rbees.terminal.errors import error_lines
from rbees.terminal.notes import PlainNotes
from rbees.terminal.output import aligned
from rbees.terminal.pages import print_table
from rbees.terminal.quantities import bytes_text, count_text, duration_text, share_text
from rbees.terminal.text import printable, visible


def test_no_control_character_reaches_the_terminal() -> None:
    every = "".join(chr(code) for code in range(0xA0)) + "\u202e\u2028"
    shown = visible(every)
    assert [character for character in shown if ord(character) < 0x20] == ["\t", "\n"]
    assert not any(0x7F <= ord(character) < 0xA0 for character in shown)
    assert "\u202e" not in shown


def test_a_cell_is_one_line() -> None:
    assert printable("a\nb\tc\x1b[31m") == "a b c␛[31m"


def test_words_of_every_language_stay() -> None:
    assert visible("naïve 日本 🐝") == "naïve 日本 🐝"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_an_answer_is_made_harmless_on_a_terminal_only() -> None:
    terminal, pipe = Terminal(), io.StringIO()
    for stream in (terminal, pipe):
        AnswerWriter(stream).write("a\x1b]0;title\x07b")
    assert terminal.getvalue() == "a␛]0;title␇b"
    assert pipe.getvalue() == "a\x1b]0;title\x07b"


@pytest.mark.parametrize(("text", "ended"), [("a", "a\n"), ("a\n", "a\n"), ("", "")])
def test_the_last_line_is_ended_once(text: str, ended: str) -> None:
    stream = io.StringIO()
    writer = AnswerWriter(stream)
    writer.write(text)
    writer.finish()
    writer.finish()
    assert stream.getvalue() == ended


def test_notes_do_not_repeat_themselves() -> None:
    stream = io.StringIO()
    notes = PlainNotes(stream)
    for progress in (0.0, 0.1, 0.2, 0.3, 0.31):
        notes.note("loading", progress)
    notes.note("waiting")
    notes.note("waiting")
    assert stream.getvalue().splitlines() == ["loading 0%", "loading 30%", "waiting"]


def test_details_that_the_sentence_holds_are_not_said_twice() -> None:
    error = RbeesError(
        ErrorCode.CONFIGURATION, "The file /x is wrong.", path="/x", line=3, log_tail=["one", "two\x1b"], nothing=None
    )
    assert error_lines(error, "rbees") == [
        "rbees: The file /x is wrong. [CONFIGURATION]",
        "  line: 3",
        "  log_tail:",
        "    one",
        "    two␛",
    ]


def test_details_for_programs_are_not_said_to_people() -> None:
    close = ["llama2", "llama3"]
    error = RbeesError(
        ErrorCode.MODEL_NOT_FOUND,
        "No such model; did you mean llama2 or llama3?",
        field="model",
        close_names=close,
        registered=True,
    )
    assert error_lines(error, "llorch")[1:] == []
    error.details = {"device_free_bytes": 22_670_467_072, "devices": ["cuda:0"], "close_names": [*close, "phi3"]}
    assert error_lines(error, "llorch")[1:] == [
        "  devices:",
        "    cuda:0",
        "  close_names:",
        *(f"    {name}" for name in [*close, "phi3"]),
    ]


def test_columns_are_aligned_and_an_empty_table_leaves_a_pipe_empty(capsys: pytest.CaptureFixture[str]) -> None:
    assert aligned([["A", "B"], ["long", "x"]]) == ["A     B", "long  x"]
    print_table((Column("a"),), [], empty="nothing")
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "nothing\n")


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (25 << 30, "25.0 GiB")])
def test_bytes(count: int, text: str) -> None:
    assert bytes_text(count) == text


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [(0, 0, "0/0 B"), (1, 1023, "1/1023 B"), (1 << 29, 25 << 30, "0.5/25.0 GiB"), (1024, 1024, "1.0/1.0 KiB")],
)
def test_a_part_of_a_whole(part: int, whole: int, text: str) -> None:
    assert share_text(part, whole) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0 ms"), (0.25, "250 ms"), (9.96, "10.0 s"), (90, "1.5 min"), (172800, "2.0 d")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@pytest.mark.parametrize(("count", "text"), [(999, "999"), (1_100_048, "1.1 M"), (8_000_000_000, "8.0 B")])
def test_counts(count: int, text: str) -> None:
    assert count_text(count) == text


def test_the_live_line_is_gone_when_data_comes_and_shows_a_bar_where_progress_is_known() -> None:
    from rich.console import Console

    from rbees.terminal.rich_views import LiveNotes

    stream = io.StringIO()
    with LiveNotes(Console(file=stream, width=70, force_terminal=True, color_system=None)) as live:
        live.note("waiting for a [pool]")
        live.note("loading", 0.5)
        live.clear()
        shown = stream.getvalue()
        live.note("again")
    assert "loading" in shown
    assert "50%" in shown
    assert shown.endswith("\x1b[1A\x1b[2K"), "the last thing written takes the line away"
    assert stream.getvalue().endswith("\x1b[1A\x1b[2K")


def test_the_cursor_is_never_hidden(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A command that is killed while it waits could not bring it back."""
    from rbees.terminal.rich_views import LiveNotes

    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with LiveNotes() as live:
        live.note("loading", 0.5)
    shown = capsys.readouterr().err
    assert "loading" in shown
    assert "\x1b[?25l" not in shown


def test_a_defect_is_shown_with_the_id_that_finds_it_in_the_log() -> None:
    for code, shown in ((ErrorCode.INTERNAL, True), (ErrorCode.QUEUE_FULL, False)):
        error = RbeesError.from_body(ErrorBody(code=code, message="A defect.", correlation_id="c-1"))
        assert ("  correlation_id: c-1" in error_lines(error, "llorch")) is shown
