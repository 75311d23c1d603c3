"""The load generator reads what came, however the network cut it; rows say which side of a goal is the good one."""

from __future__ import annotations

import pytest

from tests.bench.engine.load import Answer, read_objects
from tests.bench.rows import against, cells

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


STREAM = HEAD + _chunk(b'event: token\ndata: {"a":1}\n\ndata: {"a"') + _chunk(b":2}\n\n: ping\n\ndata: [DONE]\n\n") + _chunk(b"")


@pytest.mark.parametrize("size", [1, 7, 64, len(STREAM)])
def test_a_stream_is_read_however_it_was_cut(size: int) -> None:
    chunks = [(float(i), STREAM[i : i + size]) for i in range(0, len(STREAM), size)]
    assert [data for _, data in read_objects(chunks)] == [{"a": 1}, {"a": 2}]


def test_an_event_arrived_when_its_last_byte_did() -> None:
    split = STREAM.index(b":2}")
    chunks = [(1.0, STREAM[:split]), (2.0, STREAM[split:])]
    assert list(read_objects(chunks)) == [(1.0, {"a": 1}), (2.0, {"a": 2})]


def test_an_answer_that_is_no_stream_is_one_object() -> None:
    whole = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n{"b":3}'
    assert list(read_objects([(1.0, whole[:30]), (2.0, whole[30:])])) == [(2.0, {"b": 3})]


def test_the_pace_counts_from_the_first_frame_and_gaps_touch_the_window() -> None:
    answer = Answer(0.0, ((1.0, 2), (2.0, 3), (4.0, 8)), (), "")
    assert answer.decode_rate == 2.0
    assert answer.gaps_s(2.5, 3.0) == [2.0]


def test_a_goal_may_be_the_least() -> None:
    row = against("engine.x", 12.0, 10.0, "tok/s", 1.1, "", least=True)
    assert row.holds is True
    assert cells(row)[3] == "≥ × 1.1"
