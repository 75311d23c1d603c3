"""PURE: the messages, tools and calls of a chat, as OpenAI's clients write them and as jobs have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Final, Literal

import msgspec

from rbees.orcd.door.foreign import Foreign, Refused, read_object, refusal
from rbees.protocol.chat import (
    MAX_MESSAGES,
    MAX_TEXT_PARTS,
    MAX_TOOL_CALLS,
    MAX_TOOLS,
    CallId,
    ChatMessage,
    NamedTool,
    TextPart,
    Tool,
    ToolCall,
    ToolChoice,
    ToolName,
)

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
_PARTS: Final = msgspec.Meta(max_length=MAX_TEXT_PARTS)
_CACHE: Final = {"prompt_cache_breakpoint": Refused("prompts are cached as far as they are alike; leave it out.")}


class Text(Foreign, frozen=True, kw_only=True, tag_field="type", tag="text"):
    """A piece of text."""

    private: ClassVar[frozenset[str]] = frozenset({"text"})
    refused: ClassVar[Mapping[str, Refused]] = _CACHE
    text: str


class Refusal(Foreign, frozen=True, kw_only=True, tag_field="type", tag="refusal"):
    """What a model said instead of an answer, given back to it."""

    private: ClassVar[frozenset[str]] = frozenset({"refusal"})
    refusal: str


class Unreadable(Foreign, frozen=True, kw_only=True):
    """Something else than text, which no model here can take in."""

    is_offered: ClassVar[bool] = False
    """Nobody who wrote something else is told to write this."""


class Image(Unreadable, frozen=True, kw_only=True, tag_field="type", tag="image_url"):
    """A picture."""


class Picture(Unreadable, frozen=True, kw_only=True, tag_field="type", tag="image"):
    """The same as other APIs write it."""


class InputImage(Unreadable, frozen=True, kw_only=True, tag_field="type", tag="input_image"):
    """The same as the Responses API writes it."""


class Audio(Unreadable, frozen=True, kw_only=True, tag_field="type", tag="input_audio"):
    """A sound."""


class AudioLink(Unreadable, frozen=True, kw_only=True, tag_field="type", tag="audio_url"):
    """The same as vLLM's clients write it."""


class Video(Unreadable, frozen=True, kw_only=True, tag_field="type", tag="video_url"):
    """Moving pictures, as vLLM's clients write them."""


class File(Unreadable, frozen=True, kw_only=True, tag_field="type", tag="file"):
    """A file."""


_UNREADABLE: Final[dict[type[Foreign], str]] = {
    **dict.fromkeys((Image, Picture, InputImage), "an image"),
    **dict.fromkeys((Audio, AudioLink), "audio"),
    Video: "a video",
    File: "a file",
}
_Unreadable = Image | Picture | InputImage | Audio | AudioLink | Video | File


class SystemMessage(Foreign, frozen=True, kw_only=True, tag_field="role", tag="system"):
    """How the model is to behave."""

    private: ClassVar[frozenset[str]] = frozenset({"content", "name"})
    content: str | Annotated[tuple[Text, ...], _PARTS]
    name: _Name | None = None


class DeveloperMessage(SystemMessage, frozen=True, kw_only=True, tag_field="role", tag="developer"):
    """The same under its newer name."""


class UserMessage(Foreign, frozen=True, kw_only=True, tag_field="role", tag="user"):
    """What is asked."""

    private: ClassVar[frozenset[str]] = frozenset({"content", "name"})
    content: str | Annotated[tuple[Text | _Unreadable, ...], _PARTS]
    name: _Name | None = None


class CalledFunction(Foreign, frozen=True, kw_only=True):
    """Which function a call is of, and its arguments as JSON in a text."""

    private: ClassVar[frozenset[str]] = frozenset({"name", "arguments"})
    name: _Name
    arguments: str = ""


class Call(Foreign, frozen=True, kw_only=True):
    """A call that the model made before."""

    id: CallId
    type: Literal["function"] = "function"
    function: CalledFunction


class AssistantMessage(Foreign, frozen=True, kw_only=True, tag_field="role", tag="assistant"):
    """What the model said, thought or called before."""

    private: ClassVar[frozenset[str]] = frozenset({"content", "name", "refusal", "reasoning_content", "reasoning"})
    refused: ClassVar[Mapping[str, Refused]] = {
        "audio": Refused("no model here speaks; send what was said as `content`."),
        "prefix": Refused("an answer is always a new turn; send what it is to go on from as a raw `prompt` instead.", (False,)),
        "function_call": Refused("send it as an entry of `tool_calls`."),
    }
    content: str | Annotated[tuple[Text | Refusal, ...], _PARTS] | None = None
    name: _Name | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: Annotated[tuple[Call, ...], msgspec.Meta(max_length=MAX_TOOL_CALLS)] | None = None


class ToolMessage(Foreign, frozen=True, kw_only=True, tag_field="role", tag="tool"):
    """What came of a call."""

    private: ClassVar[frozenset[str]] = frozenset({"content", "name"})
    content: str | Annotated[tuple[Text, ...], _PARTS]
    tool_call_id: CallId
    name: _Name | None = None


class FunctionMessage(Foreign, frozen=True, kw_only=True, tag_field="role", tag="function"):
    """What came of a call, in a form that gave way to `tool`."""


AnyMessage = SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage | FunctionMessage
Messages = Annotated[tuple[AnyMessage, ...], msgspec.Meta(min_length=1, max_length=MAX_MESSAGES)]


class FunctionDefinition(Foreign, frozen=True, kw_only=True):
    """A function that may be called."""

    private: ClassVar[frozenset[str]] = frozenset({"name", "description", "parameters"})
    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionTool(Foreign, frozen=True, kw_only=True, tag_field="type", tag="function"):
    """A tool that is a function."""

    function: FunctionDefinition


