"""PURE: what a line of a batch asks for, and the answer to it, by the same code as the route that it is for.

A further route is a further entry of `ENDPOINTS`: how the body of such a request becomes jobs, and the answer what comes of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from rbees.orcd.door.collected import Collected
from rbees.orcd.door.foreign import Foreign, read_foreign, refusal, told
from rbees.orcd.openai.answers import Identity
from rbees.orcd.openai.chat import ChatRequest, chat_job, unmet_of_chat
from rbees.orcd.openai.chat_answers import chat_answer
from rbees.orcd.openai.completion_answers import completion_answer
from rbees.orcd.openai.completions import CompletionRequest, completion_jobs
from rbees.orcd.openai.shared import TextRequest, unmet
from rbees.orcd.openai.vectors import (
    EmbeddingsRequest,
    RankRequest,
    embeddings_answer,
    embeddings_job,
    rank_answer,
    rank_job,
)
from rbees.protocol.codec import Message
from rbees.protocol.jobs import JobRequest

T = TypeVar("T", bound=TextRequest)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a line asks for."""

    sent: Foreign
    """The request itself, in whose words a failure is told (`openai/places.py`)."""
    model: str
    jobs: Sequence[JobRequest]
    choices: int
    """Answers of each job."""
    prefix: str
    """What the answer's id begins with."""
    passed_over: str | None
    """Fields that nobody here knows, as `X-Rbees-Ignored` would name them."""
    answer: Callable[[Identity, Sequence[Collected]], Message]
    """Of what the jobs came to, in their order."""


Endpoint = Callable[[bytes], Asked]
"""Reads the body of a request. Raises RbeesError INVALID_REQUEST as its route does."""


def _chat(body: bytes) -> Asked:
    reading = read_foreign(body, ChatRequest)
    request = _whole(reading.request)
    return Asked(
        sent=request,
        model=request.model,
        jobs=(chat_job(request),),
        choices=request.n or 1,
        prefix="chatcmpl",
        passed_over=told((*reading.passed_over, *unmet_of_chat(request))),
        answer=lambda identity, collected: chat_answer(request, identity, collected[0]),
    )


def _completions(body: bytes) -> Asked:
    reading = read_foreign(body, CompletionRequest)
    request = _whole(reading.request)
    return Asked(
        sent=request,
        model=request.model,
        jobs=completion_jobs(request),
        choices=request.n or 1,
        prefix="cmpl",
        passed_over=told((*reading.passed_over, *unmet(request))),
        answer=lambda identity, collected: completion_answer(request, identity, collected),
    )


def _embeddings(body: bytes) -> Asked:
    reading = read_foreign(body, EmbeddingsRequest)
    request = reading.request
    return Asked(
        sent=request,
        model=request.model,
        jobs=(embeddings_job(request),),
        choices=1,
        prefix="embd",
        passed_over=told(reading.passed_over),
        answer=lambda _identity, collected: embeddings_answer(request, collected[0]),
    )


def _rerank(body: bytes) -> Asked:
    reading = read_foreign(body, RankRequest)
    request = reading.request
    return Asked(
        sent=request,
        model=request.model,
        jobs=(rank_job(request),),
        choices=1,
        prefix="rerank",
        passed_over=told(reading.passed_over),
        answer=lambda identity, collected: rank_answer(request, identity.id, collected[0]),
    )


ENDPOINTS: Final[Mapping[str, Endpoint]] = {
    "/v1/chat/completions": _chat,
    "/v1/completions": _completions,
    "/v1/embeddings": _embeddings,
    "/v1/rerank": _rerank,
}


def _whole(request: T) -> T:
    if request.stream:
        raise refusal("A line of a batch is answered whole; leave `stream` out.", "stream")
    return request
