"""What peers answer, and what happens on the way to them, in our own words."""

from __future__ import annotations

import json

import aiohttp
import pytest

from rbees.clients import failures
from rbees.protocol.errors import ErrorCode

URL = "http://127.0.0.1:8080"


def refused(status: int, body: bytes) -> tuple[ErrorCode, str, dict[str, object]]:
    error = failures.refused(ErrorCode.ORCD_UNREACHABLE, URL, status, body)
    return error.code, error.message, error.details


def test_the_code_of_the_peer_is_kept() -> None:
    body = {"error": {"code": "QUEUE_FULL", "message": "Full.", "details": {"retry_after_s": 4}, "correlation_id": "c"}}
    assert refused(429, json.dumps(body).encode()) == (ErrorCode.QUEUE_FULL, "Full.", {"retry_after_s": 4})


@pytest.mark.parametrize(("status", "code"), [(418, ErrorCode.INVALID_REQUEST), (503, ErrorCode.INTERNAL)])
def test_a_code_of_a_newer_version_keeps_its_message(status: int, code: ErrorCode) -> None:
    body = {"error": {"code": "TEAPOT", "message": "Short and stout.", "extra": 1}}
    assert refused(status, json.dumps(body).encode()) == (code, "Short and stout.", {"peer_code": "TEAPOT"})


def test_details_may_have_any_names() -> None:
    details = {"code": "x", "message": "m", "self": 1, "details": {}}
    for code, expected in (("INTERNAL", {}), ("TEAPOT", {"peer_code": "TEAPOT"})):
        body = {"error": {"code": code, "message": "m", "details": details}}
        assert refused(500, json.dumps(body).encode()) == (ErrorCode.INTERNAL, "m", {**details, **expected})


@pytest.mark.parametrize("code", ["INTERNAL", "TEAPOT"])
def test_the_id_under_which_the_peer_logged_is_kept(code: str) -> None:
    body = {"error": {"code": code, "message": "m", "correlation_id": "c-1"}}
    error = failures.refused(ErrorCode.ORCD_UNREACHABLE, URL, 500, json.dumps(body).encode())
    assert error.body().correlation_id == "c-1"
    assert error.body("mine").correlation_id == "mine", "an answer stands under the id of its own call"


DEEP = b'{"error": {"code": "INTERNAL", "message": "m", "details": {"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}}"
NO_UTF8 = b'{"error": {"code": "INTERNAL", "message": "\xff"}}'


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>secret</html>", b'{"error": "no"}', b"\xff", b"[]", NO_UTF8, DEEP],
    ids=["empty", "html", "text", "byte", "list", "no-utf8", "deep"],
)
def test_what_is_not_rbees_is_called_so(body: bytes) -> None:
    code, message, details = refused(502, body)
    assert code is ErrorCode.ORCD_UNREACHABLE
    assert "is not rbees" in message
    assert "secret" not in message
    assert details == {"url": URL, "http_status": 502}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TimeoutError("secret"), "no answer in time"),
        (ConnectionResetError("secret"), "the connection broke off; if it serves with a certificate, write https://"),
        (UnicodeError("secret"), "the name can be no host's"),
    ],
)
def test_failures_on_the_way(error: Exception, reason: str) -> None:
    made = failures.unreachable(ErrorCode.POOL_UNREACHABLE, URL, error)
    assert made.code is ErrorCode.POOL_UNREACHABLE
    assert made.details == {"url": URL, "reason": reason}
    assert "rbees poold serve" in made.message
    assert "secret" not in made.message


def test_who_names_a_role_is_told_its_settings() -> None:
    untrusted = aiohttp.ClientConnectorCertificateError.__new__(aiohttp.ClientConnectorCertificateError)
    told = failures.unreachable(ErrorCode.ORCD_UNREACHABLE, "https://lab:8080", untrusted, "ctl").message
    assert "`tls_ca_file` in `[ctl]` or RBEES_CTL_TLS_CA_FILE" in told
    assert "https://." not in failures.unreachable(ErrorCode.ORCD_UNREACHABLE, "https://lab", ConnectionResetError()).message
    assert "`--token-file`" in failures.without_token("ctl").message
    assert "RBEES_POOLD_TOKEN_FILE" in failures.without_token("poold").message
