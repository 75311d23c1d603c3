"""PURE: failures as OpenAI's clients read them: type, code, the field they are about, and whether to try again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from rbees.orcd.door.retries import retry_headers
from rbees.orcd.door.unknown_models import as_unknown_model
from rbees.protocol.codec import Message
from rbees.protocol.errors import ErrorCode, RbeesError

_MODELS: Final = "GET /v1/models"


class ErrorObject(Message, frozen=True, kw_only=True):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    """The field that it is about."""
    code: str | None


class ErrorAnswer(Message, frozen=True, kw_only=True):
    """The body of every answer that is not a success, and the chunk in which a stream fails."""

    error: ErrorObject


# Where this API answers with another status than rbees' own routes do: its clients take 400 for what must be sent otherwise.
_STATUS: Final = {ErrorCode.CONTEXT_EXCEEDED: 400, ErrorCode.MODEL_INCOMPATIBLE: 400}
_CODES: Final = {
    ErrorCode.CONTEXT_EXCEEDED: "context_length_exceeded",
    ErrorCode.UNAUTHENTICATED: "invalid_api_key",
    ErrorCode.QUEUE_FULL: "rate_limit_exceeded",
    ErrorCode.QUOTA_EXCEEDED: "rate_limit_exceeded",
}
_TYPES: Final = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def body_of(error: RbeesError) -> ErrorAnswer:
    """The object that tells of it."""
    error = as_unknown_model(error, _MODELS)
    status = status_of(error)
    param = error.details.get("field")
    return ErrorAnswer(
        error=ErrorObject(
            message=_sentence(error),
            type=_TYPES.get(status, "invalid_request_error" if status < 500 else "server_error"),
            param=_param(param) if isinstance(param, str) else _PARAMS.get(error.code),
            code=_CODES.get(error.code, error.code.lower()),
        )
    )


def status_of(error: RbeesError) -> int:
    """Of the answer that tells of it."""
    error = as_unknown_model(error, _MODELS)
    return _STATUS.get(error.code, error.http_status)


def headers_of(error: RbeesError) -> Mapping[str, str]:
    """`x-should-retry` where clients would ask again by themselves, right or wrong, and how far a model has loaded."""
    return retry_headers(error, status_of(error))


def _sentence(error: RbeesError) -> str:
    """Begins as OpenAI's own where the context is exceeded: libraries between a program and this API know that by its words."""
    held = error.details.get("ctx_tokens")
    if error.code is not ErrorCode.CONTEXT_EXCEEDED or held is None:
        return error.message
    return f"This model's maximum context length is {held} tokens. {error.message}"


_PARAMS: Final[dict[ErrorCode, str]] = {ErrorCode.MODEL_NOT_FOUND: "model", ErrorCode.MODEL_INCOMPATIBLE: "model"}
_NAMES: Final = {
    "response_format.schema": "response_format",
    "token_ids": "prompt",
}
"""Fields of a job that this API calls otherwise."""


def _param(field: str) -> str:
    return _NAMES.get(field, field.replace("template_options", "chat_template_kwargs"))
