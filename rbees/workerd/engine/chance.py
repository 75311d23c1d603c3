"""Random numbers from coordinates alone: one for a whole draw, and one for each token that it might draw. PURE.

A token's number is its luck, Gumbel distributed and independent of every other token's. The token whose logit over the
temperature plus luck is largest has been drawn by softmax (Gumbel 1954; Maddison, Tarlow, Minka, "A* Sampling", 2014).
Luck knows nothing of logits, of other candidates or of their order, so logits that are rounded otherwise change the token
only where two sums are nearly equal.

Minus the logarithm of a waiting time of rate 1 is such a number. Of 128 tokens with such times the first comes after a time
of rate 128, each of them is equally likely to be it, and the others wait on as if nothing had been. So the times are made
in this order: first the shortest of each block of ids and whose it is, from it the others. Who looks for the best of a
whole vocabulary sees by the first whether a block can hold it, and need not make the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

BLOCK: Final = 128
"""Neighbouring ids whose luck is made together; the first block begins with id 0. A power of two up to 2¹²."""
XTC: Final = 1
_FIRST: Final = 2
_OTHERS: Final = 3
"""Streams: what needs chance at the same place has a stream of its own."""
_GOLDEN: Final = 0x9E3779B97F4A7C15
_FACTORS: Final = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_MASK: Final = (1 << 64) - 1

Ids = NDArray[np.int64]
Values = NDArray[np.float64]
_Words = NDArray[np.uint64]


def key_of(seed: int, choice: int, position: int) -> int:
    """The 64 bits of one draw: splitmix64 (Steele, Lea, Flood 2014) applied to each coordinate in turn."""
    key = _mix(seed + _GOLDEN)
    key = _mix((key ^ choice) + _GOLDEN)
    return _mix((key ^ position) + _GOLDEN)


def uniform(key: int, stream: int) -> float:
    """A number in [0, 1) for the draw with this key."""
    return (_stream(key, stream) >> 11) / (1 << 53)


def luck(keys: Sequence[int], ids: Ids) -> Values:
    """How lucky tokens are: `ids` (rows, tokens) in the draws with these keys, one a row. Between -4 and 42."""
    shortest, whose = _shortest(keys, ids // BLOCK)
    more = _times(_words(keys, _OTHERS, ids))
    more[ids == whose] = 0.0
    more += shortest
    lucky: Values = np.log(more, out=more)
    return np.negative(lucky, out=lucky)


def most_luck(key: int, blocks: int) -> tuple[Ids, Values]:
    """The luckiest token of each of the first `blocks` blocks, and how lucky it is, in the draw with this key."""
    shortest, whose = _shortest([key], np.arange(blocks)[None])
    return whose[0], -np.log(shortest[0])


def _shortest(keys: Sequence[int], blocks: Ids) -> tuple[Values, Ids]:
    """The shortest waiting time of each block (rows, blocks), and the id whose it is: from two ends of one hash."""
    words = _words(keys, _FIRST, blocks)
    whose = blocks * BLOCK + (words % np.uint64(BLOCK)).astype(np.int64)
    return _times(words) / BLOCK, whose


def _times(words: _Words) -> Values:
    """Waiting times of rate 1. Fifty-two bits and a half stand for a number above 0 and below 1, so none is 0 or endless."""
    chances = (words >> np.uint64(12)).astype(np.float64)
    chances += 0.5
    chances *= 2.0**-52
    times: Values = np.log(chances, out=chances)
    return np.negative(times, out=times)


def _words(keys: Sequence[int], stream: int, numbers: Ids) -> _Words:
    """For each of `numbers` (rows, n) that member of the splitmix64 sequence which begins at its row's key."""
    starts = np.array([_stream(key, stream) for key in keys], dtype=np.uint64)
    words = numbers.astype(np.uint64)
    words *= np.uint64(_GOLDEN)
    words += starts[:, None]
    words ^= words >> np.uint64(30)
    words *= np.uint64(_FACTORS[0])
    words ^= words >> np.uint64(27)
    words *= np.uint64(_FACTORS[1])
    words ^= words >> np.uint64(31)
    return words


def _stream(key: int, stream: int) -> int:
    return _mix((key ^ stream) + _GOLDEN)


def _mix(value: int) -> int:
    value &= _MASK
    value = ((value ^ (value >> 30)) * _FACTORS[0]) & _MASK
    value = ((value ^ (value >> 27)) * _FACTORS[1]) & _MASK
    return value ^ (value >> 31)
