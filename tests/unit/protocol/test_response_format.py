"""Caps on the forms of answers, as they hold at orcd's admission and again at a worker."""

from __future__ import annotations

import time
from typing import Any

import pytest

from rbees.protocol.codec import decode, encode
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.jobs import JobRequest, check_job
from rbees.protocol.response_format import (
    MAX_GRAMMAR_BYTES,
    MAX_SCHEMA_DEPTH,
    MAX_SCHEMA_NODES,
    GrammarFormat,
    JsonObjectFormat,
    JsonSchemaFormat,
    RegexFormat,
    ResponseFormat,
    TextFormat,
    check_response_format,
)

NAMED_TOKENS = (
    "<[5]>",
    "<[0-200]>*",
    "<[^5]>",
    "<[*]>",
    "<[256]>",
    "<|assistant|>",
    '"a"<[5]>"b"',
    '/a"/ <[5]> /"b/',
    '"a/" <[5]> "/b"',
    '"\\\\" <[5]> "x"',
    "/\\\\/ <[5]> /x/",
    '# "\nx: <[5]> # "',
    "// /\nx: <[5]> # /",
    '%json {"const": "\x7f"} <[5]> "x"',
    "/a\nb/ <[5]> /c/",
)


def nested(levels: int) -> dict[str, Any]:
    """A schema of exactly so many levels."""
    schema: dict[str, Any] = {}
    for _ in range(levels - 1):
        schema = {"items": schema}
    return schema


def optional(count: int) -> dict[str, Any]:
    return {"properties": {f"p{i}": {} for i in range(count)}}


def gbnf(grammar: str) -> GrammarFormat:
    return GrammarFormat(syntax="gbnf", grammar=grammar)


def lark(grammar: str) -> GrammarFormat:
    return GrammarFormat(syntax="lark", grammar=grammar)


@pytest.mark.parametrize(
    "form",
    [
        None,
        TextFormat(),
        JsonObjectFormat(),
        JsonSchemaFormat(schema=nested(MAX_SCHEMA_DEPTH)),
        JsonSchemaFormat(schema={"enum": list(range(MAX_SCHEMA_NODES - 2))}),
        JsonSchemaFormat(schema={"anyOf": [optional(400), {**optional(401), "required": ["p1", "p1", 7]}]}),
        JsonSchemaFormat(schema={"properties": {"properties": {"enum": [1]}, "required": {}, "patternProperties": {}}}),
        JsonSchemaFormat(schema={"properties": 5, "required": [[]], "patternProperties": None}),
        JsonSchemaFormat(schema={"maximum": 2**64 - 1, "minimum": -(2**63), "x": True}),
        RegexFormat(pattern="a" * MAX_GRAMMAR_BYTES),
        gbnf("root ::= " + "(" * 60 + '"("' + ")" * 60),
        gbnf('root ::= "' + "(" * 1_000 + '" [' + "(" * 1_000 + "] # " + "(" * 1_000),
        gbnf("root ::= a\n" + 'a ::= ("b" | "c")\n' * 1_000),
        lark('start: "x"'),
        lark('start: "<[5]>" # <[5]>, "\n x: /a\\/<[0-9]>/ | "\\"<[5]>" // <[5]>"\n'),
        lark('start: /<[^>]+>"/ | "/" | /[<[5]>"]/ | "</" %json {"const": "<[5]>\\"<b>"}'),
        lark("start: a <"),
    ],
)
def test_what_is_within_the_caps_passes(form: ResponseFormat | None) -> None:
    check_response_format(form, ignore_eos=False)


