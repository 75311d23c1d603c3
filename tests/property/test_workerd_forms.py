"""Whatever schema is asked for and whatever a model would rather say: what comes out parses, satisfies it, and can be continued."""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs
from hypothesis import given, settings
from hypothesis import strategies as st

from rbees.protocol.errors import RbeesError
from rbees.protocol.response_format import GrammarFormat, JsonSchemaFormat, RegexFormat, check_response_format
from rbees.workerd.engine.grammar import check
from rbees.workerd.engine.outputs import Finished
from tests.support.forms import answer, constraint
from tests.support.scripted_models import ending_of, ids_of, text_of

_names = st.text('abcé語_ "\\{', min_size=1, max_size=6)
_bounds = st.tuples(st.integers(-500, 500), st.integers(0, 300)).map(lambda pair: (pair[0], pair[0] + pair[1]))
_lengths = st.tuples(st.integers(0, 3), st.integers(0, 6)).map(lambda pair: (pair[0], pair[0] + pair[1]))

_leaves: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.just({"type": "null"}),
    st.just({"type": "boolean"}),
    _bounds.map(lambda b: {"type": "integer", "minimum": b[0], "maximum": b[1]}),
    _lengths.map(lambda b: {"type": "string", "minLength": b[0], "maxLength": b[1]}),
    st.just({"type": "string", "pattern": "^[a-c]{2,4}(-x)?$"}),
    st.sampled_from(["uuid", "ipv4"]).map(lambda form: {"type": "string", "format": form}),
    st.lists(_names | st.integers(-9, 9) | st.none(), min_size=1, max_size=4, unique_by=repr).map(lambda values: {"enum": values}),
)


def _containers(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.one_of(
        st.tuples(inner, st.integers(0, 2), st.integers(0, 2)).map(
            lambda t: {"type": "array", "items": t[0], "minItems": t[1], "maxItems": t[1] + t[2]}
        ),
        st.lists(inner, min_size=1, max_size=3).map(lambda several: {"anyOf": several}),
        st.dictionaries(_names, inner, max_size=3).flatmap(
            lambda properties: st.lists(st.sampled_from(sorted(properties) or ["none"]), unique=True).map(
                lambda required: {
                    "type": "object",
                    "properties": properties,
                    "required": [name for name in required if name in properties],
                    "additionalProperties": False,
                }
            )
        ),
    )


schemas = st.recursive(_leaves, _containers, max_leaves=6)


@settings(max_examples=60, deadline=None)
@given(schema=schemas, seed=st.integers(0, 1_000), temperature=st.sampled_from([0.0, 0.7, 2.0]), share=st.floats(0, 1))
def test_every_answer_satisfies_its_schema_and_goes_on_from_anywhere(
    schema: dict[str, Any], seed: int, temperature: float, share: float
) -> None:
    built = constraint(JsonSchemaFormat(schema=schema))
    sampling: dict[str, Any] = {"seed": seed, "temperature": temperature, "top_k": 0}
    outputs = answer(built, max_tokens=1_000, **sampling)
    ending = ending_of(outputs, "a")
    assert isinstance(ending, Finished)
    assert ending.reason == "stop"
    text, ids = text_of(outputs, "a"), ids_of(outputs, "a")
    jsonschema_rs.validator_for(schema, validate_formats=True).validate(json.loads(text))
    cut = int(share * len(ids))
    rest = answer(built, max_tokens=1_000, generated=ids[:cut], **sampling)
    assert ids_of(rest, "a") == ids[cut:]


@settings(max_examples=60, deadline=None)
@given(pattern=st.text("ab(|)[]*+?{}1,\\^é", min_size=1, max_size=20), seed=st.integers(0, 1_000))
def test_any_text_as_a_pattern_is_followed_or_refused(pattern: str, seed: int) -> None:
    try:
        built = constraint(RegexFormat(pattern=pattern))
    except RbeesError:
        return
    ending_of(answer(built, max_tokens=30, seed=seed), "a")


_pieces = st.sampled_from(["<[5]>", '"', "/", "\\", "#", "//", "\n|", " ", "a", "i", "<", ">", "\x7f"])
_scraps = st.lists(_pieces, max_size=4).map("".join)
_frames = st.sampled_from(['"{}"', "/{}/", "{}", "# {}\n|", '%json {{"const": "{}"}}'])
_terms = st.builds(str.format, _frames, _scraps)


def _can_be_built(grammar: str) -> bool:
    try:
        check(grammar)
    except RbeesError:
        return False
    return True


@settings(max_examples=300, deadline=None)
@given(terms=st.lists(_terms, min_size=1, max_size=4))
def test_what_looks_like_a_token_in_a_grammar_that_is_taken_is_text(terms: list[str]) -> None:
    """There is no token 999: a grammar in which the number means one could not be built."""
    grammar = "start: " + " ".join(terms)
    try:
        check_response_format(GrammarFormat(syntax="lark", grammar=grammar), ignore_eos=False)
    except RbeesError:
        return
    assert _can_be_built(grammar) is _can_be_built(grammar.replace("<[5]>", "<[999]>"))
