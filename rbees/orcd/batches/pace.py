"""PURE: how many lines of batches may wait for a worker.

Enough that no slot stands idle and that it pays to start further workers, and few enough that none waits so long that it would come
before people's own jobs, as batch jobs do that were accepted a minute earlier (`scheduler/policy.py`, `batch_ages_after_s`): as
many as have begun within the last `WITHIN_S`, for that many begin within the next.
"""

from __future__ import annotations

from collections import deque
from typing import Final

WITHIN_S: Final = 45.0
LEAST: Final = 4
MOST: Final = 512
OF_QUEUE: Final = 4
"""Of a queue with a limit, batches fill this part at most, so that it has room for others."""


class Pace:
    """Counts lines that begin. Moments are those of the monotonic clock."""

    def __init__(self, queue_limit: int) -> None:
        self._most = min(MOST, max(1, queue_limit // OF_QUEUE)) if queue_limit else MOST
        self._begun: deque[float] = deque(maxlen=self._most)

    def begun(self, now_s: float) -> None:
        """A job of a line has begun on a worker."""
        self._begun.append(now_s)

    def may_wait(self, now_s: float, batches: int) -> int:
        """How many lines of each of so many batches may wait now."""
        while self._begun and self._begun[0] <= now_s - WITHIN_S:
            self._begun.popleft()
        return max(1, min(max(len(self._begun), LEAST), self._most) // max(1, batches))
