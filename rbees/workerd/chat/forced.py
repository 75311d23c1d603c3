"""The grammar of an answer that calls a tool: perhaps a thought, then one call in the model's own spelling. PURE.

Written in llguidance's dialect of Lark. The arguments follow the tool's own JSON schema; each schema stands alone, so that its
`$ref`s still lead where they led.
"""

from __future__ import annotations

import json
import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from rbees.protocol.chat import Tool
from rbees.workerd.chat.reader import ReasoningMarks
from rbees.workerd.chat.shape import CallShape
from rbees.workerd.engine.closed_schema import closed

_JSON_OPTIONS: Final = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""The space that Python's `json` writes, which is what templates show to models."""
_ANY_OBJECT: Final = {"type": "object"}


@dataclass(frozen=True, slots=True)
class ForcedCall:
    """An answer that must call a tool."""

    grammar: str
    """For the model's own tokens."""
    grammar_in_text: str
    """The same with the marks that are control tokens as text: what can be checked without the model."""


@dataclass(frozen=True, slots=True)
class PossibleCall:
    """An answer in a form may call one of these tools instead."""

    shape: CallShape
    tools: tuple[Tool, ...]
    control_tokens: Mapping[str, int]

    def without_thought(self, loose: Container[str] = ()) -> ForcedCall:
        """The call, and nothing before it, as before a form. Arguments of the tools named in `loose` are any object."""
        tools = [replace(tool, parameters=_ANY_OBJECT) if tool.name in loose else tool for tool in self.tools]
        return forced_call(self.shape, tools, reasoning=None, thinks=False, control_tokens=self.control_tokens)


def forced_call(
    shape: CallShape, tools: Sequence[Tool], *, reasoning: ReasoningMarks | None, thinks: bool, control_tokens: Mapping[str, int]
) -> ForcedCall:
    """An answer that calls one of `tools`.

    `reasoning` is None where no thought may come first. `thinks`: the prompt opened one, which has to be closed first.
    `control_tokens` are the marks that are tokens without a text of their own.
    """
    schemas = {tool.name: {**closed(schema_of(tool)), "x-guidance": _JSON_OPTIONS} for tool in tools}
    called = {name: msgspec.json.encode(schema).decode() for name, schema in schemas.items()}
    grammar, in_text = (
        _grammar(shape, called, reasoning=reasoning, thinks=thinks, control_tokens=tokens) for tokens in (control_tokens, {})
    )
    return ForcedCall(grammar, in_text)


def schema_of(tool: Tool) -> dict[str, Any]:
    """The schema that its arguments follow; always of an object."""
    return {"type": "object", **(tool.parameters or {"additionalProperties": False})}


def _grammar(
    shape: CallShape, tools: Mapping[str, str], *, reasoning: ReasoningMarks | None, thinks: bool, control_tokens: Mapping[str, int]
) -> str:
    """`tools`: the schemas of arguments by the name of the tool."""
    rules = [f"start: {_thought_of(reasoning, thinks=thinks)}call", f"call: {' | '.join(f'call{i}' for i in range(len(tools)))}"]
    spell = _Spelling(control_tokens)
    for number, (name, schema) in enumerate(tools.items()):
        words = [*spell(shape.before + name + shape.between), f"arguments{number}", *spell(shape.behind)]
        rules.append(f"call{number}: {' '.join(words)}")
        rules.append(f"arguments{number}: %json {schema}")
    if reasoning is not None:
        rules += _thought_rules(reasoning, spell, control_tokens)
    return "\n".join(rules) + "\n"


class _Spelling:
    """Writes a text as words of a rule."""

    def __init__(self, control_tokens: Mapping[str, int]) -> None:
        self._control_tokens = control_tokens
        marks = sorted(control_tokens, key=len, reverse=True)
        self._marks = re.compile("(" + "|".join(map(re.escape, marks)) + ")") if marks else None

    def __call__(self, text: str) -> list[str]:
        """Quoted pieces of text, and control tokens by their number."""
        pieces = self._marks.split(text) if self._marks is not None else [text]
        return [self._word(piece) for piece in pieces if piece]

    def _word(self, piece: str) -> str:
        token = self._control_tokens.get(piece)
        return f"<[{token}]>" if token is not None else json.dumps(piece, ensure_ascii=False)


def _thought_of(reasoning: ReasoningMarks | None, *, thinks: bool) -> str:
    if reasoning is None:
        return ""
    return "closing gap " if thinks else "(opening closing gap)? "


def _thought_rules(reasoning: ReasoningMarks, spell: _Spelling, control_tokens: Mapping[str, int]) -> list[str]:
    """A thought is any text up to the mark that closes it."""
    rules = [f"opening: {' '.join(spell(reasoning.opens))}", r"gap: /\s{0,4}/"]
    if reasoning.closes in control_tokens:
        return [*rules, f"closing: /(.|\\n)*/ {' '.join(spell(reasoning.closes))}"]
    closes = re.escape(reasoning.closes).replace("/", r"\/")
    return [*rules, f"closing[lazy]: /(.|\\n)*{closes}/"]
