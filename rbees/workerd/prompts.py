"""From what a caller sends to the token ids that the engine computes, and to how its answer is to be read.

What the template itself writes may hold control tokens; what a client says may not, be it a message, a tool's definition or what a
tool gave back: a control token's spelling there is broken up by a marker before rendering, and the pieces around the marker
are tokenized apart. A raw prompt is its author's own affair, and control tokens in it count.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from rbees.protocol.chat import ChatMessage, PromptSource, TemplateOption, Tool, forced_tools
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.workerd.chat.conversation import CallStyle, template_variables
from rbees.workerd.chat.forced import ForcedCall, PossibleCall, forced_call
from rbees.workerd.chat.shape import CallShape, shape_of
from rbees.workerd.chat.style import ChatFormat, style_of
from rbees.workerd.chat.traits import TemplateTraits
from rbees.workerd.engine.backend import Backend
from rbees.workerd.engine.parts import AnswerFormat

_MARKERS: Final = tuple(chr(code) for code in range(0xFDD0, 0xFDF0))
"""Noncharacters of Unicode: free for a program's own use, never part of a text."""
_OPTIONS_SHOWN: Final = 20
_LONG_TEXT: Final = 16_384
"""Texts longer than this are tokenized off the event loop."""


class Renderer(Protocol):
    """Applies the model's chat template."""

    async def render(self, variables: Mapping[str, Any]) -> str:
        """The prompt's text."""

    async def traits(self) -> TemplateTraits:
        """What the template can be told."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the engine computes, and how its answer is read; without a format all of that is text."""

    token_ids: tuple[int, ...] = field(repr=False)
    format: AnswerFormat | None = field(default=None, repr=False)
    forced: ForcedCall | None = field(default=None, repr=False)
    """What keeps the answer to a call where one must be made."""
    possible: PossibleCall | None = field(default=None, repr=False)
    """The call that an answer may be in place of one in its form."""


class Prompts:
    """Makes token ids for one model."""

    def __init__(self, backend: Backend, renderer: Renderer | None) -> None:
        self._backend = backend
        self._renderer = renderer
        template = backend.facts.chat_template
        self._style = style_of(template, self._control_token) if template is not None else None
        spellings = sorted((t for t in backend.facts.control_texts if len(t) > 1), key=len, reverse=True)
        self._controls = re.compile("|".join(map(re.escape, spellings))) if spellings else None

    async def of_source(self, source: PromptSource, *, in_form: bool = False) -> Prompt:
        """The prompt of a raw text or a conversation, at least one token long; `in_form`: its answer is to have a form.

        Raises:
            RbeesError: INVALID_REQUEST, MODEL_INCOMPATIBLE
        """
        if source.prompt == "":
            raise _empty()
        if source.prompt is not None:
            return Prompt(await self._ids([source.prompt]))
        assert source.messages is not None
        tools = source.tools if source.tool_choice != "none" else ()
        parts = await self._render(source.messages, tools, source.template_options)
        assert self._style is not None, "there is a template"
        answer = self._style.answer(parts[-1], {tool.name: tool.parameters for tool in tools})
        must_call = forced_tools(tools, source.tool_choice)
        forced = await self._forced(must_call, answer) if must_call and answer is not None else None
        if in_form and tools and forced is None and answer is not None and (shape := await self._shape(answer)) is not None:
            possible = PossibleCall(shape, tuple(tools), _control_tokens(answer))
            return Prompt(await self._ids(parts), answer.beside_form(), possible=possible)
        return Prompt(await self._ids(parts), answer, forced)

    async def _forced(self, tools: Sequence[Tool], answer: ChatFormat) -> ForcedCall:
        """What keeps the answer to a call of one of these tools. Raises RbeesError MODEL_INCOMPATIBLE."""
        shape = await self._shape(answer)
        if shape is None:
            message = "The form in which this model calls tools cannot be enforced; leave `tool_choice` to the model (`auto`)."
            raise RbeesError(ErrorCode.MODEL_INCOMPATIBLE, message)
        reasoning = None if answer.has_thought else answer.style.reasoning
        # Of the largest schemas that are taken, to make the grammar takes a second.
        return await asyncio.to_thread(
            forced_call, shape, tools, reasoning=reasoning, thinks=answer.thinks, control_tokens=_control_tokens(answer)
        )

    async def _shape(self, answer: ChatFormat) -> CallShape | None:
        """How the model's own template spells a call; None where that cannot be enforced."""
        assert self._renderer is not None
        turn = (await self._renderer.traits()).turn
        return shape_of(answer.style.calls, turn) if turn is not None else None

    async def _ids(self, parts: list[str]) -> tuple[int, ...]:
        if sum(map(len, parts)) > _LONG_TEXT:
            ids = await asyncio.to_thread(self._tokenize, parts)
        else:
            ids = self._tokenize(parts)
        return self.checked(ids)

    def check_generates(self) -> None:
        """Refuse to make text with a model that makes none. Raises RbeesError MODEL_INCOMPATIBLE."""
        if not self._backend.facts.generates:
            message = "This model makes vectors and no text; send it `embed` or `rerank`, or choose a model that generates."
            raise RbeesError(ErrorCode.MODEL_INCOMPATIBLE, message)

    def checked(self, ids: Sequence[int]) -> tuple[int, ...]:
        """`ids` if they can be computed.

        Raises:
            RbeesError: INVALID_REQUEST for none at all or one outside of the vocabulary.
        """
        if not ids:
            raise _empty()
        size = self._backend.facts.vocabulary_size
        if min(ids) < 0 or max(ids) >= size:
            raise RbeesError(
                ErrorCode.INVALID_REQUEST, f"Token ids must lie between 0 and {size - 1}.", field="token_ids", vocabulary_size=size
            )
        return tuple(ids)

    def _tokenize(self, parts: list[str]) -> list[int]:
        first, *rest = parts
        bos = self._backend.facts.bos_text
        if self._backend.facts.adds_bos and bos:
            # Templates write it themselves; two of them would make a prompt that the model never saw in training.
            first = first.removeprefix(bos)
        ids = self._backend.tokenize(first, add_special=True, parse_special=True)
        for part in rest:
            ids += self._backend.tokenize(part, add_special=False, parse_special=True)
        return ids

    async def _render(
        self, messages: Sequence[ChatMessage], tools: Sequence[Tool], options: dict[str, TemplateOption]
    ) -> list[str]:
        """The rendered text, cut where control tokens were broken up.

        Raises:
            RbeesError: INVALID_REQUEST, MODEL_INCOMPATIBLE
        """
        if self._renderer is None:
            raise RbeesError(
                ErrorCode.MODEL_INCOMPATIBLE,
                "This model has no chat template; send its text as a raw `prompt` (`jobs submit --raw`).",
            )
        style = CallStyle()
        if tools or options or any(message.tool_calls for message in messages):
            traits = await self._renderer.traits()
            options = {name: told for name, told in options.items() if not self._is_so_anyhow(name, told, traits)}
            style = _call_style(traits, messages, tools, options)
        texts = _Texts()
        template_variables(messages, tools, options, style, texts.see)
        marker = texts.free_marker()
        told = template_variables(messages, tools, options, style, lambda text: self._break_up(text, marker))
        text = await self._renderer.render(told)
        if not text:
            message = "The model's chat template makes an empty prompt of these messages; send some text."
            raise RbeesError(ErrorCode.INVALID_REQUEST, message, field="messages")
        return text.split(marker)

    def _is_so_anyhow(self, name: str, told: TemplateOption, traits: TemplateTraits) -> bool:
        """Whether an option forbids thoughts to a model whose template knows none."""
        thinks = self._style is not None and self._style.reasoning is not None
        return name == "enable_thinking" and told is False and not thinks and name not in traits.options

    def _break_up(self, content: str, marker: str) -> str:
        while self._controls is not None and self._controls.search(content):
            content = self._controls.sub(lambda found: found[0][0] + marker + found[0][1:], content)
        return content

    def _control_token(self, text: str) -> int | None:
        """The id of the control token that is spelled so: only those have no text of their own."""
        ids = self._backend.tokenize(text, add_special=False, parse_special=True)
        return ids[0] if len(ids) == 1 and not self._backend.piece(ids[0]) else None


