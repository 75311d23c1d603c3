"""PURE: what comes of a job, as a whole message and as the events of a stream.

A message is blocks: thoughts, text, calls. In a stream each block begins, grows and ends before the next begins; calls come at the
end and whole, as a job tells them. (https://docs.anthropic.com/en/api/messages-streaming)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Final, Literal

import msgspec

from rbees.orcd.anthropic import errors
from rbees.orcd.anthropic.messages import MessagesRequest
from rbees.orcd.door.collected import Collected
from rbees.protocol.chat import ToolCall
from rbees.protocol.codec import Message as Part
from rbees.protocol.codec import encode
from rbees.protocol.errors import RbeesError
from rbees.protocol.events import ChoiceEnd, End, Event, Started, Token
from rbees.protocol.events import Usage as JobUsage

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded"]
Tier = Literal["standard", "batch"]


class TextBlock(Part, frozen=True, kw_only=True, tag_field="type", tag="text"):
    """What is said. It has no `citations`: clients take them for a list wherever they are there, and null for none of theirs."""

    private: ClassVar[frozenset[str]] = frozenset({"text"})
    text: str


class ThinkingBlock(Part, frozen=True, kw_only=True, tag_field="type", tag="thinking"):
    """What was thought before."""

    private: ClassVar[frozenset[str]] = frozenset({"thinking"})
    thinking: str
    signature: str
    """The message's id: clients keep only signed thoughts. Nobody looks at it when it comes back."""


class ToolUseBlock(Part, frozen=True, kw_only=True, tag_field="type", tag="tool_use"):
    """A call."""

    private: ClassVar[frozenset[str]] = frozenset({"name", "input"})
    id: str
    name: str
    input: dict[str, Any]


AnswerBlock = TextBlock | ThinkingBlock | ToolUseBlock


class OutputDetails(Part, frozen=True, kw_only=True):
    """Of the answer's tokens."""

    thinking_tokens: int


class Usage(Part, frozen=True, kw_only=True):
    """Tokens that were computed. Those found in a cache are counted apart."""

    input_tokens: int
    cache_creation_input_tokens: int = 0
    """Always 0: what is kept costs nothing."""
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: OutputDetails
    service_tier: Tier


class AnsweredMessage(Part, frozen=True, kw_only=True):
    """The whole answer, or how a stream begins."""

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: tuple[AnswerBlock, ...]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: Usage


class TextDelta(Part, frozen=True, kw_only=True, tag_field="type", tag="text_delta"):
    """More text."""

    private: ClassVar[frozenset[str]] = frozenset({"text"})
    text: str


class ThinkingDelta(Part, frozen=True, kw_only=True, tag_field="type", tag="thinking_delta"):
    """More thoughts."""

    private: ClassVar[frozenset[str]] = frozenset({"thinking"})
    thinking: str


class SignatureDelta(Part, frozen=True, kw_only=True, tag_field="type", tag="signature_delta"):
    """The signature, once all thoughts have come."""

    signature: str


class InputDelta(Part, frozen=True, kw_only=True, tag_field="type", tag="input_json_delta"):
    """The input of a call, as JSON."""

    private: ClassVar[frozenset[str]] = frozenset({"partial_json"})
    partial_json: str


class MessageStart(Part, frozen=True, kw_only=True, tag_field="type", tag="message_start"):
    """The answer begins."""

    message: AnsweredMessage


class BlockStart(Part, frozen=True, kw_only=True, tag_field="type", tag="content_block_start"):
    """A block begins, empty."""

    index: int
    content_block: AnswerBlock


class BlockDelta(Part, frozen=True, kw_only=True, tag_field="type", tag="content_block_delta"):
    """It grows."""

    index: int
    delta: TextDelta | ThinkingDelta | SignatureDelta | InputDelta


class BlockStop(Part, frozen=True, kw_only=True, tag_field="type", tag="content_block_stop"):
    """It is whole."""

    index: int


class Ending(Part, frozen=True, kw_only=True):
    """Why the answer ended."""

    stop_reason: StopReason
    stop_sequence: str | None


class MessageDelta(Part, frozen=True, kw_only=True, tag_field="type", tag="message_delta"):
    """Why the answer ended, and what it took in all."""

    delta: Ending
    usage: Usage


class MessageStop(Part, frozen=True, kw_only=True, tag_field="type", tag="message_stop"):
    """Nothing follows."""


class Ping(Part, frozen=True, kw_only=True, tag_field="type", tag="ping"):
    """Nothing has happened, and the answer is still to come; clients of this API watch events, and comments are none."""


StreamEvent = MessageStart | BlockStart | BlockDelta | BlockStop | MessageDelta | MessageStop | Ping


class TokenCount(Part, frozen=True, kw_only=True):
    """How many tokens a prompt has."""

    input_tokens: int


def message_id(job_id: str) -> str:
    """Of the message that a job makes."""
    return f"msg_{job_id}"


def message_answer(request: MessagesRequest, id_: str, collected: Collected) -> AnsweredMessage:
    """The whole answer of a job that has ended well."""
    (choice,) = collected.choices
    assert collected.usage is not None
    assert choice.end is not None
    blocks: list[AnswerBlock] = []
    if choice.reasoning and request.shows_thoughts and not request.says_nothing:
        blocks.append(ThinkingBlock(thinking=choice.reasoning, signature=id_))
    if choice.text and not request.says_nothing:
        blocks.append(TextBlock(text=choice.text))
    calls = _calls(request, choice.end)
    blocks += (ToolUseBlock(id=call.id, name=call.name, input=call.arguments) for call in calls)
    ending = _ending(request, choice.end, collected.usage)
    return AnsweredMessage(
        id=id_,
        model=request.model,
        content=tuple(blocks),
        stop_reason=ending.stop_reason,
        stop_sequence=ending.stop_sequence,
        usage=_usage(request, collected.usage, collected.thought_tokens),
    )


