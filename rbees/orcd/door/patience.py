"""PURE: how long a client waits for its job to start, where it says so, and what it is told when that was not enough.

The preference is that of RFC 7240, section 4.3: `Prefer: wait=SECONDS`. One that is none is passed over, as that says.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.events import Event, Metrics

LEAST_S: Final = 0.5
"""However impatient: within so long it is decided what becomes of a job, and a worker that it needs is asked for."""
LONGEST_S: Final = 3_600
LONGEST_RETRY_AFTER_S: Final = 60.0
UNKNOWN_RETRY_AFTER_S: Final = 5.0
_WAIT: Final = re.compile(r'\s*wait\s*=\s*"?(\d{1,6}(?:\.\d{1,3})?)"?\s*', re.IGNORECASE)


def wait_of(header: str | None) -> float | None:
    """The seconds that a `Prefer` header asks for; None where it asks for other things only."""
    preferences = (header or "").split(",")
    found = next((match for part in preferences if (match := _WAIT.fullmatch(part.partition(";")[0]))), None)
    return None if found is None else min(float(found[1]), LONGEST_S)


class Pace:
    """How fast a model loads, by when its progress was heard of."""

    def __init__(self) -> None:
        self._first: tuple[float, float] | None = None
        """When (monotonic seconds) and how much, of the worker that loads it now."""
        self._last: tuple[float, float] | None = None

    def take(self, events: Iterable[Event], now_s: float) -> None:
        """The next events of a job, in their order."""
        for event in events:
            if isinstance(event, Metrics) and event.stage == "loading" and event.progress is not None:
                if self._last is None or event.progress < self._last[1]:
                    self._first = (now_s, event.progress)
                self._last = (now_s, event.progress)

    def left_s(self, now_s: float) -> float | None:
        """Until it has loaded; None where nothing was heard that tells."""
        if self._first is None or self._last is None:
            return None
        (began_s, at_first), (heard_s, so_far) = self._first, self._last
        if heard_s <= began_s or so_far <= at_first:
            return None
        return max(0.0, (1 - so_far) * (heard_s - began_s) / (so_far - at_first) - (now_s - heard_s))


def not_started(seen: Iterable[Event], waited_s: float, left_s: float | None = None) -> RbeesError:
    """Why a job that waited so long is not waited for any longer, from what its events say; its model has `left_s` to load.

    MODEL_LOADING with the progress where its model loads, else QUEUE_FULL with what it waits for.
    """
    last = next((event for event in reversed(tuple(seen)) if isinstance(event, Metrics)), None)
    within = f"The job did not start within {waited_s:g} s and was given up"
    if last is None or last.stage != "loading":
        why = f": {last.reason}" if last is not None and last.reason else "."
        return RbeesError(ErrorCode.QUEUE_FULL, f"{within}{why}", retry_after_s=UNKNOWN_RETRY_AFTER_S)
    progress = last.progress or 0.0
    if left_s is None:
        left_s = waited_s * (1 - progress) / progress if progress else UNKNOWN_RETRY_AFTER_S
    retry_after_s = round(min(max(left_s, 1.0), LONGEST_RETRY_AFTER_S), 1)
    return RbeesError(
        ErrorCode.MODEL_LOADING,
        f"{within}: its model is {progress:.0%} loaded and goes on loading; ask again in {retry_after_s:g} s.",
        progress=round(progress, 3),
        retry_after_s=retry_after_s,
    )
