"""Whatever is made from the schemas of requests for responses, or against them, becomes a job or a refusal; and a stream is the
same however its journal was read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbees.orcd.api import responses
from rbees.orcd.door.foreign import read_foreign, told
from rbees.orcd.openai.errors import status_of
from rbees.orcd.responses.course import Course, Frames
from rbees.orcd.responses.items import Item, Reference, read_items
from rbees.orcd.responses.requests import CountRequest, Record, ResponseRequest, counted_prompt, record_of, response_job, unmet
from rbees.protocol.chat import ToolCall
from rbees.protocol.errors import ErrorBody, ErrorCode
from rbees.protocol.events import ChoiceEnd, End, Error, Event, Metrics, Queued, Started, Timings, Token, Usage
from rbees.protocol.jobs import JobRequest, check_job
from tests.support.foreign_bodies import paths_of, try_bodies

NOTHING: Any = None
ROUTES = responses.routes(NOTHING, NOTHING, NOTHING)
JOB_ID = "job-0123456789abcdefghjkmnpqrs"


def items_of(request: ResponseRequest | CountRequest) -> tuple[Item, ...]:
    return tuple(item for item in read_items(request.input, request.model) if not isinstance(item, Reference))


def _respond(request: ResponseRequest) -> None:
    items = items_of(request)
    job = response_job(request, (), items, None)
    check_job(job)
    assert msgspec.json.decode(msgspec.json.encode(job), type=JobRequest) == job
    record = record_of(request, job, items)
    assert msgspec.json.decode(msgspec.json.encode(record), type=Record) == record


ASKED: dict[str, tuple[type[ResponseRequest | CountRequest], Callable[[Any], object]]] = {
    "/v1/responses": (ResponseRequest, _respond),
    "/v1/responses/input_tokens": (CountRequest, lambda request: counted_prompt(request, (), items_of(request), None)),
}


def test_another_reader_accepts_the_document() -> None:
    assert set(ASKED) <= paths_of(ROUTES)


@pytest.mark.parametrize("path", ASKED)
def test_every_body_becomes_a_job_or_is_refused(path: str) -> None:
    type_, made_of = ASKED[path]

    def take(body: bytes) -> None:
        reading = read_foreign(body, type_)
        told((*reading.passed_over, *unmet(reading.request, None)))
        made_of(reading.request)

    try_bodies(ROUTES, path, take, status_of, examples=60)


# ---- streams -------------------------------------------------------------------------------------------------------------

_USAGE = Usage(prompt_tokens=3, cached_tokens=1, completion_tokens=2)
_METRICS = st.builds(Metrics, stage=st.sampled_from(["waiting", "loading", "attempt_failed", "attempt_started"]))
_TOKENS = st.builds(
    Token,
    part=st.sampled_from(["text", "reasoning", "tool"]),
    text=st.text(max_size=4),
    index=st.just(0),
    token_ids=st.sampled_from([(), (1,), (1, 2)]),
)
_CALLS = st.lists(st.builds(ToolCall, id=st.text("abc", min_size=1, max_size=3), name=st.just("f"), arguments=st.just({"x": "é"})))
_ENDS = st.builds(
    lambda reason, calls, total_ms: End(
        choices=(ChoiceEnd(finish_reason=reason, tool_calls=tuple(calls)),),
        usage=_USAGE,
        timings=Timings(prefill_ms=1.0, decode_ms=1.0, total_ms=total_ms),
    ),
    st.sampled_from(["stop", "length", "tool_calls"]),
    _CALLS,
    st.floats(0, 1e9),
)
_ERRORS = st.builds(lambda code: Error(error=ErrorBody(code=code, message="no")), st.sampled_from(list(ErrorCode)))


@st.composite
def journals(draw: st.DrawFn) -> list[Event]:
    events: list[Event] = [Queued(queue_position=1, created_at_ms=5), *draw(st.lists(_METRICS, max_size=2))]
    if draw(st.booleans()):
        events.append(Started(epoch=1, worker_id="w", model="file:/m", prompt_tokens=3))
        events += draw(st.lists(st.one_of(_TOKENS, _METRICS), max_size=12))
        events.append(draw(st.one_of(_ENDS, _ERRORS)))
    else:
        events.append(draw(_ERRORS))
    return events


@settings(max_examples=150, deadline=None)
@given(journals(), st.booleans(), st.booleans(), st.data())
def test_a_stream_is_the_same_wherever_it_broke(
    journal: list[Event], background: bool, parallel: bool, data: st.DataObject
) -> None:
    request = ResponseRequest(model="m", input="hum", background=background, parallel_tool_calls=parallel)
    asked = record_of(request, response_job(request, (), items_of(request), None), ()).asked

    def begin() -> Course:
        return Course(asked, JOB_ID, 5)

    def read(frames: Frames, events: list[Event]) -> bytes:
        return b"".join(frames.take(0, event) for event in events)

    course = begin()
    whole = read(Frames(course), journal)
    frames = [part + b"\n\n" for part in whole.split(b"\n\n")[:-1]]
    assert len(frames) == course.last_number + 1
    assert all(b'"sequence_number":%d,' % number in frame for number, frame in enumerate(frames))
    # Broken off anywhere, also between two frames of one event, and gone on by a process that knows nothing but the journal.
    seen = data.draw(st.integers(0, len(frames)), "seen")
    assert b"".join(frames[:seen]) + read(Frames(begin(), seen - 1), journal) == whole
    # What a look in between shows is where the stream stood.
    cut = data.draw(st.integers(0, len(journal)), "cut")
    again = begin()
    for event in journal[:cut]:
        again.take(event)
    stood = again.last_number
    assert read(Frames(again), journal[cut:]) == b"".join(frames[stood + 1 :])
    assert again.response == course.response
    assert course.response.status in {"completed", "incomplete", "failed", "cancelled"}
