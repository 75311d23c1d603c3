"""JSON in and out: what is refused, with which path, and what is never repeated."""

from __future__ import annotations

from typing import ClassVar, Literal

import pytest
from msgspec.structs import replace

from rbees.protocol import codec
from rbees.protocol.codec import Message, Request
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.events import Embedding, Event, Ranked, Usage
from rbees.protocol.jobs import ChoiceOutput, JobRequest, JobView
from rbees.protocol.pools import SpawnCommand, SpawnRequest
from rbees.protocol.vectors import EmbedAnswer, Embeddings, Ranking
from rbees.protocol.workers import ExecuteRequest

SECRET = "the-canary-sings"


class Note(Message, frozen=True, kw_only=True):
    private: ClassVar[frozenset[str]] = frozenset({"text"})
    text: str
    number: int = 0


class Order(Request, frozen=True, kw_only=True):
    text: str


def refusal(data: bytes, type_: type[object] = Note) -> RbeesError:
    with pytest.raises(RbeesError) as caught:
        codec.decode(data, type_)
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    assert caught.value.__cause__ is None
    return caught.value


def test_private_fields_do_not_show() -> None:
    shown = repr(Note(text=SECRET, number=7))
    assert shown == "Note(text=<hidden>, number=7)"
    assert SECRET not in f"{Note(text=SECRET)}"


def test_prompts_do_not_show() -> None:
    job = JobRequest(model="haiku", prompt=SECRET, stop=(SECRET,))
    assert SECRET not in repr(job)
    assert SECRET not in repr([job])


def test_stop_strings_do_not_show_on_their_way_to_a_worker() -> None:
    assert SECRET not in repr(JobRequest(model="haiku", prompt="a", stop=(SECRET,)).sampling(1))


@pytest.mark.parametrize(
    ("body", "type_", "said"),
    [
        (b'{"model": "m", "priority": "the-canary-sings"}', JobRequest, "at `$.priority`: write one of `batch`, `interactive`."),
        (
            b'{"model": "m", "messages": [{"role": "the-canary-sings", "content": ""}]}',
            JobRequest,
            "`$.messages[0].role`: write one",
        ),
        (b'{"type": "the-canary-sings"}', Event, "at `$.type`: write one of `queued`, `started`"),
        (b'"the-canary-sings \' - at `$.the-canary-sings`"', Literal["a", "b"], "at `$`: write one of `a`, `b`."),
        (b'{"x": "the-canary-sings"}', dict[str, Literal["a"]], "write one of `a`."),
        (b'{"model": "m", "the-canary-sings": 1}', JobRequest, "an unknown field - at `$`."),
        (
            b'{"model": "m", "messages": [{"role": "user", "the-canary-sings": ""}]}',
            JobRequest,
            "unknown field - at `$.messages[0]`",
        ),
        (b'{"model": "m", "the-canary-sings - at `$`": 1}', JobRequest, "an unknown field - at `$`."),
        (
            b'{"model": "m", "max_token": 1}',
            JobRequest,
            "unknown field `max_token` - at `$`; the nearest one that exists is `max_tokens`.",
        ),
        (b'{"model": "m", "messages": [{"rolle": "user"}]}', JobRequest, "`rolle` - at `$.messages[0]`; the nearest one that"),
        (b'{"model": "m", "normalize": true}', JobRequest, "`normalize` - at `$`; it belongs into `embed`."),
        (b'{"model": "m", "tools": [{"type": "function"}]}', JobRequest, "write a tool flat: `name`"),
        (b'{"model": "m", "tool_choice": {"type": "function"}}', JobRequest, "write only the tool's `name`."),
    ],
)
def test_refusals_say_what_is_allowed_and_not_what_was_sent(body: bytes, type_: type[object], said: str) -> None:
    error = refusal(body, type_)
    assert said in error.message
    assert SECRET not in error.message


def test_a_newer_orcd_may_tell_a_pool_more_than_it_knows() -> None:
    body = b'{"model_ref": "haiku", "later": 1}'
    assert codec.decode(body, SpawnCommand) == SpawnCommand(model_ref="haiku")
    assert "later" in refusal(body, SpawnRequest).message


def test_messages_ignore_unknown_fields_and_requests_refuse_them() -> None:
    assert codec.decode(b'{"text": "a", "later": 1}', Note) == Note(text="a")
    assert "later" in refusal(b'{"text": "a", "later": 1}', Order).message


