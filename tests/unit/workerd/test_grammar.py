"""Answers in a form: what each kind allows, how it meets stop strings, limits and replays, and what is refused and how."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import jsonschema_rs
import numpy as np
import pytest

from rbees.orcd.openai.schema_formats import ENFORCED
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.response_format import MAX_OPTIONAL_PROPERTIES, GrammarFormat, JsonObjectFormat, JsonSchemaFormat, RegexFormat
from rbees.protocol.sampling import Sampling
from rbees.workerd.engine.backend import BackendFacts
from rbees.workerd.engine.engine import Engine
from rbees.workerd.engine.grammar import Form, GrammarConstraint, Grammars, compile_form
from rbees.workerd.engine.outputs import Failed, Finished, Grown
from rbees.workerd.engine.scripted import Script, ScriptedBackend
from rbees.workerd.engine.sequence import Work
from tests.support.forms import PROMPT, answer, constraint, fresh_engine, scripted_backend
from tests.support.scripted_models import Ticks, ending_of, ids_of, run_out, text_of

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 5, "maxLength": 25},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["worker", "drone", "queen"]}, "minItems": 1, "maxItems": 3},
        "hive": {"anyOf": [{"type": "null"}, {"type": "boolean"}]},
    },
    "required": ["name", "age", "tags", "hive"],
    "additionalProperties": False,
}
HARD = "(\\p{L}{1,1000}){1,100}"
"""Its first masks are cheap, later ones are not."""
LIST = 'root ::= "[" item ("," item){2,4} "]" # a list\nitem ::= [a-f]+ | "\\u00e9"'


def schema(**fields: Any) -> JsonSchemaFormat:
    return JsonSchemaFormat(schema=fields)


def optional(count: int) -> dict[str, Any]:
    return {"type": "object", "properties": {f"secret_{i}": {"type": "string"} for i in range(count)}}


def lark(grammar: str) -> GrammarFormat:
    return GrammarFormat(syntax="lark", grammar=grammar)


def gbnf(grammar: str) -> GrammarFormat:
    return GrammarFormat(syntax="gbnf", grammar=grammar)


@pytest.mark.parametrize(
    ("form", "pattern"),
    [
        (RegexFormat(pattern="[a-z]{3,8}( [a-z]{3,8}){2}"), "[a-z]{3,8}( [a-z]{3,8}){2}"),
        (RegexFormat(pattern="a/b\"c'\\\\d"), re.escape("a/b\"c'\\d")),
        (RegexFormat(pattern="(語|é|🐝){4}"), "(語|é|🐝){4}"),
        (lark('start: "x" NUMBER ("," NUMBER)~3\nNUMBER: /[0-9]{2}/'), r"x\d\d(,\d\d){3}"),
        (gbnf(LIST), r"\[([a-f]+|é)(,([a-f]+|é)){2,4}\]"),
        (gbnf('root ::= "\\x41\\u0042" [\\u0043-\\u0045] "\\U0001F41D\\""'), 'AB[CDE]🐝"'),
    ],
)
def test_an_answer_has_the_form_that_was_asked_for(form: Form, pattern: str) -> None:
    built = constraint(form)
    for seed in range(5):
        outputs = answer(built, seed=seed)
        ending = ending_of(outputs, "a")
        assert isinstance(ending, Finished)
        assert ending.reason == "stop"
        assert re.fullmatch(pattern, text_of(outputs, "a"))


@pytest.mark.parametrize("temperature", [0.0, 0.8, 2.0])
def test_json_satisfies_its_schema(temperature: float) -> None:
    built, validator = constraint(JsonSchemaFormat(schema=PERSON)), jsonschema_rs.validator_for(PERSON)
    texts = {text_of(answer(built, seed=seed, temperature=temperature, top_k=0), "a") for seed in range(10)}
    for text in texts:
        validator.validate(json.loads(text))
        assert list(json.loads(text)) == list(PERSON["properties"]), "in the schema's order"
        assert json.dumps(json.loads(text), ensure_ascii=False, separators=(",", ":")) == text, "no white space, no needless escape"
    assert (len(texts) > 1) is (temperature > 0)


def test_any_object_is_an_object() -> None:
    built = constraint(JsonObjectFormat())
    for seed in range(4):
        outputs = answer(built, seed=seed, max_tokens=700)
        ending = ending_of(outputs, "a")
        assert isinstance(ending, Finished)
        assert text_of(outputs, "a").startswith("{")
        if ending.reason == "stop":
            assert isinstance(json.loads(text_of(outputs, "a")), dict)


def test_going_on_after_any_token_gives_the_same_answer() -> None:
    built = constraint(JsonSchemaFormat(schema=PERSON))
    whole = answer(built, seed=4)
    text, ids, ending = text_of(whole, "a"), ids_of(whole, "a"), ending_of(whole, "a")
    assert isinstance(ending, Finished)
    assert len(ids) > 20
    assert not text.isascii(), "some characters came in several tokens"
    for cut in range(len(ids) + 1):
        rest = answer(built, generated=ids[:cut], seed=4)
        assert ids_of(rest, "a") == ids[cut:]
        assert text.endswith(text_of(rest, "a"))
        again = ending_of(rest, "a")
        assert isinstance(again, Finished)
        assert (again.reason, again.usage) == (ending.reason, ending.usage)


def test_batch_mates_and_preemption_change_nothing() -> None:
    built = constraint(JsonSchemaFormat(schema=PERSON))
    alone = {f"job{seed}": text_of(answer(built, seed=seed, max_tokens=100), "a") for seed in range(4)}
    engine = Engine(ScriptedBackend(Script(), slots=4, ctx=120, cells=200), slots=4, now=Ticks())
    for seed in range(4):
        engine.submit(Work(f"job{seed}", PROMPT, (), 100, Sampling(seed=seed), constraint=built))
    engine.submit(Work("free", PROMPT, (), 20, Sampling(seed=1)))
    outputs = run_out(engine)
    assert {key: text_of(outputs, key) for key in alone} == alone
    assert text_of(outputs, "free")


def test_several_answers_each_have_the_form_and_each_goes_on() -> None:
    built, validator = constraint(JsonSchemaFormat(schema=PERSON)), jsonschema_rs.validator_for(PERSON)
    texts, ids = several(built, [(), (), ()])
    for text in texts:
        validator.validate(json.loads(text))
    assert len(set(texts)) == 3
    rest, _ = several(built, [tuple(ids[0]), (), tuple(ids[2][:7])])
    assert (rest[0], rest[1]) == ("", texts[1])
    assert texts[2].endswith(rest[2])
    assert 0 < len(rest[2]) < len(texts[2])


def several(built: GrammarConstraint, given: list[tuple[int, ...]]) -> tuple[list[str], list[list[int]]]:
    """Texts and ids that one job sends of each of its answers."""
    engine = fresh_engine(scripted_backend())
    engine.submit(Work("a", PROMPT, given[0], 400, Sampling(seed=4), further=tuple(given[1:]), constraint=built))
    outputs = run_out(engine)
    assert sum(isinstance(output, Finished) for output in outputs) == len(given)
    pieces = [[o.piece for o in outputs if isinstance(o, Grown) and o.choice == choice] for choice in range(len(given))]
    return ["".join(p.text for p in of) for of in pieces], [[i for p in of for i in p.token_ids] for of in pieces]


def test_a_stop_string_inside_a_json_string_ends_the_answer_before_it() -> None:
    built = constraint(JsonSchemaFormat(schema=PERSON))
    text = text_of(answer(built, seed=4), "a")
    stop = text[14:17]
    assert stop in json.loads(text)["name"]
    for generated in ((), ids_of(answer(built, seed=4, stop=(stop,)), "a")[:2]):
        outputs = answer(built, seed=4, stop=(stop,), generated=generated)
        ending = ending_of(outputs, "a")
        assert isinstance(ending, Finished)
        assert ending.reason == "stop"
        assert text[: text.index(stop)].endswith(text_of(outputs, "a"))


def test_a_stop_string_that_never_comes_holds_nothing_back_at_the_end() -> None:
    outputs = answer(constraint(RegexFormat(pattern="ab+c")), stop=("cd",))
    assert re.fullmatch("ab+c", text_of(outputs, "a"))


def test_max_tokens_cuts_an_answer_off() -> None:
    built = constraint(JsonSchemaFormat(schema=PERSON))
    whole = answer(built, seed=4)
    outputs = answer(built, seed=4, max_tokens=5)
    ending = ending_of(outputs, "a")
    assert isinstance(ending, Finished)
    assert ending.reason == "length"
    assert ids_of(outputs, "a") == ids_of(whole, "a")[:5]


def test_an_answer_that_is_complete_with_its_last_allowed_token_is_not_cut_off() -> None:
    ending = ending_of(answer(constraint(RegexFormat(pattern="[0-9]{2}")), max_tokens=2), "a")
    assert isinstance(ending, Finished)
    assert (ending.reason, ending.usage.completion_tokens) == ("stop", 2)


def test_tokens_go_out_as_they_come() -> None:
    outputs = answer(constraint(RegexFormat(pattern="[a-z]{40}")))
    assert sum(isinstance(output, Grown) for output in outputs) > 5


def test_only_the_end_may_follow_where_more_could_but_need_not() -> None:
    built = constraint(RegexFormat(pattern="a{1,3}"))
    (eog,) = scripted_backend().facts.eog_ids
    assert allowed(built) == {ord("a")}
    assert built.accept(ord("a")) is False
    assert allowed(built) == {ord("a"), eog}
    fork = built.fork()
    assert built.accept(ord("a")) is False
    assert built.accept(ord("a")) is True
    assert allowed(built) == {eog}
    assert allowed(fork) == {ord("a"), eog}, "a fork goes its own way"


def allowed(built: Any) -> set[int]:
    """The tokens of a mask."""
    return set(np.flatnonzero(np.unpackbits(built.mask().view(np.uint8), bitorder="little")).tolist())


def test_a_mask_is_what_a_slow_reference_allows() -> None:
    """After any beginning exactly those tokens may follow with which some word of the language begins."""
    words = ["bee", "beelo", "be語x", "lomi", "lo"]
    built = constraint(RegexFormat(pattern="|".join(words)))
    backend = scripted_backend()
    (eog,) = backend.facts.eog_ids
    pieces = {token: backend.piece(token) for token in range(backend.facts.vocabulary_size) if token != eog}
    open_beginnings = [(built, b"")]
    seen = 0
    while open_beginnings:
        state, text = open_beginnings.pop()
        seen += 1
        expected = {t for t, piece in pieces.items() if any(word.encode().startswith(text + piece) for word in words)}
        expected |= {eog} if text.decode("utf-8", "replace") in words else set()
        found = allowed(state)
        assert found <= expected
        assert found == expected or len(found) == 1, "where there is one way to go on, it is spelled in one way"
        for token in found - {eog}:
            branch = state.fork()
            branch.accept(token)
            open_beginnings.append((branch, text + pieces[token]))
    assert seen > 10


def test_given_tokens_that_do_not_have_the_form_fail_alone() -> None:
    outputs = answer(constraint(RegexFormat(pattern="ab")), generated=b"ax")
    ending = ending_of(outputs, "a")
    assert isinstance(ending, Failed)
    assert ending.error.code == ErrorCode.INVALID_REQUEST


def test_a_form_that_grows_too_complex_fails_alone() -> None:
    engine = fresh_engine(scripted_backend())
    engine.submit(Work("bad", PROMPT, (), 200, Sampling(seed=2), constraint=constraint(RegexFormat(pattern=HARD))))
    engine.submit(Work("good", PROMPT, (), 20, Sampling(seed=3)))
    outputs = run_out(engine)
    bad = ending_of(outputs, "bad")
    assert isinstance(bad, Failed)
    assert bad.error.code == ErrorCode.INVALID_REQUEST
    assert isinstance(ending_of(outputs, "good"), Finished)


def late(inner: dict[str, Any]) -> JsonSchemaFormat:
    """A schema whose costly part comes when tokens were sent already."""
    return schema(type="object", required=["n", "x"], properties={"n": {"enum": ["aa", "ab"]}, "x": inner})


def walked(form: Form, text: bytes) -> GrammarConstraint:
    """The constraint after an answer that begins so."""
    built = constraint(form)
    for token in text:
        built.mask()
        built.accept(token)
    return built


@pytest.mark.parametrize("values", [{"type": ["string", "null"]}, {}, {"anyOf": [{"type": "null"}, {"properties": {"a": {}}}]}])
def test_as_many_optional_properties_as_are_taken_can_be_followed(values: dict[str, Any]) -> None:
    widest = {"type": "object", "properties": dict.fromkeys(optional(MAX_OPTIONAL_PROPERTIES)["properties"], values)}
    assert allowed(walked(schema(**widest), b"{")) == set(b'"}')
    assert allowed(walked(late(widest), b'{"n":"aa","x":{"secret_7":null,"secret_398":null')) == set(b",}")


def test_what_fails_on_the_way_does_not_blame_the_answer() -> None:
    form = late(optional(600))
    assert allowed(walked(form, b'{"n":"a')) == set(b"ab")
    with pytest.raises(RbeesError, match="fewer optional properties") as raised:
        walked(form, b'{"n":"aa","x":{"')
    assert "so far" not in raised.value.message


@pytest.mark.parametrize(
    ("form", "hint"),
    [
        (RegexFormat(pattern="(secret"), "regular expression"),
        (RegexFormat(pattern="(?=secret)x"), "look-around"),
        (RegexFormat(pattern="(secret)\\1"), "back-references"),
        (RegexFormat(pattern="[^\\s\\S]"), "contradict"),
        (RegexFormat(pattern="(){3}"), "empty"),
        (RegexFormat(pattern="((a{1000}){1000}){1000}"), "complex"),
        (RegexFormat(pattern="(" * 20_000 + "secret" + ")" * 20_000), "regular expression"),
        (schema(type="string", minLength=5, maxLength=2), "contradict"),
        (schema(type="integer", minimum=5, maximum=2), "contradict"),
        (schema(enum=[]), "contradict"),
        (schema(**{"$ref": "#"}), "never end"),
        (schema(**{"$ref": "#/secret"}), "$ref"),
        (schema(**{"$ref": "http://127.0.0.1:9/secret"}), "$ref"),
        (schema(**{"$ref": "file:///etc/passwd"}), "$ref"),
        (schema(type="array", uniqueItems=True), "`uniqueItems`"),
        (schema(oneOf=[{"type": "string"}, {"minimum": 3}]), "`oneOf` of alternatives that may overlap"),
        (schema(oneOf=[]), "contradict"),
        (schema(**optional(600)), "fewer optional properties"),
        (schema(type="secret"), "not a valid"),
        (schema(type="string", format="secret"), "a `format` that cannot"),
        (schema(type="string", format="password"), "the `format` `password`, which cannot"),
        (schema(properties={"secret": {"type": "string", "format": "json-pointer"}}), "the `format` `json-pointer`, which cannot"),
        (schema(type="string", pattern="(secret"), "regular expression"),
        (schema(enum="secret"), "not a valid"),
        (lark("secret"), "not a valid"),
        (lark("start: secret"), "line 1"),
        (lark('start: A\nA: B\nB: A "secret"'), "line 3"),
        (lark('foo: "secret"'), "not a valid"),
        (lark("start: " + "(" * 20_000), "complex"),
        (lark("start: <|secret|>"), "not a valid"),
        (lark("%import .secret.x\nstart: x"), "not a valid"),
        (gbnf('root ::= "a'), "line 1"),
        (gbnf('root ::= "a"\nsecret ::= \n  "\\q"'), "line 3"),
        (gbnf("root ::= secret"), "rule"),
        (gbnf('secret ::= "a"'), "rule"),
        (gbnf('root ::= "\\ud800"'), "character"),
    ],
)
def test_what_cannot_be_followed_is_refused_in_words_that_do_not_repeat_it(form: Form, hint: str) -> None:
    with pytest.raises(RbeesError) as raised:
        constraint(form)
    error = raised.value
    assert error.code is ErrorCode.INVALID_REQUEST
    assert hint in error.message
    assert error.message.endswith(".")
    assert "secret" not in str(error) + str(error.details)


@pytest.mark.parametrize("name", sorted(ENFORCED))
def test_formats_that_the_door_lets_through_can_be_followed(name: str) -> None:
    constraint(schema(type="string", format=name))


def test_a_long_forced_text_is_spelled_step_by_step() -> None:
    text = "bees hum " * 150
    assert text_of(answer(constraint(schema(const=text)), max_tokens=2_000), "a") == json.dumps(text)


class Spacing:
    """A tokenizer that puts a space in front of a text, as sentencepiece does."""

    def __init__(self) -> None:
        self._inner = ScriptedBackend(Script(), slots=4, ctx=512, cells=2_048)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        return self._inner.tokenize(" " + text, add_special=add_special, parse_special=parse_special)


class Endless(Spacing):
    """A model without any token that ends an answer."""

    @property
    def facts(self) -> BackendFacts:
        return replace(self._inner.facts, eog_ids=frozenset())


def test_a_model_that_cannot_end_an_answer_follows_no_form() -> None:
    backend: Any = Endless()
    with pytest.raises(RbeesError) as raised:
        Grammars(backend).build(compile_form(JsonObjectFormat()))
    assert raised.value.code is ErrorCode.MODEL_INCOMPATIBLE


def test_a_space_of_the_tokenizers_own_is_no_part_of_a_forced_text() -> None:
    backend: Any = Spacing()
    built = Grammars(backend).build(compile_form(schema(const="hum")))
    assert text_of(answer(built, backend=backend), "a") == '"hum"'
