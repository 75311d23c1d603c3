"""Reading server-sent events (WHATWG HTML, "Interpreting an event stream"): bytes in any chunking, frames out. No I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

MAX_LINE_BYTES: Final = 1024 * 1024
MAX_FRAME_BYTES: Final = 8 * 1024 * 1024
_PLAIN_FRAME: Final = re.compile(rb"(?:id: ([0-9]+)\n)?event: ([a-z_]+)\ndata: ([^\n]+)")


class SseTooLong(ValueError):
    """A line or a frame is longer than the reader accepts; the stream cannot be read on."""


@dataclass(frozen=True, slots=True)
class SseFrame:
    """One event: `id` only where this frame brought one, `event` defaults to `message`, `data` with its lines joined by `\\n`."""

    id: str | None
    event: str
    data: bytes

    def __repr__(self) -> str:
        return f"SseFrame(id={self.id!r}, event={self.event!r}, data=<{len(self.data)} bytes>)"


class SseParser:
    """Feed it what arrives; it gives the frames that became complete. Lines end with CR, LF or CRLF, also across chunks."""

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self._max_line_bytes = max_line_bytes
        self._max_frame_bytes = max_frame_bytes
        self._line = bytearray()
        self._at_start = True
        self._after_return = False
        self.last_event_id: str | None = None
        """What a client would send as `Last-Event-ID` after a break."""
        self._id: str | None = None
        self._event = ""
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> list[SseFrame]:
        """The frames that `data` completes.

        Raises:
            SseTooLong: a line or frame exceeds its bound.
        """
        if not data:
            return []
        frames: list[SseFrame] = []
        if not self._at_start and self._between_frames and b"\r" not in data and len(data) <= self._max_line_bytes:
            data = self._take_whole(data, frames)
        if self._after_return:
            data = data.removeprefix(b"\n")
        self._after_return = data.endswith(b"\r")
        *complete, rest = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for piece in complete:
            self._extend(piece)
            frame = self._take_line()
            if frame is not None:
                frames.append(frame)
        self._extend(rest)
        return frames

    @property
    def _between_frames(self) -> bool:
        return not (self._line or self._data or self._event or self._after_return or self._id is not None or self._size)

    def _take_whole(self, data: bytes, frames: list[SseFrame]) -> bytes:
        """Take the frames that `data` begins with, as long as they have the form that rbees writes; returns what is left.

        Nearly all that arrives has it, and is read several times faster so than line by line.
        """
        start = 0
        while (end := data.find(b"\n\n", start)) >= 0:
            found = _PLAIN_FRAME.fullmatch(data, start, end)
            if found is None or end - start > self._max_frame_bytes:
                break
            id_, event, value = found.groups()
            number = None if id_ is None else id_.decode()
            if number is not None:
                self.last_event_id = number
            frames.append(SseFrame(number, event.decode(), value))
            start = end + 2
        return data[start:]

    def _extend(self, piece: bytes) -> None:
        if len(self._line) + len(piece) > self._max_line_bytes:
            raise SseTooLong("a line of the event stream is too long")
        self._line += piece

    def _take_line(self) -> SseFrame | None:
        line = bytes(self._line)
        self._line.clear()
        if self._at_start:
            line = line.removeprefix(b"\xef\xbb\xbf")
            self._at_start = False
        if not line:
            return self._dispatch()
        name, _, value = line.partition(b":")
        self._take_field(name, value.removeprefix(b" "))
        return None

    def _take_field(self, name: bytes, value: bytes) -> None:
        if name == b"data":
            self._size += len(value) + 1
            if self._size > self._max_frame_bytes:
                raise SseTooLong("an event of the stream is too long")
            self._data.append(value)
        elif name == b"event":
            self._event = value.decode(errors="replace")
        elif name == b"id" and b"\0" not in value:
            self._id = value.decode(errors="replace")
            self.last_event_id = self._id

    def _dispatch(self) -> SseFrame | None:
        frame = SseFrame(self._id, self._event or "message", b"\n".join(self._data)) if self._data else None
        self._begin_frame()
        return frame

    def _begin_frame(self) -> None:
        self._id = None
        self._event = ""
        self._data = []
        self._size = 0
