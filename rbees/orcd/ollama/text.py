"""PURE: `/api/chat` and `/api/generate`: the requests as jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Literal

import msgspec

from rbees.orcd.door.about_forms import BESIDE_TOOLS
from rbees.orcd.door.foreign import Foreign, Refused, refusal
from rbees.orcd.door.model_names import Found
from rbees.orcd.ollama.options import TextRequest, text_fields, thinking
from rbees.protocol.chat import (
    MAX_MESSAGES,
    MAX_TOOL_CALLS,
    MAX_TOOLS,
    CallId,
    ChatMessage,
    Role,
    Tool,
    ToolCall,
    ToolName,
)
from rbees.protocol.jobs import JobRequest
from rbees.protocol.vectors import EmbedRequest

_NO_IMAGES: Final = Refused("no model here can look at pictures; send text.", ([],))
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class CalledFunction(Foreign, frozen=True, kw_only=True):
    """Which function a call is of."""

    private: ClassVar[frozenset[str]] = frozenset({"name", "arguments"})
    index: int | None = None
    name: _Name
    arguments: dict[str, Any] | None = None


class Call(Foreign, frozen=True, kw_only=True):
    """A call that the model made before."""

    id: CallId | None = None
    type: str | None = None
    function: CalledFunction


class TurnOfTalk(Foreign, frozen=True, kw_only=True):
    """One turn of a conversation."""

    private: ClassVar[frozenset[str]] = frozenset({"content", "thinking", "tool_name"})
    refused: ClassVar[Mapping[str, Refused]] = {"images": _NO_IMAGES}
    role: Role
    content: str | None = None
    thinking: str | None = None
    tool_calls: Annotated[tuple[Call, ...], msgspec.Meta(max_length=MAX_TOOL_CALLS)] | None = None
    tool_name: _Name | None = None
    tool_call_id: CallId | None = None


class FunctionDefinition(Foreign, frozen=True, kw_only=True):
    """A function that may be called."""

    private: ClassVar[frozenset[str]] = frozenset({"name", "description", "parameters"})
    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None


class FunctionTool(Foreign, frozen=True, kw_only=True):
    """A tool; there is no kind but functions."""

    type: Literal["function"] | None = None
    function: FunctionDefinition


class ChatRequest(TextRequest, frozen=True, kw_only=True):
    """A chat. Without messages the model is only loaded, or unloaded."""

    content: ClassVar[str] = "messages"
    private: ClassVar[frozenset[str]] = frozenset({"messages", "tools"})
    messages: Annotated[
        Annotated[tuple[TurnOfTalk, ...], msgspec.Meta(max_length=MAX_MESSAGES)] | None,
        msgspec.Meta(
            description="Roles system, user, assistant and tool; `thinking` and `tool_calls` of earlier turns. `images` are "
            "refused, and so is an assistant's turn at the end, for answers begin anew. None at all: the model is loaded, or "
            "unloaded with `keep_alive`: 0."
        ),
    ] = None
    tools: Annotated[
        Annotated[tuple[FunctionTool, ...], msgspec.Meta(max_length=MAX_TOOLS)] | None,
        msgspec.Meta(description=f"Functions that the model may call. {BESIDE_TOOLS}"),
    ] = None


class GenerateRequest(TextRequest, frozen=True, kw_only=True):
    """A prompt. Without one the model is only loaded, or unloaded."""

    content: ClassVar[str] = "prompt"
    private: ClassVar[frozenset[str]] = frozenset({"prompt", "system"})
    refused: ClassVar[Mapping[str, Refused]] = {
        "context": Refused("send the conversation to /api/chat.", ([],)),
        "height": Refused("no model here makes pictures; leave it out.", (0,)),
        "images": _NO_IMAGES,
        "steps": Refused("no model here makes pictures; leave it out.", (0,)),
        "suffix": Refused("no model here fills in the middle by itself; send its marks in a `raw` prompt.", ("",)),
        "template": Refused("a model has the template of its file; send what you would have it make as a `raw` prompt.", ("",)),
        "width": Refused("no model here makes pictures; leave it out.", (0,)),
    }
    prompt: Annotated[
        str | None,
        msgspec.Meta(
            description="What is asked, to which the model's template is applied if it has one. Empty: the model is loaded, or "
            "unloaded with `keep_alive`: 0."
        ),
    ] = None
    system: Annotated[
        str | None, msgspec.Meta(description="How the model is to behave; named as ignored for a model without a template.")
    ] = None
    raw: Annotated[bool | None, msgspec.Meta(description="True: the prompt goes to the model as it is.")] = None


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request for text asks for."""

    job: JobRequest
    unmet: tuple[str, ...]
    """Fields that are known, and whose value asks for what nobody does."""


