"""PURE: what comes of a chat's job, as a whole answer and as chunks of a stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from msgspec import UNSET, UnsetType

from rbees.orcd.door.collected import Choice, Collected, exact_bytes, logprobs_of
from rbees.orcd.openai import errors
from rbees.orcd.openai.answers import DONE, Identity, TokenUsage, UsageField, frames, usage_of
from rbees.orcd.openai.chat import FLEX, ChatRequest
from rbees.orcd.openai.places import as_sent
from rbees.protocol.chat import ToolCall
from rbees.protocol.codec import Message, encode
from rbees.protocol.errors import RbeesError
from rbees.protocol.events import ChoiceEnd, End, Event, FinishReason, Started, Token, TokenLogprob, Usage

Tier = Literal["default", "flex"]


class Alternative(Message, frozen=True, kw_only=True):
    """A token that could have come."""

    private: ClassVar[frozenset[str]] = frozenset({"token", "bytes"})
    token: str
    bytes: tuple[int, ...]
    logprob: float


class ContentLogprob(Alternative, frozen=True, kw_only=True):
    """A token that came."""

    top_logprobs: tuple[Alternative, ...]


class Logprobs(Message, frozen=True, kw_only=True):
    """Of the text's tokens."""

    private: ClassVar[frozenset[str]] = frozenset({"content"})
    content: tuple[ContentLogprob, ...] | None
    refusal: None = None


class Function(Message, frozen=True, kw_only=True):
    """What is called, with its arguments as JSON."""

    private: ClassVar[frozenset[str]] = frozenset({"name", "arguments"})
    name: str | UnsetType = UNSET
    arguments: str


class AnsweredCall(Message, frozen=True, kw_only=True):
    """A call in a whole answer."""

    id: str
    type: Literal["function"] = "function"
    function: Function


class AnsweredMessage(Message, frozen=True, kw_only=True):
    """One answer."""

    private: ClassVar[frozenset[str]] = frozenset({"content", "reasoning_content", "tool_calls"})
    role: Literal["assistant"] = "assistant"
    content: str | None
    """Null where it only calls."""
    refusal: None = None
    reasoning_content: str | UnsetType = UNSET
    tool_calls: tuple[AnsweredCall, ...] | UnsetType = UNSET


class AnsweredChoice(Message, frozen=True, kw_only=True):
    """One of `n` answers."""

    index: int
    message: AnsweredMessage
    logprobs: Logprobs | None
    finish_reason: FinishReason


class ChatCompletion(Message, frozen=True, kw_only=True):
    """The whole answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: tuple[AnsweredChoice, ...]
    usage: TokenUsage
    service_tier: Tier | UnsetType = UNSET
    system_fingerprint: str | None
    metadata: dict[str, str] | UnsetType = UNSET


class CallDelta(Message, frozen=True, kw_only=True):
    """A part of a call: id and name first, then the arguments."""

    index: int
    id: str | UnsetType = UNSET
    type: Literal["function"] | UnsetType = UNSET
    function: Function


class Delta(Message, frozen=True, kw_only=True):
    """What one chunk adds to an answer."""

    private: ClassVar[frozenset[str]] = frozenset({"content", "reasoning_content", "tool_calls"})
    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    tool_calls: tuple[CallDelta, ...] | UnsetType = UNSET


class ChunkChoice(Message, frozen=True, kw_only=True):
    """The answer that grows."""

    index: int
    delta: Delta
    logprobs: Logprobs | None = None
    finish_reason: FinishReason | None = None


class ChatCompletionChunk(Message, frozen=True, kw_only=True):
    """One chunk of a stream."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: tuple[ChunkChoice, ...]
    usage: UsageField = UNSET
    service_tier: Tier | UnsetType = UNSET
    system_fingerprint: str | None


def chat_answer(request: ChatRequest, identity: Identity, collected: Collected) -> ChatCompletion:
    """The whole answer of a job that has ended well."""
    assert collected.usage is not None
    return ChatCompletion(
        id=identity.id,
        created=identity.created,
        model=identity.model,
        choices=tuple(_choice(request, number, choice) for number, choice in enumerate(collected.choices)),
        usage=usage_of([collected.usage], collected.thought_tokens),
        service_tier=_tier(request),
        system_fingerprint=identity.system_fingerprint,
        metadata=UNSET if request.metadata is None else request.metadata,
    )


