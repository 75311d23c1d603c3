"""The events of a job and the order in which they may come.

The same event types travel from worker to orcd (numbered per job and epoch by the worker) and from orcd to clients (numbered
densely from 1 by orcd alone). The legal order is a small state machine:

    NEW --queued--> WAITING --started--> RUNNING --end|error--> ENDED
                       |  ^metrics          |  ^token, result, metrics
                       +------error---------+-----> ENDED

A worker's stream has no `queued`: it opens in WAITING. A change of worker shows as `metrics`, never as a second `started`.
"""

from __future__ import annotations

from enum import Enum
from typing import ClassVar, Final, Literal

import msgspec

from rbees.protocol.chat import ToolCall
from rbees.protocol.codec import Message
from rbees.protocol.errors import ErrorBody

FinishReason = Literal["stop", "length", "tool_calls"]
Part = Literal["text", "reasoning", "tool"]
Stage = Literal["waiting", "loading", "attempt_failed", "preempted", "attempt_started", "prefill"]
"""`preempted`: a batch job gave its slot to an interactive one and goes on later."""


class Queued(Message, frozen=True, kw_only=True, tag_field="type", tag="queued"):
    """The job is durable and waits."""

    queue_position: int
    """1 for the job that is dispatched next."""
    created_at_ms: int


class Started(Message, frozen=True, kw_only=True, tag_field="type", tag="started"):
    """A worker took the job up."""

    epoch: int
    worker_id: str
    pool_id: str | None = None
    model: str
    """Canonical reference of the model that runs."""
    prompt_tokens: int


class TopLogprob(Message, frozen=True, kw_only=True):
    """A token that could have come, with the natural logarithm of its probability."""

    private: ClassVar[frozenset[str]] = frozenset({"token_id", "text", "bytes"})
    token_id: int
    text: str
    """U+FFFD stands for bytes that are no character by themselves."""
    bytes: tuple[int, ...] | msgspec.UnsetType = msgspec.UNSET
    """The token's bytes, where `text` is not exactly those."""
    logprob: float


class TokenLogprob(TopLogprob, frozen=True, kw_only=True):
    """A token that came, beside the likeliest ones at its place."""

    private: ClassVar[frozenset[str]] = TopLogprob.private | {"top"}
    top: tuple[TopLogprob, ...] = ()


class Token(Message, frozen=True, kw_only=True, tag_field="type", tag="token"):
    """One or more whole tokens whose text is complete UTF-8."""

    private: ClassVar[frozenset[str]] = frozenset({"text", "token_ids", "logprobs"})
    choice: int = 0
    part: Part = "text"
    """Of a call of a tool the text is as the model wrote it, with the marks around it, and one event holds all of it."""
    text: str
    index: int
    """Position of the first of these tokens within the choice's answer, from 0."""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] | msgspec.UnsetType = msgspec.UNSET
    """One for each of `token_ids` that the text holds something of, where the job asks for them: the model's own distribution,
    before any sampling parameter. Marks around thoughts and calls and the stop string have none."""


class Embedding(Message, frozen=True, kw_only=True):
    """The vector of one input."""

    private: ClassVar[frozenset[str]] = frozenset({"embedding"})
    index: int
    """Position of the input in the request."""
    embedding: tuple[float, ...] | str
    """As the request's `encoding` says: numbers, or base64 of 32-bit floats, lowest byte first."""
    tokens: int
    """Tokens that were computed for it."""
    truncated: bool = False


class Ranked(Message, frozen=True, kw_only=True):
    """How well one document answers the query."""

    index: int
    """Position of the document in the request."""
    relevance_score: float
    """Higher is better; the model's own scale, comparable within one model only."""
    is_probability: bool = False
    """The model's own scale goes from 0 to 1; else the score is a logit."""
    tokens: int
    truncated: bool = False


