"""Whatever is made from the schemas of OpenAI's requests, or against them, becomes a job or a refusal, and breaks nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from rbees.orcd.api import openai
from rbees.orcd.door.foreign import Foreign, read_foreign, told
from rbees.orcd.openai import errors
from rbees.orcd.openai.chat import ChatRequest, chat_job
from rbees.orcd.openai.completions import CompletionRequest, completion_jobs
from rbees.orcd.openai.vectors import EmbeddingsRequest, RankRequest, embeddings_job, rank_job
from rbees.protocol.jobs import JobRequest, check_job
from tests.support.foreign_bodies import paths_of, try_bodies

NOTHING: Any = None
ROUTES = openai.routes(NOTHING, NOTHING)
ASKED: dict[str, tuple[type[Foreign], Callable[[Any], list[JobRequest]]]] = {
    "/v1/chat/completions": (ChatRequest, lambda request: [chat_job(request)]),
    "/v1/completions": (CompletionRequest, completion_jobs),
    "/v1/embeddings": (EmbeddingsRequest, lambda request: [embeddings_job(request)]),
    "/v1/rerank": (RankRequest, lambda request: [rank_job(request)]),
}


def test_another_reader_accepts_the_document() -> None:
    assert set(ASKED) <= paths_of(ROUTES)


@pytest.mark.parametrize("path", ASKED)
def test_every_body_becomes_jobs_or_is_refused(path: str) -> None:
    type_, jobs_of = ASKED[path]

    def take(body: bytes) -> None:
        reading = read_foreign(body, type_)
        told(reading.passed_over)
        jobs = jobs_of(reading.request)
        for job in jobs:
            check_job(job)
        assert [msgspec.json.decode(msgspec.json.encode(job), type=JobRequest) for job in jobs] == jobs

    try_bodies(ROUTES, path, take, errors.status_of)
