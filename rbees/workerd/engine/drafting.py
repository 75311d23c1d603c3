"""What an engine drafts for all its sequences together: whose guesses ride, what that costs, what came of it. PURE."""

from __future__ import annotations

from collections.abc import Mapping

from rbees.workerd.engine.batcher import Share, add_drafts
from rbees.workerd.engine.speculation import Acceptance, Guess, Speculation, StepCost


class Drafting:
    """The speculation of one engine."""

    def __init__(self, *, on: bool) -> None:
        self.on = on
        self._acceptance = Acceptance()
        self._cost = StepCost()
        self.drafted = 0
        """Tokens that were computed on a guess."""
        self.accepted = 0
        """Of these, how many were drawn."""

    def of_sequence(self, room: int) -> Speculation | None:
        """What a sequence of up to `room` tokens guesses."""
        return Speculation(room, self._acceptance) if self.on else None

    def add(self, shares: list[Share], guesses: Mapping[str, Guess], room: int) -> list[Share]:
        """`shares`, each of a single row, with those of the guesses by key that are worth it, in at most `room` rows."""
        return add_drafts(shares, guesses, room=room, seconds=self._cost.seconds)

    def count(self, speculation: Speculation | None, *, drafted: int = 0, accepted: int = 0) -> None:
        """So much was drafted for a sequence, and so much of it drawn."""
        if speculation is not None:
            speculation.drafted += drafted
            speculation.accepted += accepted
        self.drafted += drafted
        self.accepted += accepted

    def observe(self, rows: int, seconds: float) -> None:
        """A step of `rows` rows, none of a prompt, took `seconds`, guessing and drawing included."""
        self._cost.observe(rows, seconds)
