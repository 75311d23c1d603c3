"""The event-stream parser gives the same frames however the bytes are cut, and reads whatever the writer makes."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from rbees.protocol import codec
from rbees.service.sse import COMMENT, frame
from rbees.service.sse_parser import SseFrame, SseParser

JSON_LINE = st.dictionaries(st.text(max_size=5), st.text(max_size=30), max_size=3).map(codec.encode)
EVENT = st.tuples(st.none() | st.integers(0, 1 << 40), st.sampled_from(["token", "end", "beat"]), JSON_LINE)
PIECE = st.sampled_from([b"data", b"id", b"event", b":", b" ", b"\r", b"\n", b"\r\n", b"x", b"\xc3\xbc", b"\0", b"\xef\xbb\xbf"])
STREAM = st.lists(PIECE, max_size=60).map(b"".join)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def parse(chunks: list[bytes]) -> list[SseFrame]:
    parser = SseParser()
    return [found for chunk in chunks for found in parser.feed(chunk)]


@given(st.lists(EVENT, max_size=10), st.lists(st.integers(0, 5000), max_size=10))
def test_what_is_written_is_read(events: list[tuple[int | None, str, bytes]], places: list[int]) -> None:
    stream = COMMENT.join(frame(*event) for event in events) + COMMENT
    expected = [SseFrame(None if number is None else str(number), name, data) for number, name, data in events]
    assert parse(cut(stream, places)) == expected


@given(STREAM, st.lists(st.integers(0, 500), max_size=20))
def test_cuts_change_nothing(stream: bytes, places: list[int]) -> None:
    assert parse(cut(stream, places)) == parse([stream])
    assert parse([bytes([byte]) for byte in stream]) == parse([stream])
