"""What an engine drafts for all its sequences together: whose guesses ride, what that costs, what came of it. PURE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Final

from rbees.workerd.engine.batcher import Share, add_drafts
from rbees.workerd.engine.speculation import LEAST_GAIN, Acceptance, Guess, Patience, Speculation, StepCost

_TRIED: Final = 2
"""Tokens that a draft model is asked for to see whether its guesses hold by now."""


class Drafting:
    """The speculation of one engine."""

    def __init__(self, *, on: bool, apart: bool = False, most_of_model: int = 0) -> None:
        """`apart`: a call computes at once only as many rows of each sequence as of all. `most_of_model`: tokens that a draft
        model guesses at a time; 0 without one."""
        self.on = on
        self._apart = apart
        self._most_of_model = most_of_model
        self._acceptance = Acceptance()
        self._acceptance_of_model = Acceptance()
        self._cost = StepCost()
        self._model_cost = StepCost()
        self._patience = Patience()
        self._pays = False
        self._tries = 0
        self.drafted = 0
        """Tokens that were computed on a guess."""
        self.accepted = 0
        """Of these, how many were drawn."""

    def of_sequence(self, room: int) -> Speculation | None:
        """What a sequence of up to `room` tokens guesses."""
        return Speculation(room, self._acceptance, self._acceptance_of_model) if self.on else None

    def add(self, shares: list[Share], guesses: Mapping[str, Guess], room: int) -> list[Share]:
        """`shares`, each of a single row, with those of the guesses by key that are worth it, in at most `room` rows."""
        return add_drafts(shares, guesses, room=room, seconds=self._seconds)

    def count(self, speculation: Speculation | None, *, drafted: int = 0, accepted: int = 0) -> None:
        """So much was drafted for a sequence, and so much of it drawn."""
        if speculation is not None:
            speculation.drafted += drafted
            speculation.accepted += accepted
        self.drafted += drafted
        self.accepted += accepted

    def observe(self, drafted: Sequence[int], seconds: float) -> None:
        """A step without prompts, with so many guesses behind the row of each sequence, took `seconds`, drawing included."""
        if self._at_once(drafted):
            self._cost.observe(len(drafted) + sum(drafted), seconds)

    def _at_once(self, drafted: Sequence[int]) -> bool:
        return not self._apart or len(set(drafted)) == 1

    def _seconds(self, drafted: Sequence[int]) -> float:
        """What a step is expected to take by how many guesses ride behind the row of each sequence."""
        if self._at_once(drafted):
            return self._cost.seconds(len(drafted) + sum(drafted))
        return self._cost.seconds(len(drafted)) + sum(self._cost.seconds(count) for count in drafted if count)

    # --- a draft model ---

    def ask(self, asked: Mapping[str, Speculation], riding: int, room: int) -> tuple[list[str], int]:
        """For which of these sequences a draft model should guess now, and how many tokens; for none while that does not pay.

        `riding` rows ride anyhow, and at most `room` guesses can ride with them. One for whom it does not pay is tried now and
        then, each in turn.
        """
        likely = sorted(asked, key=lambda key: asked[key].model_chances(1), reverse=True)
        count, depth = self._best([asked[key].model_chances(self._most_of_model) for key in likely], riding, room)
        if count and not self._pays:
            self._patience.reset()
        self._pays = count > 0
        chosen, others = likely[:count], likely[count:]
        if others and self._patience.due():
            self._tries += 1
            chosen.append(others[self._tries % len(others)])
        return chosen, depth or min(_TRIED, self._most_of_model)

    def observe_model(self, sequences: int, tokens: int, seconds: float) -> None:
        """A draft model took `seconds` for `tokens` tokens behind each of so many sequences."""
        if sequences:
            self._model_cost.observe(sequences, seconds / tokens)

    def _best(self, chances: list[tuple[float, ...]], riding: int, room: int) -> tuple[int, int]:
        """How many sequences, the likeliest first, and how deep: what makes most tokens a second, drafting included."""
        best, best_rate = (0, 0), LEAST_GAIN * riding / max(self._seconds([0] * riding), 1e-9)
        gains = [list(accumulate(chance)) for chance in chances]
        for depth in range(1, self._most_of_model + 1):
            tokens = float(riding)
            for count, gain in enumerate(gains[: room // depth], 1):
                tokens += gain[depth - 1]
                drafted = [depth] * count + [0] * (riding - count)
                seconds = self._seconds(drafted) + depth * self._model_cost.seconds(count)
                if tokens / max(seconds, 1e-9) > best_rate:
                    best, best_rate = (count, depth), tokens / max(seconds, 1e-9)
        return best