def test_a_person_is_told_of_a_slip_where_a_newer_orcd_may_say_more() -> None:
    body = b'{"job_id": "j", "epoch": 1, "prompt": "x", %s}'
    assert codec.decode(body % b'"max_token": 3', ExecuteRequest) == codec.decode_known(
        body % b'"max_tokens": null', ExecuteRequest
    )
    for slip, said in (
        (b'"max_token": 3', "unknown field `max_token` - at `$`; the nearest one that exists is `max_tokens`."),
        (b'"temperature": 0', "unknown field `temperature` - at `$`; it belongs into `sampling`."),
        (b'"later": 1', "unknown field `later` - at `$`."),
        (b'"the-canary-sings": 1', "an unknown field - at `$`."),
    ):
        with pytest.raises(RbeesError) as caught:
            codec.decode_known(body % slip, ExecuteRequest)
        assert caught.value.code is ErrorCode.INVALID_REQUEST
        assert said in caught.value.message


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"number": 1}', "text"),
        (b'{"text": "a", "number": "one"}', "$.number"),
        (b'{"text": 4}', "$.text"),
        (b"[]", "object"),
        (b"", "not valid JSON"),
        (b'{"text": "a"', "not valid JSON"),
        (b'{"text": "a", "number": NaN}', "not valid JSON"),
        (b'{"text": "a", "number": 1e999}', "$.number"),
        (b'{"text": "\xff"}', "byte 10 is not UTF-8; send it in that encoding"),
        (b'{"number": 1, "text": "gr\xfc"}', "byte 25 is not UTF-8"),
        (b" ", "The body is not valid JSON: it is empty."),
        (rb'{"text": "a \ud83d and more of it"}', "a text was cut within a character, such as an emoji"),
    ],
)
def test_refusals_say_where(body: bytes, said: str) -> None:
    assert said in refusal(body).message


@pytest.mark.parametrize(
    "body",
    [
        b'{"text": {"the-canary-sings": 1}}',
        b'{"number": "the-canary-sings"}',
        b'"the-canary-sings"',
        b'{"text": "the-canary-sings',
        b'{"text": "the-canary-sings\xff"}',
        b"the-canary-sings",
    ],
)
def test_refusals_never_quote_the_document(body: bytes) -> None:
    error = refusal(body)
    assert SECRET not in error.message
    assert SECRET not in repr(error.details)


@pytest.mark.parametrize("value", [b"NaN", b"Infinity", b"-Infinity", b"1e999", b'"0.5"', b"true", b"null", b"3.0", b"-0.1"])
def test_temperatures_that_are_none(value: bytes) -> None:
    refusal(b'{"model": "haiku", "prompt": "a", "temperature": ' + value + b"}", JobRequest)


def test_depth_is_bounded_whatever_the_type() -> None:
    deepest = b"[" * codec.MAX_JSON_DEPTH + b"]" * codec.MAX_JSON_DEPTH
    assert codec.decode(deepest, list) is not None
    assert "nested" in refusal(b"[" + deepest + b"]", list).message
    assert "nested" in refusal(b"[" * 1_000_000, list).message


def test_brackets_inside_strings_are_no_depth() -> None:
    text = "[{" * 500 + '\\"' + "}]"
    body = b'{"text": ' + codec.encode(text) + b"}"
    assert codec.decode(body, Note).text == text


def test_the_same_value_gives_the_same_bytes() -> None:
    assert codec.encode(Note(text="ü", number=1)) == '{"text":"ü","number":1}'.encode()


class Numbers(Message, frozen=True, kw_only=True):
    """Lists within a list."""

    rows: tuple[tuple[float, ...], ...]
    names: tuple[str, ...]


def test_pieces_make_the_same_bytes() -> None:
    usage = Usage(prompt_tokens=3, cached_tokens=0, completion_tokens=0)
    numbers = Embedding(index=0, embedding=(0.5, -1e-9), tokens=1, truncated=False)
    made = (numbers, Embedding(index=1, embedding="AAA=", tokens=1, truncated=True))
    ranked = (Ranked(index=1, relevance_score=4.5, tokens=2, truncated=True),)
    job = JobView(job_id="j", status="completed", model="m", priority="batch", seed=1, created_at_ms=1, usage=usage)
    outputs = (Embeddings(embeddings=made), Ranking(results=ranked), (ChoiceOutput(choice=0, text="ü"),), None)
    messages: list[Message] = [EmbedAnswer(model="m", embeddings=made, usage=usage), Note(text="[{", number=1)]
    messages.append(Numbers(rows=((0.5, -1e-9), ()), names=("a", "ü")))
    messages += [replace(job, output=output) for output in outputs]
    for message in messages:
        assert codec.encode_in_pieces(message) == codec.encode(message)
