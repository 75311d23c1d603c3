"""The numbered events of one attempt, kept as the very bytes that go out until orcd has journaled them.

Knows the legal order of events; knows nothing of who reads. A reader that comes back gets the same bytes again.
"""

from __future__ import annotations

from collections import deque

from rbees.protocol.codec import encode
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.events import Event, StreamState, advance, event_name
from rbees.service.sse import frame


class EventBuffer:
    """Events 1, 2, 3 … of one (job, epoch)."""

    def __init__(self) -> None:
        self._frames: deque[bytes] = deque()
        self._forgotten = 0
        self._held_bytes = 0
        self._state = StreamState.WAITING

    @property
    def last_seq(self) -> int:
        """Number of the newest event; 0 before the first."""
        return self._forgotten + len(self._frames)

    @property
    def acked_seq(self) -> int:
        """Everything up to this number was acknowledged and is forgotten."""
        return self._forgotten

    @property
    def held_bytes(self) -> int:
        """Size of what is not acknowledged."""
        return self._held_bytes

    @property
    def ended(self) -> bool:
        """True once the terminal event is in."""
        return self._state is StreamState.ENDED

    def append(self, event: Event) -> None:
        """Number and keep an event. AssertionError where it may not come now."""
        self._state = advance(self._state, event)
        data = frame(self.last_seq + 1, event_name(event), encode(event))
        self._frames.append(data)
        self._held_bytes += len(data)

    def ack(self, seq: int) -> None:
        """Forget events up to `seq`; what was forgotten already stays so.

        Raises:
            RbeesError: INVALID_REQUEST for a number that no event has.
        """
        if seq > self.last_seq:
            raise RbeesError(
                ErrorCode.INVALID_REQUEST, "`seq` is beyond the last event of this stream.", field="seq", last_seq=self.last_seq
            )
        while self._forgotten < seq:
            self._held_bytes -= len(self._frames.popleft())
            self._forgotten += 1

    def after(self, seq: int) -> list[bytes]:
        """The frames with numbers above `seq`, oldest first.

        Raises:
            RbeesError: INVALID_REQUEST where some of them were acknowledged and are gone, or `seq` is beyond the last.
        """
        if not self._forgotten <= seq <= self.last_seq:
            raise RbeesError(
                ErrorCode.INVALID_REQUEST,
                f"`after` must lie between {self._forgotten} (acknowledged) and {self.last_seq} (last event).",
                field="after",
                acked_seq=self._forgotten,
                last_seq=self.last_seq,
            )
        # Counted from the end: readers want the newest, however many wait for their acknowledgement.
        return [self._frames[i] for i in range(seq - self.last_seq, 0)]
