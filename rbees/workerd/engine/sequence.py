"""One answer while it is made: its tokens, how many of them the KV memory holds, its text and how it may end. PURE."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from rbees.protocol.events import FinishReason, Timings, Usage
from rbees.protocol.prefix_chain import PrefixLink
from rbees.protocol.sampling import Sampling
from rbees.workerd.engine.constraint import Constraint
from rbees.workerd.engine.dry import NO_BREAKERS, Breakers
from rbees.workerd.engine.logprobs import Rated, message
from rbees.workerd.engine.outputs import Finished, Grown
from rbees.workerd.engine.parts import AnswerFormat, Call, PartStream
from rbees.workerd.engine.speculation import NO_GUESS, Guess, Speculation
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
    begun_with: int = 0
    """How many it held when this got its slot."""
    slot: int | None = None
    shared: int = 0
    """When it was admitted, so many of `tokens` it had in common with one that ran."""
    paused: bool = False
    first_token_s: float | None = None
    text: TextStream = field(default_factory=TextStream, repr=False)
    parts: PartStream | None = None
    constraint: Constraint | None = None
    speculation: Speculation | None = None
    """What it guesses; None where nothing may be guessed."""
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
    def given(self) -> int:
        """Tokens that were computed for it since it holds its slot; what a cut took back does not count."""
        return max(0, self.computed - self.begun_with)

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
        if self.speculation is not None:
            self.speculation.see(token, self.tokens)
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

    def guess(self, eog_ids: frozenset[int]) -> Guess:
        """What may follow its tokens: nothing that ends the answer, leaves its form, or is the last that it may have.

        The last row of a draft gives a token too, so what ends the answer comes without being guessed.
        """
        most = self._most_guessed
        if self.speculation is None or most <= 0:
            return NO_GUESS
        forced = self.constraint.forced() if self.constraint is not None else ()
        guess = self.speculation.forced(forced, most) if forced else self.speculation.guess(self.tokens, most)
        return self._admissible(guess, eog_ids)

    def asks_model_rather_than(self, guess: Guess) -> bool:
        """Whether a draft model's guess is likelier to hold than this one."""
        if self.speculation is None or self._most_guessed <= 0:
            return False
        return self.speculation.model_chances(1) > guess.chances[:1]

    def expect(self, tokens: list[int], eog_ids: frozenset[int]) -> Guess:
        """The guess of a draft model that `tokens` follow."""
        assert self.speculation is not None
        return self._admissible(self.speculation.expect(tokens).cut(self._most_guessed), eog_ids)

    @property
    def _most_guessed(self) -> int:
        """The last token of the answer comes without being guessed."""
        return self.limit - self.answered - 1

    def _admissible(self, guess: Guess, eog_ids: frozenset[int]) -> Guess:
        if not guess.tokens:
            return guess
        ends = next((place for place, token in enumerate(guess.tokens) if token in eog_ids), len(guess.tokens))
        if self.constraint is not None:
            ends = self.constraint.admits(guess.tokens[:ends])
        return guess.cut(ends)

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
                left.append(_without_first(piece, sent))
        return left

    def _complete(self) -> FinishReason:
        """The reason of an answer that is not cut off."""
        return "tool_calls" if self.calls else "stop"

    @property
    def calls(self) -> tuple[Call, ...]:
        """The tools that were called so far."""
        return tuple(self.parts.calls) if self.parts is not None else ()

    def grown(self, piece: Piece, piece_of: Callable[[int], bytes]) -> Grown:
        """That a piece may be sent, and what is known of the tokens that its text holds something of, where that is asked for."""
        if not self.work.sampling.logprobs:
            return Grown(self.key, self.choice, piece)
        rated = [self.rated.pop(place) for place in range(piece.index, piece.index + len(piece.token_ids))]
        heard = (each for each, is_heard in zip(rated, piece.heard, strict=True) if is_heard)
        return Grown(self.key, self.choice, piece, tuple(message(each, piece_of) for each in heard))

    def finished(self, reason: FinishReason, now_s: float) -> Finished:
        """That the answer is complete, and what it took."""
        usage = Usage(
            prompt_tokens=len(self.work.prompt),
            cached_tokens=self.group.cached or 0,
            completion_tokens=self.answered,
        )
        guessed = self.speculation
        return Finished(
            self.key,
            self.choice,
            reason,
            usage,
            self._timings(now_s),
            self.calls,
            drafted=guessed.drafted if guessed else 0,
            accepted=guessed.accepted if guessed else 0,
            stop_string=self.text.stopped_by,
        )

    def _timings(self, now_s: float) -> Timings:
        arrived, admitted, first = self.group.arrived_s, self.group.admitted_s, self.first_token_s
        admitted = now_s if admitted is None else admitted
        first = now_s if first is None else first
        return Timings(
            prefill_ms=round((first - admitted) * 1000, 3),
            decode_ms=round((now_s - first) * 1000, 3),
            queued_ms=round((admitted - arrived) * 1000, 3),
            total_ms=round((now_s - arrived) * 1000, 3),
        )


def _without_first(piece: Piece, sent: int) -> Piece:
    """The piece without tokens that an earlier attempt sent."""
    if not sent:
        return piece
    return replace(piece, index=piece.index + sent, token_ids=piece.token_ids[sent:], heard=piece.heard[sent:])


def _present(*pieces: Piece | None) -> list[Piece]:
    return [piece for piece in pieces if piece is not None]
