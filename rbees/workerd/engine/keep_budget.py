"""How many KV cells may keep what nobody computes on any more, learned from what was missed. PURE.

In a unified memory attention passes every cell in use, for each row, head and layer, if only to see that it is masked: on a CPU a
thousand cells that are merely kept cost a prefill a tenth of its speed. So keeping must pay. What was forgotten is remembered
as *ghosts*, without its cells, by the hashes of its blocks of tokens. Where a prompt then asks for a ghost, that many tokens are
computed again for want of room, and the budget grows; what is forgotten and not asked for again shrinks it. (The idea of
adapting by ghosts: Megiddo, Modha, ARC, 2003.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final

BLOCK: Final = 32
"""Tokens per ghost; what is missed counts in whole blocks."""
SHRINK: Final = 0.5
"""Cells of budget lost for each cell that was forgotten for its sake."""
GROW: Final = 2.0
"""Cells of budget won for each token that was missed: keeping pays from about every fourth token on."""


class KeepBudget:
    """Between `least` and `most` cells; begins with `first`."""

    def __init__(self, *, first: int, least: int, most: int) -> None:
        assert least <= first <= most
        self._cells = float(first)
        self._least = least
        self._most = most
        self._ghosts: dict[int, None] = {}
        """Hashes of whole beginnings that end with a forgotten block, the longest forgotten first."""

    @property
    def cells(self) -> int:
        """How many cells may be kept now."""
        return int(self._cells)

    def forgotten(self, tokens: Sequence[int], start: int, *, for_budget: bool) -> None:
        """The cells of `tokens` from `start` on are given up; `for_budget`, although nobody needed them."""
        for end, key in _blocks(tokens):
            if end > start:
                self._ghosts.pop(key, None)
                self._ghosts[key] = None
        for key in list(islice(self._ghosts, max(0, len(self._ghosts) - self._most_ghosts))):
            del self._ghosts[key]
        if for_budget:
            self._cells = max(self._least, self._cells - SHRINK * (len(tokens) - start))

    def asked(self, tokens: Sequence[int], held: int) -> None:
        """A prompt begins of which `held` tokens need not be computed."""
        missed = 0
        if self._ghosts:
            for end, key in _blocks(tokens):
                if end > held and key in self._ghosts:
                    del self._ghosts[key]
                    missed = end - held
        self._cells = min(self._most, self._cells + GROW * missed)

    @property
    def _most_ghosts(self) -> int:
        """As many as fill all cells twice: what was forgotten longer ago no budget would have kept."""
        return max(1, 2 * self._most // BLOCK)


def _blocks(tokens: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The end of each whole block and the hash of everything up to there."""
    key = 0
    for end in range(BLOCK, len(tokens) + 1, BLOCK):
        key = hash((key, *tokens[end - BLOCK : end]))
        yield end, key