@pytest.mark.parametrize(
    ("form", "hint"),
    [
        (JsonSchemaFormat(schema=nested(MAX_SCHEMA_DEPTH + 1)), "60 levels"),
        (JsonSchemaFormat(schema=nested(100_000)), "60 levels"),
        (JsonSchemaFormat(schema={"enum": list(range(MAX_SCHEMA_NODES - 1))}), "5000 values"),
        (JsonSchemaFormat(schema={"enum": [[[]] * 2_000] * 2_000}), "5000 values"),
        (JsonSchemaFormat(schema={"items": optional(401)}), "400 optional properties"),
        (JsonSchemaFormat(schema={**optional(399), "patternProperties": {"^a": {}, "^b": {}}}), "400 optional properties"),
        (JsonSchemaFormat(schema={**optional(402), "required": ["p1"]}), "400 optional properties"),
        (JsonSchemaFormat(schema={"const": "x" * 300_000}), "300012 bytes"),
        (JsonSchemaFormat(schema={"maximum": 2**64}), "64 bits"),
        (JsonSchemaFormat(schema={"x-guidance": {"whitespace_flexible": True}}), "x-guidance"),
        (RegexFormat(pattern="é" * (MAX_GRAMMAR_BYTES // 2 + 1)), "bytes"),
        (GrammarFormat(syntax="lark", grammar="é" * (MAX_GRAMMAR_BYTES // 2 + 1)), "bytes"),
        (gbnf("root ::= " + "(" * 61), "nested"),
        (gbnf("(" * 65_000), "nested"),
        *((lark(f"start: {named}"), "names tokens") for named in NAMED_TOKENS),
        (lark(' \n{"grammars": [{"lark_grammar": "start: <\\u005b5]>"}]}'), "not Lark"),
    ],
)
def test_what_is_beyond_a_cap_is_refused_in_words(form: ResponseFormat, hint: str) -> None:
    with pytest.raises(RbeesError) as raised:
        check_response_format(form, ignore_eos=False)
    assert raised.value.code is ErrorCode.INVALID_REQUEST
    assert hint in raised.value.message
    assert raised.value.details["field"].startswith("response_format")


@pytest.mark.parametrize("opening", ['"' + '\\"' * 32_000, "[" + "\\]" * 32_000, '"((((((" ' * 7_000, "#" * 64_000, '[["' * 21_000])
def test_hostile_quoting_costs_linear_time(opening: str) -> None:
    began = time.process_time()
    check_response_format(gbnf(opening), ignore_eos=False)
    assert time.process_time() - began < 5, "in quadratic time it would be minutes"


def test_an_endless_answer_has_no_form() -> None:
    check_response_format(TextFormat(), ignore_eos=True)
    with pytest.raises(RbeesError) as raised:
        check_response_format(JsonObjectFormat(), ignore_eos=True)
    assert raised.value.details["field"] == "ignore_eos"


@pytest.mark.parametrize(
    ("form", "path"),
    [
        ('{"type": "yaml"}', "$.response_format.type"),
        ("{}", "$.response_format"),
        ('{"type": "json_schema"}', "schema"),
        ('{"type": "json_schema", "schema": true}', "$.response_format.schema"),
        ('{"type": "json_schema", "schema": {}, "strict": true}', "strict"),
        ('{"type": "regex", "pattern": ""}', "$.response_format.pattern"),
        ('{"type": "grammar", "grammar": "x"}', "syntax"),
        ('{"type": "grammar", "syntax": "abnf", "grammar": "x"}', "$.response_format.syntax"),
        ('{"type": "grammar", "syntax": "lark", "grammar": ""}', "$.response_format.grammar"),
        ('"json_object"', "$.response_format"),
    ],
)
def test_an_unknown_or_incomplete_form_is_refused_with_its_path(form: str, path: str) -> None:
    with pytest.raises(RbeesError) as raised:
        decode(f'{{"model": "m", "prompt": "x", "response_format": {form}}}', JobRequest)
    assert path in raised.value.message


def test_a_job_is_checked_with_its_form() -> None:
    with pytest.raises(RbeesError):
        check_job(JobRequest(model="m", prompt="x", response_format=JsonSchemaFormat(schema=nested(61))))


def test_a_form_survives_the_wire_and_its_content_shows_nowhere() -> None:
    schema: dict[str, Any] = {"properties": {"secret-b": {}, "secret-a": {}}}
    for form in (JsonSchemaFormat(schema=schema), RegexFormat(pattern="secret"), gbnf('root ::= "secret"')):
        job = JobRequest(model="m", prompt="x", response_format=form)
        again = decode(encode(job), JobRequest)
        assert again == job
        assert encode(again) == encode(job), "the order of properties is part of the form"
        assert "secret" not in repr(job)
        assert "secret" not in repr(form)
