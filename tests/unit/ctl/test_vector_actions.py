"""What `llorch embed` and `llorch rerank` say of a text that is too long."""

from __future__ import annotations

import pytest

from rbees.ctl import vector_actions
from rbees.ctl.target import Target
from rbees.protocol.errors import ErrorBody, ErrorCode, RbeesError


@pytest.mark.parametrize(
    ("details", "said"),
    [
        ({"index": 2, "prompt_tokens": 900, "ctx_tokens": 512}, "Text 3 has 900 tokens, but the context holds 512"),
        ({}, "send `truncate`"),
    ],
)
async def test_a_text_that_is_too_long_is_told_by_its_number_and_with_the_option(
    monkeypatch: pytest.MonkeyPatch, details: dict[str, int], said: str
) -> None:
    async def fail(*_given: object, **_more: object) -> None:
        body = ErrorBody(code=ErrorCode.CONTEXT_EXCEEDED, message="… send `truncate`", details=details, correlation_id="c")
        raise RbeesError.from_body(body)

    monkeypatch.setattr(vector_actions, "run_job", fail)
    with pytest.raises(RbeesError) as raised:
        await vector_actions.embed(Target("http://x"), texts=("a",), no_normalize=False, as_json=False, model="m")
    error = raised.value
    assert said in error.message
    assert (error.code, error.details, error.correlation_id) == (ErrorCode.CONTEXT_EXCEEDED, details, "c")
    assert "--truncate" in error.message or not details
