"""Whatever is made from the schemas of Anthropic's requests, or against them, becomes a job or a refusal, and breaks nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from rbees.orcd.anthropic import errors
from rbees.orcd.anthropic.messages import CountRequest, MessagesRequest, counted_prompt, message_job, unmet
from rbees.orcd.api import anthropic
from rbees.orcd.door.foreign import Foreign, read_foreign, told
from rbees.protocol.chat import check_chat
from rbees.protocol.jobs import check_job
from rbees.protocol.workers import TokenizeRequest
from tests.support.foreign_bodies import paths_of, try_bodies
from tests.support.host_facts import model

NOTHING: Any = None
FACTS = model(template_words=("tools", "enable_thinking", "reasoning_effort"))
ROUTES = anthropic.routes(NOTHING, NOTHING)


def checked_job(request: MessagesRequest) -> Any:
    job = message_job(request, FACTS)
    check_job(job)
    return job


def checked_prompt(request: CountRequest) -> TokenizeRequest:
    prompt = counted_prompt(request, FACTS)
    check_chat(prompt.messages, prompt.tools, prompt.tool_choice, prompt.template_options)
    return prompt


ASKED: dict[str, tuple[type[Foreign], Callable[[Any], Any]]] = {
    "/v1/messages": (MessagesRequest, checked_job),
    "/v1/messages/count_tokens": (CountRequest, checked_prompt),
}


def test_another_reader_accepts_the_document() -> None:
    assert set(ASKED) == paths_of(ROUTES)


@pytest.mark.parametrize("path", ASKED)
def test_every_body_becomes_a_job_or_is_refused(path: str) -> None:
    type_, made_of = ASKED[path]

    def take(body: bytes) -> None:
        reading: Any = read_foreign(body, type_)
        told((*reading.passed_over, *unmet(reading.request, FACTS)))
        made = made_of(reading.request)
        assert msgspec.json.decode(msgspec.json.encode(made), type=type(made)) == made

    try_bodies(ROUTES, path, take, errors.status_of)
