"""What can go wrong on the way to a peer, said in our own words: no foreign exception text leaves this module."""

from __future__ import annotations

import asyncio
import socket
from http import HTTPStatus
from typing import Any

import aiohttp
import msgspec

from rbees.clients.dialer import ForbiddenAddress
from rbees.protocol import codec
from rbees.protocol.errors import ErrorBody, ErrorCode, ErrorEnvelope, RbeesError

_WHAT_TO_DO: dict[ErrorCode, str] = {
    ErrorCode.ORCD_UNREACHABLE: "Start it with `rbees up` or `rbees orcd serve`, or name its url with `--orcd-url`.",
    ErrorCode.POOL_UNREACHABLE: "Start it with `rbees poold serve` on that host, or correct the endpoint.",
    ErrorCode.WORKER_UNREACHABLE: "See its log with `rbees-pool worker logs`.",
}
_WHO: dict[ErrorCode, str] = {
    ErrorCode.ORCD_UNREACHABLE: "No orchestrator answers",
    ErrorCode.POOL_UNREACHABLE: "No pool daemon answers",
    ErrorCode.WORKER_UNREACHABLE: "The worker does not answer",
}


class _LooseError(msgspec.Struct, frozen=True):
    """An error object whose code this version may not know."""

    code: str
    message: str
    details: dict[str, Any] = {}
    correlation_id: str | None = None


class _LooseEnvelope(msgspec.Struct, frozen=True):
    error: _LooseError


def unreachable(code: ErrorCode, url: str, error: BaseException, role: str | None = None) -> RbeesError:
    """The error for a call that got no answer. `role`: whose settings the caller goes by, so that they can be named."""
    reason = _reason(error, role, plain=url.startswith("http:"))
    who, what_to_do = _WHO.get(code, "Nothing answers"), _WHAT_TO_DO.get(code, "Check that it runs.")
    return RbeesError(code, f"{who} at {url}: {reason}. {what_to_do}", url=url, reason=reason)


def refused(unreachable_code: ErrorCode, url: str, status: int, body: bytes) -> RbeesError:
    """The error that a peer answered with. Codes of a newer version keep their message under the nearest code of ours."""
    try:
        return RbeesError.from_body(codec.decode(body, ErrorEnvelope).error)
    except RbeesError:
        pass
    try:
        newer = codec.decode(body, _LooseEnvelope).error
    except RbeesError:
        what = f"What answers at {url} with HTTP status {status} is not rbees."
        what_to_do = _WHAT_TO_DO.get(unreachable_code, "Check the url.")
        return RbeesError(unreachable_code, f"{what} {what_to_do}", url=url, http_status=status)
    nearest = ErrorCode.INVALID_REQUEST if status < HTTPStatus.INTERNAL_SERVER_ERROR else ErrorCode.INTERNAL
    details = {**newer.details, "peer_code": newer.code}
    return RbeesError.from_body(
        ErrorBody(code=nearest, message=newer.message, details=details, correlation_id=newer.correlation_id)
    )


def not_understood(url: str) -> RbeesError:
    """The error for a success whose body has another shape than this version expects."""
    return RbeesError(
        ErrorCode.INTERNAL, f"The answer from {url} does not have the expected form; bring both sides to one version.", url=url
    )


def without_token(role: str) -> RbeesError:
    """What a peer's refusal of a call without a token means to whoever typed a command: nobody types HTTP headers there."""
    flag = "`--token-file`, or as " if role == "ctl" else ""
    setting = f"`token_file` in `[{role}]` (RBEES_{role.upper()}_TOKEN_FILE)"
    return RbeesError(
        ErrorCode.UNAUTHENTICATED, f"The cluster's token is asked for; name the file that holds it with {flag}{setting}."
    )


def _reason(error: BaseException, role: str | None, *, plain: bool) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        if role is None:
            return "its certificate is not trusted (`tls_ca_file`)"
        setting = f"`tls_ca_file` in `[{role}]` or RBEES_{role.upper()}_TLS_CA_FILE"
        return f"its certificate is not trusted; name the file of the authority that signed it as {setting}"
    if isinstance(error, aiohttp.ClientSSLError):
        return "TLS could not be agreed on (http instead of https?)"
    if isinstance(error, asyncio.TimeoutError):
        return "no answer in time"
    if isinstance(error, UnicodeError):
        return "the name can be no host's"
    if isinstance(error, aiohttp.ClientConnectorError):
        return _connect_reason(error.os_error)
    return "the connection broke off" + ("; if it serves with a certificate, write https://" if plain else "")


def _connect_reason(error: OSError) -> str:
    if isinstance(error, ForbiddenAddress):
        return "link-local and metadata addresses are never dialled"
    if isinstance(error, socket.gaierror):
        return "the name is unknown"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    return "the host cannot be reached"
