"""What the scheduler was told, written down so that every decision can be made again (`rbees orcd replay`).

A file holds one process's life: a line that says what it is, then one zlib stream of records, each behind its length and CRC-32.
The first record is `Header`, the others are `Record`. Prompts and answers are no part of events. It is flushed at the first event
a second after the last flush, and never synced: it is there to be looked at, and no promise rests on it. A reader takes what is
whole.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO, Final, get_args

import msgspec

from rbees import __version__
from rbees.orcd.scheduler.effects import Effect
from rbees.orcd.scheduler.events import Event, Moment
from rbees.orcd.scheduler.learned import Learned
from rbees.orcd.scheduler.policy import Policy
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.service import logs

MAGIC: Final = b"rbees scheduler events 2\n"
FLUSH_S: Final = 1.0
FILES_KEPT: Final = 4
"""Of earlier processes."""
_HEAD: Final = struct.Struct("<II")
"""Length and CRC-32 of the record behind it."""
_READ_BYTES: Final = 1 << 16
_MOST_RECORD_BYTES: Final = 1 << 26
_TYPES: Final[dict[str, type[Event]]] = {kind.__name__: kind for kind in get_args(Event)}
_encoder: Final = msgspec.msgpack.Encoder()


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """By what the decisions were made."""

    version: str
    policy: Policy
    plugin: str | None = None
    """The user's own policy by name."""
    learned: Learned = msgspec.field(default_factory=Learned)
    """What earlier processes had learned."""


class Record(msgspec.Struct, frozen=True, array_like=True):
    """One event and what it led to."""

    name: str
    event: msgspec.Raw
    monotonic_s: float
    unix_ms: int
    entropy: bytes
    fingerprint: bytes
    """Of the effects, so that a replay can tell whether it decides the same."""


@dataclass(frozen=True, slots=True)
class Happening:
    """A record taken apart."""

    event: Event
    moment: Moment
    fingerprint: bytes


def fingerprint_of(effects: Sequence[Effect]) -> bytes:
    """Equal for equal decisions; empty for none."""
    if not effects:
        return b""
    named = [(type(effect).__name__, effect) for effect in effects]
    return blake2b(_encoder.encode(named), digest_size=8).digest()


class EventLog:
    """Writes one file, up to `limit_bytes`; what goes wrong ends the writing and nothing else."""

    def __init__(
        self, file: BinaryIO, policy: Policy, limit_bytes: int, plugin: str | None = None, learned: Learned | None = None
    ) -> None:
        self._file = file
        self._limit_bytes = limit_bytes
        self._log = logs.logger()
        self._packer = zlib.compressobj(6)
        self._written_bytes = 0
        self._flushed_at_s: float | None = None
        self._open = True
        self._write(MAGIC)
        self._append(_encoder.encode(Header(version=__version__, policy=policy, plugin=plugin, learned=learned or Learned())))

    def record(self, event: Event, moment: Moment, effects: Sequence[Effect]) -> None:
        """Write one turn of the scheduler down."""
        if not self._open:
            return
        raw = msgspec.Raw(_encoder.encode(event))
        record = Record(type(event).__name__, raw, moment.monotonic_s, moment.unix_ms, moment.entropy, fingerprint_of(effects))
        self._append(_encoder.encode(record))
        if self._flushed_at_s is None or moment.monotonic_s - self._flushed_at_s >= FLUSH_S:
            self._flushed_at_s = moment.monotonic_s
            self._write(self._packer.flush(zlib.Z_SYNC_FLUSH))

    def close(self) -> None:
        """End the file in order."""
        if self._open:
            self._write(self._packer.flush())
        self._open = False
        self._file.close()

    def _append(self, record: bytes) -> None:
        self._write(self._packer.compress(_HEAD.pack(len(record), zlib.crc32(record)) + record))

    def _write(self, data: bytes) -> None:
        if not data or not self._open:
            return
        if self._written_bytes + len(data) > self._limit_bytes:
            self._open = False
            self._log.warning("the log of events is full; a restart begins a new one", action="event_log_full")
            return
        try:
            # Unbuffered, so a disk that fills up takes a part and says so only the next time.
            whole = self._file.write(data) == len(data)
        except OSError as error:
            whole = False
            self._log.warning("the log of events cannot be written", action="event_log_failed", error=str(error))
        self._open = whole
        self._written_bytes += len(data)


def open_log(
    folder: Path,
    policy: Policy,
    limit_bytes: int,
    started_at_ms: int,
    plugin: str | None = None,
    learned: Learned | None = None,
) -> EventLog | None:
    """A new file in `folder` for its owner's eyes; of older ones the newest `FILES_KEPT` stay. None for a limit of 0."""
    if not limit_bytes:
        return None
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        for old in sorted(folder.glob("*.events"))[:-FILES_KEPT]:
            old.unlink(missing_ok=True)
        path = folder / f"{started_at_ms:013d}.events"
        path.touch(mode=0o600)
        return EventLog(path.open("wb", buffering=0), policy, limit_bytes, plugin, learned)
    except OSError as error:
        logs.logger().warning("the log of events cannot be written", action="event_log_failed", error=str(error))
        return None


def read_log(path: Path) -> tuple[Header, Iterator[Happening]]:
    """The header, and one event after the other; ends where the file does, or where it was cut off.

    Raises:
        RbeesError: INVALID_REQUEST where this is no such file, or one that another version wrote in another form.
    """
    records = _records(path)
    try:
        first = next(records)
        header = msgspec.msgpack.decode(first, type=Header)
    except (StopIteration, msgspec.MsgspecError):
        raise _unreadable(path, "its header cannot be read") from None
    return header, _happenings(path, records)


def is_whole(path: Path) -> bool:
    """Whether a readable log has its end: not where the process was killed or had reached its limit, nor where the file was cut."""
    unpacker = zlib.decompressobj()
    with path.open("rb") as file:
        file.seek(len(MAGIC))
        while data := file.read(_READ_BYTES):
            unpacker.decompress(data)
    return unpacker.eof


def _happenings(path: Path, records: Iterator[bytes]) -> Iterator[Happening]:
    for data in records:
        try:
            record = msgspec.msgpack.decode(data, type=Record)
            event = msgspec.msgpack.decode(record.event, type=_TYPES[record.name])
        except (KeyError, msgspec.MsgspecError):
            raise _unreadable(path, "it holds an event that this version does not know") from None
        yield Happening(event, Moment(record.monotonic_s, record.unix_ms, record.entropy), record.fingerprint)


def _records(path: Path) -> Iterator[bytes]:
    unpacker, held = zlib.decompressobj(), b""
    try:
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise _unreadable(path, "it does not begin like one")
            while data := file.read(_READ_BYTES):
                held += unpacker.decompress(data)
                while len(held) >= _HEAD.size:
                    length, checksum = _HEAD.unpack_from(held)
                    if length > _MOST_RECORD_BYTES:
                        raise _unreadable(path, "it is damaged")
                    if len(held) < _HEAD.size + length:
                        break
                    record, held = held[_HEAD.size : _HEAD.size + length], held[_HEAD.size + length :]
                    if zlib.crc32(record) != checksum:
                        raise _unreadable(path, "it is damaged")
                    yield record
    except zlib.error:
        raise _unreadable(path, "it is damaged") from None
    except OSError as error:
        raise RbeesError(ErrorCode.INVALID_REQUEST, f"{path} cannot be read: {error.strerror}.") from None


def _unreadable(path: Path, why: str) -> RbeesError:
    message = f"{path} is no log of scheduler events that rbees {__version__} can read: {why}."
    return RbeesError(ErrorCode.INVALID_REQUEST, message)
