"""PURE: failures as Ollama's clients read them: one sentence."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from rbees.orcd.door.unknown_models import as_unknown_model
from rbees.protocol.codec import Message
from rbees.protocol.errors import ErrorCode, RbeesError

_MODELS: Final = "GET /api/tags"


class ErrorAnswer(Message, frozen=True, kw_only=True):
    """The body of every answer that is not a success, and the line in which a stream fails."""

    error: str


_NAMES: Final = {
    "max_tokens": "options.num_predict",
    "reasoning": "thinking",
    "response_format": "format",
}
"""Fields of a job that this API calls otherwise."""
_OF_FIELDS: Final = frozenset({ErrorCode.INVALID_REQUEST, ErrorCode.CONTEXT_EXCEEDED, ErrorCode.MODEL_INCOMPATIBLE})
"""Refusals that speak of fields; in others such a word is the name of a model."""
_FIELD: Final = re.compile(r"`(\w+)`")
# As for clients of OpenAI's API: 422 is a defect of their own to them, 400 what must be sent otherwise.
_STATUS: Final = {ErrorCode.CONTEXT_EXCEEDED: 400, ErrorCode.MODEL_INCOMPATIBLE: 400}


def body_of(error: RbeesError) -> ErrorAnswer:
    """The object that tells of it."""
    error = as_unknown_model(error, _MODELS)
    if error.code not in _OF_FIELDS:
        return ErrorAnswer(error=error.message)
    return ErrorAnswer(error=_FIELD.sub(lambda found: f"`{_NAMES.get(found[1], found[1])}`", error.message))


def status_of(error: RbeesError) -> int:
    """Of the answer that tells of it."""
    error = as_unknown_model(error, _MODELS)
    return _STATUS.get(error.code, error.http_status)


def headers_of(error: RbeesError) -> Mapping[str, str]:
    """The code, and how far a model has loaded, for which this API has no other place."""
    error = as_unknown_model(error, _MODELS)
    progress = error.details.get("progress")
    return {"X-Rbees-Error": error.code} | ({} if progress is None else {"X-Rbees-Progress": f"{progress:g}"})
