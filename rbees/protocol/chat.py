"""Conversations: what was said, which tools there are, which the model called and what came of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Final, Literal, Protocol

import msgspec

from rbees.protocol.codec import Request
from rbees.protocol.errors import ErrorCode, RbeesError

MAX_MESSAGES: Final = 1_024
MAX_TOOLS: Final = 128
MAX_TOOL_CALLS: Final = 128
MAX_TEXT_PARTS: Final = 1_024
MAX_TEMPLATE_OPTIONS: Final = 16

Role = Literal["system", "user", "assistant", "tool"]
TOOL_NAME_PATTERN: Final = r"^[A-Za-z0-9_.:-]{1,128}$"
ToolName = Annotated[str, msgspec.Meta(pattern=TOOL_NAME_PATTERN)]
CallId = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
TemplateOption = bool | int | Annotated[str, msgspec.Meta(max_length=256)]
TemplateOptions = Annotated[
    dict[Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,63}$")], TemplateOption],
    msgspec.Meta(
        max_length=MAX_TEMPLATE_OPTIONS,
        description="Variables of the model's chat template, such as `enable_thinking`; only those that it uses.",
    ),
]


class TextPart(Request, frozen=True, kw_only=True):
    """A piece of a message."""

    private: ClassVar[frozenset[str]] = frozenset({"text"})
    type: Literal["text"] = "text"
    text: str


class ToolCall(Request, frozen=True, kw_only=True):
    """One call of a tool by the model."""

    private: ClassVar[frozenset[str]] = frozenset({"name", "arguments"})
    hints: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("type", "function"), "write a call flat: `id`, `name`, `arguments` (an object)"
    )
    id: CallId
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    arguments: dict[str, Any]


class ChatMessage(Request, frozen=True, kw_only=True):
    """One turn of a conversation. Only an assistant's turn that calls tools may go without `content`."""

    private: ClassVar[frozenset[str]] = frozenset({"content", "reasoning", "name", "tool_calls"})
    role: Role
    content: str | Annotated[tuple[TextPart, ...], msgspec.Meta(max_length=MAX_TEXT_PARTS)] | None = None
    reasoning: str | None = None
    """What the assistant thought before; templates that have no place for it leave it out."""
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=256)] | None = None
    """Who speaks, or which tool answers."""
    tool_calls: Annotated[tuple[ToolCall, ...], msgspec.Meta(max_length=MAX_TOOL_CALLS)] = ()
    tool_call_id: CallId | None = None
    """Of the call that a `tool` message answers."""

    @property
    def text(self) -> str:
        """The content as one text; its parts stand on lines of their own."""
        if isinstance(self.content, tuple):
            return "\n".join(part.text for part in self.content)
        return self.content or ""


class Tool(Request, frozen=True, kw_only=True):
    """A tool that the model may call."""

    private: ClassVar[frozenset[str]] = frozenset({"name", "description", "parameters"})
    hints: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("type", "function"), "write a tool flat: `name`, `description`, `parameters`"
    )
    name: ToolName
    description: str = ""
    parameters: dict[str, Any] = {}
    """JSON schema of the arguments, an object; empty: no arguments."""


class NamedTool(Request, frozen=True, kw_only=True):
    """The one tool that must be called."""

    private: ClassVar[frozenset[str]] = frozenset({"name"})
    hints: ClassVar[Mapping[str, str]] = dict.fromkeys(("type", "function"), "write only the tool's `name`")
    name: ToolName


ToolChoice = Literal["auto", "none", "required"] | NamedTool
Tools = Annotated[tuple[Tool, ...], msgspec.Meta(max_length=MAX_TOOLS, description="What the model may call.")]


Messages = Annotated[tuple[ChatMessage, ...], msgspec.Meta(min_length=1, max_length=MAX_MESSAGES)]


class PromptSource(Protocol):
    """What a prompt is made of: raw text or a conversation."""

    @property
    def prompt(self) -> str | None:
        """Raw text."""

    @property
    def messages(self) -> Sequence[ChatMessage] | None:
        """A conversation."""

    @property
    def tools(self) -> Sequence[Tool]:
        """What the model may call."""

    @property
    def tool_choice(self) -> ToolChoice:
        """Whether it may."""

    @property
    def template_options(self) -> dict[str, TemplateOption]:
        """Variables of the template."""


def forced_tools(tools: Sequence[Tool], tool_choice: ToolChoice) -> tuple[Tool, ...]:
    """Those tools of which one must be called."""
    if isinstance(tool_choice, NamedTool):
        return tuple(tool for tool in tools if tool.name == tool_choice.name)
    return tuple(tools) if tool_choice == "required" else ()


def check_chat(
    messages: tuple[ChatMessage, ...] | None, tools: tuple[Tool, ...], tool_choice: ToolChoice, options: dict[str, TemplateOption]
) -> None:
    """What the types cannot say about a conversation.

    Raises:
        RbeesError: INVALID_REQUEST.
    """
    if tool_choice not in ("auto", "none") and not forced_tools(tools, tool_choice):
        raise _refusal(_no_such_tool(tools), "tool_choice")
    if messages is None and (tools or options or tool_choice != "auto"):
        raise _refusal("`tools`, `tool_choice` and `template_options` go with `messages`; a raw `prompt` has no template.", "tools")
    if messages is not None and not messages:
        raise _refusal("`messages` is empty; say something.", "messages")
    twice = _repeated(tool.name for tool in tools)
    if twice is not None:
        raise _refusal("Two of `tools` have the same name; rename one.", "tools")
    for number, message in enumerate(messages or ()):
        problem = _problem(message)
        if problem is not None:
            raise _refusal(f"`messages[{number}]` {problem}.", f"messages[{number}]")


def _no_such_tool(tools: Sequence[Tool]) -> str:
    if not tools:
        return "`tool_choice` asks for a call, but `tools` is empty; send the tools too."
    return "`tool_choice` names a tool that is not among `tools`; write the name of one of them."


def _problem(message: ChatMessage) -> str | None:
    if message.role != "assistant" and (message.tool_calls or message.reasoning is not None):
        return "holds `tool_calls` or `reasoning`, which only the assistant has"
    if message.role != "tool" and message.tool_call_id is not None:
        return "holds `tool_call_id`, which only a `tool` message has"
    if message.content is None and not message.tool_calls:
        return "has no `content`"
    if _repeated(call.id for call in message.tool_calls) is not None:
        return "holds two calls with the same `id`"
    return None


def _repeated(names: Iterable[str]) -> str | None:
    return next((name for name, count in Counter(names).items() if count > 1), None)


def _refusal(sentence: str, field: str) -> RbeesError:
    return RbeesError(ErrorCode.INVALID_REQUEST, sentence, field=field)
