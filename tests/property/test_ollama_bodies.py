"""Whatever is made from the schemas of Ollama's requests, or against them, becomes a job or a refusal, and breaks nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
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
from rbees.protocol.jobs import JobRequest, check_job
from tests.support.foreign_bodies import paths_of, try_bodies
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
    assert set(ASKED) <= paths_of(ROUTES)


@pytest.mark.parametrize("path", ASKED)
def test_every_body_becomes_a_job_or_is_refused(path: str) -> None:
    type_, job_of = ASKED[path]

    def take(body: bytes) -> None:
        reading = read_foreign(body, type_)
        told(reading.passed_over)
        request: Any = reading.request
        seconds_of(request.keep_alive)
        if not request.is_empty:
            job = job_of(request)
            check_job(job)
            assert msgspec.json.decode(msgspec.json.encode(job), type=JobRequest) == job

    try_bodies(ROUTES, path, take, errors.status_of)


@given(st.text(max_size=80))
def test_every_name_means_a_model_or_none(name: str) -> None:
    found = find(name, lambda reference: FOUND.facts if reference == "m" else None, [model()])
    assert found.reference == "m" if found.facts is not None else found.reference or not name
    if name:
        asked = download_of(PullRequest(model=name).wanted)
        assert msgspec.json.decode(msgspec.json.encode(asked), type=DownloadRequest) == asked
