"""The incremental text against a reference that looks at all bytes each time."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from rbees.workerd.engine.text import Piece, TextStream

ALPHABET = st.sampled_from(["a", "b", "ab", "é", "語", "🐝", "\n"])
TEXTS = st.lists(ALPHABET, max_size=12).map("".join)
STOPS = st.lists(st.lists(ALPHABET, min_size=1, max_size=3).map("".join), max_size=4).map(tuple)
NOISE = st.lists(st.one_of(TEXTS.map(str.encode), st.sampled_from([b"\xff", b"\xe8", b"\xf0\x9f", b"\x9d"])), max_size=8).map(
    b"".join
)


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(c % (len(data) + 1) for c in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def reference(data: bytes, stops: tuple[str, ...]) -> tuple[bytes, bool]:
    """The bytes before the stop string that is complete first."""
    for end in range(1, len(data) + 1):
        starts = [end - len(stop.encode()) for stop in stops if data[:end].endswith(stop.encode())]
        if starts:
            return data[: min(starts)], True
    return data, False


def stream(tokens: list[bytes], stops: tuple[str, ...], replayed: int = 0) -> tuple[list[Piece], bool]:
    text = TextStream(stops)
    pieces: list[Piece] = []
    for number, data in enumerate(tokens):
        if number == replayed and replayed:
            text.mark_sent()
        piece, stopped = text.push(number, data)
        if piece and number >= replayed:
            pieces.append(piece)
        if stopped:
            return pieces, True
    if replayed == len(tokens):
        text.mark_sent()
    last = text.finish()
    return pieces + ([last] if last else []), False


@given(NOISE, st.lists(st.integers(0, 40), max_size=20), STOPS)
def test_text_and_end_equal_the_reference(data: bytes, cuts: list[int], stops: tuple[str, ...]) -> None:
    pieces, stopped = stream(cut(data, cuts), stops)
    expected, expected_stop = reference(data, stops)
    assert stopped == expected_stop
    assert "".join(p.text for p in pieces) == expected.decode("utf-8", "replace")


@given(NOISE, st.lists(st.integers(0, 40), max_size=20), STOPS)
def test_every_piece_is_whole_tokens_in_order(data: bytes, cuts: list[int], stops: tuple[str, ...]) -> None:
    tokens = cut(data, cuts)
    pieces, stopped = stream(tokens, stops)
    ids = [i for p in pieces for i in p.token_ids]
    assert ids == list(range(len(ids)))
    assert stopped or len(ids) == len(tokens)
    position = 0
    for piece in pieces:
        assert piece.index == position
        position += len(piece.token_ids)
    for piece in pieces[:-1]:
        assert piece.text == b"".join(tokens[i] for i in piece.token_ids).decode("utf-8", "replace")


@given(TEXTS.map(str.encode), st.lists(st.integers(0, 40), max_size=20), STOPS, st.data())
def test_continuing_after_any_sent_piece_gives_the_same_rest(
    data: bytes, cuts: list[int], stops: tuple[str, ...], draw: st.DataObject
) -> None:
    tokens = cut(data, cuts)
    whole, stopped = stream(tokens, stops)
    sent = draw.draw(st.integers(0, len(whole)))
    replayed = sum(len(p.token_ids) for p in whole[:sent])
    if stopped and sent == len(whole):
        return  # The replay itself is complete then; the sequence's own test covers it.
    rest, rest_stopped = stream(tokens, stops, replayed)
    assert rest_stopped == stopped
    assert "".join(p.text for p in whole[:sent] + rest) == "".join(p.text for p in whole)
    assert [i for p in whole[:sent] + rest for i in p.token_ids] == [i for p in whole for i in p.token_ids]
