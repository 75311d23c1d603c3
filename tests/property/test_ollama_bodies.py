"""Whatever is made from the schemas of Ollama's requests, or against them, becomes a job or a refusal, and breaks nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rbees.orcd.api import ollama
from rbees.orcd.door.foreign import Foreign, read_foreign, told
from rbees.orcd.door.model_names import Found, find
from rbees.orcd.ollama import errors
from rbees.orcd.ollama.keep_alive import seconds_of
from rbees.orcd.ollama.pull import PullRequest, download_of
from rbees.orcd.ollama.text import ChatRequest, GenerateRequest, chat_asked, generate_asked
from rbees.orcd.ollama.vectors import EmbedPrompt, EmbedTexts, embed_job, prompt_job
from rbees.protocol.downloads import DownloadRequest
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.jobs import JobRequest, check_job
from rbees.service.openapi import document
from tests.support.host_facts import model

NOTHING: Any = None
ROUTES = ollama.routes(NOTHING, NOTHING, NOTHING)
FOUND = Found("m", model(capabilities=("generate", "chat"), template_words=("enable_thinking",)))
ASKED: dict[str, tuple[type[Foreign], Callable[[Any], JobRequest]]] = {
    "/api/chat": (ChatRequest, lambda request: chat_asked(request, FOUND).job),
    "/api/generate": (GenerateRequest, lambda request: generate_asked(request, FOUND).job),
    "/api/embed": (EmbedTexts, lambda request: embed_job(request, FOUND)),
    "/api/embeddings": (EmbedPrompt, lambda request: prompt_job(request, FOUND)),
}


def test_another_reader_accepts_the_document() -> None:
    schema = schemathesis.openapi.from_dict(document("orcd", "1", ROUTES))
    schema.validate()
    assert set(ASKED) <= set(schema)


@pytest.mark.parametrize("path", ASKED)
def test_every_body_becomes_a_job_or_is_refused(path: str) -> None:
    type_, job_of = ASKED[path]
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
            request: Any = reading.request
            seconds_of(request.keep_alive)
            if request.is_empty:
                return
            job = job_of(request)
            check_job(job)
        except RbeesError as error:
            refusal: RbeesError | None = error
        else:
            refusal = None
            assert msgspec.json.decode(msgspec.json.encode(job), type=JobRequest) == job
        assert refusal is None or (refusal.code, errors.status_of(refusal)) == (ErrorCode.INVALID_REQUEST, 400)

    judge()


@given(st.text(max_size=80))
def test_every_name_means_a_model_or_none(name: str) -> None:
    found = find(name, lambda reference: FOUND.facts if reference == "m" else None, [model()])
    assert found.reference == "m" if found.facts is not None else found.reference or not name
    if name:
        asked = download_of(PullRequest(model=name).wanted)
        assert msgspec.json.decode(msgspec.json.encode(asked), type=DownloadRequest) == asked
