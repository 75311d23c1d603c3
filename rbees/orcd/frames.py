"""Taking journaled bytes apart again: rows into frames, frames into events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

import msgspec

from rbees.orcd.store.jobs import JobStore
from rbees.protocol.events import Event

_DATA: Final = b"\ndata: "
_decoder: Final = msgspec.json.Decoder(Event)


def split(frames: bytes) -> list[bytes]:
    """The single frames in a journal row. A blank line ends a frame, and JSON on one line holds none."""
    return [part + b"\n\n" for part in frames.split(b"\n\n")[:-1]]


def payload(frame: bytes) -> bytes:
    """The JSON of one frame."""
    return frame[frame.index(_DATA) + len(_DATA) : -2]


def is_terminal(frame: bytes) -> bool:
    """Whether a frame holds the event that ends its job."""
    return frame[: frame.index(_DATA)].endswith((b"event: end", b"event: error"))


def decode(data: bytes) -> Event:
    """An event that this program encoded itself."""
    event: Event = _decoder.decode(data)
    return event


async def journaled(store: JobStore, number: int) -> AsyncIterator[Event]:
    """Every durable event of a job, in order."""
    seq = 1
    while rows := await store.journal_from(number, seq):
        for row in rows:
            for frame in split(row.frames):
                yield decode(payload(frame))
        seq = rows[-1].last_seq + 1
