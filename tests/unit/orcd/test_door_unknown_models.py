"""What clients of other APIs are told of a model that nobody holds."""

from __future__ import annotations

from typing import Any

import pytest

from rbees.orcd.anthropic import errors as anthropic
from rbees.orcd.door.unknown_models import as_unknown_model
from rbees.orcd.ollama import errors as ollama
from rbees.orcd.openai import errors as openai
from rbees.protocol.errors import ErrorCode, RbeesError

LIST = "GET /list"


def refused(code: ErrorCode = ErrorCode.INVALID_REQUEST, **details: Any) -> RbeesError:
    return RbeesError(code, "x", **{"model": "m", "field": "model", "close": [], "held": [], "fetchable": [], **details})


@pytest.mark.parametrize(
    ("details", "said"),
    [
        ({"close": ["a", "b"], "held": ["a", "b", "c"]}, "No pool holds the model `m`. Did you mean `a` or `b`?"),
        ({"held": ["a", "b"]}, "No pool holds the model `m`. Pools hold `a`, `b`."),
        ({"held": ["a"], "fetchable": ["n"]}, "Pools hold `a`. A pool could fetch `n`: `llorch models download n`."),
        ({"model": ""}, "No pool holds a model of this name."),
    ],
)
@pytest.mark.parametrize("code", [ErrorCode.INVALID_REQUEST, ErrorCode.MODEL_NOT_FOUND])
def test_names_that_work_are_told_and_where_all_are_listed(code: ErrorCode, details: dict[str, Any], said: str) -> None:
    told = as_unknown_model(refused(code, **details), LIST)
    assert told.code is ErrorCode.MODEL_NOT_FOUND
    assert said in told.message
    assert told.message.endswith(f"`{LIST}` lists all that can be asked for.")


def test_other_errors_stay_as_they_are() -> None:
    for error in (RbeesError(ErrorCode.INVALID_REQUEST, "x", field="model"), refused(ErrorCode.MODEL_INCOMPATIBLE)):
        assert as_unknown_model(error, LIST) is error


def test_each_api_says_so_in_its_own_words() -> None:
    error = refused(close=["a"])
    told = openai.body_of(error).error
    assert (openai.status_of(error), told.code, told.param) == (404, "model_not_found", "model")
    assert "`GET /v1/models`" in told.message
    other = anthropic.body_of(error).error
    assert (anthropic.status_of(error), other.type, other.field) == (404, "not_found_error", "model")
    assert ollama.status_of(error) == 404
    assert "`GET /api/tags`" in ollama.body_of(error).error
    assert ollama.headers_of(error)["X-Rbees-Error"] == "MODEL_NOT_FOUND"
