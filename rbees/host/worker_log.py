"""A worker's log file: its last lines, the error it named before it ended, following it while it grows, and its bound."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

import msgspec

from rbees.protocol.errors import ErrorBody, ErrorEnvelope

TAIL_LINES: Final = 20
TAIL_BYTES: Final = 8 << 10
"""What a failure report carries."""
_CHUNK_BYTES: Final = 64 << 10
_MAX_FOLLOWED_BYTES: Final = 1 << 20
"""How much of the past is shown before the log is followed."""
_FOLLOW_POLL_S: Final = 0.25
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


async def follow(log: Path, is_over: Callable[[], bool]) -> AsyncIterator[bytes]:
    """The log from (at most 1 MiB before) its end, then what is added, until `is_over` and all was read."""
    start = await asyncio.to_thread(_start_of_view, log)
    while True:
        over = is_over()
        # A log that was shortened meanwhile is shown from its new beginning.
        start = await asyncio.to_thread(_within, log, start)
        chunk = await asyncio.to_thread(_read_at, log, start)
        if chunk:
            start += len(chunk)
            yield chunk
        elif over:
            return
        else:
            await asyncio.sleep(_FOLLOW_POLL_S)


def read_all(log: Path) -> bytes:
    """The log's last MiB, from the beginning of a line; no more, however fast it grows. Blocks."""
    return _read_at(log, _start_of_view(log), _MAX_FOLLOWED_BYTES)


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


def _start_of_view(log: Path) -> int:
    try:
        size = log.stat().st_size
        if size <= _MAX_FOLLOWED_BYTES:
            return 0
        with log.open("rb") as file:
            file.seek(size - _MAX_FOLLOWED_BYTES)
            file.readline()
            return file.tell()
    except OSError:
        return 0


def _within(log: Path, start: int) -> int:
    try:
        return start if start <= log.stat().st_size else 0
    except OSError:
        return start


def _read_at(log: Path, start: int, limit_bytes: int = _CHUNK_BYTES) -> bytes:
    try:
        with log.open("rb") as file:
            file.seek(start)
            return file.read(limit_bytes)
    except OSError:
        return b""
