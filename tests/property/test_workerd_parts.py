"""Parts and calls do not depend on how tokens fall, and an answer that is begun anew goes on with the very same events."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from rbees.workerd.chat.style import ChatFormat
from rbees.workerd.engine.text import Piece
from tests.support.answers import chat_format, cut, parts_of, read

CALL = '{"name": "f", "arguments": {"a": "}"}}'
MARKS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<|python_tag|>")
BODIES = (CALL, "f[ARGS]", "g{}", "<function=", "f>", "</function>", "<parameter=a>", "1</parameter>")
CRUMBS = ("{", "}", "[", "]", '"', "\\", " ", "\n", ";", ",", "a", "<", "</", "é", "🐝")
SNIPPETS = st.sampled_from((*MARKS, *BODIES, *CRUMBS))
TEXTS = st.lists(SNIPPETS, max_size=14).map("".join)
CUTS = st.lists(st.integers(0, 200), max_size=30)
FORMATS = st.builds(
    lambda calls, thinks: chat_format(calls, thinks=thinks),
    st.sampled_from([None, "hermes", "mistral", "json", "qwen-coder"]),
    st.booleans(),
)
STOPS = st.sampled_from([(), ("</th",), ("aa", "}}")])


def tokens_of(text: str, cuts: list[int]) -> list[bytes]:
    data = text.encode()
    edges = sorted({0, len(data), *(c % (len(data) + 1) for c in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@given(TEXTS, CUTS, FORMATS)
def test_every_token_is_in_one_event_and_every_event_has_one(text: str, cuts: list[int], how: ChatFormat) -> None:
    tokens = tokens_of(text, cuts)
    events, _, _ = read(tokens, how)
    assert [i for event in events for i in event.token_ids] == list(range(len(tokens)))
    assert [event.index for event in events] == [event.token_ids[0] for event in events]


@given(TEXTS, FORMATS)
def test_nothing_but_marks_and_space_is_lost(text: str, how: ChatFormat) -> None:
    events, _, _ = read(cut(text, 1), how)
    left = iter(text)
    assert all(character in left for event in events for character in event.text), "in the order in which it was written"
    lost = len(text) - sum(len(event.text) for event in events)
    spaces = sum(character.isspace() for character in text)
    assert lost <= len("<think></think>") + spaces


@given(TEXTS, CUTS, FORMATS)
def test_parts_and_calls_depend_on_the_text_alone(text: str, cuts: list[int], how: ChatFormat) -> None:
    fine, calls, reason = read(cut(text, 1), how)
    # Tokens shorter than any mark: a longer one may hold two parts, which cannot be sent apart.
    coarse, coarse_calls, coarse_reason = read(tokens_of(text, [*cuts, *range(0, 400, 5)]), how)
    assert (coarse_calls, coarse_reason) == (calls, reason)
    assert parts_of(coarse) == parts_of(fine)


@given(TEXTS, CUTS, FORMATS, STOPS)
def test_an_answer_goes_on_from_any_event_as_if_never_interrupted(
    text: str, cuts: list[int], how: ChatFormat, stop: tuple[str, ...]
) -> None:
    tokens = tokens_of(text, cuts)
    whole, calls, reason = read(tokens, how, stop=stop)
    for sent in range(len(whole)):
        rest, calls_again, reason_again = read(tokens, how, given=whole[sent].index, stop=stop)
        assert rest == whole[sent:]
        assert [(e.part, e.text, e.heard) for e in rest] == [(e.part, e.text, e.heard) for e in whole[sent:]]
        assert (calls_again, reason_again) == (calls, reason)


@given(TEXTS, CUTS, st.none() | FORMATS, STOPS)
def test_tokens_that_are_heard_spell_the_text(text: str, cuts: list[int], how: ChatFormat | None, stop: tuple[str, ...]) -> None:
    tokens = tokens_of(text, cuts)
    for event in read(tokens, how, stop=stop)[0]:
        heard = [tokens[i] for i, is_heard in zip(event.token_ids, event.heard, strict=True) if is_heard]
        said = event.text.encode()
        assert said in b"".join(heard)
        beside = len(b"".join(heard)) - len(said)
        assert beside <= sum(len(token) - 1 for token in (heard[:1] + heard[1:][-1:])), (
            "of the first and the last token, and not all"
        )


@given(TEXTS, CUTS, FORMATS, STOPS)
def test_an_answer_goes_on_from_any_token_with_what_no_event_held(
    text: str, cuts: list[int], how: ChatFormat, stop: tuple[str, ...]
) -> None:
    tokens = tokens_of(text, cuts)
    whole, calls, reason = read(tokens, how, stop=stop)
    for given_tokens in range(1 + sum(len(e.token_ids) for e in whole)):
        rest, calls_again, reason_again = read(tokens, how, given=given_tokens, stop=stop)
        assert (calls_again, reason_again) == (calls, reason)
        assert [(e.part, e.text) for e in rest] == [(e.part, e.text) for e in whole if _end(e) > given_tokens]
        assert [i for e in rest for i in e.token_ids] == [i for e in whole for i in e.token_ids if i >= given_tokens]


def _end(event: Piece) -> int:
    return event.index + len(event.token_ids)
