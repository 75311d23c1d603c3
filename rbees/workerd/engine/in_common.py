"""What a sequence has in common with those that run, and whether it is worth waiting until they have computed it. PURE."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from rbees.workerd.engine.prefix_cache import common_length
from rbees.workerd.engine.sequence import Sequence

WORTH_WAITING_FOR: Final = 32
"""Tokens that an older sequence must be about to compute for a younger one to wait for them instead of computing them too."""


def most_in_common(sequence: Sequence, others: Iterable[Sequence]) -> int:
    """How many of its first tokens one of the others begins with, all but its last at most."""
    limit = len(sequence.tokens) - 1
    return min(limit, max(common_length(sequence.tokens, other.tokens) for other in others))


def waits_for_any(sequence: Sequence, older: Iterable[Sequence], known: int) -> bool:
    """Whether an older one is about to compute a good part of its beginning, beyond the `known` tokens, which it can then share.

    The oldest of those that wait for each other waits for none, and what it computes is finite, so nobody starves.
    """
    limit = len(sequence.tokens) - 1
    for other in older:
        common = min(limit, common_length(sequence.tokens, other.tokens))
        enough = 1 if other.key == sequence.key else WORTH_WAITING_FOR
        if other.computed < common and common - known >= enough:
            return True
    return False
