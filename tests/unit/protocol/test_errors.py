"""The error table is complete, and an error keeps what it says over the wire."""

from __future__ import annotations

import pytest

from rbees.protocol import codec
from rbees.protocol.errors import ERROR_TABLE, ErrorCode, ErrorEnvelope, ExitCode, RbeesError


def test_every_code_has_a_row_and_every_row_a_code() -> None:
    assert set(ERROR_TABLE) == set(ErrorCode)


@pytest.mark.parametrize("code", ErrorCode)
def test_rows_fit_http_and_the_shell(code: ErrorCode) -> None:
    kind = ERROR_TABLE[code]
    assert code == code.upper()
    assert 400 <= kind.http_status < 600
    assert 1 <= kind.exit_code < 128
    assert kind.meaning.endswith(".")
    assert len(kind.meaning) > 20


def test_what_stops_a_daemon_before_it_serves_has_its_own_exit_codes() -> None:
    assert RbeesError(ErrorCode.CONFIGURATION, "x").exit_code == ExitCode.CONFIGURATION == 78
    assert RbeesError(ErrorCode.ALREADY_RUNNING, "x").exit_code == ExitCode.BUSY == 75


def test_an_error_survives_the_wire() -> None:
    sent = RbeesError(ErrorCode.INSUFFICIENT_VRAM, "Too large.", needed_bytes=2, free_bytes=1)
    body = codec.decode(codec.encode(ErrorEnvelope(error=sent.body("abc"))), ErrorEnvelope).error
    received = RbeesError.from_body(body)
    assert (received.code, received.message, received.details) == (sent.code, sent.message, sent.details)
    assert body.correlation_id == "abc"
    assert str(received) == "INSUFFICIENT_VRAM: Too large."
