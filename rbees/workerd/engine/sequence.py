"""One answer while it is made: its tokens, how many of them the KV memory holds, its text and how it may end. PURE."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from rbees.protocol.events import FinishReason
from rbees.protocol.prefix_chain import PrefixLink
from rbees.protocol.sampling import Sampling
from rbees.workerd.engine.constraint import Constraint
from rbees.workerd.engine.dry import NO_BREAKERS, Breakers
from rbees.workerd.engine.logprobs import Rated
from rbees.workerd.engine.parts import AnswerFormat, Call, PartStream
from rbees.workerd.engine.text import Piece, TextStream


@dataclass(frozen=True, slots=True)
class Work:
    """What the engine is asked to do for one job's attempt. The token ids were checked against the vocabulary."""

    key: str
    prompt: tuple[int, ...] = field(repr=False)
    generated: tuple[int, ...] = field(repr=False)
    """The first answer's beginning, made and sent by earlier attempts."""
    max_tokens: int | None
    """Most tokens of the answer, the beginning included; None: what the context leaves."""
    sampling: Sampling = field(repr=False)
    deterministic: bool = False
    format: AnswerFormat | None = field(default=None, repr=False)
    """How the answer marks its parts; None: all of it is text."""
    further: tuple[tuple[int, ...], ...] = field(default=(), repr=False)
    """The beginnings of further answers to the same prompt, where several are asked for."""
    constraint: Constraint | None = None
    """Keeps each answer in its form, from its very beginning; each sequence follows a fork of it."""
    breakers: Breakers = NO_BREAKERS
    """DRY's sequence breakers as tokens of the model."""
    chain: tuple[PrefixLink, ...] = field(default=(), repr=False)
    """By what orcd calls the prompt's beginnings."""

    @property
    def choices(self) -> tuple[tuple[int, ...], ...]:
        """The beginning of each answer."""
        return (self.generated, *self.further)


@dataclass(slots=True)
class Group:
    """What the sequences of one `Work` have in common."""

    arrived_s: float
    admitted_s: float | None = None
    """When the first of them was."""
    cached: int | None = None
    """Tokens of the prompt that need not be computed when the first of them began."""


@dataclass(slots=True)
class Sequence:
    """The mutable state of one answer of a `Work`."""

    work: Work
    order: int
    """Order of arrival; the youngest is preempted first."""
    limit: int
    group: Group
    choice: int = 0
    tokens: list[int] = field(default_factory=list, repr=False)
    """The prompt and then the answer."""
    computed: int = 0
    """How many of `tokens` the KV memory holds."""
    slot: int | None = None
    shared: int = 0
    """When it was admitted, so many of `tokens` it had in common with one that ran."""
    paused: bool = False
    first_token_s: float | None = None
    text: TextStream = field(default_factory=TextStream, repr=False)
    parts: PartStream | None = None
    constraint: Constraint | None = None
    rated: dict[int, Rated] = field(default_factory=dict)
    """By place in the answer: how likely the model found tokens that are not sent yet, where the job asks for it."""

    def __post_init__(self) -> None:
        self.tokens = list(self.work.prompt)
        self.text = TextStream(self.work.sampling.stop)
        if self.work.format is not None:
            self.parts = PartStream(self.work.format.reader())
        self.constraint = self.work.constraint.fork() if self.work.constraint is not None else None

    @property
    def key(self) -> str:
        """The attempt this sequence belongs to."""
        return self.work.key

    @property
    def name(self) -> str:
        """Of this sequence alone."""
        return f"{self.work.key}/{self.choice}"

    @property
    def answered(self) -> int:
        """Tokens of the answer so far."""
        return len(self.tokens) - len(self.work.prompt)

    @property
    def pending(self) -> int:
        """Tokens whose KV is not computed; the last of them gives the next token's logits."""
        return len(self.tokens) - self.computed

    @property
    def steady_pending(self) -> int:
        """Tokens for the next step in the deterministic lane: the prompt in chunks, then the answer one by one.

        An answer that is replayed must go through the very calls that made it, or rounding may differ.
        """
        left_of_prompt = len(self.work.prompt) - self.computed
        return left_of_prompt if left_of_prompt > 0 else 1

    def replay(self, piece_of: Callable[[int], bytes], eog_ids: frozenset[int]) -> FinishReason | None:
        """Put the answer's given beginning behind the prompt, unsent; a reason if the answer is already complete with it.

        Raises:
            RbeesError: INVALID_REQUEST where it does not have the form of the answer.
        """
        for token in self.work.choices[self.choice]:
            _, reason = self.accept(token, piece_of(token), eog_ids)
            if reason is not None:
                return reason
        if self.parts is None:
            self.text.mark_sent()
        return None

    def accept(self, token: int, data: bytes, eog_ids: frozenset[int]) -> tuple[list[Piece], FinishReason | None]:
        """Append one token of the answer: what may be sent now, and a reason if the answer ends with it.

        Raises:
            RbeesError: INVALID_REQUEST, as `Constraint.accept`.
        """
        self.tokens.append(token)
        if token in eog_ids:
            return self._last_pieces(self.text.finish()), self._complete()
        if self.work.format is not None:
            data = self.work.format.spelled.get(token, data)
        piece, stopped = self.text.push(token, data)
        if stopped:
            return self._last_pieces(piece), self._complete()
        if self.constraint is not None and self.constraint.accept(token):
            return self._last_pieces(piece, self.text.finish()), self._complete()
        if self.answered >= self.limit:
            return self._last_pieces(piece, self.text.finish()), "length"
        return self._pieces(piece), None

    def _pieces(self, *pieces: Piece | None) -> list[Piece]:
        """What may be sent of these pieces and of what was held back before them."""
        if self.parts is None:
            return _present(*pieces)
        return self._unsent([cut for piece in _present(*pieces) for cut in self.parts.push(piece)])

    def _last_pieces(self, *pieces: Piece | None) -> list[Piece]:
        """The same, where nothing follows."""
        before = self._pieces(*pieces)
        return before + self._unsent(self.parts.finish()) if self.parts is not None else before

    def _unsent(self, pieces: list[Piece]) -> list[Piece]:
        """Without those that an earlier attempt sent. A piece was sent as a whole or, if its last token is new, not at all."""
        given = len(self.work.choices[self.choice])
        left: list[Piece] = []
        for piece in pieces:
            sent = max(0, given - piece.index)
            if sent < len(piece.token_ids):
                left.append(replace(piece, index=piece.index + sent, token_ids=piece.token_ids[sent:]) if sent else piece)
        return left

    def _complete(self) -> FinishReason:
        """The reason of an answer that is not cut off."""
        return "tool_calls" if self.calls else "stop"

    @property
    def calls(self) -> tuple[Call, ...]:
        """The tools that were called so far."""
        return tuple(self.parts.calls) if self.parts is not None else ()

    def take_rated(self, piece: Piece) -> list[Rated] | None:
        """What is known of the tokens of a piece that is sent now; None where the job does not ask for it."""
        if not self.work.sampling.logprobs:
            return None
        return [self.rated.pop(place) for place in range(piece.index, piece.index + len(piece.token_ids))]


def _present(*pieces: Piece | None) -> list[Piece]:
    return [piece for piece in pieces if piece is not None]
