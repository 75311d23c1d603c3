"""Whether guesses at the next tokens are worth computing, learned from what came of earlier ones. PURE: durations come in.

A guess rides behind its sequence's own row, so that one decode call computes both; each place is drawn from its own logits as it
would be without a guess, and what was guessed right is a call saved. A row that was guessed wrong has cost its share of the call.
What calls of so many rows cost is learned from those that were made; how often guesses hold is learned for free, because every
token that is drawn shows whether the guess would have held, also where it did not ride. So a sequence whose guesses do not hold
drafts nothing and loses nothing, and one that begins to copy is noticed all the same.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from operator import mul
from typing import Final

from rbees.workerd.engine.lookup import Lookup

MOST_DRAFTED: Final = 16
"""Guesses of one sequence in one call."""
LEAST_GAIN: Final = 1.03
"""Tokens a second with drafts, as a multiple of those without, from which on they ride."""

_LEAST_CHANCE: Final = 0.05
"""What is less likely is worth no row anywhere."""
_LEVELS: Final = (3, 4, 6, 10, 16)
"""Lengths of what matched before a guess, from each of which on guesses are counted apart."""
_FIRST_CHANCE: Final = 0.5
_PRIOR_WEIGHT: Final = 4.0
_REMEMBERED: Final = 0.95
"""Weight of the guesses before each new one."""
_CALL_REMEMBERED: Final = 0.995
"""Weight of the calls before each new one."""
_MOST_WEIGHT: Final = 7.0
_LINE_WEIGHT: Final = 0.5
_FIRST_WAIT: Final = 16
_LONGEST_WAIT: Final = 512
"""Steps between two tries."""
_FIRST_SLOPE: Final = 0.25
"""Before anything is known a further row is taken to cost this share of a row that rides."""
_SLOPE_WEIGHT: Final = 1.0
_OUTLIER: Final = 4.0


@dataclass(frozen=True, slots=True)
class Guess:
    """Tokens with which a sequence may go on, and how likely each of them holds together with all before it."""

    tokens: tuple[int, ...] = field(default=(), repr=False)
    chances: tuple[float, ...] = ()

    def cut(self, count: int) -> Guess:
        """The first `count` of it."""
        return Guess(self.tokens[:count], self.chances[:count])


NO_GUESS: Final = Guess()


class Acceptance:
    """How often the next guess held, by how much of the text matched before it; recent guesses count more."""

    def __init__(self, general: Acceptance | None = None) -> None:
        """`general`: what is known of all sequences, which counts until this one has shown its own ways."""
        self._general = general
        self._tried = [0.0] * (len(_LEVELS) + 1)
        self._held = [0.0] * (len(_LEVELS) + 1)

    def chance(self, matched: int) -> float:
        """How likely the next guess holds."""
        level = bisect_right(_LEVELS, matched)
        prior = self._general.chance(matched) if self._general else _FIRST_CHANCE
        return (self._held[level] + _PRIOR_WEIGHT * prior) / (self._tried[level] + _PRIOR_WEIGHT)

    def see(self, matched: int, held: bool) -> None:
        """A guess held or not."""
        level = bisect_right(_LEVELS, matched)
        self._tried[level] = _REMEMBERED * self._tried[level] + 1
        self._held[level] = _REMEMBERED * self._held[level] + held
        if self._general:
            self._general.see(matched, held)


class Patience:
    """When to try again what did not pay: ever more seldom, until it pays."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """It pays."""
        self._wait = self._left = _FIRST_WAIT

    def due(self) -> bool:
        """A step has come in which it would not pay; whether to try all the same."""
        self._left -= 1
        if self._left > 0:
            return False
        self._wait = self._left = min(2 * self._wait, _LONGEST_WAIT)
        return True


class Speculation:
    """What one sequence guesses, and what came of it."""

    def __init__(self, room: int, general: Acceptance, general_of_model: Acceptance) -> None:
        """For a sequence of up to `room` tokens."""
        self._lookup = Lookup(room)
        self._acceptance = Acceptance(general)
        self._of_model = Acceptance(general_of_model)
        self._expected: list[int] = []
        """What a draft model said would come next, the next token last."""
        self._run = 0
        """How many tokens the draft model has guessed right without a miss."""
        self.drafted = 0
        """Guesses that were computed."""
        self.accepted = 0
        """Of these, how many were drawn."""

    def guess(self, tokens: list[int], most: int) -> Guess:
        """With what `tokens` may go on: up to `most` tokens."""
        found = self._lookup.guess(tokens, min(most, MOST_DRAFTED))
        if not found:
            return NO_GUESS
        chances: list[float] = []
        chance = 1.0
        for place in range(len(found)):
            chance *= self._acceptance.chance(self._lookup.matched + place)
            if chance < _LEAST_CHANCE:
                break
            chances.append(chance)
        return Guess(tuple(found[: len(chances)]), tuple(chances))

    def model_chances(self, count: int) -> tuple[float, ...]:
        """How likely each of the next `count` tokens that a draft model would guess holds together with those before it."""
        return tuple(accumulate((self._of_model.chance(self._run + place) for place in range(count)), mul))

    def expect(self, tokens: Sequence[int]) -> Guess:
        """A draft model says that `tokens` come next; whether it is right is watched from now on."""
        self._expected = list(reversed(tokens))
        return Guess(tuple(tokens), self.model_chances(len(tokens)))

    @staticmethod
    def forced(tokens: Sequence[int], most: int) -> Guess:
        """That the sequence can only go on with `tokens`: no guess holds better."""
        count = min(len(tokens), most, MOST_DRAFTED)
        return Guess(tuple(tokens[:count]), (1.0,) * count)

    def see(self, drawn: int, before: list[int]) -> None:
        """`drawn` came behind the tokens `before`."""
        matched = self._lookup.matched
        held = self._lookup.see(drawn, before)
        if held is not None:
            self._acceptance.see(matched, held)
        if self._expected:
            expected = self._expected.pop()
            self._of_model.see(self._run, expected == drawn)
            self._run = self._run + 1 if expected == drawn else 0
            if not self._run:
                self._expected.clear()


Seconds = Callable[[Sequence[int]], float]
"""The expected time of a call by how many guesses ride behind the row of each sequence."""


class StepCost:
    """Seconds of a decode call by its rows: what calls of as many rows took lately, else a line through what all calls took.

    The costs of rows are no line: a kernel computes some in blocks, so that the fifth may cost as much as the next three together.
    But nothing is known of most numbers of rows. As long as all calls had the same number, nothing shows what a further row
    costs; then a guess at it stands in, low enough that it is tried where most guesses hold. What is long past fades, so that
    what a busy minute taught is not believed for ever.
    """

    def __init__(self) -> None:
        self._calls = 0
        self._recent: dict[int, _Recent] = {}
        self._weight = 0.0
        self._rows = self._seconds = self._rows_rows = self._rows_seconds = 0.0

    def observe(self, rows: int, seconds: float) -> None:
        """A call of `rows` rows took `seconds`."""
        if self._weight >= 1.0:
            # One call that the machine's other work held up says nothing of those to come.
            seconds = min(seconds, _OUTLIER * self.seconds(rows))
        self._calls += 1
        recent = self._recent.setdefault(rows, _Recent(self._calls))
        recent.add(self._calls, seconds)
        keep = _CALL_REMEMBERED
        self._weight = keep * self._weight + 1
        self._rows = keep * self._rows + rows
        self._seconds = keep * self._seconds + seconds
        self._rows_rows = keep * self._rows_rows + rows * rows
        self._rows_seconds = keep * self._rows_seconds + rows * seconds

    def seconds(self, rows: int) -> float:
        """What a call of `rows` rows is expected to take; 0 before the first."""
        if not self._weight:
            return 0.0
        line, recent = self._line(rows), self._recent.get(rows)
        if recent is None:
            return line
        weight = recent.weight_at(self._calls)
        return (weight * recent.seconds + _LINE_WEIGHT * line) / (weight + _LINE_WEIGHT)

    def _line(self, rows: int) -> float:
        """By least squares."""
        mean_rows, mean_seconds = self._rows / self._weight, self._seconds / self._weight
        spread = max(0.0, self._rows_rows - self._weight * mean_rows**2)
        together = self._rows_seconds - self._weight * mean_rows * mean_seconds
        first = _FIRST_SLOPE * mean_seconds / mean_rows
        slope = max(0.0, (together + _SLOPE_WEIGHT * first) / (spread + _SLOPE_WEIGHT))
        return max(0.1 * mean_seconds, mean_seconds + slope * (rows - mean_rows))


@dataclass(slots=True)
class _Recent:
    """The mean of the last calls of one number of rows."""

    call: int
    """When the last one was, as a number of calls."""
    seconds: float = 0.0
    weight: float = 0.0

    def weight_at(self, call: int) -> float:
        return self.weight * _CALL_REMEMBERED ** (call - self.call)

    def add(self, call: int, seconds: float) -> None:
        weight = min(_MOST_WEIGHT, self.weight_at(call))
        self.seconds = (weight * self.seconds + seconds) / (weight + 1)
        self.call, self.weight = call, weight + 1


def worth(guesses: Sequence[Guess], *, room: int, seconds: Seconds) -> list[int]:
    """How much of each sequence's guess should ride behind its own row, so that the call makes most tokens a second.

    At most `room` rows altogether, the likeliest first.
    """
    offers = sorted(((chance, i) for i, guess in enumerate(guesses) for chance in guess.chances), reverse=True)[:room]
    tokens, taken = float(len(guesses)), [0] * len(guesses)
    best, best_rate = list(taken), LEAST_GAIN * tokens / max(seconds(taken), 1e-9)
    for chance, i in offers:
        tokens += chance
        taken[i] += 1
        rate = tokens / max(seconds(taken), 1e-9)
        if rate > best_rate:
            best, best_rate = list(taken), rate
    return best