class CustomTool(Foreign, frozen=True, kw_only=True, tag_field="type", tag="custom"):
    """A tool whose input is free text."""


Tools = Annotated[tuple[FunctionTool | CustomTool, ...], msgspec.Meta(max_length=MAX_TOOLS)]


class FunctionName(Foreign, frozen=True, kw_only=True):
    """A function by its name."""

    private: ClassVar[frozenset[str]] = frozenset({"name"})
    name: ToolName


class NamedFunction(Foreign, frozen=True, kw_only=True, tag_field="type", tag="function"):
    """The function that must be called, or that may be."""

    function: FunctionName


class AllowedTools(Foreign, frozen=True, kw_only=True):
    """Some of the tools, and whether one of them must be called."""

    mode: Literal["auto", "required"]
    tools: Annotated[tuple[NamedFunction, ...], msgspec.Meta(min_length=1, max_length=MAX_TOOLS)]


class AllowedChoice(Foreign, frozen=True, kw_only=True, tag_field="type", tag="allowed_tools"):
    """Only some of the tools may be called."""

    allowed_tools: AllowedTools


class NamedCustom(Foreign, frozen=True, kw_only=True, tag_field="type", tag="custom"):
    """A tool of a kind that there is none of."""


Choice = Literal["auto", "none", "required"] | NamedFunction | AllowedChoice | NamedCustom
_NO_CUSTOM: Final = "Tools of type `custom` are not supported; define a function with a parameter for the text."


def chat_messages(messages: Sequence[AnyMessage]) -> tuple[ChatMessage, ...]:
    """The conversation. Raises RbeesError INVALID_REQUEST for what cannot be read, by its place."""
    return tuple(_chat_message(message, f"messages[{number}]") for number, message in enumerate(messages))


def _chat_message(message: AnyMessage, place: str) -> ChatMessage:
    match message:
        case SystemMessage():
            return ChatMessage(role="system", content=_content(message.content, place), name=message.name)
        case UserMessage():
            return ChatMessage(role="user", content=_content(message.content, place), name=message.name)
        case AssistantMessage():
            content = message.content if message.content is not None else message.refusal
            return ChatMessage(
                role="assistant",
                content=None if content is None else _content(content, place),
                reasoning=message.reasoning_content if message.reasoning_content is not None else message.reasoning,
                name=message.name,
                tool_calls=tuple(
                    ToolCall(
                        id=call.id,
                        name=call.function.name,
                        arguments=read_object(
                            call.function.arguments or "{}",
                            f"{place}.tool_calls[{number}].function.arguments",
                            "send back what the model wrote",
                        ),
                    )
                    for number, call in enumerate(message.tool_calls or ())
                ),
            )
        case ToolMessage():
            given = _content(message.content, place)
            return ChatMessage(role="tool", content=given, name=message.name, tool_call_id=message.tool_call_id)
        case FunctionMessage():
            raise refusal(f"`{place}` has the role `function`; send what came of a call as `tool` with `tool_call_id`.", place)


def _content(content: str | Sequence[Foreign], place: str) -> str | tuple[TextPart, ...]:
    if isinstance(content, str):
        return content
    parts = []
    for number, part in enumerate(content):
        match part:
            case Text():
                parts.append(TextPart(text=part.text))
            case Refusal():
                parts.append(TextPart(text=part.refusal))
            case _:
                kind, where = _UNREADABLE[type(part)], f"{place}.content[{number}]"
                raise refusal(f"`{where}` is {kind}, and models here read text only; send text.", where)
    return tuple(parts)


def job_tools(tools: Sequence[FunctionTool | CustomTool], choice: Choice | None) -> tuple[tuple[Tool, ...], ToolChoice]:
    """The tools that may be called, and whether one must be.

    Raises:
        RbeesError: INVALID_REQUEST for a tool of another kind, or a choice among tools that are not there.
    """
    made = []
    for number, tool in enumerate(tools):
        if isinstance(tool, CustomTool):
            raise refusal(_NO_CUSTOM, f"tools[{number}].type")
        function = tool.function
        made.append(Tool(name=function.name, description=function.description or "", parameters=function.parameters or {}))
    match choice:
        case None:
            return tuple(made), "auto"
        case "auto" | "none" | "required":
            return tuple(made), choice
        case NamedFunction(function=named):
            return tuple(made), NamedTool(name=named.name)
        case AllowedChoice(allowed_tools=allowed):
            return _allowed(made, allowed), allowed.mode
        case NamedCustom():
            raise refusal(_NO_CUSTOM, "tool_choice.type")


def loosely_called(tools: Sequence[FunctionTool | CustomTool], choice: Choice | None) -> tuple[str, ...]:
    """Tools whose schema is to be followed though the model chooses whether to call: nobody keeps it to that."""
    match choice:
        case "none" | "required" | NamedFunction() | AllowedChoice(allowed_tools=AllowedTools(mode="required")):
            return ()
        case _:
            strict = (number for number, tool in enumerate(tools) if isinstance(tool, FunctionTool) and tool.function.strict)
            return tuple(f"tools[{number}].function.strict" for number in strict)


def _allowed(tools: Sequence[Tool], allowed: AllowedTools) -> tuple[Tool, ...]:
    names = [tool.function.name for tool in allowed.tools]
    known = {tool.name for tool in tools}
    unknown = next((number for number, name in enumerate(names) if name not in known), None)
    if unknown is not None:
        place = f"tool_choice.allowed_tools.tools[{unknown}]"
        raise refusal(f"`{place}` names a tool that is not among `tools`; write the name of one of them.", place)
    return tuple(tool for tool in tools if tool.name in names)