def _control_tokens(answer: ChatFormat) -> dict[str, int]:
    """The marks that are tokens without a text of their own."""
    return {mark.decode(): token for token, mark in answer.style.spelled.items()}


def _empty() -> RbeesError:
    """Said before tokenizing too: a tokenizer that begins every prompt with a token of its own makes one of no text."""
    return RbeesError(ErrorCode.INVALID_REQUEST, "The prompt is empty; send some text.", field="prompt")


class _Texts:
    """Which markers a client's texts leave free."""

    def __init__(self) -> None:
        self._free = list(_MARKERS)

    def see(self, text: str) -> str:
        """Take note of one text."""
        self._free = [marker for marker in self._free if marker not in text]
        return text

    def free_marker(self) -> str:
        """One that no text holds. Raises RbeesError INVALID_REQUEST where there is none."""
        if not self._free:
            message = "The messages hold all of Unicode's noncharacters; remove one."
            raise RbeesError(ErrorCode.INVALID_REQUEST, message, field="messages")
        return self._free[0]


def _call_style(
    traits: TemplateTraits, messages: Sequence[ChatMessage], tools: Sequence[Tool], options: dict[str, TemplateOption]
) -> CallStyle:
    """How calls are told to this template.

    Raises:
        RbeesError: INVALID_REQUEST, MODEL_INCOMPATIBLE for what the template has no place for.
    """
    unknown = next((name for name in options if name not in traits.options), None)
    if unknown is not None:
        known = ", ".join(sorted(traits.options)[:_OPTIONS_SHOWN]) or "none"
        message = f"The model's chat template uses no variable `{unknown}`; it uses: {known}."
        raise RbeesError(ErrorCode.INVALID_REQUEST, message, field=f"template_options.{unknown}")
    if tools and not traits.takes_tools:
        message = "The model's chat template has no place for tools; choose a model that was trained to call them."
        raise RbeesError(ErrorCode.MODEL_INCOMPATIBLE, message)
    if traits.calls is None and any(m.tool_calls for m in messages):
        message = "The model's chat template does not show `tool_calls`; choose a model that was trained to call tools."
        raise RbeesError(ErrorCode.MODEL_INCOMPATIBLE, message)
    return traits.calls or CallStyle()
