"""Which objects of a schema are closed where its grammar is made, and which stay open."""

from __future__ import annotations

from typing import Any

import pytest

from rbees.protocol.errors import RbeesError
from rbees.protocol.response_format import JsonSchemaFormat
from rbees.workerd.engine.closed_schema import closed
from tests.support.forms import constraint

OBJECT: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
CLOSED = {**OBJECT, "additionalProperties": False}
CAT = {"type": "object", "properties": {"kind": {"const": "cat"}}, "required": ["kind"]}
DOG = {"type": "object", "properties": {"kind": {"enum": ["dog", "wolf"]}}, "required": ["kind"]}


def shut(schema: dict[str, Any]) -> dict[str, Any]:
    return {**schema, "additionalProperties": False}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (OBJECT, CLOSED),
        ({"properties": {}}, {"properties": {}, "additionalProperties": False}),
        ({"properties": {"b": OBJECT}}, shut({"properties": {"b": CLOSED}})),
        ({"items": OBJECT}, {"items": CLOSED}),
        ({"prefixItems": [OBJECT, True], "items": False}, {"prefixItems": [CLOSED, True], "items": False}),
        ({"additionalProperties": OBJECT}, {"additionalProperties": CLOSED}),
        ({"patternProperties": {"^a": OBJECT}}, {"patternProperties": {"^a": CLOSED}}),
        ({"anyOf": [OBJECT, {"type": "null"}], "title": "x"}, {"anyOf": [CLOSED, {"type": "null"}], "title": "x"}),
        ({"oneOf": [CAT, DOG]}, {"oneOf": [shut(CAT), shut(DOG)]}),
        ({"oneOf": [OBJECT, {"type": ["string", "null"]}]}, {"oneOf": [CLOSED, {"type": ["string", "null"]}]}),
        ({"$ref": "#/$defs/x~1y", "$defs": {"x/y": OBJECT}}, {"$ref": "#/$defs/x~1y", "$defs": {"x/y": CLOSED}}),
        (
            {"$id": "http://x", "properties": {"id": {"$ref": "#/definitions/x"}}, "definitions": {"x": OBJECT}},
            shut({"$id": "http://x", "properties": {"id": {"$ref": "#/definitions/x"}}, "definitions": {"x": CLOSED}}),
        ),
        ({"properties": {"b": {"$ref": "#"}}}, shut({"properties": {"b": {"$ref": "#"}}})),
        ({"properties": {"properties": {"items": OBJECT}}}, shut({"properties": {"properties": {"items": CLOSED}}})),
    ],
)
def test_objects_that_name_their_properties_are_closed(schema: dict[str, Any], expected: dict[str, Any]) -> None:
    before = repr(schema)
    assert closed(schema) == expected
    assert repr(schema) == before, "what was sent stays as it was"


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {**OBJECT, "additionalProperties": True},
        {**OBJECT, "additionalProperties": {"type": "null"}},
        {**OBJECT, "patternProperties": {"^b": OBJECT}},
        {**OBJECT, "unevaluatedProperties": True},
        {**OBJECT, "required": ["a", "b"]},
        {**OBJECT, "minProperties": 2},
        {**OBJECT, "const": {"a": 1, "b": 2}},
        {**OBJECT, "allOf": [OBJECT]},
        {**OBJECT, "anyOf": [OBJECT]},
        {**OBJECT, "oneOf": [OBJECT]},
        {**OBJECT, "if": OBJECT, "then": OBJECT},
        {"allOf": [OBJECT, {"items": OBJECT}]},
        {"not": OBJECT},
        {"anyOf": [OBJECT], "required": ["b"]},
        {"oneOf": [OBJECT, {**OBJECT, "required": ["a"]}]},
        {"oneOf": [CAT, {**DOG, "required": []}]},
        {"oneOf": [{"type": "integer"}, {"type": "number"}, OBJECT, {"type": "object"}]},
        {"enum": [{"properties": {"a": {}}}]},
        {"properties": {"b": {"$ref": "#x"}}, "$defs": {"x": {"$anchor": "x", **OBJECT}}},
        {"properties": {"b": {"$ref": "#/$defs/y"}}, "$defs": {"x": OBJECT}},
        {"properties": {"b": {"$ref": "y"}}, "$defs": {"x": {"$id": "y", **OBJECT}}},
        {"properties": {"b": {"$dynamicRef": "#x"}}},
        {"properties": {"b": {"$id": "y", **OBJECT}}},
    ],
)
def test_objects_stay_open_where_that_is_asked_for_or_others_have_a_say(schema: dict[str, Any]) -> None:
    assert closed(schema) == schema


def test_what_is_named_from_such_a_place_stays_open_wherever_else_it_is_named() -> None:
    places = {"b": {"$ref": "#/$defs/one"}, "c": {"allOf": [{"$ref": "#/$defs/one"}, {"required": ["d"]}]}}
    definitions = {"one": {"$ref": "#/$defs/two"}, "two": {"items": OBJECT}, "three": {**OBJECT}}
    made = closed({"properties": places, "$defs": definitions})
    assert made == {"properties": places, "$defs": {**definitions, "three": CLOSED}, "additionalProperties": False}


def test_a_chain_of_references_longer_than_a_stack_is_followed() -> None:
    chain = {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(2_400)} | {"d2400": OBJECT}
    assert closed({"$ref": "#/$defs/d0", "$defs": chain})["$defs"]["d2400"] == CLOSED


def test_an_answer_has_no_property_that_its_schema_does_not_name() -> None:
    form = JsonSchemaFormat(schema={"type": "object", "properties": {"n": {"enum": ["x", "y"]}}, "required": ["n"]})
    whole = constraint(form)
    assert [whole.accept(token) for token in b'{"n":"y"}'] == [False] * 8 + [True]
    assert constraint(form).admits(b'{"n":"y",') == len('{"n":"y"')


def test_an_answer_may_have_others_where_its_schema_says_so() -> None:
    form = JsonSchemaFormat(schema={**OBJECT, "additionalProperties": {"type": "null"}})
    assert constraint(form).admits(b'{"a":1,"b":null}') == len('{"a":1,"b":null}')
    with pytest.raises(RbeesError):
        constraint(form).accept(ord("["))