def chat_asked(request: ChatRequest, found: Found) -> Asked:
    """The job that a chat asks for.

    Raises:
        RbeesError: INVALID_REQUEST for what contradicts itself, by its place.
    """
    options, unmet = thinking(request.think, found.facts)
    tools = tuple(
        Tool(
            name=tool.function.name,
            description=tool.function.description or "",
            parameters=tool.function.parameters or {},
        )
        for tool in request.tools or ()
    )
    fields = text_fields(request, found.reference, options)
    return Asked(JobRequest(**fields, messages=_messages(request.messages or ()), tools=tools), unmet)


def generate_asked(request: GenerateRequest, found: Found) -> Asked:
    """The job that a prompt asks for.

    Raises:
        RbeesError: INVALID_REQUEST for what contradicts itself.
    """
    has_no_template = found.facts is not None and bool(found.facts.capabilities) and "chat" not in found.facts.capabilities
    if request.raw and request.system:
        raise refusal("`raw` leaves the template out, and with it `system`; send one of them.", "system")
    if request.raw or has_no_template:
        unmet = tuple(name for name in ("system", "think") if getattr(request, name))
        return Asked(JobRequest(**text_fields(request, found.reference, {}), prompt=request.prompt), unmet)
    options, unmet = thinking(request.think, found.facts)
    system = (ChatMessage(role="system", content=request.system),) if request.system else ()
    messages = (*system, ChatMessage(role="user", content=request.prompt))
    return Asked(JobRequest(**text_fields(request, found.reference, options), messages=messages), unmet)


def loading_job(found: Found) -> JobRequest:
    """The smallest job that needs the model to be loaded."""
    able = found.facts.capabilities if found.facts is not None else ()
    if "embed" in able and "generate" not in able:
        return JobRequest(kind="embed", model=found.reference, embed=EmbedRequest(input=("a",)), cancel_on_disconnect=True)
    return JobRequest(model=found.reference, prompt="a", max_tokens=1, cancel_on_disconnect=True)


def _messages(turns: Sequence[TurnOfTalk]) -> tuple[ChatMessage, ...]:
    """The conversation. Calls that have no id get one; a tool's answer is taken for the first call that has none yet.

    Raises:
        RbeesError: INVALID_REQUEST for one that ends with the assistant, which this API's clients send to have that turn go on.
    """
    open_calls: list[ToolCall] = []
    made = []
    for number, turn in enumerate(turns):
        calls = tuple(
            ToolCall(id=call.id or f"call_{number}_{place}", name=call.function.name, arguments=call.function.arguments or {})
            for place, call in enumerate(turn.tool_calls or ())
        )
        answered = _answered(turn, open_calls) if turn.role == "tool" else None
        open_calls += calls
        made.append(
            ChatMessage(
                role=turn.role,
                content=None if turn.content is None or (calls and not turn.content) else turn.content,
                reasoning=turn.thinking or None,
                name=turn.tool_name,
                tool_calls=calls,
                tool_call_id=answered,
            )
        )
    if made and made[-1].role == "assistant":
        place = f"messages[{len(made) - 1}]"
        why = "is the assistant's and the last, but answers here begin anew; end with the user's, or send a `raw` prompt."
        raise refusal(f"`{place}` {why}", place)
    return tuple(made)


def _answered(turn: TurnOfTalk, open_calls: list[ToolCall]) -> str | None:
    """The call that a tool answers, which is not open any more."""
    wanted = (
        call
        for call in open_calls
        if (call.id == turn.tool_call_id if turn.tool_call_id is not None else turn.tool_name in {None, call.name})
    )
    found = next(wanted, None)
    if found is None:
        return turn.tool_call_id
    open_calls.remove(found)
    return found.id
