"""Answers read the way the engine reads them: token by token, through the text stream and the parts behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rbees.protocol.sampling import Sampling
from rbees.workerd.chat.calls import FORMS, JSON_FORM, CallForm
from rbees.workerd.chat.reader import ReasoningMarks
from rbees.workerd.chat.style import ChatFormat, ChatStyle
from rbees.workerd.engine.parts import Call
from rbees.workerd.engine.sequence import Group, Work
from rbees.workerd.engine.sequence import Sequence as Answer
from rbees.workerd.engine.text import Piece

THINK = ReasoningMarks("<think>", "</think>")
TOOLS: dict[str, dict[str, Any]] = {
    "f": {"type": "object", "properties": {"a": {"type": "integer"}, "s": {"type": "string"}}},
    "g": {},
}
END = frozenset({-1})


def form(name: str) -> CallForm:
    """The form of calls by its name."""
    return next(form for form in (*FORMS, JSON_FORM) if form.name == name)


def chat_format(calls: str | None, *, thinks: bool = False, reasoning: ReasoningMarks | None = THINK) -> ChatFormat:
    """The format of a chat in which `f` and `g` may be called, in the form `calls` unless None."""
    style = ChatStyle(reasoning, form(calls) if calls else JSON_FORM)
    return ChatFormat(style, TOOLS if calls else {}, thinks)


def read(
    tokens: Sequence[bytes], how: ChatFormat | None, *, given: int = 0, stop: tuple[str, ...] = (), limit: int | None = None
) -> tuple[list[Piece], tuple[Call, ...], str | None]:
    """Events, calls and reason of an answer of these tokens, of which an earlier attempt made the first `given`."""
    work = Work("job/1", (0,), tuple(range(given)), None, Sampling(stop=stop), format=how)
    answer = Answer(work=work, order=0, limit=limit or 1 << 30, group=Group(arrived_s=0.0))
    events: list[Piece] = []
    reason = answer.replay(tokens.__getitem__, END)
    for number in (*range(given, len(tokens)), -1):
        if reason is None:
            pieces, reason = answer.accept(number, tokens[number] if number >= 0 else b"", END)
            events += pieces
    return events, answer.calls, reason


def parts_of(events: Sequence[Piece]) -> list[tuple[str, str]]:
    """Part and text, neighbours of one part joined, calls apart."""
    joined: list[tuple[str, str]] = []
    for event in events:
        if joined and joined[-1][0] == event.part != "tool":
            joined[-1] = (event.part, joined[-1][1] + event.text)
        elif event.text:
            joined.append((event.part, event.text))
    return joined


def cut(text: str, size: int) -> list[bytes]:
    """Tokens of `size` bytes each."""
    data = text.encode()
    return [data[i : i + size] for i in range(0, len(data), size)]
