"""Which model a worker serves where none was named."""

from __future__ import annotations

import pytest

from rbees.pool.model_to_serve import only_model
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.pools import ModelFacts
from rbees.protocol.workers import Backend
from tests.support.host_facts import device, model

PACKAGED = {"haiku"}
HAIKU = model("haiku")
FETCHED = model("hf:org/repo@0::file=tiny.gguf", aliases=("tiny",))


def refusal(*models: ModelFacts, backend: Backend | None = None) -> RbeesError:
    with pytest.raises(RbeesError) as caught:
        only_model(models, PACKAGED, [device("cpu")], backend)
    return caught.value


def test_the_only_one_that_came_to_the_host_goes_before_the_packaged_one() -> None:
    assert only_model([HAIKU], PACKAGED, [device("cpu")], "cpu") == "haiku"
    assert only_model([HAIKU, FETCHED], PACKAGED, [device("cpu")], None) == FETCHED.ref


def test_of_several_nobody_guesses() -> None:
    error = refusal(HAIKU, FETCHED, model("file:/m/other.gguf", aliases=("other",)))
    assert (error.code, "(tiny, other)" in error.message) == (ErrorCode.INVALID_REQUEST, True)
    assert refusal().code is ErrorCode.MODEL_NOT_FOUND


def test_a_backend_that_is_not_there_is_told_before_a_model_is_asked_for() -> None:
    error = refusal(HAIKU, FETCHED, model("file:/m/other.gguf"), backend="metal")
    assert (error.code, error.exit_code) == (ErrorCode.BACKEND_UNAVAILABLE, 69)