class Result(Message, frozen=True, kw_only=True, tag_field="type", tag="result"):
    """Part of what came of a job that makes no text: embeddings from position `index` on, or ranks, the best first."""

    index: int = 0
    embeddings: tuple[Embedding, ...] = ()
    ranking: tuple[Ranked, ...] = ()

    @property
    def size(self) -> int:
        """How many positions it brings."""
        return len(self.embeddings) + len(self.ranking)


class Metrics(Message, frozen=True, kw_only=True, tag_field="type", tag="metrics"):
    """What happens meanwhile: why the job waits, how far a model has loaded, that an attempt failed and the next began."""

    stage: Stage
    epoch: int | None = None
    worker_id: str | None = None
    pool_id: str | None = None
    progress: float | None = None
    """0 to 1, where the stage has a known length."""
    reason: str | None = None
    """One sentence without content of the job."""
    code: str | None = None


class Usage(Message, frozen=True, kw_only=True):
    """Tokens, counted over all attempts as if there had been one."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


class Timings(Message, frozen=True, kw_only=True):
    """Durations in milliseconds. A worker knows only its own attempt; orcd adds the rest."""

    prefill_ms: float
    decode_ms: float
    queued_ms: float | None = None
    total_ms: float | None = None


class ChoiceEnd(Message, frozen=True, kw_only=True):
    """How one choice ended."""

    private: ClassVar[frozenset[str]] = frozenset({"tool_calls", "stop_string"})
    choice: int = 0
    finish_reason: FinishReason
    tool_calls: tuple[ToolCall, ...] = ()
    """What the answer calls, in order."""
    stop_string: str | msgspec.UnsetType = msgspec.UNSET
    """The one of the job's that ended it; absent where none did."""


class Speculation(Message, frozen=True, kw_only=True):
    """What the worker computed on a guess at the answer's next tokens; the answer is the same without."""

    drafted_tokens: int
    accepted_tokens: int
    """Of these, how many were right, each of them a step saved."""


class End(Message, frozen=True, kw_only=True, tag_field="type", tag="end"):
    """The job is complete. Of a job that makes no text `choices` is empty."""

    choices: tuple[ChoiceEnd, ...]
    usage: Usage
    timings: Timings
    speculation: Speculation | msgspec.UnsetType = msgspec.UNSET
    """Of the attempt that ended the job; absent where nothing was guessed."""


class Error(Message, frozen=True, kw_only=True, tag_field="type", tag="error"):
    """The job failed or was cancelled (`CANCELLED`)."""

    error: ErrorBody


Event = Queued | Started | Token | Result | Metrics | End | Error


class StreamState(Enum):
    """Where a stream of events stands."""

    NEW = "new"
    WAITING = "waiting"
    RUNNING = "running"
    ENDED = "ended"


LEGAL_ORDER: Final[dict[tuple[StreamState, type[Event]], StreamState]] = {
    (StreamState.NEW, Queued): StreamState.WAITING,
    (StreamState.WAITING, Metrics): StreamState.WAITING,
    (StreamState.WAITING, Started): StreamState.RUNNING,
    (StreamState.WAITING, Error): StreamState.ENDED,
    (StreamState.RUNNING, Token): StreamState.RUNNING,
    (StreamState.RUNNING, Result): StreamState.RUNNING,
    (StreamState.RUNNING, Metrics): StreamState.RUNNING,
    (StreamState.RUNNING, End): StreamState.ENDED,
    (StreamState.RUNNING, Error): StreamState.ENDED,
}


def advance(state: StreamState, event: Event) -> StreamState:
    """The state after `event`. An event that the table does not allow is a defect of the writer: AssertionError."""
    following = LEGAL_ORDER.get((state, type(event)))
    assert following is not None, f"{type(event).__name__} may not follow in state {state.name}"
    return following


def is_terminal(event: Event) -> bool:
    """True for the one event that ends a stream."""
    return isinstance(event, End | Error)


def event_name(event: Event) -> str:
    """The event's tag, which is also the `event:` line of its SSE frame."""
    tag = event.__struct_config__.tag
    assert isinstance(tag, str)
    return tag
