"""What form an answer must have: a tagged union, and the caps that are checked before any tokenizer is near.

Whether a schema, pattern or grammar can be followed at all only the worker knows; what is refused here is refused at admission.
A format is content of its job: it never stands in a `repr`, a log line or an error.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Final, Literal

import msgspec

from rbees.protocol.chat import Tool, ToolChoice, forced_tools
from rbees.protocol.codec import Request, encode
from rbees.protocol.errors import ErrorCode, RbeesError

MAX_SCHEMA_DEPTH: Final = 60
"""Levels of arrays and objects in a schema."""
MAX_SCHEMA_NODES: Final = 5_000
"""JSON values in a schema, each array, object and scalar counted."""
MAX_OPTIONAL_PROPERTIES: Final = 400
"""Properties of one object that are not required, patterns of properties among them: any of them may come next."""
MAX_SCHEMA_BYTES: Final = 256 * 1024
MAX_GRAMMAR_BYTES: Final = 64 * 1024
"""Of a grammar or a regular expression."""
MAX_GRAMMAR_NESTING: Final = 60
"""Levels of parentheses in a GBNF grammar."""
_LARGEST_INTEGER: Final = (1 << 64) - 1
_SMALLEST_INTEGER: Final = -(1 << 63)

# Possessive and closed by the end of input too, so that hostile quoting costs linear time.
_GBNF_STRUCTURE = re.compile(r'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)|\[(?:[^\]\\]++|\\.)*+(?:\]|\\?\Z)|#[^\n]*+|[()]', re.DOTALL)

# In order: what may hold such a mark without meaning it (comments, texts, regular expressions), and the mark of a token itself.
# Texts may be more than the library takes: what it refuses anyhow must only not hide what follows.
_LARK_STRUCTURE = re.compile(
    r'(?:\#|//)[^\n]*+|"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)|/(?:[^/\\]++|\\.)++(?:/|\\?\Z)|(?P<token><[^<>\s]++>)', re.DOTALL
)

_GrammarText = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_GRAMMAR_BYTES)]


class TextFormat(Request, frozen=True, kw_only=True, tag_field="type", tag="text"):
    """Any text: the same as no format at all."""


class JsonObjectFormat(Request, frozen=True, kw_only=True, tag_field="type", tag="json_object"):
    """Some JSON object, without white space between its parts."""


class JsonSchemaFormat(Request, frozen=True, kw_only=True, tag_field="type", tag="json_schema"):
    """A JSON value that satisfies `schema`, without white space between its parts, properties in the schema's order."""

    private: ClassVar[frozenset[str]] = frozenset({"schema"})
    schema: Annotated[dict[str, Any], msgspec.Meta(description="JSON Schema; `$ref` only within the schema itself.")]


class RegexFormat(Request, frozen=True, kw_only=True, tag_field="type", tag="regex"):
    """Text that the whole of `pattern` matches."""

    private: ClassVar[frozenset[str]] = frozenset({"pattern"})
    pattern: Annotated[_GrammarText, msgspec.Meta(description="Syntax of Rust's regex crate; no look-around, no back-references.")]


class GrammarFormat(Request, frozen=True, kw_only=True, tag_field="type", tag="grammar"):
    """Text that a context-free grammar derives from its rule `start` (Lark) or `root` (GBNF)."""

    private: ClassVar[frozenset[str]] = frozenset({"grammar"})
    syntax: Literal["lark", "gbnf"]
    grammar: _GrammarText


ResponseFormat = TextFormat | JsonObjectFormat | JsonSchemaFormat | RegexFormat | GrammarFormat


def check_response_format(response_format: ResponseFormat | None, *, ignore_eos: bool) -> None:
    """Refuse what is too large or too deep, or contradicts the sampling.

    Raises:
        RbeesError: INVALID_REQUEST
    """
    match response_format:
        case None | TextFormat():
            return
        case JsonSchemaFormat(schema=schema):
            _check_schema(schema, "response_format.schema")
        case RegexFormat(pattern=pattern):
            _check_bytes(pattern, MAX_GRAMMAR_BYTES, "response_format.pattern")
        case GrammarFormat(syntax=syntax, grammar=grammar):
            _check_bytes(grammar, MAX_GRAMMAR_BYTES, "response_format.grammar")
            if syntax == "gbnf":
                _check_nesting(grammar)
            else:
                _check_lark(grammar)
        case JsonObjectFormat():
            pass
    if ignore_eos:
        raise _refusal("An answer with a form ends where its form does: leave out `ignore_eos` or `response_format`.", "ignore_eos")


