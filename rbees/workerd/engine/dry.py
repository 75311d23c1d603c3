"""DRY ("don't repeat yourself"): a token that would prolong a repetition is made the less likely the longer that is. PURE.

The definition is llama.cpp's, which has it from koboldcpp and, in the end, from text-generation-webui: a token that followed an
earlier occurrence of the last L tokens loses multiplier × base^(L - allowed_length), if L reaches allowed_length. A
repetition does not reach back over a sequence breaker, and a breaker of one token is never penalised.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from rbees.protocol.sampling import Sampling
from rbees.workerd.engine.penalties import last

_LONGEST_TAIL: Final = 20
"""Tokens of a breaker behind its first one that are looked at."""
_LARGEST_LOG: Final = 88.7228391
"""Logarithm of the largest float32: the penalty grows no further."""
_LARGEST_PENALTY: Final = 1e30

Tail = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Breakers:
    """Sequence breakers as tokens: each token that may begin one, with what must follow it; nothing, if it holds a whole one."""

    tails: Mapping[int, tuple[Tail, ...]] = field(repr=False)

    def since(self, window: NDArray[np.int64], most: int) -> int:
        """How many tokens lie behind the last breaker in `window`; any number from `most` on if there are at least so many."""
        recent = window[-(most + _LONGEST_TAIL + 1) :].tolist()
        for back, token in enumerate(reversed(recent)):
            tails = self.tails.get(token)
            if tails is None:
                continue
            follows = tuple(recent[len(recent) - back :][:_LONGEST_TAIL])
            fitting = [len(tail) for tail in tails if tail == follows[: len(tail)]]
            if fitting:
                return back - max(fitting)
        return len(window)

    def is_single(self, token: int) -> bool:
        """Whether the token by itself holds a breaker."""
        return () in self.tails.get(token, ())


NO_BREAKERS: Final = Breakers({})


def find_breakers(
    texts: Sequence[str], vocabulary_size: int, piece_of: Callable[[int], bytes], tokenize: Callable[[str], Sequence[int]]
) -> Breakers:
    """The tokens of the sequence breakers `texts`, none of them empty.

    A token begins a breaker where it holds it, or where it ends with the breaker's beginning; then the rest's usual tokens must
    follow. A beginning that ends within a character is left out, because no tokenizer says what follows it.
    """
    pieces = [piece_of(token) for token in range(vocabulary_size)]
    longest = max(map(len, texts), default=0)
    endings = _Endings(pieces if longest > 1 else [])
    tails: dict[int, list[Tail]] = {}
    for text in dict.fromkeys(texts):
        breaker = text.encode()
        holders = {token for token, piece in enumerate(pieces) if breaker in piece}
        for token in holders:
            tails.setdefault(token, []).append(())
        for count in range(1, len(text)):
            beginners = [token for token in endings.of(text[:count].encode()) if token not in holders]
            tail = tuple(tokenize(text[count:])[:_LONGEST_TAIL]) if beginners else ()
            for token in beginners:
                tails.setdefault(token, []).append(tail)
    return Breakers({token: tuple(dict.fromkeys(known)) for token, known in sorted(tails.items())})


class _Endings:
    """Finds the tokens whose pieces end with given bytes."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._order = sorted(range(len(pieces)), key=lambda token: pieces[token][::-1])
        self._backwards = [pieces[token][::-1] for token in self._order]

    def of(self, ending: bytes) -> list[int]:
        """Those tokens, in order."""
        backwards = ending[::-1]
        start = bisect_left(self._backwards, backwards)
        end = start
        while end < len(self._backwards) and self._backwards[end].startswith(backwards):
            end += 1
        return sorted(self._order[start:end])


def prolonged(tokens: Sequence[int], sampling: Sampling, breakers: Breakers) -> dict[int, int]:
    """Tokens that would prolong a repetition, with its length so far: at least `dry_allowed_length`, and counted no further than
    the penalty grows.
    """
    window = last(tokens, sampling.dry_penalty_last_n)
    allowed = sampling.dry_allowed_length
    if len(window) <= allowed:
        return {}
    most = min(len(window), allowed + _largest_exponent(sampling.dry_base))
    most = min(most, breakers.since(window, most))
    lengths = _repeated(window, most)
    found: dict[int, int] = {}
    for place in np.flatnonzero(lengths >= allowed).tolist():
        token = int(window[place + 1])
        if not breakers.is_single(token):
            found[token] = max(found.get(token, 0), int(lengths[place]))
    return found


def penalise_repeats(row: NDArray[np.float32], sampling: Sampling, tokens: Sequence[int], breakers: Breakers) -> None:
    """Make tokens that would prolong a repetition less likely."""
    found = prolonged(tokens, sampling, breakers)
    if not found:
        return
    exponents = np.fromiter(found.values(), dtype=np.float64) - sampling.dry_allowed_length
    with np.errstate(over="ignore"):
        penalty = sampling.dry_multiplier * np.power(sampling.dry_base, exponents)
    row[np.fromiter(found.keys(), dtype=np.int64)] -= np.minimum(penalty, _LARGEST_PENALTY).astype(np.float32)


def _largest_exponent(base: float) -> int:
    """Where the penalty grows no further; for a base that is almost 1 it never does."""
    if base <= 1.0:
        return 0
    return int(_LARGEST_LOG / math.log(base)) if base > 1.000001 else 1 << 62


def _repeated(window: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """For each place but the last: how many tokens up to it, at most `most`, equal those up to the window's end."""
    lengths = np.zeros(len(window) - 1, dtype=np.int64)
    places = np.flatnonzero(window[:-1] == window[-1])
    for length in range(1, most + 1):
        lengths[places] = length
        places = places[places >= length]
        places = places[window[places - length] == window[-1 - length]] if len(places) else places
        if not len(places):
            break
    return lengths
