"""What is wrong with a job that was typed, in the words of its options instead of those of its JSON."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.jobs import JobRequest
from rbees.protocol.response_format import GrammarFormat, JsonSchemaFormat, RegexFormat, ResponseFormat

_BOUND: Final = re.compile(r"Expected `(\w+)`(?: of length)? (>=|>|<=|<) (\S+)(?: - at `\$\.?(.*)`)?")
_BELOW: Final = {
    "embed.input": "TEXT",
    "rerank.documents": "DOC",
    "messages": "--prompt",
    "response_format.pattern": "--regex",
    "response_format.grammar": "--grammar",
    "response_format.schema": "--schema",
}
_OF_FORM: Final[dict[type[ResponseFormat], str]] = {
    JsonSchemaFormat: "--schema",
    GrammarFormat: "--grammar",
    RegexFormat: "--regex",
}
"""Places in a job whose word on the command line is not the last name of their path."""
_ORDER: Final = {">=": "at least", ">": "more than", "<=": "at most", "<": "less than"}


def unfit(error: msgspec.ValidationError) -> RbeesError:
    """INVALID_REQUEST for options that make no job."""
    bound = _BOUND.fullmatch(str(error))
    if bound is None:
        return RbeesError(ErrorCode.INVALID_REQUEST, f"The job does not fit: {error}.")
    kind, order, limit, path = bound.groups()
    return RbeesError(ErrorCode.INVALID_REQUEST, f"{_option(path or '')} takes {_amount(kind, _ORDER[order], limit)}.", field=path)


def of_job(error: RbeesError, job: JobRequest) -> RbeesError:
    """The same error about a form by the option that asked for it."""
    option = _OF_FORM.get(type(job.response_format)) if job.response_format is not None else None
    if option is None or "`response_format`" not in error.message:
        return error
    told = RbeesError(error.code, error.message.replace("`response_format`", f"`{option}`"))
    told.details, told.correlation_id = error.details, error.correlation_id
    return told


def _option(path: str) -> str:
    fields = re.sub(r"\[[^\]]*\]", "", path)
    known = next((word for start, word in _BELOW.items() if fields == start or fields.startswith(f"{start}.")), None)
    return f"`{known or '--' + fields.rpartition('.')[2].replace('_', '-')}`"


def _amount(kind: str, order: str, limit: str) -> str:
    if kind == "str":
        return f"a text of {order} {limit} {'character' if limit == '1' else 'characters'}"
    if kind in {"array", "object"}:
        return f"{order} {limit} values"
    return f"a number of {order} {limit}"
