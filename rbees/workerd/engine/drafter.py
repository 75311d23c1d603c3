"""Adds guesses to a step's rows: those of each sequence's own lookup, and those of a draft model where it knows more.

What is worth guessing `Drafting` decides; here are the sequences and the model that it decides about.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from rbees.workerd.engine.backend import BackendFacts
from rbees.workerd.engine.batcher import Share
from rbees.workerd.engine.draft_model import DraftModel
from rbees.workerd.engine.drafting import Drafting
from rbees.workerd.engine.sequence import Sequence
from rbees.workerd.engine.speculation import Guess


class Drafter:
    """The guesses of one engine. `now` reads a clock, in seconds."""

    def __init__(
        self, facts: BackendFacts, *, on: bool, model: DraftModel | None, most_of_model: int, now: Callable[[], float]
    ) -> None:
        # What was guessed wrong must be cut away again.
        on = on and facts.divisible
        self.drafting = Drafting(on=on, apart=facts.layout == "per_slot", most_of_model=most_of_model)
        self._facts = facts
        self._model = model
        self._now = now
        self.asked_s = 0.0
        """Seconds that the draft model took of the last `draft`."""

    def draft(self, shares: list[Share], running: Mapping[str, Sequence], cells: int) -> list[Share]:
        """The shares with what is worth guessing behind them, where all are single rows whose next tokens will be drawn.

        `cells` KV cells are to be had for all rows together.
        """
        self.asked_s = 0.0
        if not self.drafting.on or any(running[share.key].pending > 1 for share in shares):
            return shares
        guesses = {share.key: running[share.key].guess(self._facts.eog_ids) for share in shares}
        room = max(0, min(self._facts.max_rows, self._facts.max_outputs, cells) - len(shares))
        if self._model is not None:
            guesses |= self._ask(self._model, guesses, running, room)
        if not any(guess.tokens for guess in guesses.values()):
            return shares
        return self.drafting.add(shares, guesses, room)

    def leave(self, name: str) -> None:
        """The sequence runs no more."""
        if self._model is not None:
            self._model.leave(name)

    def check_integrity(self, running: Collection[str]) -> None:
        """AssertionError if the draft model contradicts itself or holds seats for others than those that run."""
        if self._model is not None:
            self._model.check_integrity(set(running))

    def _ask(self, model: DraftModel, guesses: Mapping[str, Guess], running: Mapping[str, Sequence], room: int) -> dict[str, Guess]:
        """What a draft model guesses for those of whose text it knows more than the lookup does, where that pays."""
        asked = {key: running[key] for key, guess in guesses.items() if running[key].asks_model_rather_than(guess)}
        keys, count = self.drafting.ask({k: s.speculation for k, s in asked.items() if s.speculation}, len(guesses), room)
        if not keys:
            return {}
        began = self._now()
        found = model.guess({key: asked[key].tokens for key in keys}, count)
        self.asked_s = self._now() - began
        if model.caught_up <= len(found) * (count + 1):
            self.drafting.observe_model(len(found), count, self.asked_s)
        return {key: asked[key].expect(tokens, self._facts.eog_ids) for key, tokens in found.items()}
