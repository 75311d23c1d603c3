"""PURE: the events of a response's stream, each with its number, and their bytes.

(https://platform.openai.com/docs/api-reference/responses-streaming)
"""

from __future__ import annotations

from typing import ClassVar, Final

from rbees.orcd.openai.chat_answers import ContentLogprob
from rbees.orcd.responses.answers import Response
from rbees.orcd.responses.items import Item, OutputText, ReasoningText
from rbees.protocol.codec import Message, encode


class Numbered(Message, frozen=True, kw_only=True):
    """What all events have."""

    sequence_number: int
    """Densely from 0, and the same whenever the stream is read."""


class Created(Numbered, frozen=True, kw_only=True, tag_field="type", tag="response.created"):
    """It is durable, if it is kept at all."""

    response: Response


class WaitsInQueue(Numbered, frozen=True, kw_only=True, tag_field="type", tag="response.queued"):
    """It waits, of a response in the background."""

    response: Response


class InProgress(Numbered, frozen=True, kw_only=True, tag_field="type", tag="response.in_progress"):
    """A worker took it up."""

    response: Response


class Completed(Numbered, frozen=True, kw_only=True, tag_field="type", tag="response.completed"):
    """It is whole."""

    response: Response


class Incomplete(Numbered, frozen=True, kw_only=True, tag_field="type", tag="response.incomplete"):
    """It ended for want of tokens."""

    response: Response


class Failed(Numbered, frozen=True, kw_only=True, tag_field="type", tag="response.failed"):
    """It failed, or was cancelled as its status says."""

    response: Response


class Trouble(Numbered, frozen=True, kw_only=True, tag_field="type", tag="error"):
    """Why it fails, just before it has failed."""

    code: str | None
    message: str
    param: str | None


class ItemAdded(Numbered, frozen=True, kw_only=True, tag_field="type", tag="response.output_item.added"):
    """An item begins, empty."""

    output_index: int
    item: Item


class ItemDone(Numbered, frozen=True, kw_only=True, tag_field="type", tag="response.output_item.done"):
    """It is whole."""

    output_index: int
    item: Item


class OfPart(Numbered, frozen=True, kw_only=True):
    """What all events of a part of an item have."""

    item_id: str
    output_index: int
    content_index: int = 0
    """Always 0: an item has one part."""


class PartAdded(OfPart, frozen=True, kw_only=True, tag_field="type", tag="response.content_part.added"):
    """A part begins, empty."""

    part: OutputText | ReasoningText


class PartDone(OfPart, frozen=True, kw_only=True, tag_field="type", tag="response.content_part.done"):
    """It is whole."""

    part: OutputText | ReasoningText


class TextDelta(OfPart, frozen=True, kw_only=True, tag_field="type", tag="response.output_text.delta"):
    """More text."""

    private: ClassVar[frozenset[str]] = frozenset({"delta", "logprobs"})
    delta: str
    logprobs: tuple[ContentLogprob, ...] = ()


class TextDone(OfPart, frozen=True, kw_only=True, tag_field="type", tag="response.output_text.done"):
    """All of the text."""

    private: ClassVar[frozenset[str]] = frozenset({"text", "logprobs"})
    text: str
    logprobs: tuple[ContentLogprob, ...] = ()


class ReasoningDelta(OfPart, frozen=True, kw_only=True, tag_field="type", tag="response.reasoning_text.delta"):
    """More thoughts."""

    private: ClassVar[frozenset[str]] = frozenset({"delta"})
    delta: str


class ReasoningDone(OfPart, frozen=True, kw_only=True, tag_field="type", tag="response.reasoning_text.done"):
    """All of the thoughts."""

    private: ClassVar[frozenset[str]] = frozenset({"text"})
    text: str


class ArgumentsDelta(Numbered, frozen=True, kw_only=True, tag_field="type", tag="response.function_call_arguments.delta"):
    """More of a call's arguments."""

    private: ClassVar[frozenset[str]] = frozenset({"delta"})
    item_id: str
    output_index: int
    delta: str


class ArgumentsDone(Numbered, frozen=True, kw_only=True, tag_field="type", tag="response.function_call_arguments.done"):
    """All of them."""

    private: ClassVar[frozenset[str]] = frozenset({"name", "arguments"})
    item_id: str
    output_index: int
    name: str
    arguments: str


Lifecycle = Created | WaitsInQueue | InProgress | Completed | Incomplete | Failed
StreamEvent = (
    Lifecycle
    | Trouble
    | ItemAdded
    | ItemDone
    | PartAdded
    | PartDone
    | TextDelta
    | TextDone
    | ReasoningDelta
    | ReasoningDone
    | ArgumentsDelta
    | ArgumentsDone
)
LAST: Final = (Completed, Incomplete, Failed)
"""What a stream ends with."""


def frame(event: StreamEvent) -> bytes:
    """An event as it is sent: its name is its type."""
    return b"event: %b\ndata: %b\n\n" % (str(event.__struct_config__.tag).encode(), encode(event))
