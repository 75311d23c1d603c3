"""Closing a schema takes values away and no more: none comes to it, and what could be satisfied still can."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any, Final

import jsonschema_rs
from hypothesis import given, settings
from hypothesis import strategies as st

from rbees.workerd.engine.closed_schema import closed

_INNERMOST: Final[list[Any]] = [_ABSENT := object(), 0, 1, {"a": 0}, {"a": 1, "z": 0}]
_OBJECTS: Final[list[dict[str, Any]]] = [
    {name: part for name, part in zip("abz", parts, strict=True) if part is not _ABSENT} for parts in product(_INNERMOST, repeat=3)
]
"""Of two properties that schemas name, and one that they mostly do not."""
_VALUES: Final[list[Any]] = [None, 0, 1, *_OBJECTS, *([one] for one in _OBJECTS)]
_leaves: list[Any] = [
    *({}, True, False, {"type": "null"}, {"type": "integer"}, {"type": "object"}, {"const": 0}, {"enum": [0, 1]}),
    *({"type": "object", "properties": {"a": {"const": kind}}, "required": ["a"]} for kind in (0, 1)),
    *({"properties": {name: {}}, "required": [name]} for name in "ab"),
]


def _containers(inner: st.SearchStrategy[Any], references: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    several = st.lists(inner, min_size=1, max_size=3)
    objects = st.fixed_dictionaries(
        {"properties": st.dictionaries(st.sampled_from("ab"), inner, max_size=2)},
        optional={
            "type": st.sampled_from(["object", ["object", "null"]]),
            "required": st.lists(st.sampled_from("aabbz"), unique=True, max_size=2),
            "minProperties": st.integers(0, 2),
        },
    )
    kinds: dict[str, st.SearchStrategy[Any]] = {
        "additionalProperties": inner,
        "patternProperties": st.dictionaries(st.sampled_from(["^a", "z$"]), inner, min_size=1),
        "propertyNames": st.just({"pattern": "^[ab]"}),
        "unevaluatedProperties": inner,
        "allOf": several,
        "anyOf": several,
        "oneOf": several,
        "not": inner,
        "if": inner,
        "const": st.sampled_from(_VALUES),
    }
    if references:
        kinds["$ref"] = st.sampled_from(references)
    beside = st.sampled_from(sorted(kinds)).flatmap(lambda kind: st.fixed_dictionaries({kind: kinds[kind]}))
    choices = st.sampled_from(["anyOf", "oneOf", "allOf"]).flatmap(lambda name: several.map(lambda schemas: {name: schemas}))
    arrays = st.fixed_dictionaries({"items": inner}, optional={"contains": inner, "uniqueItems": st.just(True)})
    return st.one_of(objects, objects, choices, arrays, st.builds(dict.__or__, objects, beside))


def _schemas(references: list[str]) -> st.SearchStrategy[Any]:
    leaves = st.sampled_from([*_leaves, *({"$ref": place} for place in references)])
    return st.recursive(leaves, lambda inner: _containers(inner, references), max_leaves=6)


_FIRST, _SECOND = "#/$defs/first", "#/$defs/second"
_whole_schemas = st.builds(
    lambda schema, first, second: {**schema, "$defs": {"first": first, "second": second}},
    _containers(_schemas([_FIRST, _SECOND]), [_FIRST, _SECOND]),
    _schemas([_SECOND]),
    _schemas([]),
)


def _prunings(value: Any) -> Iterator[Any]:
    """The value without some of its properties, in each way; itself too."""
    if isinstance(value, dict):
        kept = [[(), *((name, part) for part in _prunings(inner))] for name, inner in value.items()]
        yield from (dict(filter(None, pairs)) for pairs in product(*kept))
    elif isinstance(value, list):
        yield from map(list, product(*map(_prunings, value)))
    else:
        yield value


_PRUNED: Final = [list(_prunings(value)) for value in _VALUES]


@settings(max_examples=500, deadline=None)
@given(schema=_whole_schemas)
def test_what_a_closed_schema_admits_the_open_one_admits_and_some_of_that_is_left(schema: dict[str, Any]) -> None:
    is_open, is_closed = (jsonschema_rs.validator_for(one).is_valid for one in (schema, closed(schema)))
    assert [value for value in _VALUES if is_closed(value) and not is_open(value)] == []
    without = [value for value, pruned in zip(_VALUES, _PRUNED, strict=True) if is_open(value) and not any(map(is_closed, pruned))]
    assert without == []
