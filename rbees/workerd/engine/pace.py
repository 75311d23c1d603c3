"""How many prompt tokens fit a step of the wished length, learned from the steps before. PURE: durations come in.

A long prefill call freezes every running stream, so beside them the chunk is as large as fits a short step, which may be the longer
the more prompts wait for each stream. Alone it may be longest, but stays short enough that a cancellation and the worker's beat
do not wait for it.
"""

from __future__ import annotations

from typing import Final

TARGET_BESIDE_STREAMS_S: Final = 0.21
"""As long as nobody waits."""
TARGET_ALONE_S: Final = 1.0
SMALLEST_CHUNK: Final = 16
FIRST_CHUNK: Final = 64
SWIFT_CHUNK: Final = 65
"""From 64 rows of one prompt on llama.cpp's attention works in tiles, and somewhat fewer rows take longer than these do. One more,
because the first row of a prompt may be computed with the streams. So a chunk that is only a little smaller is made that large."""
_NEARLY: Final = 0.7
_WEIGHT: Final = 0.3


class Pace:
    """Moving averages of what a prompt token and a decode step cost."""

    def __init__(self, largest_chunk: int) -> None:
        self._largest = largest_chunk
        self._seconds_per_prefill_token: float | None = None
        self._decode_step_s: float | None = None
        self._decode_tokens_per_second: float | None = None

    @property
    def prefill_tokens_per_second(self) -> float | None:
        """The learned rate; None before the first prefill."""
        return 1 / self._seconds_per_prefill_token if self._seconds_per_prefill_token else None

    @property
    def decode_tokens_per_second(self) -> float | None:
        """The learned rate over all streams together; None before the first decode."""
        return self._decode_tokens_per_second

    def observe(self, *, decoding: int, prefilled: int, seconds: float, drafted: int = 0, accepted: int = 0) -> None:
        """Learn from a step that took `seconds` for `decoding` single rows and `prefilled` prompt tokens.

        With the single rows rode `drafted` guesses, of which `accepted` held.
        """
        if seconds <= 0:
            return
        if prefilled:
            rest = seconds - (self._decode_step_s or 0.0 if decoding else 0.0)
            cost = max(rest, seconds * 0.1) / prefilled
            self._seconds_per_prefill_token = _blend(self._seconds_per_prefill_token, cost)
        elif decoding:
            if not drafted:
                self._decode_step_s = _blend(self._decode_step_s, seconds)
            self._decode_tokens_per_second = _blend(self._decode_tokens_per_second, (decoding + accepted) / seconds)

    def prefill_budget(self, decoding: int, waiting: int) -> int:
        """Prompt tokens for the next step, of `waiting` prompts together, beside `decoding` streams."""
        if self._seconds_per_prefill_token is None:
            return min(FIRST_CHUNK, self._largest)
        target = min(TARGET_ALONE_S, TARGET_BESIDE_STREAMS_S * (1 + waiting / decoding)) if decoding else TARGET_ALONE_S
        budget = int(target / self._seconds_per_prefill_token)
        if _NEARLY * SWIFT_CHUNK <= budget < SWIFT_CHUNK:
            budget = SWIFT_CHUNK
        return max(min(SMALLEST_CHUNK, self._largest), min(self._largest, budget))


def _blend(average: float | None, value: float) -> float:
    return value if average is None else average + _WEIGHT * (value - average)
