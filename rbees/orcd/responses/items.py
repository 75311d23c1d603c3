"""PURE: items, of which a response's input and output consist: as clients send them, as they are kept and answered, and as turns
of a chat.

The first two differ: clients leave out what goes without saying, and send kinds of items that nobody here knows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Final, Literal, TypeVar

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from rbees.orcd.door.foreign import Foreign, Refused, read_object, refusal
from rbees.orcd.openai.chat_answers import ContentLogprob
from rbees.orcd.responses.names import input_id, name_for_model
from rbees.protocol.chat import MAX_MESSAGES, MAX_TEXT_PARTS, CallId, ChatMessage, TextPart, ToolCall
from rbees.protocol.codec import Message, decode

Status = Literal["in_progress", "completed", "incomplete"]
Speaker = Literal["user", "system", "developer", "assistant"]

MAX_CHARACTERS: Final = 32 * 1024 * 1024
"""Of a conversation with all that went before; a chain of responses could grow without end."""


# ---- as they are kept and answered ---------------------------------------------------------------------------------------


class InputText(Message, frozen=True, kw_only=True, tag_field="type", tag="input_text"):
    """What the client says."""

    private: ClassVar[frozenset[str]] = frozenset({"text"})
    text: str


class OutputText(Message, frozen=True, kw_only=True, tag_field="type", tag="output_text"):
    """What the model says."""

    private: ClassVar[frozenset[str]] = frozenset({"text", "logprobs"})
    text: str
    annotations: tuple[()] = ()
    """Always empty: no model here quotes anything."""
    logprobs: tuple[ContentLogprob, ...] | UnsetType = UNSET


class RefusalText(Message, frozen=True, kw_only=True, tag_field="type", tag="refusal"):
    """What a model said instead of an answer, given back to it."""

    private: ClassVar[frozenset[str]] = frozenset({"refusal"})
    refusal: str


class ReasoningText(Message, frozen=True, kw_only=True, tag_field="type", tag="reasoning_text"):
    """What the model thought."""

    private: ClassVar[frozenset[str]] = frozenset({"text"})
    text: str


class SummaryText(Message, frozen=True, kw_only=True, tag_field="type", tag="summary_text"):
    """What another server made of a model's thoughts."""

    private: ClassVar[frozenset[str]] = frozenset({"text"})
    text: str


class MessageItem(Message, frozen=True, kw_only=True, tag_field="type", tag="message"):
    """Something said."""

    private: ClassVar[frozenset[str]] = frozenset({"content"})
    id: str = ""
    role: Speaker
    status: Status = "completed"
    content: tuple[InputText | OutputText | RefusalText, ...]


class ReasoningItem(Message, frozen=True, kw_only=True, tag_field="type", tag="reasoning"):
    """Thoughts."""

    private: ClassVar[frozenset[str]] = frozenset({"summary", "content"})
    id: str = ""
    summary: tuple[SummaryText, ...] = ()
    content: tuple[ReasoningText, ...] = ()
    status: Status = "completed"


class CallItem(Message, frozen=True, kw_only=True, tag_field="type", tag="function_call"):
    """A call of a function."""

    private: ClassVar[frozenset[str]] = frozenset({"name", "namespace", "arguments"})
    id: str = ""
    call_id: str
    name: str
    namespace: str | UnsetType = UNSET
    """Of the function, where it has one."""
    arguments: str
    """JSON."""
    status: Status = "completed"

    @property
    def name_for_model(self) -> str:
        """As the model called it."""
        return name_for_model(self.namespace or None, self.name)


class CallOutputItem(Message, frozen=True, kw_only=True, tag_field="type", tag="function_call_output"):
    """What came of a call."""

    private: ClassVar[frozenset[str]] = frozenset({"output"})
    id: str = ""
    call_id: str
    output: str | tuple[InputText, ...]
    status: Status = "completed"


class Reference(Message, frozen=True, kw_only=True, tag_field="type", tag="item_reference"):
    """An item of an earlier response, by its id; it is never kept, but what it stands for."""

    id: str


Item = MessageItem | ReasoningItem | CallItem | CallOutputItem
I = TypeVar("I", bound=Item | Reference)  # noqa: E741  (an item)
_KINDS: Final[dict[type[Message], str]] = {MessageItem: "msg", ReasoningItem: "rs", CallItem: "fc", CallOutputItem: "fco"}


def named(items: Iterable[Item], job_id: str) -> tuple[Item, ...]:
    """The items of an input, each with a name."""
    return tuple(
        item if item.id else replace(item, id=input_id(_KINDS[type(item)], job_id, index)) for index, item in enumerate(items)
    )


# ---- as clients send them ------------------------------------------------------------------------------------------------