class ChatChunks:
    """A stream of chunks, made event by event."""

    def __init__(self, request: ChatRequest, identity: Identity) -> None:
        self._request = request
        self._identity = identity
        self._choices = request.n or 1
        self._tier = _tier(request)
        self._thought_tokens = 0
        self._usage: Usage | None = None

    def take(self, _number: int, event: Event) -> bytes:
        """The chunks of one event."""
        match event:
            case Started():
                opened = Delta(role="assistant", content="")
                return frames([self._chunk(ChunkChoice(index=number, delta=opened)) for number in range(self._choices)])
            case Token(part="tool"):
                return b""
            case Token():
                return frames([self._chunk(self._grown(event))])
            case End():
                self._usage = event.usage
                return frames([self._chunk(part) for end in event.choices for part in self._ended(end)])
            case _:
                return b""

    def ended(self) -> bytes:
        """Usage where it was asked for, and the mark of the end."""
        if not self._request.includes_usage:
            return DONE
        assert self._usage is not None
        told = usage_of([self._usage], self._thought_tokens)
        return frames([self._chunk(usage=told)]) + DONE

    def failed(self, error: RbeesError) -> bytes:
        """The failure in a chunk of its own; a stream that failed has no mark of its end."""
        return frames([errors.body_of(as_sent(error, self._request))])

    def _grown(self, token: Token) -> ChunkChoice:
        if token.part == "reasoning":
            self._thought_tokens += len(token.token_ids)
            return ChunkChoice(index=token.choice, delta=Delta(reasoning_content=token.text))
        logprobs = chat_logprobs(logprobs_of(token)) if self._request.logprobs else None
        return ChunkChoice(index=token.choice, delta=Delta(content=token.text), logprobs=logprobs)

    def _ended(self, end: ChoiceEnd) -> Iterator[ChunkChoice]:
        """Each call in two parts, then the reason: what is called is known only once the whole of it was read."""
        for index, call in enumerate(_calls(self._request, end.tool_calls)):
            named = CallDelta(index=index, id=call.id, type="function", function=Function(name=call.name, arguments=""))
            told = CallDelta(index=index, function=Function(arguments=encode(call.arguments).decode()))
            yield from (ChunkChoice(index=end.choice, delta=Delta(tool_calls=(part,))) for part in (named, told))
        yield ChunkChoice(index=end.choice, delta=Delta(), finish_reason=end.finish_reason)

    def _chunk(self, *choices: ChunkChoice, usage: TokenUsage | None = None) -> ChatCompletionChunk:
        return ChatCompletionChunk(
            id=self._identity.id,
            created=self._identity.created,
            model=self._identity.model,
            choices=choices,
            usage=usage if self._request.includes_usage else UNSET,
            service_tier=self._tier,
            system_fingerprint=self._identity.system_fingerprint,
        )


def chat_logprobs(found: tuple[TokenLogprob, ...] | list[TokenLogprob]) -> Logprobs:
    """As this API writes them."""
    content = tuple(
        ContentLogprob(
            token=one.text,
            bytes=tuple(exact_bytes(one)),
            logprob=one.logprob,
            top_logprobs=tuple(Alternative(token=top.text, bytes=tuple(exact_bytes(top)), logprob=top.logprob) for top in one.top),
        )
        for one in found
    )
    return Logprobs(content=content)


def _choice(request: ChatRequest, number: int, choice: Choice) -> AnsweredChoice:
    assert choice.end is not None
    calls = _calls(request, choice.end.tool_calls)
    message = AnsweredMessage(
        content=None if calls and not choice.text else choice.text,
        reasoning_content=choice.reasoning or UNSET,
        tool_calls=tuple(
            AnsweredCall(id=call.id, function=Function(name=call.name, arguments=encode(call.arguments).decode())) for call in calls
        )
        or UNSET,
    )
    return AnsweredChoice(
        index=number,
        message=message,
        logprobs=chat_logprobs(choice.logprobs) if request.logprobs else None,
        finish_reason=choice.end.finish_reason,
    )


def _calls(request: ChatRequest, calls: tuple[ToolCall, ...]) -> tuple[ToolCall, ...]:
    return calls[:1] if request.parallel_tool_calls is False else calls


def _tier(request: ChatRequest) -> Tier | UnsetType:
    if request.service_tier is None:
        return UNSET
    return "flex" if request.service_tier == FLEX else "default"
