"""What is typed in a chat: messages of one or several lines, commands, and what is neither."""

from __future__ import annotations

import pytest

from rbees.ctl.chat import chat
from rbees.ctl.chat_words import COMMANDS, Command, Lines, Say, endings, help_text, understood


@pytest.mark.parametrize(
    ("typed", "messages"),
    [
        (["hello", "you"], ["hello", "you"]),
        (['"""one', "", "  two", '"""', "three"], ["one\n\n  two", "three"]),
        (['"""one"""', '""""""'], ["one", ""]),
        (['say """x"""'], ['say """x"""']),
        (["one \\", "two\\", "three"], ["one \ntwo\nthree"]),
        (["pasted\nat once"], ["pasted\nat once"]),
        (['"""pasted\nat once"""'], ["pasted\nat once"]),
        (["", "a"], ["", "a"]),
    ],
)
def test_lines_make_messages(typed: list[str], messages: list[str]) -> None:
    lines = Lines()
    assert [whole for line in typed if (whole := lines.take(line)) is not None] == messages
    assert not lines.is_open


def test_what_was_begun_is_open_until_it_is_dropped() -> None:
    lines = Lines()
    assert lines.take('"""one') is None
    assert lines.take("two") is None
    assert (lines.is_open, lines.drop(), lines.is_open) == (True, "one\ntwo", False)
    assert lines.take("three") == "three", "what was dropped opened nothing"


@pytest.mark.parametrize(
    ("message", "meant"),
    [
        ("hello /help", Say("hello /help")),
        ("//etc is a folder", Say("/etc is a folder")),
        ("/help", Command("/help")),
        ("/?", Command("/help")),
        ("/BYE", Command("/quit")),
        ("/save  my chat.json ", Command("/save", "my chat.json")),
        ("/system one\ntwo", Command("/system", "one\ntwo")),
    ],
)
def test_a_message_is_for_the_model_or_for_the_chat(message: str, meant: Say | Command) -> None:
    assert understood(message) == meant


@pytest.mark.parametrize(
    ("message", "said"), [("/modell haiku", "did you mean /model?"), ("/xyz", "/help lists them"), ("/", "/help lists them")]
)
def test_what_is_no_command_is_told_apart(message: str, said: str) -> None:
    with pytest.raises(ValueError, match="There is no command") as raised:
        understood(message)
    assert said in str(raised.value)


@pytest.mark.parametrize("message", ["/retry again please", "/quit now", "/clear x", "/help\nme", "/bye all"])
def test_words_behind_what_stands_alone_are_not_dropped(message: str) -> None:
    with pytest.raises(ValueError, match="takes nothing behind it"):
        understood(message)


def test_the_help_names_every_command_in_80_columns() -> None:
    lines = help_text().split("\n")
    assert max(len(line) for line in lines) <= 79
    assert [line.split()[0] for line in lines[: len(COMMANDS)]] == list(COMMANDS)


def test_the_page_of_the_command_names_every_command() -> None:
    assert not [name for name in COMMANDS if f"`{name}`" not in (chat.help or "")]


def test_a_beginning_is_completed() -> None:
    assert endings("/s") == ["/system", "/set", "/show", "/save"]
    assert endings("s") == []
