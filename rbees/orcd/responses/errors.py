"""PURE: failures as OpenAI's clients read them, with the names that fields have in a response."""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from rbees.orcd.openai import errors
from rbees.orcd.openai.errors import ErrorAnswer
from rbees.protocol.errors import RbeesError

_FORM: Final = "response_format"
_TURNS: Final = "messages["


def body_of(error: RbeesError) -> ErrorAnswer:
    """The object that tells of it."""
    answer = errors.body_of(error)
    return replace(answer, error=replace(answer.error, param=_param(answer.error.param)))


def _param(param: str | None) -> str | None:
    if param is None or not param.startswith((_FORM, _TURNS)):
        return param
    # Turns of a chat are counted otherwise than items.
    return "text.format" if param.startswith(_FORM) else "input"