_ItemId = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
_MAX_NAME: Final = 256
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=_MAX_NAME)]
_PARTS: Final = msgspec.Meta(max_length=MAX_TEXT_PARTS)
_SHOWN: Final = re.compile(r"[a-z0-9_.-]{1,48}")
_UNREADABLE: Final = {"input_image": "an image", "input_file": "a file", "input_audio": "audio", "computer_screenshot": "an image"}


class Part(Foreign, frozen=True, kw_only=True):
    """Part of an item: its type says which of the fields it has."""

    private: ClassVar[frozenset[str]] = frozenset({"text", "refusal", "annotations", "logprobs"})
    refused: ClassVar[Mapping[str, Refused]] = {
        "prompt_cache_breakpoint": Refused("prompts are cached as far as they are alike; leave it out.")
    }
    type: str
    text: str | None = None
    refusal: str | None = None
    # Come back with what a response answered, and say nothing to the model.
    annotations: Any = None
    logprobs: Any = None


class InputItem(Foreign, frozen=True, kw_only=True):
    """An item: its type says which of the fields it has; without one it is a message or, with an id alone, a reference."""

    private: ClassVar[frozenset[str]] = frozenset({"content", "name", "namespace", "arguments", "output", "summary"})
    type: str | None = None
    id: _ItemId | None = None
    role: str | None = None
    content: str | Annotated[tuple[Part, ...], _PARTS] | None = None
    call_id: CallId | None = None
    name: _Name | None = None
    namespace: _Name | None = None
    arguments: str | None = None
    output: str | Annotated[tuple[Part, ...], _PARTS] | None = None
    summary: Annotated[tuple[Part, ...], _PARTS] | None = None
    # Come back with what a response answered, and say nothing to the model.
    status: Any = None
    phase: Any = None


Input = str | Annotated[tuple[InputItem, ...], msgspec.Meta(min_length=1, max_length=MAX_MESSAGES)]


def read_items(given: str | Sequence[InputItem], model: str) -> tuple[Item | Reference, ...]:
    """What a response is asked.

    Raises:
        RbeesError: INVALID_REQUEST for what cannot be read, by its place.
    """
    if isinstance(given, str):
        if not given:
            raise refusal("`input` is empty; say something.", "input")
        return (MessageItem(role="user", content=(InputText(text=given),)),)
    return tuple(_item(item, f"input[{number}]", model) for number, item in enumerate(given))


def _item(item: InputItem, place: str, model: str) -> Item | Reference:
    match item.type or ("message" if item.role is not None else "item_reference"):
        case "message":
            return _message(item, place, model)
        case "function_call":
            return _call(item, place)
        case "function_call_output":
            call_id, output = _there(item.call_id, f"{place}.call_id"), item.output
            told = output if isinstance(output, str) else _input_texts(output, f"{place}.output", model)
            return CallOutputItem(id=item.id or "", call_id=call_id, output=told)
        case "reasoning":
            texts = (item.content,) if isinstance(item.content, str) else [part.text or "" for part in item.content or ()]
            return ReasoningItem(
                id=item.id or "",
                summary=tuple(SummaryText(text=part.text or "") for part in item.summary or ()),
                content=tuple(ReasoningText(text=text) for text in texts),
            )
        case "item_reference":
            if item.id is None:
                raise refusal(f"`{place}` has no `type`; write what kind of item it is.", place)
            return Reference(id=item.id)
        case kind:
            told = f"of the type `{kind}`" if _SHOWN.fullmatch(kind) else "of a type"
            message = f"`{place}` is {told}, which nobody here knows; send messages, calls of functions and what came of them."
            raise refusal(message, place)


def _call(item: InputItem, place: str) -> CallItem:
    arguments = item.arguments or "{}"
    read_object(arguments, f"{place}.arguments", "send back what the model wrote")
    call = CallItem(
        id=item.id or "",
        call_id=_there(item.call_id, f"{place}.call_id"),
        name=_there(item.name, f"{place}.name"),
        namespace=item.namespace or UNSET,
        arguments=arguments,
    )
    length = len(call.name_for_model)
    if length > _MAX_NAME:
        message = f"The names of `{place}` and its namespace make one of {length} characters, and at most {_MAX_NAME} fit."
        raise refusal(message, f"{place}.name")
    return call


def _message(item: InputItem, place: str, model: str) -> MessageItem:
    content = item.content
    match item.role:
        case "user" | "system" | "developer":
            texts = (InputText(text=content),) if isinstance(content, str) else _input_texts(content, f"{place}.content", model)
            return MessageItem(id=item.id or "", role=item.role, content=texts)
        case "assistant":
            said = (OutputText(text=content),) if isinstance(content, str) else _said(content, f"{place}.content", model)
            return MessageItem(id=item.id or "", role=item.role, content=said)
        case _:
            message = f"`{place}.role` must be `user`, `assistant`, `system` or `developer`."
            raise refusal(message, f"{place}.role")


