"""The fence: what of a worker's stream may enter a job's journal."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from rbees.orcd.live import LiveJob, Stream, Verdict, public_event
from rbees.protocol.errors import ErrorBody, ErrorCode, RbeesError
from rbees.protocol.events import Embedding, End, Error, Metrics, Queued, Ranked, Result, Started, StreamState
from tests.support.orcd_parts import end, started, token


@pytest.fixture
def stream() -> Stream:
    stream = Stream()
    stream.number(Queued(queue_position=1, created_at_ms=0))
    stream.begin(1)
    return stream


def _take(stream: Stream, seq: int, event: Started | End | Metrics) -> None:
    assert stream.admit(stream.epoch, seq, event) is Verdict.TAKE
    stream.number(event)


def test_events_of_the_current_attempt_are_taken_in_order(stream: Stream) -> None:
    _take(stream, 1, started())
    assert stream.admit(1, 2, token(0)) is Verdict.TAKE
    assert stream.number(token(0)) == 3
    assert (stream.worker_seq, stream.tokens) == (2, 1)


def test_an_older_attempt_is_stale(stream: Stream) -> None:
    stream.begin(2)
    assert stream.admit(1, 1, started()) is Verdict.STALE
    assert stream.admit(2, 1, started(2)) is Verdict.TAKE


def test_nothing_is_taken_after_the_end_or_while_not_listening(stream: Stream) -> None:
    _take(stream, 1, started())
    stream.listening = False
    assert stream.admit(1, 2, token(0)) is Verdict.STALE
    stream.listening = True
    _take(stream, 2, end(0))
    assert stream.ended
    assert stream.admit(1, 3, token(0)) is Verdict.STALE


def test_a_repeated_event_is_skipped(stream: Stream) -> None:
    _take(stream, 1, started())
    assert stream.admit(1, 1, started()) is Verdict.REPEATED


@pytest.mark.parametrize(
    ("seq", "event"),
    [
        (3, token(0)),
        (2, token(1)),
        (2, replace(token(0), choice=1)),
        (2, replace(token(0), choice=-1)),
        (2, Queued(queue_position=1, created_at_ms=0)),
    ],
    ids=["gap", "token out of place", "an answer too many", "no answer's number", "event that a worker may not send"],
)
def test_a_stream_that_cannot_be_right_is_refused(stream: Stream, seq: int, event: Started) -> None:
    _take(stream, 1, started())
    with pytest.raises(RbeesError) as caught:
        stream.admit(1, seq, event)
    assert caught.value.code is ErrorCode.INTERNAL
    assert "hum" not in caught.value.message


def test_a_token_before_the_start_is_refused(stream: Stream) -> None:
    with pytest.raises(RbeesError):
        stream.admit(1, 1, token(0))


def test_a_second_attempt_shows_as_metrics_and_goes_on_counting(stream: Stream) -> None:
    job = LiveJob(1, "job-x", 100, False, stream, dispatched_at_ms=150)
    _take(stream, 1, started())
    stream.admit(1, 2, token(0))
    stream.number(token(0))
    stream.begin(2)
    assert stream.admit(2, 1, started(2)) is Verdict.TAKE
    shown = public_event(job, started(2), worker_id="worker-b", pool_id="p", now_ms=0)
    assert shown == Metrics(stage="attempt_started", epoch=2, worker_id="worker-b", pool_id="p")
    stream.number(shown)
    assert stream.admit(2, 2, token(1)) is Verdict.TAKE


def test_the_end_gets_the_times_that_only_orcd_knows(stream: Stream) -> None:
    job = LiveJob(1, "job-x", 100, False, stream, dispatched_at_ms=150)
    shown = public_event(job, end(), worker_id="w", pool_id="p", now_ms=400)
    assert isinstance(shown, End)
    assert (shown.timings.queued_ms, shown.timings.total_ms, shown.timings.decode_ms) == (50.0, 300.0, 2.0)


def test_a_workers_error_passes_but_moves_nothing(stream: Stream) -> None:
    error = Error(error=ErrorBody(code=ErrorCode.CONTEXT_EXCEEDED, message="too long"))
    assert stream.admit(1, 1, error) is Verdict.TAKE
    assert stream.state is StreamState.WAITING
    assert stream.last_seq == 1


def vectors(*indices: int) -> Result:
    made = tuple(Embedding(index=index, embedding=(float(index),), tokens=1) for index in indices)
    return Result(index=indices[0], embeddings=made)


@pytest.fixture
def job_of_vectors(stream: Stream) -> LiveJob:
    stream.kind = "embed"
    _take(stream, 1, started())
    return LiveJob(1, "j", 0, cancel_on_disconnect=False, stream=stream)


def test_a_result_that_was_lost_in_the_middle_is_taken_up_where_it_stands(job_of_vectors: LiveJob) -> None:
    stream = job_of_vectors.stream
    assert stream.admit(1, 2, vectors(0, 1)) is Verdict.TAKE
    stream.number(vectors(0, 1))
    stream.begin(2)
    assert stream.admit(2, 1, started(2)) is Verdict.TAKE
    assert stream.admit(2, 2, vectors(0, 1)) is Verdict.REPEATED
    assert stream.worker_seq == 2, "the next one follows it"
    assert stream.admit(2, 3, vectors(1, 2)) is Verdict.TAKE
    public = public_event(job_of_vectors, vectors(1, 2), worker_id="w", pool_id="p", now_ms=0)
    assert public == vectors(2), "nothing is sent twice"
    stream.number(public)
    assert stream.results == 3


def test_a_ranking_is_taken_once(job_of_vectors: LiveJob) -> None:
    stream = job_of_vectors.stream
    stream.kind = "rerank"
    ranking = Result(ranking=(Ranked(index=1, relevance_score=2.0, tokens=3), Ranked(index=0, relevance_score=1.0, tokens=3)))
    assert stream.admit(1, 2, ranking) is Verdict.TAKE
    stream.number(ranking)
    assert stream.admit(1, 3, ranking) is Verdict.REPEATED


def test_a_result_nobody_asked_for_or_with_a_gap_is_a_defect(stream: Stream, job_of_vectors: LiveJob) -> None:
    with pytest.raises(RbeesError, match="goes on at result 1 instead of 0"):
        stream.admit(1, 2, vectors(1))
    with pytest.raises(RbeesError, match="does not ask for"):
        stream.admit(1, 2, token(0))
    stream.kind = "generate"
    with pytest.raises(RbeesError, match="does not ask for"):
        stream.admit(1, 2, vectors(0))
