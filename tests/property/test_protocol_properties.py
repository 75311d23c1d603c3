"""Properties of what crosses process boundaries: ids sort by time, references print what they parsed, JSON never surprises."""

from __future__ import annotations

import contextlib
import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbees.protocol import codec, ids
from rbees.protocol.errors import RbeesError
from rbees.protocol.jobs import JobRequest
from rbees.protocol.model_ref import AliasRef, FileRef, HubRef, ModelRef, parse

MILLISECONDS = st.integers(0, (1 << 48) - 1)
ENTROPY = st.binary(min_size=10, max_size=10)


@given(MILLISECONDS, ENTROPY, MILLISECONDS, ENTROPY)
def test_ids_sort_by_time(first_ms: int, first: bytes, second_ms: int, second: bytes) -> None:
    ordered = ids.new_job_id(first_ms, first) < ids.new_job_id(second_ms, second)
    assert ordered == ((first_ms, first) < (second_ms, second))


WORD = st.text(string.ascii_letters + string.digits + "._-", min_size=1, max_size=20).map(lambda s: "a" + s.replace("..", ".b"))
SEGMENT = st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="/\\:"), min_size=1, max_size=20).filter(
    lambda s: s not in {".", ".."} and not s.startswith("-")
)
PATH = st.lists(SEGMENT, min_size=1, max_size=5).map("/".join)
REFERENCE = st.one_of(
    st.builds(AliasRef, WORD.filter(lambda s: ".." not in s)),
    st.builds(
        HubRef,
        st.tuples(WORD, WORD).map("/".join).filter(lambda s: ".." not in s),
        st.none() | WORD.filter(lambda s: ".." not in s),
        st.none() | PATH,
    ),
    st.builds(FileRef, PATH.map("/".__add__)),
)


@given(REFERENCE)
def test_a_reference_prints_what_it_parsed(reference: ModelRef) -> None:
    assert parse(str(reference)) == reference


HOSTILE = st.text(alphabet=st.sampled_from("ab/.\\-:@=\x00\n ~%é") | st.characters(exclude_categories=["Cs"]), max_size=60)


@given(st.sampled_from(["", "hf:", "hf:a/b@", "hf:a/b::file=", "file:", "file:/"]), HOSTILE)
def test_no_reference_leads_out_of_its_folder(prefix: str, rest: str) -> None:
    try:
        reference = parse(prefix + rest)
    except RbeesError:
        return
    match reference:
        case AliasRef(name):
            pieces = [name]
            assert "/" not in name
        case HubRef(repository, revision, file):
            pieces = [repository, *filter(None, (revision, file))]
            assert not any(piece.startswith("/") for piece in pieces)
        case FileRef(path):
            pieces = [path]
            assert path.startswith("/")
    assert str(reference) == prefix + rest
    for piece in pieces:
        assert ".." not in piece.split("/")
        assert not piece.startswith("-")
        assert "\x00" not in piece
        assert "\\" not in piece


JSON_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 53), 1 << 53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


@given(JSON_VALUE)
def test_json_survives(value: object) -> None:
    assert codec.decode(codec.encode(value), object) == value


@given(st.binary(max_size=200) | JSON_VALUE.map(json.dumps).map(str.encode))
def test_any_bytes_are_a_job_or_are_refused(body: bytes) -> None:
    with contextlib.suppress(RbeesError):
        assert isinstance(codec.decode(body, JobRequest), JobRequest)


@given(st.text(max_size=300), st.integers(0, 3))
def test_strings_never_count_as_depth(text: str, depth: int) -> None:
    body: object = text
    for _ in range(depth):
        body = {text: [body]}
    codec.check_depth(codec.encode(body))


@given(st.integers(1, 200))
def test_depth_is_counted_exactly(depth: int) -> None:
    body = b"[" * depth + b"]" * depth
    if depth <= codec.MAX_JSON_DEPTH:
        codec.check_depth(body)
    else:
        with pytest.raises(RbeesError):
            codec.check_depth(body)
