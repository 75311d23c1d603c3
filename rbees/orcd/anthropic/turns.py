"""PURE: the turns of a conversation, as Anthropic's clients write them and as jobs have them.

Turns of the same side that follow each other are one turn, as the API reference says; results of calls, which there are part of the
user's turn, are turns of their own in a job.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar, Final, Literal

import msgspec

from rbees.orcd.anthropic.blocks import (
    Block,
    Content,
    Document,
    RedactedThinking,
    ResultPart,
    SearchResult,
    Text,
    Texts,
    Thinking,
    ToolResult,
    ToolUse,
    text_of,
    unreadable,
)
from rbees.orcd.door.foreign import Foreign, refusal
from rbees.protocol.chat import MAX_MESSAGES, MAX_TEXT_PARTS, MAX_TOOL_CALLS, ChatMessage, TextPart, ToolCall

FAILED: Final = "Error: "
"""Before what came of a call that failed: the messages of a chat have no other place for that."""


class UserTurn(Foreign, frozen=True, kw_only=True, tag_field="role", tag="user"):
    """What is asked, and what came of calls."""

    private: ClassVar[frozenset[str]] = frozenset({"content"})
    content: Content


class AssistantTurn(Foreign, frozen=True, kw_only=True, tag_field="role", tag="assistant"):
    """What the model said, thought or called before."""

    private: ClassVar[frozenset[str]] = frozenset({"content"})
    content: Content


class SystemTurn(Foreign, frozen=True, kw_only=True, tag_field="role", tag="system"):
    """How the model is to behave from here on."""

    private: ClassVar[frozenset[str]] = frozenset({"content"})
    content: str | Texts


AnyTurn = UserTurn | AssistantTurn | SystemTurn
Turns = Annotated[tuple[AnyTurn, ...], msgspec.Meta(min_length=1, max_length=MAX_MESSAGES)]
_Side = Literal["user", "assistant", "system"]
_Placed = tuple[str, Block | ResultPart]


def chat_messages(system: str | Sequence[Text] | None, turns: Sequence[AnyTurn]) -> tuple[ChatMessage, ...]:
    """The conversation.

    Raises:
        RbeesError: INVALID_REQUEST for what cannot be read, by its place.
    """
    if isinstance(turns[-1], AssistantTurn):
        place = f"messages[{len(turns) - 1}]"
        raise refusal(f"`{place}` is the assistant's and the last, but answers here begin anew; end with the user's.", place)
    messages: list[ChatMessage] = []
    if system:
        messages.append(ChatMessage(role="system", content=_said([("system", block) for block in _blocks(system)])))
    for side, placed in _sides(turns):
        if side == "assistant":
            messages.append(_assistant(placed))
        elif side == "user":
            messages += _user(placed)
        else:
            messages.append(ChatMessage(role="system", content=_said(placed)))
    if len(messages) > MAX_MESSAGES:
        made = f"with the system prompt and what came of each call as messages of their own it has {len(messages)}"
        raise refusal(f"`messages` is too long: {made}, and at most {MAX_MESSAGES} are taken; leave out old ones.", "messages")
    return tuple(messages)


def _sides(turns: Sequence[AnyTurn]) -> Iterator[tuple[_Side, list[_Placed]]]:
    """Each side's blocks until the other speaks, with the place of each."""
    side: _Side | None = None
    held: list[_Placed] = []
    for number, turn in enumerate(turns):
        speaks = _side(turn)
        if side is not None and (speaks != side or side == "system"):
            yield side, held
            held = []
        side = speaks
        held += _placed(turn.content, f"messages[{number}].content")
    assert side is not None
    yield side, held


def _side(turn: AnyTurn) -> _Side:
    match turn:
        case UserTurn():
            return "user"
        case AssistantTurn():
            return "assistant"
        case SystemTurn():
            return "system"


def _placed(content: str | Sequence[Block | ResultPart], place: str) -> list[_Placed]:
    if isinstance(content, str):
        return [(place, Text(text=content))]
    return [(f"{place}[{number}]", block) for number, block in enumerate(content)]


def _blocks(content: str | Sequence[Text]) -> Sequence[Text]:
    return [Text(text=content)] if isinstance(content, str) else content


def _user(placed: Sequence[_Placed]) -> Iterator[ChatMessage]:
    """What is said as messages of the user, what came of calls as messages of tools, in their order."""
    said: list[_Placed] = []
    results = 0
    for place, block in placed:
        match block:
            case ToolResult():
                if said:
                    yield ChatMessage(role="user", content=_said(said))
                    said = []
                yield ChatMessage(role="tool", content=_result(block, place), tool_call_id=block.tool_use_id)
                results += 1
            case ToolUse() | Thinking() | RedactedThinking():
                raise refusal(f"`{place}` is of a kind that only the assistant's turns have; send it there.", place)
            case _:
                said.append((place, block))
    if said or not results:
        yield ChatMessage(role="user", content=_said(said))


def _assistant(placed: Sequence[_Placed]) -> ChatMessage:
    said: list[_Placed] = []
    thoughts: list[str] = []
    calls: list[ToolCall] = []
    for place, block in placed:
        match block:
            case Text():
                said.append((place, block))
            case Thinking():
                thoughts.append(block.thinking)
            case RedactedThinking():
                pass
            case ToolUse():
                _check_call(block, place, calls)
                calls.append(ToolCall(id=block.id, name=block.name, arguments=block.input))
            case ToolResult() | Document() | SearchResult():
                raise refusal(f"`{place}` is of a kind that only the user's turns have; send it there.", place)
            case _:
                raise unreadable(block, place)
    return ChatMessage(
        role="assistant",
        content=None if calls and not said else _said(said),
        reasoning="\n".join(thoughts) or None,
        tool_calls=tuple(calls),
    )


def _check_call(call: ToolUse, place: str, before: Sequence[ToolCall]) -> None:
    if len(before) == MAX_TOOL_CALLS:
        raise refusal(f"`{place}` is one call too many: a turn has at most {MAX_TOOL_CALLS}; leave some out.", place)
    if any(other.id == call.id for other in before):
        raise refusal(f"`{place}` has the `id` of another call of its turn; give each its own.", f"{place}.id")


def _said(placed: Sequence[_Placed]) -> str | tuple[TextPart, ...]:
    """One text as such, several as parts."""
    if len(placed) > MAX_TEXT_PARTS:
        place, _ = placed[MAX_TEXT_PARTS]
        raise refusal(f"`{place}` is one block too many: what a side says at once has at most {MAX_TEXT_PARTS}; join some.", place)
    texts = [text_of(block, place) for place, block in placed]
    return texts[0] if len(texts) == 1 else tuple(TextPart(text=text) for text in texts) or ""


def _result(result: ToolResult, place: str) -> str | tuple[TextPart, ...]:
    placed = _placed(result.content or "", f"{place}.content")
    said = _said(placed)
    if not result.is_error:
        return said
    return FAILED + said if isinstance(said, str) else (TextPart(text=FAILED + said[0].text), *said[1:])
