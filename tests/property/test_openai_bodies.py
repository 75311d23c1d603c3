"""Whatever is made from the schemas of OpenAI's requests, or against them, becomes a job or a refusal, and breaks nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rbees.orcd.api import openai
from rbees.orcd.door.foreign import Foreign, read_foreign, told
from rbees.orcd.openai import errors
from rbees.orcd.openai.chat import ChatRequest, chat_job
from rbees.orcd.openai.completions import CompletionRequest, completion_jobs
from rbees.orcd.openai.vectors import EmbeddingsRequest, RankRequest, embeddings_job, rank_job
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.jobs import JobRequest, check_job
from rbees.service.openapi import document

NOTHING: Any = None
ROUTES = openai.routes(NOTHING, NOTHING)
ASKED: dict[str, tuple[type[Foreign], Callable[[Any], list[JobRequest]]]] = {
    "/v1/chat/completions": (ChatRequest, lambda request: [chat_job(request)]),
    "/v1/completions": (CompletionRequest, completion_jobs),
    "/v1/embeddings": (EmbeddingsRequest, lambda request: [embeddings_job(request)]),
    "/v1/rerank": (RankRequest, lambda request: [rank_job(request)]),
}


def test_another_reader_accepts_the_document() -> None:
    schema = schemathesis.openapi.from_dict(document("orcd", "1", ROUTES))
    schema.validate()
    assert set(ASKED) <= set(schema)


@pytest.mark.parametrize("path", ASKED)
def test_every_body_becomes_jobs_or_is_refused(path: str) -> None:
    type_, jobs_of = ASKED[path]
    operation = schemathesis.openapi.from_dict(document("orcd", "1", ROUTES))[path]["POST"]
    cases = st.one_of(operation.as_strategy(), operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE))

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(cases)
    def judge(case: schemathesis.Case[Any]) -> None:
        try:
            body = case.body if isinstance(case.body, bytes) else msgspec.json.encode(case.body)
        except (TypeError, ValueError, OverflowError):
            return
        try:
            reading = read_foreign(body, type_)
            told(reading.passed_over)
            jobs = jobs_of(reading.request)
            for job in jobs:
                check_job(job)
        except RbeesError as error:
            refusal: RbeesError | None = error
        else:
            refusal = None
            assert [msgspec.json.decode(msgspec.json.encode(job), type=JobRequest) for job in jobs] == jobs
        assert refusal is None or (refusal.code, errors.status_of(refusal)) == (ErrorCode.INVALID_REQUEST, 400)

    judge()
