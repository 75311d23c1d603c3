"""Where a text may go on as it went on before: prompt lookup. PURE.

A text that quotes, edits or repeats itself goes on as it did at the last place that ends with the same tokens (Saxena, 2023: prompt
lookup decoding). The places of all n-grams are found by hash in tables of fixed size: taking up a token or looking a place up costs
the same however long the text is. A place that another n-gram of the same hash has taken is forgotten, which costs a guess and
never makes a wrong one, because what is found is compared.
"""

from __future__ import annotations

from array import array
from typing import Final

import numpy as np

LENGTHS: Final = (2, 3, 4)
"""Tokens of the n-grams; a longer one is believed before a shorter one."""
LONGEST_SEEN: Final = 16
"""Tokens that two places may have in common before them as far as anybody looks."""

_SMALLEST_BITS: Final = 8
_LARGEST_BITS: Final = 18
_PLACES_PER_TOKEN: Final = 4
_FACTOR: Final = 0x9E3779B97F4A7C15
_MASK: Final = (1 << 64) - 1
_BULK: Final = 64
"""From so many tokens on numpy takes them up faster than a loop."""


class Lookup:
    """One growing text, and the place in it that its end is being copied from."""

    def __init__(self, room: int) -> None:
        """For a text of up to `room` tokens; a longer one works too and forgets more."""
        self._bits = min(_LARGEST_BITS, max(_SMALLEST_BITS, (room * _PLACES_PER_TOKEN - 1).bit_length()))
        self._shift = 64 - self._bits
        self._ends: list[array[int]] = []
        """For each length by hash: where the n-gram's latest occurrence ends; 0 for none. Made when it is first needed."""
        self._taken = 1
        """N-grams that end here or before are in the tables."""
        self._source = 0
        """The place that would come next in the copy; 0 while nothing is being copied."""
        self.matched = 0
        """Tokens before that place that are equal to the last of the text, counted up to `LONGEST_SEEN` when it was found."""

    def guess(self, tokens: list[int], most: int) -> list[int]:
        """Up to `most` tokens with which the text may go on; none if it ends as it never did before."""
        if not self._source and not self._find(tokens):
            return []
        # What is copied may reach into the guess itself, as where a text repeats a short pattern.
        period = len(tokens) - self._source
        if most <= period:
            return tokens[self._source : self._source + most]
        return [tokens[self._source + i % period] for i in range(most)]

    def see(self, drawn: int, before: list[int]) -> bool | None:
        """`drawn` came behind `before`: whether it was the token that the copy would have brought; None where none was going on."""
        if not self._source:
            return None
        if before[self._source] == drawn:
            self._source += 1
            self.matched += 1
            return True
        self._source = 0
        return False

    def _find(self, tokens: list[int]) -> bool:
        self._take_up(tokens)
        end, state = len(tokens), tokens[-1] * _FACTOR & _MASK
        for length, ends in zip(LENGTHS, self._ends, strict=True):
            if length >= end:
                break
            state = (state ^ tokens[end - length]) * _FACTOR & _MASK
            place = ends[state >> self._shift]
            if place and tokens[place - length : place] == tokens[end - length :]:
                self._source = place
        if self._source:
            self.matched = _common_end(tokens, self._source)
        return self._source > 0

    def _take_up(self, tokens: list[int]) -> None:
        """Put every n-gram that something follows into the tables."""
        if not self._ends:
            self._ends = [array("i", bytes(4 << self._bits)) for _ in LENGTHS]
        if len(tokens) - self._taken > _BULK:
            self._take_up_many(tokens)
        for end in range(self._taken + 1, len(tokens)):
            state = tokens[end - 1] * _FACTOR & _MASK
            for length, ends in zip(LENGTHS, self._ends, strict=True):
                if length > end:
                    break
                state = (state ^ tokens[end - length]) * _FACTOR & _MASK
                ends[state >> self._shift] = end
        self._taken = max(self._taken, len(tokens) - 1)

    def _take_up_many(self, tokens: list[int]) -> None:
        # The first of these n-grams are in the tables already; entering them again, in order, changes nothing.
        start = max(0, self._taken - LENGTHS[-1])
        ids = np.array(tokens[start:-1], dtype=np.uint64)
        factor, shift = np.uint64(_FACTOR), np.uint64(self._shift)
        states = ids * factor
        for length, ends in zip(LENGTHS, self._ends, strict=True):
            states = (states[1:] ^ ids[: len(states) - 1]) * factor
            first = start + length
            np.frombuffer(ends, dtype=np.int32)[states >> shift] = np.arange(first, first + len(states), dtype=np.int32)
        self._taken = len(tokens) - 1


def _common_end(tokens: list[int], place: int) -> int:
    """How many tokens before `place` equal those before the end, counted up to `LONGEST_SEEN`."""
    end = len(tokens)
    for count in range(min(place, LONGEST_SEEN)):
        if tokens[place - 1 - count] != tokens[end - 1 - count]:
            return count
    return min(place, LONGEST_SEEN)
