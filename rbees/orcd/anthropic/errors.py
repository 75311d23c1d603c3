"""PURE: failures as Anthropic's clients read them: type, sentence, and whether to try again."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Literal

from msgspec import UNSET, UnsetType

from rbees.orcd.door.retries import retry_headers
from rbees.orcd.door.unknown_models import as_unknown_model
from rbees.protocol.codec import Message
from rbees.protocol.errors import ErrorCode, RbeesError

ErrorType = Literal[
    "invalid_request_error",
    "authentication_error",
    "permission_error",
    "not_found_error",
    "conflict_error",
    "request_too_large",
    "rate_limit_error",
    "api_error",
    "overloaded_error",
    "timeout_error",
]

_MODELS: Final = "GET /v1/models"
THREAD: Final = "thread"
"""Field by which a request goes on with a conversation that the server keeps."""


class Unsupported(Message, frozen=True, kw_only=True):
    """What a program looks at that can do without something and then asks again by itself."""

    error_code: Literal["thread_unsupported_request"]
    unsupported: tuple[str, ...]


class ErrorObject(Message, frozen=True, kw_only=True):
    """What went wrong. What follows `message` is rbees' own."""

    type: ErrorType
    message: str
    code: str
    """As `docs/errors.md` lists it."""
    field: str | None
    """That it is about."""
    details: Unsupported | UnsetType = UNSET
    """The API's own; only where a `thread` is refused."""


class ErrorAnswer(Message, frozen=True, kw_only=True):
    """The body of every answer that is not a success, and the event in which a stream fails."""

    type: Literal["error"] = "error"
    error: ErrorObject
    request_id: str | None
    """The correlation id, by which the logs know the request."""


# Where this API answers with another status than rbees' own routes do: its clients take 400 for what must be sent otherwise.
_STATUS: Final = {ErrorCode.CONTEXT_EXCEEDED: 400, ErrorCode.MODEL_INCOMPATIBLE: 400}
_TYPES: Final[dict[int, ErrorType]] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_FIELDS: Final[dict[ErrorCode, str]] = {ErrorCode.MODEL_NOT_FOUND: "model", ErrorCode.MODEL_INCOMPATIBLE: "model"}
_NAMES: Final = {
    "response_format.schema": "output_config.format.schema",
    "response_format": "output_config.format",
    "stop": "stop_sequences",
}
"""Fields of a job that this API calls otherwise."""
_OF_FIELDS: Final = frozenset({ErrorCode.INVALID_REQUEST, ErrorCode.CONTEXT_EXCEEDED, ErrorCode.MODEL_INCOMPATIBLE})
"""Refusals that speak of fields; in others such a word is the name of a model."""
_NO_THREADS: Final = Unsupported(error_code="thread_unsupported_request", unsupported=(THREAD,))
_FIELD: Final = re.compile(r"`([a-z_]+(?:\.[a-z_]+)*)`")


def body_of(error: RbeesError, request_id: str | None = None) -> ErrorAnswer:
    """The object that tells of it."""
    error = as_unknown_model(error, _MODELS)
    status = status_of(error)
    field = error.details.get("field")
    return ErrorAnswer(
        error=ErrorObject(
            type=_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error"),
            message=_sentence(error),
            code=error.code,
            field=_named(field) if isinstance(field, str) else _FIELDS.get(error.code),
            details=_NO_THREADS if error.code is ErrorCode.INVALID_REQUEST and field == THREAD else UNSET,
        ),
        request_id=request_id,
    )


def status_of(error: RbeesError) -> int:
    """Of the answer that tells of it."""
    error = as_unknown_model(error, _MODELS)
    return _STATUS.get(error.code, error.http_status)


def headers_of(error: RbeesError) -> Mapping[str, str]:
    """As `retry_headers`."""
    return retry_headers(error, status_of(error))


def _sentence(error: RbeesError) -> str:
    """What happened; agents that shorten their conversation when it no longer fits know that by these words."""
    message = error.message
    if error.code in _OF_FIELDS:
        message = _FIELD.sub(lambda found: f"`{_named(found[1])}`", message)
    prompt, context = error.details.get("prompt_tokens"), error.details.get("ctx_tokens")
    if error.code is ErrorCode.CONTEXT_EXCEEDED and prompt is not None and context is not None:
        return f"prompt is too long: {prompt} tokens > {context} maximum. {message}"
    return message


def _named(field: str) -> str:
    return _NAMES.get(field, field.replace("template_options", "chat_template_kwargs"))
