"""Text leaves in whole tokens and whole characters, and never holds a byte of a stop string."""

from __future__ import annotations

import pytest

from rbees.workerd.engine.text import Piece, TextStream


def run(tokens: list[bytes], stops: tuple[str, ...] = ()) -> tuple[list[Piece], bool]:
    stream = TextStream(stops)
    pieces: list[Piece] = []
    for number, data in enumerate(tokens):
        piece, stopped = stream.push(number, data)
        pieces += [piece] if piece else []
        if stopped:
            return pieces, True
    last = stream.finish()
    return pieces + ([last] if last else []), False


def test_plain_tokens_leave_one_by_one() -> None:
    assert run([b"a", b"b"]) == ([Piece("a", 0, (0,)), Piece("b", 1, (1,))], False)


def test_a_split_character_is_held_until_it_is_whole() -> None:
    assert run([b"x\xf0\x9f", b"\x90", b"\x9dy"]) == ([Piece("x🐝y", 0, (0, 1, 2))], False)


def test_whole_tokens_before_a_split_character_leave() -> None:
    stream = TextStream()
    assert stream.push(1, b"ok") == (Piece("ok", 0, (1,)), False)
    assert stream.push(2, b"\xc3") == (None, False)
    assert stream.push(3, b"\xa9") == (Piece("é", 1, (2, 3)), False)


def test_an_unfinished_character_at_the_end_is_replaced() -> None:
    assert run([b"a", b"\xe8\xaa"]) == ([Piece("a", 0, (0,)), Piece("�", 1, (1,))], False)


def test_an_invalid_byte_does_not_hold_anything_back() -> None:
    assert run([b"\xff", b"a"])[0] == [Piece("�", 0, (0,)), Piece("a", 1, (1,))]


def test_a_token_that_may_begin_a_stop_string_is_held_whole() -> None:
    stream = TextStream(("END",))
    assert stream.push(1, b"see E") == (None, False)
    assert stream.push(2, b"N") == (None, False)
    assert stream.push(3, b"Q") == (Piece("see ENQ", 0, (1, 2, 3)), False)


def test_tokens_before_the_possible_stop_leave() -> None:
    stream = TextStream(("abc",))
    assert stream.push(1, b"ab") == (None, False)
    assert stream.push(2, b"ab") == (Piece("ab", 0, (1,)), False)
    assert stream.push(3, b"c") == (Piece("", 1, (2, 3)), True)


def test_tokens_of_the_stop_string_alone_are_not_heard() -> None:
    pieces, _ = run([b"a", b"\xc3", b"\xa9 E", b"N", b"D"], ("END",))
    assert [(piece.text, piece.heard) for piece in pieces] == [("a", (True,)), ("é ", (True, True, False, False))]
    assert run([b"EN", b"D"], ("END",))[0][0].heard == (False, False)


def test_a_stop_inside_a_token_cuts_its_text_and_keeps_its_id() -> None:
    assert run([b"one", b" two\nthree"], ("\n",)) == ([Piece("one", 0, (0,)), Piece(" two", 1, (1,))], True)


def test_the_stop_that_is_complete_first_wins_however_the_bytes_are_cut() -> None:
    assert "".join(p.text for p in run([b"xabcd"], ("abcd", "bc"))[0]) == "xa"
    assert "".join(p.text for p in run([b"x", b"a", b"b", b"c", b"d"], ("abcd", "bc"))[0]) == "xa"


def test_of_stops_that_end_together_the_longest_wins() -> None:
    assert "".join(p.text for p in run([b"xabc"], ("c", "abc"))[0]) == "x"


@pytest.mark.parametrize(
    ("tokens", "stops", "by"),
    [
        ([b"xabcd"], ("abcd", "bc"), "bc"),
        ([b"xabc"], ("c", "abc"), "abc"),
        ([b"a\xc3", b"\xa9b"], ("é",), "é"),
        ([b"a", b"EN"], ("END",), None),
    ],
)
def test_the_stop_that_ended_the_answer_is_known(tokens: list[bytes], stops: tuple[str, ...], by: str | None) -> None:
    stream = TextStream(stops)
    for number, data in enumerate(tokens):
        stream.push(number, data)
    assert stream.stopped_by == by


def test_a_held_beginning_is_sent_when_the_answer_ends() -> None:
    assert run([b"a", b"EN"], ("END",)) == ([Piece("a", 0, (0,)), Piece("EN", 1, (1,))], False)


def test_control_tokens_leave_without_text() -> None:
    assert run([b"", b"a"])[0] == [Piece("", 0, (0,)), Piece("a", 1, (1,))]


@pytest.mark.parametrize("sent", range(4))
def test_what_an_earlier_attempt_sent_is_not_sent_again(sent: int) -> None:
    tokens = [b"a", b"b\xc3", b"\xa9c", b"d"]
    stream = TextStream(("never",))
    for number, data in enumerate(tokens[:sent]):
        stream.push(number, data)
    stream.mark_sent()
    ids: list[int] = []
    for number, data in enumerate(tokens[sent:], sent):
        piece, _ = stream.push(number, data)
        if piece:
            assert piece.index == number - len(piece.token_ids) + 1
            ids += piece.token_ids
    assert ids == list(range(sent, 4))


def test_a_stop_that_begins_in_sent_text_still_ends_the_answer() -> None:
    stream = TextStream(("abc",))
    stream.push(1, b"xab")
    stream.mark_sent()
    assert stream.push(2, b"cd") == (Piece("", 1, (2,)), True)
