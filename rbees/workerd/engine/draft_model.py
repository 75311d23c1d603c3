"""A second, smaller model that guesses what the first will say: greedily, for several sequences in one call each token.

It is any `Backend` with the same vocabulary. For each sequence it holds the KV of what it has seen of its tokens and of its own
last guesses; what came otherwise is cut away before the next guess. Where it has fallen behind, as behind a new prompt, it
catches up in pieces, so that no step waits for it long.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.workerd.engine.backend import Backend, CellsExhausted, DecodeFailed, Ids, Interrupted, Rows
from rbees.workerd.engine.prefix_cache import common_length

DRAFT_TOKENS: Final = 8
"""Tokens that are guessed at a time unless another number is asked for."""
MOST_BEHIND: Final = 64
"""Tokens of all sequences together that are caught up with in one step."""
_MOST_FAILURES: Final = 3
"""Failed calls in a row after which it is asked no more."""


@dataclass(slots=True, eq=False)
class _Seat:
    """One slot of the model."""

    slot: int
    held: list[int] = field(default_factory=list, repr=False)
    """The tokens whose KV it has."""
    agreed: int = 0
    """So many of them are known to be its sequence's, which only grows."""
    used: int = 0
    """The turn in which it was last of use."""


class DraftModel:
    """Guesses for the sequences of one engine."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._seats = [_Seat(slot) for slot in range(backend.facts.slots)]
        self._taken: dict[str, _Seat] = {}
        self._turn = 0
        self._failures = 0
        self.caught_up = 0
        """Rows that the last guess needed before it could begin."""

    def guess(self, texts: Mapping[str, list[int]], most: int) -> dict[str, list[int]]:
        """`most` tokens behind each of the `texts` by sequence; none for those that it must catch up with or cannot hold."""
        if self._failures >= _MOST_FAILURES:
            return {}
        self._turn += 1
        texts = {key: tokens for key, tokens in texts.items() if len(tokens) + most <= self._backend.facts.ctx}
        seats = {key: self._seat(key, tokens) for key, tokens in texts.items()}
        try:
            guesses = {key: [token] for key, token in self._catch_up(texts, seats).items()}
            for _ in range(most - 1):
                rows = [(seats[key], guess[-1:]) for key, guess in guesses.items()]
                for guess, token in zip(guesses.values(), self._decode(rows), strict=True):
                    guess.append(token)
        except (CellsExhausted, DecodeFailed, Interrupted) as error:
            # Guesses are not worth an error to anybody. What the slots hold now nobody knows.
            self._failures += isinstance(error, DecodeFailed)
            self._forget_all()
            return {}
        self._failures = 0
        return guesses

    def leave(self, key: str) -> None:
        """The sequence has ended; what was computed of it may be of use to one that begins alike."""
        self._taken.pop(key, None)

    def check_integrity(self, running: set[str]) -> None:
        """AssertionError if seats and backend contradict each other, or seats are taken by others than those that run."""
        assert self._taken.keys() <= running
        assert all(self._backend.length(seat.slot) == len(seat.held) for seat in self._seats)
        assert sum(len(seat.held) for seat in self._seats) <= self._backend.facts.cells
        assert len({seat.slot for seat in self._taken.values()}) == len(self._taken)

    def memory_bytes(self) -> int:
        """Memory that it holds on the device."""
        return self._backend.memory_bytes()

    def close(self) -> None:
        """Give the memory back."""
        self._backend.close()

    def _seat(self, key: str, tokens: list[int]) -> _Seat:
        """The sequence's slot, cut back to what it has of these tokens and at most all but the last of them."""
        seat = self._taken.get(key)
        if seat is None:
            seat = max(self._idle(), key=lambda idle: (common_length(idle.held, tokens), -idle.used))
            seat.agreed = 0
            self._taken[key] = seat
        seat.used = self._turn
        known = seat.agreed + common_length(seat.held[seat.agreed :], tokens[seat.agreed : len(seat.held)])
        seat.agreed = min(known, len(tokens) - 1)
        self._cut(seat, seat.agreed)
        return seat

    def _idle(self) -> list[_Seat]:
        taken = {seat.slot for seat in self._taken.values()}
        return [seat for seat in self._seats if seat.slot not in taken]

    def _catch_up(self, texts: Mapping[str, list[int]], seats: Mapping[str, _Seat]) -> dict[str, int]:
        """Compute what the slots lack of the texts, as far as this step goes; the next token of each that lacks nothing more."""
        budget = min(MOST_BEHIND, self._backend.facts.max_rows)
        rows: dict[str, tuple[_Seat, list[int]]] = {}
        for key, tokens in texts.items():
            held = len(seats[key].held)
            if missing := tokens[held : held + budget]:
                rows[key] = seats[key], missing
                budget -= len(missing)
        self.caught_up = sum(len(missing) for _, missing in rows.values())
        drawn = dict(zip(rows, self._decode(list(rows.values())), strict=True))
        return {key: token for key, token in drawn.items() if len(seats[key].held) == len(texts[key])}

    def _decode(self, given: list[tuple[_Seat, list[int]]]) -> list[int]:
        """Compute tokens behind what slots hold; the likeliest token behind each."""
        if not given:
            return []
        self._make_room(sum(len(tokens) for _, tokens in given))
        # A backend may compute neighbouring slots in one go.
        rows = sorted(given, key=lambda row: row[0].slot)
        slots = [seat.slot for seat, tokens in rows for _ in tokens]
        positions = [len(seat.held) + i for seat, tokens in rows for i in range(len(tokens))]
        wants = [i == len(tokens) - 1 for _, tokens in rows for i in range(len(tokens))]
        ids = [token for _, tokens in rows for token in tokens]
        logits = self._backend.decode(Rows(_ids(slots), _ids(positions), _ids(ids), np.array(wants, dtype=np.bool_)))
        for seat, tokens in rows:
            seat.held += tokens
        likeliest = dict(zip((seat.slot for seat, _ in rows), np.argmax(logits, axis=1).tolist(), strict=True))
        return [likeliest[seat.slot] for seat, _ in given]

    def _make_room(self, rows: int) -> None:
        """Forget slots of sequences that have ended until the rows find cells. Raises CellsExhausted."""
        while sum(len(seat.held) for seat in self._seats) + rows > self._backend.facts.cells:
            idle = [seat for seat in self._idle() if seat.held]
            if not idle:
                raise CellsExhausted
            self._cut(min(idle, key=lambda seat: seat.used), 0)

    def _cut(self, seat: _Seat, length: int) -> None:
        if length < len(seat.held):
            self._backend.remove(seat.slot, length)
            del seat.held[length:]

    def _forget_all(self) -> None:
        self._backend.clear()
        for seat in self._seats:
            seat.held.clear()
            seat.agreed = 0


