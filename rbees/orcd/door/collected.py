"""PURE: the events of a job, put together to the whole that its answer is made of."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from rbees.protocol.errors import RbeesError
from rbees.protocol.events import (
    ChoiceEnd,
    Embedding,
    End,
    Error,
    Event,
    Metrics,
    Queued,
    Ranked,
    Result,
    Started,
    Timings,
    Token,
    TokenLogprob,
    TopLogprob,
    Usage,
)


@dataclass(slots=True)
class Choice:
    """One answer as far as it has come."""

    texts: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    thought_tokens: int = 0
    logprobs: list[TokenLogprob] = field(default_factory=list)
    """Of the tokens of its text."""
    end: ChoiceEnd | None = None

    @property
    def text(self) -> str:
        """What it says, without thoughts and calls."""
        return "".join(self.texts)

    @property
    def reasoning(self) -> str:
        """What the model thought before."""
        return "".join(self.thoughts)

    def take(self, token: Token) -> None:
        """Some tokens more. A call's own text says nothing that its end does not say."""
        if token.part == "reasoning":
            self.thoughts.append(token.text)
            self.thought_tokens += len(token.token_ids)
        elif token.part == "text":
            self.texts.append(token.text)
            self.logprobs += logprobs_of(token)


class Collected:
    """What has come of a job. Usage and timings exist once it has ended well."""

    def __init__(self, choices: int) -> None:
        self.choices = [Choice() for _ in range(choices)]
        self.embeddings: list[Embedding] = []
        self.ranking: list[Ranked] = []
        self.usage: Usage | None = None
        self.timings: Timings | None = None

    @property
    def thought_tokens(self) -> int:
        """Tokens of all answers' thoughts."""
        return sum(choice.thought_tokens for choice in self.choices)

    def take(self, event: Event) -> None:
        """The next event.

        Raises:
            RbeesError: the job has failed, as its error says.
        """
        match event:
            case Token():
                self.choices[event.choice].take(event)
            case Result():
                self.embeddings += event.embeddings
                self.ranking += event.ranking
            case End():
                self.usage, self.timings = event.usage, event.timings
                for end in event.choices:
                    self.choices[end.choice].end = end
            case Error():
                raise RbeesError.from_body(event.error)
            case Queued() | Started() | Metrics():
                pass


def logprobs_of(token: Token) -> tuple[TokenLogprob, ...]:
    """Those of an event; none where the job asks for none."""
    return () if isinstance(token.logprobs, msgspec.UnsetType) else token.logprobs


def exact_bytes(token: TopLogprob) -> bytes:
    """What the token is made of, which its text cannot always say."""
    return token.text.encode() if isinstance(token.bytes, msgspec.UnsetType) else bytes(token.bytes)
