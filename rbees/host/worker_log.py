"""A worker's log file: its last lines, the error it named before it ended, following it while it grows, and its bound."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from rbees.protocol.errors import ErrorBody, ErrorEnvelope

TAIL_LINES: Final = 20
TAIL_BYTES: Final = 8 << 10
"""What a failure report carries."""
_CHUNK_BYTES: Final = 64 << 10
_MAX_FOLLOWED_BYTES: Final = 1 << 20
"""How much of the past is shown before the log is followed."""
_REMEMBERED_BYTES: Final = 4 << 10
"""By so many bytes a follower knows its place again."""
_FAULT: Final = re.compile(r"Fatal Python error: (.+)")
"""As the interpreter's fault handler writes it, before the frames of the thread and the names of its modules."""
_FAULTS: Final = {
    "Segmentation fault": "SIGSEGV",
    "Illegal instruction": "SIGILL",
    "Bus error": "SIGBUS",
    "Aborted": "SIGABRT",
    "Floating-point exception": "SIGFPE",
    "Floating point exception": "SIGFPE",
}
_FAULT_LINES: Final = 200
_FAULT_BYTES: Final = 32 << 10
_TRIES: Final = 2
_FOLLOW_POLL_S: Final = 0.25
MAX_LINE_BYTES: Final = 1 << 20
"""A line that is longer is shown as several."""
MAX_LOG_BYTES: Final = 32 << 20
"""A log that grows beyond this loses all but its last MiB."""


def tail(log: Path, lines: int = TAIL_LINES, limit_bytes: int = TAIL_BYTES) -> tuple[str, ...]:
    """The last lines, together no longer than `limit_bytes`; empty where there is no log. Blocks."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - limit_bytes))
            data = file.read(limit_bytes)
    except OSError:
        return ()
    found = data.decode("utf-8", errors="replace").splitlines()
    return tuple(found[1 if size > limit_bytes else 0 :][-lines:])


def last_error(lines: tuple[str, ...]) -> ErrorBody | None:
    """The error in the last line of the form `{"error": {…}}`; None where there is none."""
    for line in reversed(lines):
        if line.startswith('{"error":'):
            try:
                return msgspec.json.decode(line, type=ErrorEnvelope).error
            except msgspec.MsgspecError:
                continue
    return None


def last_signal(log: Path) -> str | None:
    """The signal that the worker itself named as it died, such as `SIGSEGV`; None where it named none. Blocks."""
    for line in reversed(tail(log, _FAULT_LINES, _FAULT_BYTES)):
        found = _FAULT.match(line)
        if found is not None:
            return _FAULTS.get(found[1])
        if line.startswith("{"):
            return None  # It has gone on to log since.
    return None


def last_written_ms(log: Path) -> int | None:
    """When something was last added, in milliseconds since 1970; None where there is no log. Blocks."""
    try:
        return log.stat().st_mtime_ns // 1_000_000
    except OSError:
        return None


async def follow(log: Path, is_over: Callable[[], bool]) -> AsyncIterator[bytes]:
    """The log from (at most 1 MiB before) its end, then what is added, until `is_over` and all was read.

    A log that is cut down meanwhile, or replaced by a new file, is gone on with behind what was shown of it last.
    """
    place = await asyncio.to_thread(_start_of_view, log)
    lost = 0
    while True:
        over = is_over()
        now = await asyncio.to_thread(_place_now, log, place)
        if now is None and lost < _TRIES:
            # It may be read at the very moment in which it is cut down.
            lost += 1
            await asyncio.sleep(_FOLLOW_POLL_S)
            continue
        place = now if now is not None else await asyncio.to_thread(_start_of_view, log)
        lost = 0
        chunk = await asyncio.to_thread(_read_at, log, place.offset)
        if chunk:
            place = Place(place.inode, place.offset + len(chunk), (place.shown + chunk)[-_REMEMBERED_BYTES:])
            yield chunk
        elif over:
            return
        else:
            await asyncio.sleep(_FOLLOW_POLL_S)


async def lines_of(chunks: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """The lines of a log that comes in pieces; the last one also where it has no end. What has none for long is cut."""
    begun = bytearray()
    async for chunk in chunks:
        # Only what is new is searched: a line without end would be gone through again with each of its pieces.
        for number, part in enumerate(chunk.split(b"\n")):
            if number:
                yield begun.decode("utf-8", errors="replace")
                begun.clear()
            begun += part
            while len(begun) > MAX_LINE_BYTES:
                cut = _before_character(begun, MAX_LINE_BYTES)
                yield begun[:cut].decode("utf-8", errors="replace")
                del begun[:cut]
    if begun:
        yield begun.decode("utf-8", errors="replace")


def _before_character(text: bytearray, position: int) -> int:
    """`position`, or where the character that it would cut in two begins."""
    return next((place for place in range(position, position - 4, -1) if text[place] & 0xC0 != 0x80), position)


def read_all(log: Path) -> bytes:
    """The log's last MiB, from the beginning of a line; no more, however fast it grows. Blocks."""
    return _read_at(log, _start_of_view(log).offset, _MAX_FOLLOWED_BYTES)


def shorten(log: Path, limit_bytes: int = MAX_LOG_BYTES) -> bool:
    """Cut a log that is longer than `limit_bytes` down to its last MiB; True if that was done. Blocks.

    The worker's descriptor appends, so it goes on behind what is left. What it writes at this very moment may be lost.

    Raises:
        OSError: the disk fails.
    """
    if not log.is_file() or log.stat().st_size <= limit_bytes:
        return False
    kept = read_all(log)
    os.truncate(log, 0)
    with log.open("ab") as file:
        file.write(kept)
    return True


class Place(NamedTuple):
    """Where a follower is in a log: behind these bytes."""

    inode: int
    offset: int
    shown: bytes = b""


def _start_of_view(log: Path) -> Place:
    try:
        with log.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_size <= _MAX_FOLLOWED_BYTES:
                return Place(status.st_ino, 0)
            file.seek(status.st_size - _MAX_FOLLOWED_BYTES)
            file.readline()
            return Place(status.st_ino, file.tell())
    except OSError:
        return Place(0, 0)


def _place_now(log: Path, place: Place) -> Place | None:
    """The same place, or where it is now that the file was cut down or is another one; None where that has nothing of it."""
    try:
        with log.open("rb") as file:
            inode = os.fstat(file.fileno()).st_ino
            file.seek(place.offset - len(place.shown))
            if inode == place.inode and file.read(len(place.shown)) == place.shown:
                return place
            if not place.shown:
                return _start_of_view(log)
            file.seek(0)
            # One that was cut is short, and one that has grown beyond the bound since then is shown from its last MiB on.
            found = file.read(MAX_LOG_BYTES).rfind(place.shown)
    except OSError:
        return place
    return Place(inode, found + len(place.shown), place.shown) if found >= 0 else None


def _read_at(log: Path, start: int, limit_bytes: int = _CHUNK_BYTES) -> bytes:
    try:
        with log.open("rb") as file:
            file.seek(start)
            return file.read(limit_bytes)
    except OSError:
        return b""
