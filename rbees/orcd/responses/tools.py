"""PURE: the tools of a response: which functions the model is offered and under what names, and which tools nobody here has.

A namespace is a group of functions, and the client runs these as it runs others. Models know no groups, so the model reads the two
names as one; what it calls by that is answered under both again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Literal

import msgspec
from msgspec.structs import replace

from rbees.orcd.door.foreign import Foreign, refusal
from rbees.orcd.responses.answers import SEARCHES, AnsweredNamespace, AnsweredTool, AnyAnsweredTool
from rbees.orcd.responses.names import name_for_model
from rbees.protocol.chat import MAX_TOOLS, NamedTool, Tool, ToolChoice, ToolName

_MAX_NAME: Final = 128
_Name = Annotated[str, msgspec.Meta(max_length=256)]


class InnerTool(Foreign, frozen=True, kw_only=True):
    """A tool of a namespace; what is none of type function is refused."""

    private: ClassVar[frozenset[str]] = frozenset({"name", "description", "parameters", "output_schema"})
    type: str
    name: _Name | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class AnyTool(InnerTool, frozen=True, kw_only=True):
    """A tool: a function, a namespace of functions, a search of the web, or one of the kinds that nobody here has."""

    private: ClassVar[frozenset[str]] = InnerTool.private | {"tools", "filters", "user_location"}
    tools: Annotated[tuple[InnerTool, ...], msgspec.Meta(max_length=MAX_TOOLS)] | None = None
    # Of a search: given back as they came.
    external_web_access: Any = None
    filters: Any = None
    search_content_types: Any = None
    search_context_size: Any = None
    user_location: Any = None


class ChosenTool(InnerTool, frozen=True, kw_only=True):
    """One of those that may be called."""

    private: ClassVar[frozenset[str]] = InnerTool.private | {"namespace"}
    namespace: ToolName | None = None


class AnyChoice(Foreign, frozen=True, kw_only=True):
    """Which tool must be called, or which may be."""

    private: ClassVar[frozenset[str]] = frozenset({"name", "namespace"})
    type: str
    name: ToolName | None = None
    namespace: ToolName | None = None
    mode: Literal["auto", "required"] | None = None
    tools: Annotated[tuple[ChosenTool, ...], msgspec.Meta(min_length=1, max_length=MAX_TOOLS)] | None = None


Choice = Literal["auto", "none", "required"] | AnyChoice
Tools = Annotated[tuple[AnyTool, ...], msgspec.Meta(max_length=MAX_TOOLS)]

NAMESPACE: Final = "namespace"
_OF_A_SEARCH: Final = frozenset(AnyTool.__struct_fields__) - {*InnerTool.__struct_fields__, "tools"}
_FOREIGN_TO: Final[Mapping[str, frozenset[str]]] = {
    "function": _OF_A_SEARCH | {"tools"},
    NAMESPACE: _OF_A_SEARCH | {"parameters", "strict"},
}
"""Fields that say nothing about a tool of that kind."""

_RUN_BY_CLIENTS: Final = "which is not supported; define a function with a parameter for the"
_NO_SEARCH: Final = "and nobody here searches the web; give the model a function that does."
_NO_SCREEN: Final = "and no model here looks at a screen; define functions for what it may do."
_NO_CODE: Final = "and no code is run here; define a function that does, and run it yourself."
_REFUSED: Final[Mapping[str, str]] = {
    **dict.fromkeys(SEARCHES, _NO_SEARCH),
    "apply_patch": f"{_RUN_BY_CLIENTS} patch.",
    "code_interpreter": _NO_CODE,
    **dict.fromkeys(("computer", "computer_use", "computer_use_preview"), _NO_SCREEN),
    "custom": f"{_RUN_BY_CLIENTS} text.",
    "file_search": "and no files are searched here; define a function that does, and run it yourself.",
    "image_generation": "and no model here draws; define a function that does, and run it yourself.",
    **dict.fromkeys(("local_shell", "shell"), f"{_RUN_BY_CLIENTS} command."),
    "mcp": "and orcd calls no MCP servers; let the client do so, and define functions for what they offer.",
    NAMESPACE: "where only a function can stand; name or define its functions one by one.",
    "programmatic_tool_calling": _NO_CODE,
    "tool_search": "and no tools are searched for here; send those that the model may call.",
}
"""Kinds of tools that are known and not offered to a model, and what to do instead."""


def job_tools(tools: Sequence[AnyTool], choice: Choice | None) -> tuple[tuple[Tool, ...], ToolChoice]:
    """What the model is offered, and whether it must call.

    Raises:
        RbeesError: INVALID_REQUEST for tools of other kinds, names that are none or not the only ones, or a choice of what is
            not there, each by its place.
    """
    functions = list(_functions(tools))
    _check_names(functions)
    if len(functions) > MAX_TOOLS:
        message = f"`tools` holds {len(functions)} functions with those of its namespaces, and at most {MAX_TOOLS} fit; send fewer."
        raise refusal(message, "tools")
    if not isinstance(choice, AnyChoice):
        if choice == "required" and tools and not functions:
            raise refusal("`tool_choice` asks for a call, and none of `tools` is a function; define one.", "tool_choice")
        return _told(functions), choice or "auto"
    if choice.type != "allowed_tools":
        return _told(functions), NamedTool(name=_named(choice, "tool_choice", functions).tool.name)
    allowed = [_named(one, f"tool_choice.tools[{number}]", functions) for number, one in enumerate(choice.tools or ())]
    if not allowed:
        raise refusal("`tool_choice.tools` is missing; name the tools that may be called.", "tool_choice.tools")
    return _told([function for function in functions if function in allowed]), choice.mode or "auto"


def unmet(tools: Sequence[AnyTool], choice: Choice | None) -> Iterator[str]:
    """What nobody does: searches, which the model merely may make; what says nothing about its tool; and schemas that are to be
    followed though the model chooses whether to call, for nobody keeps it to that.
    """
    if isinstance(choice, AnyChoice):
        is_forced = choice.type != "allowed_tools" or choice.mode == "required"
    else:
        is_forced = choice in {"none", "required"}
    for number, tool in enumerate(tools):
        place = f"tools[{number}]"
        if tool.type in SEARCHES:
            yield place
        foreign = _FOREIGN_TO.get(tool.type, frozenset())
        yield from (f"{place}.{name}" for name in tool.__struct_fields__ if name in foreign and getattr(tool, name) is not None)
        if tool.strict and not is_forced and tool.type == "function":
            yield f"{place}.strict"
        if tool.type == NAMESPACE and not is_forced:
            yield from (f"{place}.tools[{inner}].strict" for inner, one in enumerate(tool.tools or ()) if one.strict)


def told_tools(tools: Sequence[AnyTool]) -> tuple[AnyAnsweredTool, ...]:
    """The tools as answers repeat them."""
    return tuple(_answered(tool) for tool in tools)


def told_choice(choice: Choice | None) -> str | dict[str, Any]:
    """The choice as answers repeat it."""
    if not isinstance(choice, AnyChoice):
        return choice or "auto"
    if choice.type == "allowed_tools":
        return {"type": choice.type, "mode": choice.mode or "auto", "tools": [_told_name(tool) for tool in choice.tools or ()]}
    return _told_name(choice)


# ---- functions -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Function:
    """One that the client runs."""

    place: str
    namespace: str | None
    name: str
    tool: Tool
    """With the name that the model reads."""
    group: str = ""
    """What its namespace is about."""


def _functions(tools: Sequence[AnyTool]) -> Iterator[_Function]:
    for number, tool in enumerate(tools):
        place = f"tools[{number}]"
        if tool.type == NAMESPACE:
            yield from _grouped(tool, place)
        elif tool.type not in SEARCHES:
            yield _function(tool, place)


def _grouped(group: AnyTool, place: str) -> Iterator[_Function]:
    name = _name(group.name, place, "a namespace")
    if group.tools is None:
        raise refusal(f"`{place}.tools` is missing; send the functions of the namespace.", f"{place}.tools")
    for number, tool in enumerate(group.tools):
        yield _function(tool, f"{place}.tools[{number}]", name, group.description or "")


def _function(tool: InnerTool, place: str, namespace: str | None = None, group: str = "") -> _Function:
    _check_function(tool.type, place)
    name = _name(tool.name, place, "a tool")
    full = name_for_model(namespace, name)
    if len(full) > _MAX_NAME:
        message = (
            f"The names of `{place}` and its namespace make one of {len(full)} characters for the model, and at most {_MAX_NAME} "
            "fit; shorten one of them."
        )
        raise refusal(message, f"{place}.name")
    made = Tool(name=full, description=tool.description or "", parameters=tool.parameters or {})
    return _Function(place, namespace, name, made, group)


def _name(name: str | None, place: str, of: str) -> str:
    try:
        return msgspec.convert(name, ToolName)
    except msgspec.ValidationError:
        message = f"`{place}.name` is missing or no name of {of}; write letters, digits, `_`, `.`, `:` or `-`, at most {_MAX_NAME}."
        raise refusal(message, f"{place}.name") from None


def _check_function(type_: str, place: str) -> None:
    if type_ == "function":
        return
    why = _REFUSED.get(type_)
    if why is None:
        message = f"`{place}` has a type that is not known here; send tools of the type `function`, alone or in a `namespace`."
    else:
        message = f"`{place}` is of the type `{type_}`, {why}"
    raise refusal(message, f"{place}.type")


def _check_names(functions: Sequence[_Function]) -> None:
    """That what the model calls is one function. Raises RbeesError INVALID_REQUEST by the place of the second."""
    known: dict[str, _Function] = {}
    for function in functions:
        other = known.setdefault(function.tool.name, function)
        if other is function:
            continue
        if (other.namespace, other.name) == (function.namespace, function.name):
            message = f"`{function.place}` has the same name as `{other.place}`; rename one."
        else:
            message = (
                f"`{function.place}` and `{other.place}` have one name for the model, which reads a function of a namespace as "
                "`namespace__name`; rename one."
            )
        raise refusal(message, f"{function.place}.name")


def _told(functions: Sequence[_Function]) -> tuple[Tool, ...]:
    """As the model reads them. What a namespace is about stands with the first function of it, once: there may be many."""
    tools, groups = [], set()
    for function in functions:
        tool, group = function.tool, (function.namespace, function.group)
        if function.group and group not in groups:
            groups.add(group)
            about = f"{function.namespace}: {function.group}\n\n{tool.description}".rstrip()
            tool = replace(tool, description=about)
        tools.append(tool)
    return tuple(tools)


# ---- a choice among them -------------------------------------------------------------------------------------------------


def _named(chosen: AnyChoice | ChosenTool, place: str, functions: Sequence[_Function]) -> _Function:
    _check_function(chosen.type, place)
    found = [function for function in functions if function.name == chosen.name and chosen.namespace in (None, function.namespace)]
    alone = [function for function in found if function.namespace is None]
    if not found:
        raise refusal(f"`{place}` names a tool that is not among `tools`; write the name of one of them.", place)
    if not alone and len(found) > 1:
        raise refusal(f"`{place}` names a function that several namespaces have; write its `namespace` too.", place)
    return (alone or found)[0]


# ---- as answers repeat them ----------------------------------------------------------------------------------------------


def _answered(tool: AnyTool) -> AnyAnsweredTool:
    if tool.type == NAMESPACE:
        functions = tuple(_answered_function(one) for one in tool.tools or ())
        return AnsweredNamespace(name=tool.name or "", description=tool.description or "", tools=functions)
    if tool.type in SEARCHES:
        return SEARCHES[tool.type](**{name: value for name in _OF_A_SEARCH if (value := getattr(tool, name)) is not None})
    return _answered_function(tool)


def _answered_function(tool: InnerTool) -> AnsweredTool:
    return AnsweredTool(name=tool.name or "", description=tool.description, parameters=tool.parameters, strict=tool.strict)


def _told_name(chosen: AnyChoice | ChosenTool) -> dict[str, Any]:
    told = {"type": chosen.type, "name": chosen.name}
    return told if chosen.namespace is None else {**told, "namespace": chosen.namespace}