def check_calls(
    tools: Sequence[Tool], tool_choice: ToolChoice, response_format: ResponseFormat | None, *, ignore_eos: bool
) -> None:
    """Refuse a call that is to be kept in its form where that is too large, or contradicts the sampling.

    Such a call is one that must be made, and one that an answer in a form may be instead.

    Raises:
        RbeesError: INVALID_REQUEST
    """
    forced = forced_tools(tools, tool_choice)
    if forced and ignore_eos:
        raise _refusal("An answer that must call a tool ends with the call: leave out `ignore_eos` or `tool_choice`.", "ignore_eos")
    possible = tools if tool_choice == "auto" and not isinstance(response_format, TextFormat | None) else ()
    for tool in forced or possible:
        _check_schema(tool.parameters, "tools")


def _check_schema(schema: dict[str, Any], field: str) -> None:
    if "x-guidance" in schema:
        raise _refusal("`x-guidance` is no keyword of JSON Schema; leave it out.", field)
    _check_shape(schema, field)
    _check_bytes(encode(schema).decode(), MAX_SCHEMA_BYTES, field)


def _check_shape(schema: dict[str, Any], field: str) -> None:
    """Depth, number of values, and integers that every reader of JSON keeps; level by level, so that depth costs no stack."""
    level: list[Any] = [schema]
    depth = nodes = 0
    while level:
        nodes += len(level)
        if nodes > MAX_SCHEMA_NODES:
            raise _refusal(f"The schema holds more than {MAX_SCHEMA_NODES} values; simplify it.", field)
        for value in level:
            if isinstance(value, int) and not _SMALLEST_INTEGER <= value <= _LARGEST_INTEGER:
                raise _refusal("The schema holds an integer of more than 64 bits; write it as a `pattern` on a string.", field)
        if any(_optional_properties(value) > MAX_OPTIONAL_PROPERTIES for value in level if isinstance(value, dict)):
            sentence = (
                f"The schema has an object of more than {MAX_OPTIONAL_PROPERTIES} optional properties; "
                "make some of them `required`, or nest them in objects."
            )
            raise _refusal(sentence, field)
        inner = [value for value in level if isinstance(value, dict | list)]
        depth += bool(inner)
        if depth > MAX_SCHEMA_DEPTH:
            raise _refusal(f"The schema is nested deeper than {MAX_SCHEMA_DEPTH} levels; use `$defs` and `$ref`.", field)
        level = [item for value in inner for item in (value.values() if isinstance(value, dict) else value)]


def _optional_properties(value: dict[str, Any]) -> int:
    """How many a part of a schema has, and 0 of what is no schema."""
    properties, patterns, required = (value.get(name) for name in ("properties", "patternProperties", "required"))
    named = len(properties.keys() - _texts(required)) if isinstance(properties, dict) else 0
    return named + (len(patterns) if isinstance(patterns, dict) else 0)


def _texts(value: Any) -> set[str]:
    return {text for text in value if isinstance(text, str)} if isinstance(value, list) else set()


def _check_nesting(grammar: str) -> None:
    depth = 0
    for match in _GBNF_STRUCTURE.finditer(grammar):
        depth += {"(": 1, ")": -1}.get(match[0], 0)
        if depth > MAX_GRAMMAR_NESTING:
            sentence = f"The grammar is nested deeper than {MAX_GRAMMAR_NESTING} levels of parentheses; give its parts names."
            raise _refusal(sentence, "response_format.grammar")


def _check_lark(grammar: str) -> None:
    """Lark only, and of texts: a token that is asked for by its number could be one that controls the model."""
    field = "response_format.grammar"
    if grammar.lstrip().startswith("{"):
        raise _refusal("The grammar is not Lark: it begins with `{`. For a schema there is the type `json_schema`.", field)
    if any(match["token"] for match in _LARK_STRUCTURE.finditer(grammar)):
        raise _refusal("The grammar names tokens (`<…>`), which only a model's own template may; write texts in quotes.", field)


def _check_bytes(text: str, most: int, field: str) -> None:
    size = len(text.encode())
    if size > most:
        raise _refusal(f"`{field}` has {size} bytes; at most {most} are taken.", field)


def _refusal(sentence: str, field: str) -> RbeesError:
    return RbeesError(ErrorCode.INVALID_REQUEST, sentence, field=field)
