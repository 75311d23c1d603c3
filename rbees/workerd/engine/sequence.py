"""One answer while it is made: its tokens, how many of them the KV memory holds, its text and how it may end. PURE."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from rbees.protocol.events import FinishReason
from rbees.protocol.sampling import Sampling
from rbees.workerd.engine.text import Piece, TextStream


@dataclass(frozen=True, slots=True)
class Work:
    """What the engine is asked to do for one job's attempt. The token ids were checked against the vocabulary."""

    key: str
    prompt: tuple[int, ...]
    generated: tuple[int, ...]
    """The answer's beginning, made and sent by earlier attempts."""
    max_tokens: int | None
    """Most tokens of the answer, the beginning included; None: what the context leaves."""
    sampling: Sampling
    deterministic: bool = False


@dataclass(slots=True)
class Sequence:
    """The mutable state of one `Work`."""

    work: Work
    order: int
    """Order of arrival; the youngest is preempted first."""
    limit: int
    arrived_s: float
    choice: int = 0
    tokens: list[int] = field(default_factory=list)
    """The prompt and then the answer."""
    computed: int = 0
    """How many of `tokens` the KV memory holds."""
    slot: int | None = None
    shared: int = 0
    """When it was admitted, so many of `tokens` it had in common with one that ran."""
    cached: int | None = None
    """Tokens of the prompt that need not be computed when its turn first came."""
    paused: bool = False
    admitted_s: float | None = None
    first_token_s: float | None = None
    text: TextStream = field(default_factory=TextStream)

    def __post_init__(self) -> None:
        self.tokens = list(self.work.prompt)
        self.text = TextStream(self.work.sampling.stop)

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
        """Put the answer's given beginning behind the prompt, unsent; a reason if the answer is already complete with it."""
        for token in self.work.generated:
            _, reason = self.accept(token, piece_of(token), eog_ids)
            if reason is not None:
                return reason
        self.text.mark_sent()
        return None

    def accept(self, token: int, data: bytes, eog_ids: frozenset[int]) -> tuple[list[Piece], FinishReason | None]:
        """Append one token of the answer: what may be sent now, and a reason if the answer ends with it."""
        self.tokens.append(token)
        if token in eog_ids:
            return _present(self.text.finish()), "stop"
        piece, stopped = self.text.push(token, data)
        reason: Literal["stop", "length"] | None = "stop" if stopped else "length" if self.answered >= self.limit else None
        if reason == "length":
            return _present(piece, self.text.finish()), reason
        return _present(piece), reason


def _present(*pieces: Piece | None) -> list[Piece]:
    return [piece for piece in pieces if piece is not None]
