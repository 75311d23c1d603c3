"""From tokens to text that can be sent: whole tokens, complete UTF-8, and never a byte of a stop string. PURE.

A token's bytes may end within a character, and a stop string may begin in one token and end in another. So tokens are held
back, each as a whole, from the one where an unfinished character or a possible stop string begins. All matching is done on
bytes, which is exact because UTF-8 synchronises itself. The text depends on the byte stream only, not on how it was cut
into tokens: the stop string that is complete first wins, of those that end together the longest.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass, field

from rbees.protocol.events import Part


@dataclass(frozen=True, slots=True)
class Piece:
    """Text to send and the tokens that it is made of."""

    text: str = field(repr=False)
    index: int
    """Position of the first of these tokens within the answer."""
    token_ids: tuple[int, ...] = field(repr=False)
    ends: tuple[int, ...] = field(default=(), compare=False)
    """Where within `text` each token ends; a character belongs to the token that completes it."""
    part: Part = "text"
    heard: tuple[bool, ...] = field(default=(), compare=False)
    """Whether `text` holds any of each token; what it does not hold is a mark, or the stop string that ended the answer."""


class TextStream:
    """The text of one answer as it grows."""

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._stops = tuple(stop.encode() for stop in stops)
        self.stopped_by: str | None = None
        """The stop string that is complete."""
        self._buffer = bytearray()
        self._tokens: list[tuple[int, int]] = []
        """Held tokens: id, and where their bytes end in the buffer."""
        self._sent_bytes = 0
        self._sent_tokens = 0
        """Of what is held, so much was sent by an earlier attempt."""
        self._index = 0
        """Position of the first held token within the answer."""

    def push(self, token: int, data: bytes) -> tuple[Piece | None, bool]:
        """Take one token; answers what may be sent now and whether a stop string is complete (then nothing may follow)."""
        before = len(self._buffer)
        self._buffer += data
        self._tokens.append((token, len(self._buffer)))
        cut = self._first_stop(before)
        if cut is not None:
            begin, end = cut
            self.stopped_by = self._buffer[begin:end].decode()
            return self._take_all(begin), True
        return self._take(self._tokens_before(self._held_from())), False

    def finish(self) -> Piece | None:
        """What was held back, once the answer has ended; an unfinished character becomes U+FFFD."""
        return self._take_all(len(self._buffer))

    def mark_sent(self) -> None:
        """Everything so far was sent by an earlier attempt: it counts for matching and positions but is not sent again.

        Except the bytes of a character that is not complete: they cannot have been sent.
        """
        self._sent_bytes = len(self._buffer) - _unfinished(self._buffer)
        self._sent_tokens = len(self._tokens)

    def _first_stop(self, before: int) -> tuple[int, int] | None:
        """Where the stop string that is complete first begins and ends, given that none was before the last `before` bytes."""
        best: tuple[int, int] | None = None
        for stop in self._stops:
            start = self._buffer.find(stop, max(0, before - len(stop) + 1))
            if start >= 0 and (best is None or (start + len(stop), start) < best):
                best = (start + len(stop), start)
        return (best[1], best[0]) if best else None

    def _held_from(self) -> int:
        """The first byte that may not be sent yet."""
        position = len(self._buffer) - _unfinished(self._buffer)
        for stop in self._stops:
            for length in range(min(len(stop) - 1, len(self._buffer)), 0, -1):
                if self._buffer.endswith(stop[:length]):
                    position = min(position, len(self._buffer) - length)
                    break
        return position

    def _tokens_before(self, position: int) -> int:
        """How many held tokens lie before byte `position` and end with a whole character."""
        count = len(self._tokens)
        while count and (self._tokens[count - 1][1] > position or _unfinished(self._buffer[: self._tokens[count - 1][1]])):
            count -= 1
        return count

    def _take_all(self, position: int) -> Piece | None:
        return self._take(len(self._tokens), position)

    def _take(self, count: int, position: int | None = None) -> Piece | None:
        """Release the first `count` held tokens; their text ends at byte `position` or with the last of them."""
        if count <= self._sent_tokens and count < len(self._tokens):
            # Nothing new; what an earlier attempt sent leaves the window together with the first new token.
            return None
        end = self._tokens[count - 1][1] if count else 0
        stop = end if position is None else position
        data = bytes(self._buffer[self._sent_bytes : max(stop, self._sent_bytes)])
        text = data.decode("utf-8", "replace")
        taken = self._tokens[self._sent_tokens : count]
        ends = (*_ends(data, [position - self._sent_bytes for _, position in taken[:-1]]), len(text))
        ids = tuple(token for token, _ in taken)
        heard = tuple(begin < len(text) for begin in (0, *ends[:-1]))
        piece = Piece(text, self._index + self._sent_tokens, ids, ends, heard=heard) if ids else None
        self._drop(count, end)
        return piece

    def _drop(self, count: int, end: int) -> None:
        del self._buffer[:end]
        self._tokens = [(token, position - end) for token, position in self._tokens[count:]]
        self._index += count
        self._sent_tokens = max(0, self._sent_tokens - count)
        self._sent_bytes = max(0, self._sent_bytes - end)


def _ends(data: bytes, positions: list[int]) -> list[int]:
    """How many characters of `data` are complete at each of the byte `positions`, which ascend."""
    ends: list[int] = []
    if not positions:
        return ends
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    begin = length = 0
    for position in positions:
        length += len(decoder.decode(data[begin : max(begin, position)]))
        begin = max(begin, position)
        ends.append(length)
    return ends


def _unfinished(data: bytes | bytearray) -> int:
    """How many bytes at the end of `data` begin a character that is not complete."""
    tail = bytes(data[-4:])
    for length in range(1, min(3, len(tail)) + 1):
        lead = tail[-length]
        if lead >= 0xC0:
            _, consumed = codecs.utf_8_decode(tail[-length:], "replace", False)
            return length - consumed if consumed < length else 0
        if lead < 0x80:
            return 0
    return 0
