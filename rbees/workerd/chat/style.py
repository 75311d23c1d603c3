"""What a chat template's text tells about the answers of its model: how they mark thoughts and calls. PURE."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from rbees.workerd.chat.calls import CallForm, form_of
from rbees.workerd.chat.reader import PartReader, ReasoningMarks

REASONING: Final = (
    ReasoningMarks("<think>", "</think>"),
    ReasoningMarks("[THINK]", "[/THINK]"),
    ReasoningMarks("<|START_THINKING|>", "<|END_THINKING|>"),
    ReasoningMarks("<seed:think>", "</seed:think>"),
    ReasoningMarks("<|channel>thought", "<channel|>"),
)


@dataclass(frozen=True, slots=True)
class ChatStyle:
    """How the answers of one model are written."""

    reasoning: ReasoningMarks | None
    calls: CallForm
    spelled: Mapping[int, bytes] = field(default_factory=dict)
    """Those marks that are control tokens, with their spelling."""

    def answer(self, prompt: str, tools: Mapping[str, dict[str, Any]]) -> ChatFormat | None:
        """How the answer to this rendered prompt is read, where `tools` (schemas by name) may be called. None: all is text."""
        if self.reasoning is None and not tools:
            return None
        end = prompt.rstrip()
        thinks = self.reasoning is not None and end.endswith(self.reasoning.opens)
        has_thought = self.reasoning is not None and end.endswith(self.reasoning.closes)
        return ChatFormat(self, tools, thinks, has_thought)


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """Implements `engine.parts.AnswerFormat` for one job."""

    style: ChatStyle
    tools: Mapping[str, dict[str, Any]]
    thinks: bool
    """The prompt opened a thought."""
    has_thought: bool = False
    """The prompt closed one, mostly an empty one: the answer is to go on without."""
    in_form: bool = False
    """The answer is a call or text in a form, which may hold whatever looks like a call."""

    @property
    def spelled(self) -> Mapping[int, bytes]:
        """See `AnswerFormat`."""
        return self.style.spelled

    def beside_form(self) -> ChatFormat:
        """The same of an answer that is a call or text in a form; there is no room for thoughts, whatever the prompt opened."""
        return replace(self, style=replace(self.style, reasoning=None), thinks=False, in_form=True)

    def reader(self) -> PartReader:
        """See `AnswerFormat`."""
        form = self.style.calls if self.tools else None
        return PartReader(self.style.reasoning, form, tools=self.tools, thinks=self.thinks, calls_begin=self.in_form)


def style_of(template: str, control_token: Callable[[str], int | None]) -> ChatStyle:
    """The style that a template's text shows. `control_token` tells the id of a text that is one control token."""
    reasoning = next((marks for marks in REASONING if marks.closes in template), None)
    calls = form_of(template)
    marks = (*calls.marks, *((reasoning.opens, reasoning.closes) if reasoning else ()))
    spelled = {token: mark.encode() for mark in marks if (token := control_token(mark)) is not None}
    return ChatStyle(reasoning, calls, spelled)
