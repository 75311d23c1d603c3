"""PURE: what the scheduler has learned, as a value that outlives its process."""

from __future__ import annotations

import msgspec

from rbees.orcd.scheduler.estimates import Estimates
from rbees.orcd.scheduler.speeds import Speeds


class Learned(msgspec.Struct, frozen=True, kw_only=True):
    """Speeds and memory; a scheduler goes on learning in the very objects."""

    speeds: Speeds = msgspec.field(default_factory=Speeds)
    estimates: Estimates = msgspec.field(default_factory=Estimates)


def encode(learned: Learned) -> bytes:
    """In msgpack, since the tables have keys of several parts."""
    return msgspec.msgpack.encode(learned)


def decode(data: bytes) -> Learned:
    """Raises `msgspec.MsgspecError` for what another version wrote in another form."""
    return msgspec.msgpack.decode(data, type=Learned)
