"""The forms in which models write tool calls, and how one is read. PURE.

A form is chosen by the marks that a model's chat template writes, never by the model's name. Most of them are JSON between
marks: the whole call, or its arguments behind the name of the tool. The others tag every argument by its name (`tagged`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from rbees.workerd.chat.tagged import ARGUMENT_PAIRS, DSML, FUNCTIONS, INVOCATIONS, Tags
from rbees.workerd.engine.parts import Call

_NAME: Final = r"(?P<name>[\w.:-]{1,128}?)"


@dataclass(frozen=True, slots=True)
class Block:
    """One form of a call: `opens`, a head that names the tool (or nothing), JSON, `closes`. Space may stand between.

    With `tags` there is neither head nor JSON, and `closes` cannot be missing.
    """

    opens: str
    closes: str | None = None
    head: re.Pattern[str] | None = None
    """What stands between `opens` and the arguments where the JSON does not name the tool itself."""
    fillers: tuple[str, ...] = ()
    """What may stand between JSON and `closes` beside space."""
    tags: Tags | None = None


@dataclass(frozen=True, slots=True)
class CallForm:
    """How a model writes calls."""

    name: str
    blocks: tuple[Block, ...]
    bare: bool = False
    """An answer may also begin with the JSON of a call, without any mark."""
    wrappers: tuple[str, ...] = ()
    """Marks around a list of calls; they count as space."""
    shown_by: tuple[str, ...] = ()
    """What a template holds if this is its form; by default the mark that opens the first block."""

    @property
    def marks(self) -> tuple[str, ...]:
        """Everything that may be a control token of its own."""
        ends = tuple(block.closes for block in self.blocks if block.closes)
        return (*(block.opens for block in self.blocks), *ends, *self.wrappers, *_INNER_MARKS)


_INNER_MARKS: Final = ("[ARGS]", "[CALL_ID]", "<｜tool▁sep｜>", "<|tool_call_argument_begin|>")

_PYTHON_TAG: Final = Block("<|python_tag|>")
_FUNCTION: Final = Block("<function=", "</function>", re.compile(_NAME + r">\s*"))
_DEEPSEEK: Final = Block(
    "<｜tool▁call▁begin｜>",
    "<｜tool▁call▁end｜>",
    re.compile(r"\s*(?:function<｜tool▁sep｜>)?" + _NAME + r"\s*(?:<｜tool▁sep｜>)?\s*(?:```json)?\s*"),
    ("```",),
)
_KIMI: Final = Block(
    "<|tool_call_begin|>",
    "<|tool_call_end|>",
    re.compile(r"\s*(?:functions\.)?" + _NAME + r"(?::\d+)?\s*<\|tool_call_argument_begin\|>\s*"),
)
_MISTRAL: Final = Block("[TOOL_CALLS]", None, re.compile(r"\s*" + _NAME + r"\s*(?:\[CALL_ID\][^\[\]]*)?(?:\[ARGS\])?\s*"))

JSON_FORM: Final = CallForm("json", (_PYTHON_TAG, _FUNCTION), bare=True)
"""Functions as JSON, as Llama 3 writes them; also for templates that mark calls in no way that is known here."""

_TOOL_CALL: Final = ("<tool_call>", "</tool_call>")


def _tagged(name: str, marks: tuple[str, str], tags: Tags, *shown_by: str) -> CallForm:
    return CallForm(name, (Block(*marks, tags=tags),), shown_by=shown_by)


FORMS: Final = (
    CallForm("deepseek", (_DEEPSEEK,), wrappers=("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>")),
    CallForm("kimi", (_KIMI,), wrappers=("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>")),
    CallForm("mistral", (_MISTRAL,)),
    CallForm("command-r7b", (Block("<|START_ACTION|>", "<|END_ACTION|>"),)),
    CallForm("nemotron", (Block("<TOOLCALL>", "</TOOLCALL>"),)),
    CallForm("minimax", (Block("<tool_calls>", "</tool_calls>"),)),
    _tagged("qwen-coder", _TOOL_CALL, FUNCTIONS, "<tool_call>", "<parameter="),
    _tagged("glm", _TOOL_CALL, ARGUMENT_PAIRS, "<tool_call>", "<arg_key>"),
    _tagged("seed", ("<seed:tool_call>", "</seed:tool_call>"), FUNCTIONS),
    _tagged("minimax-m2", ("<minimax:tool_call>", "</minimax:tool_call>"), INVOCATIONS),
    _tagged("deepseek-v3.2", ("<｜DSML｜function_calls>", "</｜DSML｜function_calls>"), DSML, "｜DSML｜", "function_calls>"),
    _tagged("deepseek-v4", ("<｜DSML｜tool_calls>", "</｜DSML｜tool_calls>"), DSML, "｜DSML｜", "tool_calls>"),
    CallForm("hermes", (Block(*_TOOL_CALL),)),
    CallForm("granite", (Block("<|tool_call|>", "<|/tool_call|>"),)),
    CallForm("functools", (Block("functools"),)),
)


def form_of(template: str) -> CallForm:
    """The form whose marks a chat template writes."""
    shown = (form for form in FORMS if all(mark in template for mark in form.shown_by or (form.blocks[0].opens,)))
    return next(shown, JSON_FORM)


def read_tagged(tags: Tags, text: str, tools: Mapping[str, dict[str, Any]]) -> tuple[Call, ...] | None:
    """The calls between two marks, or None; the schemas of `tools` tell numbers from text."""
    calls = tags.read(text)
    if calls is None:
        return None
    return tuple(Call(name, tags.typed(arguments, tools.get(name, {}))) for name, arguments in calls)


def read_calls(text: str, name: str | None) -> tuple[Call, ...] | None:
    """The calls that a JSON text holds: arguments of the tool `name`, or whole calls; None if it is nothing of the kind."""
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None
    if name is not None:
        return (Call(name, value),) if isinstance(value, dict) else None
    values = value if isinstance(value, list) else [value]
    calls = [call for item in values if (call := _whole_call(item)) is not None]
    return tuple(calls) if calls and len(calls) == len(values) else None


def _whole_call(value: Any) -> Call | None:
    """`{"name", "arguments"}` under the names that the forms use, perhaps within `function`."""
    if not isinstance(value, dict):
        return None
    if isinstance(value.get("function"), dict):
        value = value["function"]
    name = _first(value, ("name", "tool_name", "function"))
    arguments = _first(value, ("arguments", "parameters"))
    if isinstance(arguments, str):
        try:
            arguments = msgspec.json.decode(arguments)
        except (msgspec.DecodeError, RecursionError):
            return None
    if not isinstance(name, str) or not name or not isinstance(arguments, dict):
        return None
    return Call(name, arguments)


def _first(value: dict[str, Any], keys: Sequence[str]) -> Any:
    return next((value[key] for key in keys if key in value), None)
