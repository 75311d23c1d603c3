"""What a request brings: its JSON body within size and time, its query parameters with their types, and what nobody reads of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from rbees.protocol import codec, validation
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.service.connection import Limits
from rbees.service.routes import Parameter

MAX_BODY_BYTES = web.AppKey("max_body_bytes", int)
LIMITS = web.AppKey("limits", Limits)
FURTHER_HEADERS = web.RequestKey("further_headers", dict[str, str])
PASSED_OVER = web.RequestKey("passed_over", tuple[str, ...])

T = TypeVar("T")


async def read(request: web.Request, type_: type[T]) -> T:
    """The request's JSON body as `type_`.

    Raises:
        RbeesError: INVALID_REQUEST (content type, JSON, fields, or a body that came too slowly), REQUEST_TOO_LARGE.
    """
    return codec.decode(await read_json(request), type_)


async def read_json(request: web.Request) -> bytes:
    """The request's body, which says that it is JSON and is not decoded yet. Raises as `read`."""
    if request.content_type != "application/json" or (request.charset or "utf-8").lower() not in {"utf-8", "utf8"}:
        raise RbeesError(ErrorCode.INVALID_REQUEST, "Send the body as UTF-8 JSON with `Content-Type: application/json`.")
    return await read_bytes(request)


async def read_bytes(request: web.Request) -> bytes:
    """The request's body, refused before it is all read where it is larger than the daemon's limit. Raises as `read`."""
    limit = request.app[MAX_BODY_BYTES]
    if (request.content_length or 0) > limit:
        raise too_large(limit)
    body = bytearray()
    allowed_s = request.app[LIMITS].body_s
    try:
        async with asyncio.timeout(allowed_s):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > limit:
                    raise too_large(limit)
    except TimeoutError:
        raise RbeesError(ErrorCode.INVALID_REQUEST, f"The body did not arrive within {allowed_s:g} s; send it faster.") from None
    except web.RequestPayloadError:
        raise RbeesError(ErrorCode.INVALID_REQUEST, "The body does not follow its own length or encoding.") from None
    return bytes(body)


def argument(request: web.Request, parameter: Parameter) -> Any:
    """The value of a query parameter or header as the parameter's type, or None where it was not sent.

    Raises:
        RbeesError: INVALID_REQUEST, naming the parameter.
    """
    sent = request.headers.get(parameter.name) if parameter.where == "header" else request.query.get(parameter.name)
    if sent is None:
        if parameter.required:
            raise RbeesError(ErrorCode.INVALID_REQUEST, f"The parameter `{parameter.name}` is missing.", field=parameter.name)
        return None
    if parameter.type_ is bool and sent == "":
        return True
    if not _is_text(sent):
        raise RbeesError(ErrorCode.INVALID_REQUEST, f"The parameter `{parameter.name}` is not UTF-8.", field=parameter.name)
    try:
        return msgspec.convert(sent, parameter.type_, strict=False)
    except msgspec.ValidationError as error:
        said = validation.sentence(error, parameter.type_)
        raise RbeesError(
            ErrorCode.INVALID_REQUEST, f"The parameter `{parameter.name}` does not fit: {said}.", field=parameter.name
        ) from None


def pass_over(request: web.Request, names: Iterable[str]) -> None:
    """Have every answer to the request, also one that refuses it, name parameters or fields that nobody here reads."""
    request[PASSED_OVER] = (*request.get(PASSED_OVER, ()), *names)


def tell(request: web.Request, header: str, value: str) -> None:
    """Have every answer to the request, also one that refuses it, bear a header."""
    request[FURTHER_HEADERS] = {**request.get(FURTHER_HEADERS, {}), header: value}


def _is_text(sent: str) -> bool:
    """False where a header held bytes that are no UTF-8, which aiohttp keeps as lone surrogates."""
    try:
        sent.encode()
    except UnicodeEncodeError:
        return False
    return True


def too_large(limit: int) -> RbeesError:
    """The refusal of a body above `limit` bytes."""
    return RbeesError(ErrorCode.REQUEST_TOO_LARGE, f"The body is larger than {limit} bytes; send less.", limit_bytes=limit)
