"""An answer that comes in pieces on a terminal: broken between words, and the same text in whatever pieces it came."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from rbees.terminal.answer import AnswerWriter
from rbees.terminal.wrapping import Wrapping


def wrapped(pieces: list[str], width: int) -> str:
    wrapping = Wrapping()
    return "".join([*(wrapping.take(piece, width) for piece in pieces), wrapping.rest(width)])


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [
        ("one two three", 8, "one two\nthree"),
        ("one two three", 7, "one two\nthree"),
        ("one two three", 6, "one\ntwo\nthree"),
        ("  one two\n\n  three", 7, "  one\ntwo\n\n  three"),
        ("one  two", 4, "one\ntwo"),
        ("one \ntwo ", 3, "one\ntwo"),
        ("an address: https://a.example/long", 12, "an address:\nhttps://a.example/long"),
        ("longer than that and", 4, "longer\nthan\nthat\nand"),
        ("größer als", 6, "größer\nals"),
        ("蜂は七匹です。", 6, "蜂は七\n匹で\nす。"),
        ("bees: 蜂は「七」", 10, "bees: 蜂は\n「七」"),
        ("👍🏽👩‍🌾 ok", 3, "👍🏽\n👩‍🌾\nok"),
        ("a\tb c", 9, "a\tb\nc"),
        ("see\n```\nlong line of code\n```\nlong line of text", 9, "see\n```\nlong line of code\n```\nlong line\nof text"),
    ],
)
def test_lines_end_between_words(text: str, width: int, shown: str) -> None:
    assert wrapped([text], width) == shown
    assert wrapped(list(text), width) == shown, "also sign by sign"


def test_a_word_is_shown_as_soon_as_its_place_is_known() -> None:
    wrapping = Wrapping()
    pieces = ["one", " tw", "o", " thr", "ee", "."]
    assert [wrapping.take(piece, 8) for piece in pieces] == ["one", "", "", " two\nthr", "ee", "."]
    assert wrapping.rest(8) == ""


@given(st.lists(st.text("ab 蜂。\n`-", max_size=12), max_size=8), st.integers(2, 12))
def test_however_it_comes_it_is_the_same_text_in_lines_that_fit(pieces: list[str], width: int) -> None:
    text = "".join(pieces)
    shown = wrapped(pieces, width)
    assert shown == wrapped([text], width)
    assert "".join(shown.split()) == "".join(text.split())
    if "```" not in text:
        assert all(cell_len(line) <= width or " " not in line.strip() for line in shown.split("\n"))


class Terminal(io.StringIO):
    """What a terminal gets."""

    def isatty(self) -> bool:
        return True


def test_an_answer_is_wrapped_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    for stream, shown in (
        (Terminal(), "\x1b[2mhm\x1b[22m\x1b[2m,\nhm\x1b[22m\n\none\ntwo\n\n[2]\nthree\n"),
        (io.StringIO(), "one two\n\n[2]\nthree\n"),
    ):
        answer = AnswerWriter(stream, lambda: 4)
        for thought in ("hm", ", hm"):
            answer.think(thought)
        answer.write("one ")
        answer.write("two")
        answer.begin(2)
        answer.write("three")
        answer.finish()
        assert stream.getvalue() == shown
