"""PURE: failures as OpenAI's clients read them, with the names that fields have in a response."""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from rbees.orcd.openai import errors
from rbees.orcd.openai.errors import ErrorAnswer
from rbees.protocol.errors import RbeesError

_NAMES: Final = (("response_format.json_schema", "text.format"), ("response_format", "text.format"), ("messages[", "input["))
"""How fields of a job begin that are called otherwise here."""


def body_of(error: RbeesError) -> ErrorAnswer:
    """The object that tells of it."""
    answer = errors.body_of(error)
    return replace(answer, error=replace(answer.error, param=_param(answer.error.param)))


def _param(param: str | None) -> str | None:
    for theirs, here in _NAMES:
        if param is not None and param.startswith(theirs):
            # Turns of a chat are counted otherwise than items.
            return "input" if here == "input[" else here + param.removeprefix(theirs)
    return param
