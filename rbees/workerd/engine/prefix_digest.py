"""Which of the prompts' beginnings, by the hashes that orcd has for them, are still cached. PURE.

A hash stands for a share of a prompt. It counts as cached while at least that share of that prompt's tokens is held; nothing
is noted at any step, the prefix cache is asked when somebody wants to know. Only prompts of late are remembered, as many as
might still be held.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Final

from rbees.protocol.prefix_chain import PrefixLink

MAX_PROMPTS: Final = 256


@dataclass(frozen=True, slots=True)
class _Remembered:
    chain: tuple[PrefixLink, ...]
    tokens: array[int] = field(repr=False)


class PrefixDigest:
    """The chains of the latest prompts, of `tokens` tokens altogether."""

    def __init__(self, *, tokens: int, divisible: bool) -> None:
        self._most_tokens = tokens
        self._divisible = divisible
        self._prompts: dict[str, _Remembered] = {}
        """By the last hash, the oldest first."""
        self._tokens = 0

    def remember(self, chain: tuple[PrefixLink, ...], tokens: Sequence[int]) -> None:
        """`tokens` is the prompt that `chain` names the beginnings of."""
        if not chain:
            return
        # A prompt that ended at one of these links, as a chat's turn before this one, says nothing that this one does not.
        for link in chain:
            self._forget(link.hash)
        self._prompts[chain[-1].hash] = _Remembered(chain, array("i", tokens))
        self._tokens += len(tokens)
        while len(self._prompts) > MAX_PROMPTS or self._tokens > self._most_tokens:
            self._forget(next(iter(self._prompts)))

    def held(self, reach: Callable[[list[int]], int]) -> tuple[str, ...]:
        """The hashes that are cached, those of the newest prompts first.

        `reach` tells how many of some tokens are held. Where memory is not divisible only the last link of a prompt counts: its
        state is of use to what goes on from its end, and to nothing that leaves it before.
        """
        found: dict[str, None] = {}
        for prompt in reversed(self._prompts.values()):
            links = prompt.chain if self._divisible else prompt.chain[-1:]
            reached = reach(prompt.tokens.tolist())
            found |= dict.fromkeys(link.hash for link in links if ceil(link.share * len(prompt.tokens)) <= reached)
        return tuple(found)

    def _forget(self, last_hash: str) -> None:
        known = self._prompts.pop(last_hash, None)
        if known is not None:
            self._tokens -= len(known.tokens)
