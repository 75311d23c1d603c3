"""Jobs that make no text: what they may say, and how large what comes of them may be."""

from __future__ import annotations

from typing import Any

import pytest

from rbees.protocol import codec
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.events import Embedding
from rbees.protocol.jobs import JobRequest, check_job
from rbees.protocol.vectors import (
    MAX_RESULT_BYTES,
    RESULT_EVENT_BYTES,
    EmbedRequest,
    Encoding,
    RerankRequest,
    check_result_size,
    embedding_events,
)
from rbees.service.sse_parser import MAX_LINE_BYTES

EMBED = {"kind": "embed", "embed": {"input": ["a", [1, 2]]}}
RERANK = {"kind": "rerank", "rerank": {"query": "q", "documents": ["d"]}}


def job(**fields: Any) -> JobRequest:
    made = codec.decode(codec.encode({"model": "m", **fields}), JobRequest)
    check_job(made)
    return made


def test_texts_and_token_ids_may_stand_side_by_side() -> None:
    made = job(**EMBED, priority="batch", timeout_ms=5, session_id="s", cancel_on_disconnect=True)
    assert made.embed == EmbedRequest(input=("a", (1, 2)))
    assert job(**RERANK).rerank == RerankRequest(query="q", documents=("d",))


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "embed"},
        {"kind": "embed", "rerank": RERANK["rerank"]},
        {**EMBED, "rerank": RERANK["rerank"]},
        {**EMBED, "prompt": "p"},
        {**EMBED, "max_tokens": 3},
        {**EMBED, "temperature": 0.1},
        {**EMBED, "seed": 1},
        {**EMBED, "stop": ["x"]},
        {**RERANK, "n": 2},
        {"prompt": "p", "embed": EMBED["embed"]},
        {"kind": "embed", "embed": {"input": []}},
        {"kind": "embed", "embed": {"input": [""]}},
        {"kind": "embed", "embed": {"input": [[]]}},
        {"kind": "embed", "embed": {"input": [[-1]]}},
        {"kind": "embed", "embed": {"input": [3]}},
        {"kind": "embed", "embed": {"input": ["x"] * 2_049}},
        {"kind": "embed", "embed": {"input": ["x"], "dimensions": 0}},
        {"kind": "embed", "embed": {"input": ["x"], "encoding": "hex"}},
        {"kind": "embed", "embed": {"input": ["x"], "model": "y"}},
        {"kind": "rerank", "rerank": {"query": "", "documents": ["d"]}},
        {"kind": "rerank", "rerank": {"query": "q", "documents": []}},
        {"kind": "rerank", "rerank": {"query": "q", "documents": ["d"], "top_n": 0}},
    ],
)
def test_what_does_not_fit_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(RbeesError) as caught:
        job(**fields)
    assert caught.value.code is ErrorCode.INVALID_REQUEST


def test_what_clients_sent_shows_in_no_repr() -> None:
    assert "honey" not in repr(job(kind="embed", embed={"input": ["honey"]}))
    assert "honey" not in repr(RerankRequest(query="honey", documents=("honey",)))


def vectors(count: int, dimensions: int, encoding: Encoding) -> list[Embedding]:
    row: Any = (-1.23456789e-05,) * dimensions if encoding == "float" else "A" * (-(-dimensions * 4 // 3) * 4)
    return [Embedding(index=index, embedding=row, tokens=1) for index in range(count)]


@pytest.mark.parametrize("encoding", ["float", "base64"])
@pytest.mark.parametrize(("count", "dimensions"), [(1, 1), (2_048, 8), (300, 384), (7, 16_384), (1, 32_768)])
def test_a_result_comes_in_events_that_a_reader_can_take(encoding: Encoding, count: int, dimensions: int) -> None:
    made = vectors(count, dimensions, encoding)
    events = list(embedding_events(made, dimensions, encoding))
    assert [one for event in events for one in event.embeddings] == made
    assert [event.index for event in events] == [event.embeddings[0].index for event in events]
    for event in events:
        size = len(codec.encode(event))
        assert size + 64 <= MAX_LINE_BYTES
        assert size <= RESULT_EVENT_BYTES + 64 or len(event.embeddings) == 1
    check_result_size(count, dimensions, encoding)
    assert sum(len(codec.encode(event.embeddings)) for event in events) <= MAX_RESULT_BYTES


def test_a_result_beyond_the_bound_is_refused_with_what_would_fit() -> None:
    with pytest.raises(RbeesError) as caught:
        check_result_size(2_048, 1_024, "float")
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    assert "at most 815 inputs" in caught.value.message
    check_result_size(815, 1_024, "float")
    check_result_size(2_048, 1_024, "base64")
