"""Reading event streams as WHATWG HTML says, and the bounds."""

from __future__ import annotations

import pytest

from rbees.service.sse import frame
from rbees.service.sse_parser import SseFrame, SseParser, SseTooLong


def parse(*chunks: bytes) -> list[tuple[str | None, str, bytes]]:
    parser = SseParser()
    return [(found.id, found.event, found.data) for chunk in chunks for found in parser.feed(chunk)]


def test_the_exact_bytes_of_a_frame() -> None:
    assert frame(7, "token", b'{"a":1}') == b'id: 7\nevent: token\ndata: {"a":1}\n\n'
    assert frame(None, "beat", b"{}") == b"event: beat\ndata: {}\n\n"


@pytest.mark.parametrize("data", [b"a\nb", b"a\rb", b""])
def test_data_of_several_lines_is_a_defect(data: bytes) -> None:
    with pytest.raises(AssertionError):
        frame(1, "token", data)


@pytest.mark.parametrize(
    ("stream", "frames"),
    [
        (b"data: a\n\n", [(None, "message", b"a")]),
        (b"data:a\n\n", [(None, "message", b"a")]),
        (b"data:  a\n\n", [(None, "message", b" a")]),
        (b"data: a\ndata: b\n\n", [(None, "message", b"a\nb")]),
        (b"data\n\n", [(None, "message", b"")]),
        (b"event: x\n\n", []),
        (b": only a comment\n\n", []),
        (b"retry: 5\nunknown: y\ndata: a\n\n", [(None, "message", b"a")]),
        (b"id: 1\ndata: a\n\ndata: b\n\n", [("1", "message", b"a"), (None, "message", b"b")]),
        (b"id: 1\0\ndata: a\n\n", [(None, "message", b"a")]),
        (b"data: a", []),
        (b"data: a\n", []),
        (b"\xef\xbb\xbfdata: a\n\n", [(None, "message", b"a")]),
        (b"data: a\r\r", [(None, "message", b"a")]),
        (b"data: a\r\n\r\n", [(None, "message", b"a")]),
    ],
)
def test_streams(stream: bytes, frames: list[tuple[str | None, str, bytes]]) -> None:
    assert parse(stream) == frames
    assert parse(*(bytes([byte]) for byte in stream)) == frames


def test_a_return_and_a_newline_in_two_chunks_are_one_end_of_line() -> None:
    assert parse(b"data: a\r", b"", b"\ndata: b\n\n") == [(None, "message", b"a\nb")]


def test_the_last_id_stays_for_the_next_connection() -> None:
    parser = SseParser()
    parser.feed(b"id: 4\ndata: a\n\ndata: b\n\n")
    assert parser.last_event_id == "4"


def test_lines_and_frames_are_bounded() -> None:
    with pytest.raises(SseTooLong):
        SseParser(max_line_bytes=10).feed(b"data: 12345")
    parser = SseParser(max_line_bytes=10)
    parser.feed(b"data: 1234")
    with pytest.raises(SseTooLong):
        parser.feed(b"5")
    with pytest.raises(SseTooLong):
        SseParser(max_frame_bytes=10).feed(b"data: 12345\ndata: 12345\n")


def test_data_does_not_show() -> None:
    assert "canary" not in repr(SseFrame("1", "token", b"canary"))