def check_draft_model(model: Backend, draft: Backend) -> None:
    """Refuse a draft model whose guesses would mean nothing to the model.

    Raises:
        RbeesError: MODEL_INCOMPATIBLE with the first difference.
    """
    for backend, whose in ((model, "The model's"), (draft, "The draft model's")):
        if not backend.facts.divisible:
            sentence = f"{whose} memory cannot be cut back behind a wrong guess; serve it without a draft model."
            raise RbeesError(ErrorCode.MODEL_INCOMPATIBLE, sentence)
    difference = _difference(model, draft)
    if difference is not None:
        sentence = f"The draft model has another vocabulary: {difference}. Choose one of the same family."
        raise RbeesError(ErrorCode.MODEL_INCOMPATIBLE, sentence)


def _difference(model: Backend, draft: Backend) -> str | None:
    ours, theirs = model.facts, draft.facts
    for name, own, other in (
        ("its kind of tokenizer", ours.tokenizer, theirs.tokenizer),
        ("its number of tokens", ours.vocabulary_size, theirs.vocabulary_size),
        ("the tokens that end an answer", sorted(ours.eog_ids), sorted(theirs.eog_ids)),
        ("the token that begins a text", ours.bos_text, theirs.bos_text),
        ("the token that ends a text", ours.eos_text, theirs.eos_text),
    ):
        if own != other:
            return f"{name} is {other!r} instead of {own!r}"
    token = next((i for i in range(ours.vocabulary_size) if model.piece(i) != draft.piece(i)), None)
    if token is not None:
        return f"token {token} is {draft.piece(token)!r} instead of {model.piece(token)!r}"
    if ours.control_texts != theirs.control_texts:
        return "its control tokens are others"
    return None


def _ids(values: list[int]) -> Ids:
    return np.array(values, dtype=np.int32)