class MessageStream:
    """A stream of events, made event by event."""

    def __init__(self, request: MessagesRequest, id_: str) -> None:
        self._request = request
        self._id = id_
        self._index = -1
        self._open: Literal["text", "reasoning"] | None = None
        """What the block that has begun and not ended holds."""
        self._thought_tokens = 0

    def take(self, _number: int, event: Event) -> bytes:
        """The events of one event."""
        match event:
            case Started():
                return _frames([self._begun(event.prompt_tokens), Ping()])
            case Token() if self._request.says_nothing:
                return b""
            case Token(part="reasoning"):
                self._thought_tokens += len(event.token_ids)
                return _frames(self._grown("reasoning", event.text)) if self._request.shows_thoughts else b""
            case Token(part="text"):
                return _frames(self._grown("text", event.text))
            case End():
                (end,) = event.choices
                return _frames([*self._closed(), *self._called(end), self._ended(end, event.usage)])
            case _:
                return b""

    def ended(self) -> bytes:
        """The last event of a stream that ended well."""
        return _frames([MessageStop()])

    def failed(self, error: RbeesError) -> bytes:
        """The failure as an event; a stream that failed does not stop as others do."""
        return b"event: error\ndata: %b\n\n" % encode(errors.body_of(error))

    def _begun(self, prompt_tokens: int) -> MessageStart:
        nothing_yet = JobUsage(prompt_tokens=prompt_tokens, cached_tokens=0, completion_tokens=0)
        message = AnsweredMessage(
            id=self._id,
            model=self._request.model,
            content=(),
            stop_reason=None,
            stop_sequence=None,
            usage=_usage(self._request, nothing_yet, 0),
        )
        return MessageStart(message=message)

    def _grown(self, part: Literal["text", "reasoning"], text: str) -> Iterator[StreamEvent]:
        if not text:
            return
        if self._open != part:
            yield from self._closed()
            empty = TextBlock(text="") if part == "text" else ThinkingBlock(thinking="", signature="")
            self._open = part
            yield self._opened(empty)
        yield BlockDelta(index=self._index, delta=TextDelta(text=text) if part == "text" else ThinkingDelta(thinking=text))

    def _opened(self, block: AnswerBlock) -> BlockStart:
        self._index += 1
        return BlockStart(index=self._index, content_block=block)

    def _closed(self) -> Iterator[StreamEvent]:
        if self._open == "reasoning":
            yield BlockDelta(index=self._index, delta=SignatureDelta(signature=self._id))
        if self._open is not None:
            yield BlockStop(index=self._index)
        self._open = None

    def _called(self, end: ChoiceEnd) -> Iterator[StreamEvent]:
        for call in _calls(self._request, end):
            yield self._opened(ToolUseBlock(id=call.id, name=call.name, input={}))
            yield BlockDelta(index=self._index, delta=InputDelta(partial_json=encode(call.arguments).decode()))
            yield BlockStop(index=self._index)

    def _ended(self, end: ChoiceEnd, usage: JobUsage) -> MessageDelta:
        return MessageDelta(delta=_ending(self._request, end, usage), usage=_usage(self._request, usage, self._thought_tokens))


_REASONS: Final[dict[str, StopReason]] = {"stop": "end_turn", "tool_calls": "tool_use", "length": "max_tokens"}


def _ending(request: MessagesRequest, end: ChoiceEnd, usage: JobUsage) -> Ending:
    """Only a text that was stopped by a sequence says so; calls are what the client has to see to."""
    if request.says_nothing:
        return Ending(stop_reason="max_tokens", stop_sequence=None)
    reason = _REASONS[end.finish_reason]
    stop = None if isinstance(end.stop_string, msgspec.UnsetType) else end.stop_string
    if reason == "end_turn" and stop is not None:
        return Ending(stop_reason="stop_sequence", stop_sequence=stop)
    if reason == "max_tokens" and usage.completion_tokens < request.max_tokens:
        reason = "model_context_window_exceeded"
    return Ending(stop_reason=reason, stop_sequence=None)


def _calls(request: MessagesRequest, end: ChoiceEnd) -> tuple[ToolCall, ...]:
    if request.says_nothing:
        return ()
    return end.tool_calls[:1] if request.calls_once else end.tool_calls


def _usage(request: MessagesRequest, usage: JobUsage, thought_tokens: int) -> Usage:
    return Usage(
        input_tokens=usage.prompt_tokens - usage.cached_tokens,
        cache_read_input_tokens=usage.cached_tokens,
        output_tokens=0 if request.says_nothing else usage.completion_tokens,
        output_tokens_details=OutputDetails(thinking_tokens=0 if request.says_nothing else thought_tokens),
        service_tier="batch" if request.priority == "batch" else "standard",
    )


def _frames(events: list[StreamEvent] | Iterator[StreamEvent]) -> bytes:
    """Events as they are sent: the name of each is its type."""
    return b"".join(b"event: %b\ndata: %b\n\n" % (str(event.__struct_config__.tag).encode(), encode(event)) for event in events)


PING: Final = _frames([Ping()])
"""Sent while there is nothing else to send."""
