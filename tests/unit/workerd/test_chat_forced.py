"""Calls that are kept to a form: the model's own spelling, the tool's own schema, a thought before one that must be made where
the model thinks, and an answer in a form in place of one that may be made."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from rbees.protocol.chat import Tool
from rbees.protocol.errors import RbeesError
from rbees.protocol.response_format import JsonObjectFormat, JsonSchemaFormat, RegexFormat
from rbees.workerd.chat.forced import ForcedCall, PossibleCall, forced_call
from rbees.workerd.chat.shape import CallShape, shape_of
from rbees.workerd.chat.style import style_of
from rbees.workerd.engine.backend import Backend
from rbees.workerd.engine.constraint import Constraint
from rbees.workerd.engine.either import Either
from rbees.workerd.engine.grammar import Form, GrammarConstraint, Grammars, check, compile_form
from tests.support.answers import THINK
from tests.support.chat_templates import DEEPSEEK, HERMES, LLAMA, MISTRAL, OPENED_THOUGHT
from tests.support.templates import traits_of

SHAPE = CallShape('<tool_call>\n{"name": "', '", "arguments": ', "}\n</tool_call>")
COUNT = Tool(
    name="count",
    parameters={
        "type": "object",
        "properties": {"hive": {"$ref": "#/$defs/hive"}},
        "required": ["hive"],
        "additionalProperties": False,
        "$defs": {"hive": {"enum": ["a", "b"]}},
    },
)
REST = Tool(name="rest")
EOG, OPENS, OPENS_THOUGHT, CLOSES_THOUGHT = 256, 257, 258, 259


class ByteModel:
    """Tokens are bytes; four control tokens follow."""

    facts = SimpleNamespace(vocabulary_size=260, eog_ids=frozenset({EOG}))

    def piece(self, token: int) -> bytes:
        return bytes([token]) if token < 256 else b""

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        return list(text.encode())


def built(call: ForcedCall, grammar: str | None = None) -> GrammarConstraint:
    check(call.grammar_in_text)
    return Grammars(cast(Backend, ByteModel())).build(grammar or call.grammar)


def forced(*tools: Tool, **fields: Any) -> ForcedCall:
    return forced_call(SHAPE, tools, **{"reasoning": None, "thinks": False, "control_tokens": {}, **fields})


def follows(constraint: Constraint, answer: str | list[int]) -> bool:
    """Whether the answer keeps to the constraint and completes it, with its last token and no earlier."""
    tokens = list(answer.encode()) if isinstance(answer, str) else answer
    try:
        ends = [constraint.accept(token) for token in tokens]
    except RbeesError:
        return False
    return ends == [False] * (len(tokens) - 1) + [True]


def allowed(constraint: Constraint) -> set[int]:
    return set(np.flatnonzero(np.unpackbits(constraint.mask().view(np.uint8), bitorder="little")).tolist())


@pytest.mark.parametrize(
    ("template", "shape"),
    [
        (HERMES, SHAPE),
        (LLAMA, CallShape('{"name": "', '", "parameters": ', "}")),
        (MISTRAL, CallShape('[TOOL_CALLS][{"name": "', '", "arguments": ', ', "id": "Lxzk9NmmD"}]')),
        (
            DEEPSEEK,
            CallShape(
                "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>",
                "\n```json\n",
                "\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            ),
        ),
        (OPENED_THOUGHT, None),
    ],
)
def test_the_shape_of_a_call_is_cut_out_of_the_template(template: str, shape: CallShape | None) -> None:
    turn = traits_of(template).turn
    assert (shape_of(style_of(template, lambda _: None).calls, turn) if turn else None) == shape


@pytest.mark.parametrize(
    ("answer", "fits"),
    [
        (SHAPE.filled("count", '{"hive": "a"}'), True),
        (SHAPE.filled("rest", "{}"), True),
        (SHAPE.filled("count", '{"hive": "c"}'), False),
        (SHAPE.filled("count", "{}"), False),
        (SHAPE.filled("rest", '{"hive": "a"}'), False),
        (SHAPE.filled("other", "{}"), False),
        (SHAPE.filled("count", '{"hive":"a"}'), False),
        ("I would rather not.", False),
        ("", False),
    ],
)
def test_one_of_the_tools_is_called_with_arguments_of_its_schema(answer: str, fits: bool) -> None:
    assert follows(built(forced(COUNT, REST)), answer) is fits


def test_a_tool_that_is_not_forced_cannot_be_called() -> None:
    assert not follows(built(forced(REST)), SHAPE.filled("count", '{"hive": "a"}'))


@pytest.mark.parametrize(
    ("answer", "thinks", "fits"),
    [
        (SHAPE.filled("rest", "{}"), False, True),
        ("<think>\nhm, </thin\n</think>\n\n" + SHAPE.filled("rest", "{}"), False, True),
        ("<think></think>" + SHAPE.filled("rest", "{}"), False, True),
        ("<think>hm</think>\n\nNo.", False, False),
        ("hm\n</think>\n\n" + SHAPE.filled("rest", "{}"), True, True),
    ],
)
def test_a_thought_may_come_first(answer: str, thinks: bool, fits: bool) -> None:
    assert follows(built(forced(REST, reasoning=THINK, thinks=thinks)), answer) is fits


def test_marks_that_are_control_tokens_are_asked_for_by_their_number() -> None:
    marks = {"<tool_call>": OPENS, "<think>": OPENS_THOUGHT, "</think>": CLOSES_THOUGHT}
    constraint = built(forced(REST, reasoning=THINK, control_tokens=marks))
    assert allowed(constraint) == {OPENS, OPENS_THOUGHT}, "no end, and no beginning in letters"
    call = [OPENS, *SHAPE.filled("rest", "{}").removeprefix("<tool_call>").encode()]
    assert follows(constraint.fork(), call)
    thought = constraint.fork()
    assert thought.accept(OPENS_THOUGHT) is False
    assert {ord("x"), ord("<"), CLOSES_THOUGHT} <= allowed(thought)
    assert EOG not in allowed(thought)
    assert follows(thought, [*b"<x", CLOSES_THOUGHT, *b"\n\n", *call])


@pytest.mark.parametrize("name", ["a-b", "a.b:c", "x" * 64])
def test_any_name_can_be_forced(name: str) -> None:
    assert follows(built(forced(Tool(name=name))), SHAPE.filled(name, "{}"))


OPEN = Tool(name="open", parameters={"type": "object", "properties": {"hive": {"enum": ["a", "b"]}}, "required": ["hive"]})


def test_a_call_has_the_arguments_that_its_tool_names_and_no_others() -> None:
    constraint = built(forced(OPEN))
    assert follows(constraint.fork(), SHAPE.filled("open", '{"hive": "a"}'))
    assert not follows(constraint, SHAPE.filled("open", '{"hive": "a", "more": 1}'))


# ---- a form or a call ----------------------------------------------------------------------------------------------------


BARE = CallShape('{"name": "', '", "parameters": ', "}")
NAMED = JsonSchemaFormat(schema={"type": "object", "properties": {"name": {"enum": ["count", "x"]}}, "required": ["name"]})


def either(form: Form, shape: CallShape = SHAPE, loose: tuple[str, ...] = (), marks: Mapping[str, int] | None = None) -> Either:
    call = PossibleCall(shape, (COUNT, REST), marks or {}).without_thought(loose)
    return Either((Grammars(cast(Backend, ByteModel())).build(compile_form(form)), built(call)))


@pytest.mark.parametrize(
    ("form", "shape", "answer", "fits"),
    [
        (NAMED, SHAPE, '{"name":"x"}', True),
        (NAMED, SHAPE, SHAPE.filled("count", '{"hive": "a"}'), True),
        (NAMED, SHAPE, SHAPE.filled("rest", "{}"), True),
        (NAMED, SHAPE, SHAPE.filled("count", '{"hive": "c"}'), False),
        (NAMED, SHAPE, SHAPE.filled("count", '{"hive": "a", "more": 1}'), False),
        (NAMED, SHAPE, '{"name":"y"}', False),
        (NAMED, SHAPE, "I would rather not.", False),
        (NAMED, SHAPE, "<think></think>" + SHAPE.filled("rest", "{}"), False),
        (NAMED, BARE, '{"name":"count"}', True),
        (NAMED, BARE, '{"name": "count", "parameters": {"hive": "b"}}', True),
        (NAMED, BARE, '{"name":"count", "parameters": {"hive": "b"}}', False),
        (NAMED, BARE, '{"name": "x"}', False),
        (RegexFormat(pattern="<tool_[a-z]{4}>"), SHAPE, "<tool_call>", False),
        (RegexFormat(pattern="<tool_[a-z]{4}>"), SHAPE, "<tool_hive>", True),
        (RegexFormat(pattern="<tool_[a-z]{4}>"), SHAPE, SHAPE.filled("rest", "{}"), True),
    ],
)
def test_an_answer_has_a_form_or_calls_a_tool(form: Form, shape: CallShape, answer: str, fits: bool) -> None:
    assert follows(either(form, shape), answer) is fits


def test_an_answer_may_end_where_its_form_does_though_a_call_goes_on() -> None:
    constraint = either(RegexFormat(pattern="<tool_call>"))
    assert [constraint.accept(token) for token in b"<tool_call>"] == [False] * 11
    assert allowed(constraint) == {EOG, ord("\n")}
    assert [*constraint.forced()] == []
    assert constraint.accept(ord("\n")) is False
    assert EOG not in allowed(constraint)
    assert bytes(constraint.forced()).startswith(b'{"name": "')


def test_an_answer_that_is_open_between_a_form_and_a_call_can_be_copied_and_tried() -> None:
    constraint = either(NAMED, BARE)
    assert constraint.admits(b'{"name":"x"}') == len('{"name":"x"}')
    assert constraint.admits(b'{"name": "rest", "p') == len('{"name": "rest", "p')
    assert constraint.admits(b'{"name": "x') == len('{"name": "')
    assert [constraint.accept(token) for token in b'{"name":'] == [False] * 8
    assert allowed(constraint) == {ord('"'), ord(" ")}
    copy = constraint.fork()
    assert follows(copy, '"x"}')
    assert follows(constraint, ' "rest", "parameters": {}}')


def test_what_is_neither_is_said_of_the_form() -> None:
    with pytest.raises(RbeesError) as caught:
        either(JsonObjectFormat()).accept(ord("x"))
    assert caught.value.details["field"] == "response_format"


def test_arguments_of_a_loose_tool_are_any_object() -> None:
    constraint = either(NAMED, loose=("count",))
    assert follows(constraint.fork(), SHAPE.filled("count", '{"hive": "c", "more": [1]}'))
    assert not follows(constraint.fork(), SHAPE.filled("count", "[]"))
    assert not follows(constraint, SHAPE.filled("rest", '{"more": 1}'))


def test_a_mark_that_is_a_control_token_begins_the_call_beside_a_form() -> None:
    constraint = either(NAMED, marks={"<tool_call>": OPENS})
    assert allowed(constraint) == {OPENS, ord("{")}
