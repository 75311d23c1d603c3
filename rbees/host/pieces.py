"""PURE: a file in pieces that several sources give at once: how large a piece is, who fetches which, and which are here.

A source is given a run of pieces that follow each other, so that one request brings many, and shorter ones towards the end, so
that all sources end at about the same time. Once every missing piece is being fetched by somebody, a source that has nothing to
do fetches one of them as well: neither a slow source nor one that stands still then keeps the rest waiting.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

SMALLEST_BYTES: Final = 1 << 20
LARGEST_BYTES: Final = 8 << 20
USUAL_COUNT: Final = 2_048
"""Pieces grow with the file so that there are not more, up to the largest size."""
LONGEST_RUN_BYTES: Final = 64 << 20
RUNS_LEFT: Final = 4
"""A run is so short that this many of its length are left for each source."""
AT_ONCE: Final = 2
"""Sources that fetch the same piece."""


def piece_bytes_of(size_bytes: int) -> int:
    """How large the pieces of a file are; the same on every host."""
    piece = SMALLEST_BYTES
    while piece < LARGEST_BYTES and piece * USUAL_COUNT < size_bytes:
        piece *= 2
    return piece


def piece_count(size_bytes: int, piece_bytes: int) -> int:
    """How many there are; an empty file has none."""
    return -(-size_bytes // piece_bytes)


class PieceTable:
    """Which pieces of one file are here, and which are being fetched."""

    def __init__(self, size_bytes: int, piece_bytes: int, sums: Sequence[str]) -> None:
        assert len(sums) == piece_count(size_bytes, piece_bytes), "a sum for each piece"
        self.size_bytes = size_bytes
        self.piece_bytes = piece_bytes
        self.sums = sums
        self.held_bytes = 0
        self._held = [False] * len(sums)
        self._takers = [0] * len(sums)
        self._left = len(sums)

    @property
    def is_whole(self) -> bool:
        """True once every piece is here."""
        return self._left == 0

    def holds(self, number: int) -> bool:
        """True if the piece is here."""
        return self._held[number]

    def extent(self, number: int) -> tuple[int, int]:
        """Where a piece begins, and how long it is."""
        first = number * self.piece_bytes
        return first, min(self.piece_bytes, self.size_bytes - first)

    def extent_of(self, run: range) -> tuple[int, int]:
        """The same of a run."""
        first, last = run.start * self.piece_bytes, min(run.stop * self.piece_bytes, self.size_bytes)
        return first, last - first

    def hold(self, number: int) -> bool:
        """The piece is here; False if it was already."""
        if self._held[number]:
            return False
        self._held[number] = True
        self._left -= 1
        self.held_bytes += self.extent(number)[1]
        return True

    def take(self, sources: int, offered: frozenset[int] | None = None) -> range | None:
        """What a source is to fetch next: a run of those that nobody fetches, else a single one that another fetches too slowly.

        `sources`: how many work on this file. `offered`: all that this one has; None where it has every piece.
        """
        run = self._open_run(sources, offered) or self._shared(offered)
        for number in run or ():
            self._takers[number] += 1
        return run

    def give_back(self, run: Iterable[int]) -> None:
        """Whoever took the run fetches it no more; what is not here yet is free for others."""
        for number in run:
            self._takers[number] -= 1

    def held_from(self, number: int, most_bytes: int) -> int:
        """The end of the run of pieces that are here from `number` on; about `most_bytes` of them at most, but one in any case."""
        end, last = number, min(len(self._held), number + max(1, most_bytes // self.piece_bytes))
        while end < last and self._held[end]:
            end += 1
        return end

    def _is_open(self, number: int, offered: frozenset[int] | None) -> bool:
        return not self._held[number] and not self._takers[number] and (offered is None or number in offered)

    def _open_run(self, sources: int, offered: frozenset[int] | None) -> range | None:
        start = next((number for number in range(len(self.sums)) if self._is_open(number, offered)), None)
        if start is None:
            return None
        share = self._left * self.piece_bytes // (RUNS_LEFT * max(1, sources))
        longest = max(1, min(share, LONGEST_RUN_BYTES) // self.piece_bytes)
        end = start + 1
        while end < len(self.sums) and end - start < longest and self._is_open(end, offered):
            end += 1
        return range(start, end)

    def _shared(self, offered: frozenset[int] | None) -> range | None:
        """The last one of those that others fetch: whoever took it as part of a run comes to it last."""
        for number in reversed(range(len(self.sums))):
            if not self._held[number] and self._takers[number] < AT_ONCE and (offered is None or number in offered):
                return range(number, number + 1)
        return None
