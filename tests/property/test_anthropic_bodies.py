"""Whatever is made from the schemas of Anthropic's requests, or against them, becomes a job or a refusal, and breaks nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rbees.orcd.anthropic import errors
from rbees.orcd.anthropic.messages import CountRequest, MessagesRequest, counted_prompt, message_job, unmet
from rbees.orcd.api import anthropic
from rbees.orcd.door.foreign import Foreign, read_foreign, told
from rbees.protocol.chat import check_chat
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.jobs import check_job
from rbees.protocol.workers import TokenizeRequest
from rbees.service.openapi import document
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
    schema = schemathesis.openapi.from_dict(document("orcd", "1", ROUTES))
    schema.validate()
    assert set(ASKED) == set(schema)


@pytest.mark.parametrize("path", ASKED)
def test_every_body_becomes_a_job_or_is_refused(path: str) -> None:
    type_, made_of = ASKED[path]
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
            reading: Any = read_foreign(body, type_)
            told((*reading.passed_over, *unmet(reading.request, FACTS)))
            made = made_of(reading.request)
        except RbeesError as error:
            refusal: RbeesError | None = error
        else:
            refusal = None
            assert msgspec.json.decode(msgspec.json.encode(made), type=type(made)) == made
        assert refusal is None or (refusal.code, errors.status_of(refusal)) == (ErrorCode.INVALID_REQUEST, 400)

    judge()
