"""Numbers, bytes, acknowledgements."""

from __future__ import annotations

import pytest

from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.events import Error, Started, Token
from rbees.workerd.stream import EventBuffer

STARTED = Started(epoch=1, worker_id="w", model="m", prompt_tokens=1)


def filled(count: int) -> EventBuffer:
    buffer = EventBuffer()
    buffer.append(STARTED)
    for i in range(count - 1):
        buffer.append(Token(text="x", index=i, token_ids=(i,)))
    return buffer


def test_events_are_numbered_from_one() -> None:
    frames = filled(3).after(0)
    assert [f.split(b"\n")[0] for f in frames] == [b"id: 1", b"id: 2", b"id: 3"]
    assert frames[1] == b"id: 2\nevent: token\ndata: " + frames[1].split(b"data: ")[1]


def test_after_gives_the_same_bytes_each_time() -> None:
    buffer = filled(5)
    assert buffer.after(2) == buffer.after(0)[2:] == buffer.after(2)
    assert buffer.after(5) == []


def test_acknowledged_events_are_gone_and_their_bytes_too() -> None:
    buffer = filled(5)
    frames = buffer.after(0)
    buffer.ack(3)
    buffer.ack(2)
    assert buffer.after(3) == frames[3:]
    assert buffer.held_bytes == sum(map(len, frames[3:]))
    with pytest.raises(RbeesError) as caught:
        buffer.after(2)
    assert caught.value.code == ErrorCode.INVALID_REQUEST
    assert caught.value.details["acked_seq"] == 3


def test_numbers_beyond_the_last_are_refused() -> None:
    buffer = filled(2)
    for call in (buffer.ack, buffer.after):
        with pytest.raises(RbeesError):
            call(3)


def test_the_legal_order_is_kept() -> None:
    buffer = filled(2)
    buffer.append(Error(error=RbeesError(ErrorCode.CANCELLED, "Cancelled.").body()))
    assert buffer.ended
    with pytest.raises(AssertionError):
        buffer.append(Token(text="x", index=1))
