"""What the KV memory had no room for, kept in ordinary memory until somebody asks for it again. PURE.

A *state* is all that the model's memory holds of a slot, in the library's own form, which nothing here looks into; it is of use
only to the process that made it, so the model, its adapters, the context's shape and the library's build are the same. Taking one
out or putting it back costs about as much as computing a single token.

Memory is taken only where that pays: the budget begins small, and grows where a prompt asks for what was dropped (`KeepBudget`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rbees.workerd.engine.keep_budget import KeepBudget
from rbees.workerd.engine.prefix_cache import Match, PrefixCache
from rbees.workerd.engine.whole_prefixes import WholePrefixes

State: TypeAlias = NDArray[np.uint8]

FIRST_BYTES: Final = 8 << 20
"""What may be held before anything was ever missed."""
WORTH_SPILLING: Final = 32
"""Tokens below which computing them again costs less than handling them."""


class Spill:
    """States of at most `most_bytes`, found by the tokens that they were computed from; with none at all, nothing is held."""

    def __init__(self, *, most_bytes: int, divisible: bool) -> None:
        self._most_bytes = most_bytes
        self._index: PrefixCache | WholePrefixes = PrefixCache() if divisible else WholePrefixes()
        """Its slots are the numbers of states; all of them rest."""
        self._states: dict[int, State] = {}
        self._count = count()
        self._bytes = 0
        self._held = 0
        """Tokens of all states, those that several have in common as often as they are held."""
        self._budget: KeepBudget | None = None
        """Since the size of a token is known."""

    @property
    def bytes(self) -> int:
        """Memory that the states take."""
        return self._bytes

    def match(self, tokens: list[int]) -> Match | None:
        """The state with the longest beginning of all but the last of `tokens`, as `source`; None where that is not worth it."""
        match = self._index.match(tokens, len(tokens) - 1)
        return match if match is not None and match.length >= WORTH_SPILLING else None

    def reach(self, tokens: list[int]) -> int:
        """How many of `tokens`, an earlier prompt, are held for prompts that begin with it."""
        return self._index.reach(tokens)

    def wants(self, tokens: list[int], size: int) -> bool:
        """Whether a state of `size` bytes, computed from `tokens`, should be put here before the KV memory forgets it.

        What is held already counts as of use just now.
        """
        if len(tokens) < WORTH_SPILLING or not 0 < size <= self._most_bytes:
            return False
        match = self._index.match(tokens, len(tokens))
        if match is not None and match.length == len(tokens):
            self._touch(match.source)
            return False
        budget = self._known_budget(len(tokens), size)
        if len(tokens) > budget.cells:
            budget.forgotten(tokens, match.length if match else 0, for_budget=False)
            return False
        return True

    def put(self, tokens: list[int], state: State) -> None:
        """Hold a state that was wanted, and drop what was of use longest ago where that is too much."""
        number = next(self._count)
        self._index.share(number, tokens, 0)
        self._index.grow(number, tokens)
        self._index.rest(number)
        self._states[number] = state
        self._bytes += state.nbytes
        self._held += len(tokens)
        for shorter in self._index.redundant():
            self._drop(shorter)
        budget = self._known_budget(len(tokens), state.nbytes)
        while self._held > budget.cells or self._bytes > self._most_bytes:
            oldest = self._index.oldest()
            assert oldest is not None, "what holds memory can be found"
            # Unlike a kept cell a state costs nobody time, so that what ended for good is no reason to hold fewer of the others.
            budget.forgotten(self._index.tokens(oldest.slot), oldest.start, for_budget=False)
            self._drop(oldest.slot)

    def take(self, number: int) -> tuple[list[int], State]:
        """The tokens and the state that `match` found; it stays here as well, so that it need not be taken out again."""
        self._touch(number)
        return self._index.tokens(number), self._states[number]

    def asked(self, tokens: Sequence[int], held: int) -> None:
        """A prompt begins of which `held` tokens need not be computed."""
        if self._budget is not None:
            self._budget.asked(tokens, held)

    def check_integrity(self) -> None:
        """AssertionError if states, index and sums contradict each other, or more is held than may be."""
        self._index.check_integrity()
        assert self._index.idle == self._states.keys()
        assert self._bytes == sum(state.nbytes for state in self._states.values()) <= self._most_bytes
        assert self._held == sum(map(self._index.length, self._states))

    def _known_budget(self, tokens: int, size: int) -> KeepBudget:
        if self._budget is None:
            token_bytes = size / tokens
            most = int(self._most_bytes / token_bytes)
            first = min(most, int(FIRST_BYTES / token_bytes))
            self._budget = KeepBudget(first=first, least=first, most=most)
        return self._budget

    def _touch(self, number: int) -> None:
        self._index.resume(number)
        self._index.rest(number)

    def _drop(self, number: int) -> None:
        self._held -= self._index.length(number)
        self._bytes -= self._states.pop(number).nbytes
        self._index.drop(number)
