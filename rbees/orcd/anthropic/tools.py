"""PURE: the tools that a model may call, as Anthropic's clients write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import msgspec

from rbees.orcd.anthropic.blocks import CacheControl
from rbees.orcd.door.foreign import Foreign, Refused, refusal
from rbees.protocol.chat import MAX_TOOLS, NamedTool, Tool, ToolChoice, ToolName


class ToolDefinition(Foreign, frozen=True, kw_only=True):
    """A tool with a schema. Those of other types are known to Anthropic's models, or written as another API has them."""

    private: ClassVar[frozenset[str]] = frozenset({"name", "description", "input_schema", "input_examples"})
    refused: ClassVar[Mapping[str, Refused]] = {
        "allowed_callers": Refused("only models call tools here; leave it out.", (["direct"],)),
        "defer_loading": Refused("models are told of all tools; leave it out.", (False,)),
    }
    name: ToolName | None = None
    """Only tools of other types have none."""
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    type: str | None = None
    strict: bool | None = None
    """An input is always as the schema says where the call is forced, and not where the model chooses to call."""
    cache_control: CacheControl | None = None
    eager_input_streaming: bool | None = None
    """A call is sent when it is whole."""
    input_examples: tuple[dict[str, Any], ...] | None = None
    """Chat templates have no place for them."""


Tools = Annotated[tuple[ToolDefinition, ...], msgspec.Meta(max_length=MAX_TOOLS)]


class _Wish(Foreign, frozen=True, kw_only=True):
    disable_parallel_tool_use: bool | None = None


class AutoChoice(_Wish, frozen=True, kw_only=True, tag_field="type", tag="auto"):
    """The model decides."""


class AnyChoice(_Wish, frozen=True, kw_only=True, tag_field="type", tag="any"):
    """One of the tools must be called."""


class NamedChoice(_Wish, frozen=True, kw_only=True, tag_field="type", tag="tool"):
    """This tool must be called."""

    private: ClassVar[frozenset[str]] = frozenset({"name"})
    name: ToolName


class NoChoice(Foreign, frozen=True, kw_only=True, tag_field="type", tag="none"):
    """No tool may be called."""


Choice = AutoChoice | AnyChoice | NamedChoice | NoChoice


def job_tools(tools: Sequence[ToolDefinition]) -> tuple[Tool, ...]:
    """The tools that may be called. Raises RbeesError INVALID_REQUEST for one that runs elsewhere, or has no schema."""
    return tuple(_tool(tool, f"tools[{number}]") for number, tool in enumerate(tools))


def job_choice(choice: Choice | None) -> ToolChoice:
    """Whether one of them must be."""
    match choice:
        case None | AutoChoice():
            return "auto"
        case AnyChoice():
            return "required"
        case NamedChoice(name=name):
            return NamedTool(name=name)
        case NoChoice():
            return "none"


def is_single(choice: Choice | None) -> bool:
    """Whether an answer may hold no more than one call."""
    return isinstance(choice, _Wish) and bool(choice.disable_parallel_tool_use)


def unmet(tools: Sequence[ToolDefinition], choice: Choice | None) -> tuple[str, ...]:
    """Fields of tools that ask for what nobody does, by path."""
    # Only a call that is forced is kept to its schema.
    loose = ("strict",) if choice is None or isinstance(choice, AutoChoice) else ()
    return tuple(
        f"tools[{number}].{name}"
        for number, tool in enumerate(tools)
        for name in ("eager_input_streaming", "input_examples", *loose)
        if getattr(tool, name)
    )


def _tool(tool: ToolDefinition, place: str) -> Tool:
    if tool.type not in (None, "custom"):
        sentence = f"`{place}` is of a type that models here do not know; define one of your own, with `name` and `input_schema`."
        raise refusal(sentence, f"{place}.type")
    if tool.name is None:
        raise refusal(f"`{place}` has no `name`; send the one by which it is called.", f"{place}.name")
    if tool.input_schema is None:
        raise refusal(f'`{place}` has no `input_schema`; send one, be it `{{"type": "object"}}`.', f"{place}.input_schema")
    return Tool(name=tool.name, description=tool.description or "", parameters=tool.input_schema)
