"""PURE: failures as OpenAI's clients read them, with the names that fields have in a response."""

from __future__ import annotations

import re
from typing import Final

from msgspec.structs import replace

from rbees.orcd.openai import errors
from rbees.orcd.openai.errors import ErrorAnswer
from rbees.protocol.errors import ErrorBody, ErrorCode, RbeesError

FORM: Final = "text.format"
"""What this API calls the form of an answer."""
_FORM: Final = "response_format"
_OF_FORM: Final = re.compile(rf"`{_FORM}(?:\.\w+)*`")
_TURNS: Final = "messages["
_OF_FIELDS: Final = frozenset({ErrorCode.INVALID_REQUEST, ErrorCode.CONTEXT_EXCEEDED})
"""Failures that speak of fields; in others such a word is the name of something else."""


def body_of(error: RbeesError) -> ErrorAnswer:
    """The object that tells of it."""
    answer = errors.body_of(error)
    return replace(answer, error=replace(answer.error, param=_param(answer.error.param)))


def sentence(error: ErrorBody) -> str:
    """What a job failed of, in the names that a response has for what it was asked: the request itself is not at hand."""
    if error.code not in _OF_FIELDS:
        return error.message
    return _OF_FORM.sub(f"`{FORM}`", error.message).replace("`max_tokens`", "`max_output_tokens`")


def _param(param: str | None) -> str | None:
    if param is None or not param.startswith((_FORM, _TURNS)):
        return param
    # Turns of a chat are counted otherwise than items.
    return FORM if param.startswith(_FORM) else "input"
