"""The request that `jobs submit` makes of its options."""

from __future__ import annotations

from typing import Any

import pytest

from rbees.ctl.submit import build_job
from rbees.protocol.chat import ChatMessage
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.jobs import JobRequest

NOTHING: dict[str, Any] = {
    "max_tokens": None,
    "temperature": None,
    "seed": None,
    "stop": (),
    "deterministic": False,
    "priority": None,
}


def test_text_is_one_message_of_the_user() -> None:
    job = build_job("hello", raw=False, model="m", **NOTHING)
    assert job == JobRequest(model="m", messages=(ChatMessage(role="user", content="hello"),))


def test_raw_text_is_a_prompt() -> None:
    assert build_job("hello", raw=True, model="m", **NOTHING) == JobRequest(model="m", prompt="hello")


def test_zero_is_a_value() -> None:
    job = build_job("hello", raw=True, model="m", **{**NOTHING, "temperature": 0.0, "seed": 0})
    assert (job.temperature, job.seed) == (0.0, 0)


def test_what_was_given_arrives() -> None:
    options = {**NOTHING, "max_tokens": 9, "stop": ("a", "b"), "deterministic": True, "priority": "batch"}
    job = build_job("hello", raw=True, model="m", **options)
    assert (job.max_tokens, job.stop, job.deterministic, job.priority) == (9, ("a", "b"), True, "batch")


@pytest.mark.parametrize(
    ("text", "options"),
    [("", {}), ("hello", {"stop": ("a", "b", "c", "d", "e")}), ("hello", {"temperature": 3.0}), ("hello", {"seed": 1 << 60})],
)
def test_what_cannot_be_is_refused_here(text: str, options: dict[str, Any]) -> None:
    with pytest.raises(RbeesError) as raised:
        build_job(text, raw=False, model="m", **{**NOTHING, **options})
    assert raised.value.code is ErrorCode.INVALID_REQUEST
