"""Sampling once more, one token after the other in plain Python: slow, and as close to the definitions as can be.

Every comparison with a limit also says how close it was. A fast path may round a sum otherwise, so a case in which something
lies within a millionth of its limit decides nothing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from rbees.protocol.sampling import Sampling

_64_BITS = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15

Tails = dict[int, list[tuple[int, ...]]]


@dataclass
class Reference:
    """The chain for one row; `margin` is how close the closest comparison was, relative to its limit."""

    sampling: Sampling
    margin: float = math.inf
    candidates: list[tuple[int, float]] = field(default_factory=list)
    """Ids and logits."""

    def run(
        self, row: Sequence[float], tokens: Sequence[int], *, breakers: Tails | None = None, xtc_chance: float = 1.0
    ) -> Reference:
        logits = self.changed(row, tokens, breakers or {})
        self.candidates = [(i, float(value)) for i, value in enumerate(logits) if value > -np.inf]
        self._sort()
        if self.sampling.top_k:
            self.candidates = self.candidates[: self.sampling.top_k]
        by_place = 0 < self.sampling.top_k < len(row)
        self._typical(by_place=by_place)
        self._top_p()
        self._min_p()
        if xtc_chance < self.sampling.xtc_probability:
            self._xtc()
        return self

    def pick(self, luck: Callable[[int], float]) -> int:
        """The token whose logit over the temperature and luck add up to most; `margin` shrinks where another comes close."""
        if self.sampling.temperature == 0:
            return max(self.candidates, key=lambda c: (c[1], -c[0]))[0]
        peak = max(value for _, value in self.candidates)
        sums = sorted(((value - peak) / self.sampling.temperature + luck(token), token) for token, value in self.candidates)
        if len(sums) > 1:
            self.margin = min(self.margin, sums[-1][0] - sums[-2][0])
        return sums[-1][1]

    def changed(self, row: Sequence[float], tokens: Sequence[int], breakers: Tails) -> list[np.float32]:
        """The logits after biases and penalties, rounded as float32 all the way."""
        sampling, logits = self.sampling, [np.float32(value) for value in row]
        for token, bias in sampling.logit_bias.items():
            logits[token] += np.float32(bias)
        window = list(tokens if sampling.penalty_last_n < 0 else tokens[max(0, len(tokens) - sampling.penalty_last_n) :])
        repeat, frequency, presence = (
            np.float32(value) for value in (sampling.repetition_penalty, sampling.frequency_penalty, sampling.presence_penalty)
        )
        for token in set(window):
            value = logits[token]
            value = value * repeat if value <= 0 else value / repeat
            logits[token] = value - (np.float32(window.count(token)) * frequency + presence)
        if sampling.dry_multiplier > 0:
            for token, length in slow_repeats(tokens, sampling, breakers).items():
                exponent = length - sampling.dry_allowed_length
                if sampling.dry_base > 1.000001:
                    exponent = min(exponent, int(88.7228391 / math.log(sampling.dry_base)))
                logits[token] -= np.float32(min(sampling.dry_multiplier * sampling.dry_base**exponent, 1e30))
        return logits

    def _sort(self) -> None:
        self.candidates.sort(key=lambda c: (-c[1], c[0]))

    def _shares(self) -> list[float]:
        peak = max(value for _, value in self.candidates)
        weights = [math.exp(value - peak) for _, value in self.candidates]
        whole = math.fsum(weights)
        return [weight / whole for weight in weights]

    def _typical(self, *, by_place: bool) -> None:
        if self.sampling.typical_p >= 1:
            return
        shares = self._shares()
        entropy = -math.fsum(share * math.log(share) for share in shares if share > 0)
        far = [abs(-math.log(share) - entropy) if share > 0 else math.inf for share in shares]
        # Among equal distances the lower place: of the logit order behind top-k, of the ids without it.
        order = sorted(range(len(far)), key=lambda i: (far[i], i if by_place else self.candidates[i][0]))
        for a, b in itertools.pairwise(order):
            if self.candidates[a][1] != self.candidates[b][1]:
                self._near(far[a], far[b])
        running, kept = 0.0, []
        for i in order:
            running += shares[i]
            kept.append(i)
            self._near(running, self.sampling.typical_p)
            if running > self.sampling.typical_p:
                break
        self.candidates = [self.candidates[i] for i in sorted(kept)]

    def _top_p(self) -> None:
        if self.sampling.top_p >= 1:
            return
        running = 0.0
        for count, share in enumerate(self._shares(), 1):
            running += share
            self._near(running, self.sampling.top_p)
            if running >= self.sampling.top_p:
                self.candidates = self.candidates[:count]
                return

    def _min_p(self) -> None:
        if self.sampling.min_p > 0:
            least = self.candidates[0][1] + math.log(self.sampling.min_p)
            for _, value in self.candidates[1:]:
                self._near(value, least)
            self.candidates = [self.candidates[0], *(c for c in self.candidates[1:] if c[1] >= least)]

    def _xtc(self) -> None:
        above = 0
        for share in self._shares():
            self._near(share, self.sampling.xtc_threshold)
            above += share >= self.sampling.xtc_threshold
        self.candidates = self.candidates[max(0, above - 1) :]

    def _near(self, value: float, limit: float) -> None:
        self.margin = min(self.margin, abs(value - limit) / max(abs(limit), 1e-9))


def slow_luck(key: int, token: int) -> float:
    """Minus the logarithm of how long `token` waits in the draw with this key.

    Of the 128 ids from a multiple of 128 on, one comes first, after a time of rate 128; the others wait for times of rate 1 more.
    """
    block, place = divmod(token, 128)
    word = _member(_mix((key ^ 2) + _GOLDEN), block)
    wait = _time(word) / 128
    if word % 128 != place:
        wait += _time(_member(_mix((key ^ 3) + _GOLDEN), token))
    return -math.log(wait)


def slow_key(seed: int, choice: int, position: int) -> int:
    """The 64 bits that stand for the place of a draw."""
    key = 0
    for coordinate in (seed, choice, position):
        key = _mix((key ^ coordinate) + _GOLDEN)
    return key


def slow_uniform(key: int, stream: int) -> float:
    """A number in [0, 1), as XTC needs one."""
    return (_mix((key ^ stream) + _GOLDEN) >> 11) / 2**53


def _time(word: int) -> float:
    return -math.log(((word >> 12) + 0.5) / 2**52)


def _member(start: int, number: int) -> int:
    """Of the splitmix64 sequence from `start` on."""
    return _mix(start + number * _GOLDEN)


def _mix(value: int) -> int:
    """The finaliser of splitmix64."""
    value &= _64_BITS
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & _64_BITS
    value = (value ^ value >> 27) * 0x94D049BB133111EB & _64_BITS
    return value ^ value >> 31


def slow_repeats(tokens: Sequence[int], sampling: Sampling, breakers: Tails) -> dict[int, int]:
    """DRY by its definition: for each token that once followed what now stands at the end, how long that was."""
    count = sampling.dry_penalty_last_n
    window = list(tokens if count < 0 else tokens[max(0, len(tokens) - count) :])
    found: dict[int, int] = {}
    if len(window) <= sampling.dry_allowed_length:
        return found
    limit = _since_breaker(window, breakers)
    for place in range(len(window) - 1):
        length = 0
        while length < limit and place - length >= 0 and window[place - length] == window[-1 - length]:
            length += 1
        follower = window[place + 1]
        if length >= sampling.dry_allowed_length and () not in breakers.get(follower, []):
            found[follower] = max(found.get(follower, 0), length)
    return found


def _since_breaker(window: Sequence[int], breakers: Tails) -> int:
    for back in range(len(window)):
        follows = tuple(window[len(window) - back :])
        fitting = [len(tail) for tail in breakers.get(window[-1 - back], []) if follows[: len(tail)] == tail]
        if fitting:
            return back - max(fitting)
    return len(window)


def slow_token(
    row: Sequence[float],
    sampling: Sampling,
    *,
    choice: int,
    tokens: Sequence[int],
    prompt_length: int,
    allowed: Collection[int] | None,
) -> tuple[int, float]:
    """What `sample` should draw for one row, and the margin of that."""
    masked = [value if allowed is None or i in allowed else -math.inf for i, value in enumerate(row)]
    key = slow_key(sampling.seed, choice, len(tokens) - prompt_length)
    chain = Reference(sampling).run(masked, tokens, xtc_chance=slow_uniform(key, 1))
    token = chain.pick(lambda candidate: slow_luck(key, candidate))
    return token, chain.margin