def _input_texts(parts: Sequence[Part] | None, place: str, model: str) -> tuple[InputText, ...]:
    return tuple(
        InputText(text=_text(part, f"{place}[{number}]", model, ("input_text", "text", "output_text")))
        for number, part in enumerate(_there(parts, place))
    )


def _said(parts: Sequence[Part] | None, place: str, model: str) -> tuple[OutputText | RefusalText, ...]:
    return tuple(
        RefusalText(refusal=_there(part.refusal, f"{place}[{number}].refusal"))
        if part.type == "refusal"
        else OutputText(text=_text(part, f"{place}[{number}]", model, ("output_text", "text", "input_text")))
        for number, part in enumerate(_there(parts, place))
    )


def _text(part: Part, place: str, model: str, types: tuple[str, ...]) -> str:
    if part.type in types:
        return _there(part.text, f"{place}.text")
    kind = _UNREADABLE.get(part.type)
    if kind is not None:
        raise refusal(f"`{place}` is {kind}, and the model `{model}` reads text only; send text.", place)
    raise refusal(f"`{place}` has a type that is not known here; write `{types[0]}`.", f"{place}.type")


T = TypeVar("T")


def _there(value: T | None, place: str) -> T:
    if value is None:
        raise refusal(f"`{place}` is missing.", place)
    return value


# ---- as turns of a chat --------------------------------------------------------------------------------------------------


def turns_of(items: Iterable[Item]) -> tuple[ChatMessage, ...]:
    """A conversation. What the assistant thought, said and called in a row is one turn, as chat templates know it."""
    turns: list[ChatMessage] = []
    turn = _Turn()
    for item in items:
        if not turn.takes(item):
            turns += turn.end()
            turn = _Turn()
        if not turn.take(item):
            turns.append(_other_turn(item))
    return (*turns, *turn.end())


class _Turn:
    """One of the assistant as it grows: thoughts, then a text, then calls."""

    def __init__(self) -> None:
        self._thoughts: list[str] = []
        self._texts: list[TextPart] | None = None
        self._calls: list[ToolCall] = []

    def takes(self, item: Item) -> bool:
        """Whether an item may belong to it."""
        match item:
            case ReasoningItem():
                return self._texts is None and not self._calls
            case MessageItem(role="assistant"):
                return self._texts is None and not self._calls
            case CallItem():
                return all(call.id != item.call_id for call in self._calls)
            case _:
                return False

    def take(self, item: Item) -> bool:
        """Take one that may; False where it is no item of the assistant."""
        match item:
            case ReasoningItem():
                self._thoughts += [part.text for part in item.content or item.summary]
            case MessageItem(role="assistant"):
                self._texts = [TextPart(text=part.refusal if isinstance(part, RefusalText) else part.text) for part in item.content]
            case CallItem():
                arguments = decode(item.arguments, dict[str, Any])
                self._calls.append(ToolCall(id=item.call_id, name=item.name_for_model, arguments=arguments))
            case _:
                return False
        return True

    def end(self) -> tuple[ChatMessage, ...]:
        """The turn, unless nothing belongs to it."""
        if self._texts is None and not self._calls and not self._thoughts:
            return ()
        texts = self._texts or []
        content = None if not texts and self._calls else texts[0].text if len(texts) == 1 else tuple(texts) if texts else ""
        reasoning = "".join(self._thoughts) or None
        return (ChatMessage(role="assistant", content=content, reasoning=reasoning, tool_calls=tuple(self._calls)),)


def _other_turn(item: Item) -> ChatMessage:
    match item:
        case MessageItem():
            role: Literal["user", "system"] = "user" if item.role == "user" else "system"
            return ChatMessage(role=role, content=_content(item.content))
        case CallOutputItem():
            content = item.output if isinstance(item.output, str) else _content(item.output)
            return ChatMessage(role="tool", content=content, tool_call_id=item.call_id)
        case _:
            raise AssertionError("the assistant's own items make its turns")


def _content(parts: Sequence[InputText | OutputText | RefusalText]) -> str | tuple[TextPart, ...]:
    texts = [part.refusal if isinstance(part, RefusalText) else part.text for part in parts]
    return texts[0] if len(texts) == 1 else tuple(TextPart(text=text) for text in texts)


def check_length(turns: Sequence[ChatMessage]) -> None:
    """Refuse a conversation that grew too long.

    Raises:
        RbeesError: INVALID_REQUEST with the numbers.
    """
    if len(turns) > MAX_MESSAGES:
        message = f"The conversation has {len(turns)} turns with what went before, and at most {MAX_MESSAGES} fit; begin a new one."
        raise refusal(message, "input")
    size = sum(len(turn.text) + len(turn.reasoning or "") for turn in turns)
    if size > MAX_CHARACTERS:
        message = f"The conversation has {size} characters with what went before, and {MAX_CHARACTERS} fit; begin a new one."
        raise refusal(message, "input")
