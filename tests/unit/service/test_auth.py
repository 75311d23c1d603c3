"""Tokens, token files, certificates, and the rule where a daemon may listen."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from rbees.protocol.errors import ErrorCode, ExitCode, RbeesError
from rbees.service import auth, logs
from rbees.service.auth import BearerAuth, NoAuth, Token

SECRET = "rbk_" + "a" * 43
TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_token_is_told_from_others_and_does_not_show() -> None:
    token = Token(SECRET)
    assert token.matches(SECRET)
    assert not any(token.matches(other) for other in ("", SECRET[:-1], SECRET + "a", "rbk_" + "b" * 43, "ü\udcff"))
    assert SECRET not in repr(token)


def test_a_token_file_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "token", SECRET + "\n")
    assert auth.read_secret(path) == SECRET
    assert auth.read_token(path).matches(SECRET)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660])
def test_a_token_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(RbeesError, match="chmod 600"):
        auth.read_token(write(tmp_path / "token", SECRET, mode))


@pytest.mark.parametrize("text", ["", "secret", "rbk_short", SECRET + "x", SECRET + " " + SECRET, "rbk_" + "ü" * 43])
def test_what_is_no_token_is_refused_without_being_quoted(tmp_path: Path, text: str) -> None:
    with pytest.raises(RbeesError, match="does not hold a token") as caught:
        auth.read_token(write(tmp_path / "file", text))
    assert not text or text not in caught.value.message


def test_a_missing_token_file_is_a_slip_in_the_settings(tmp_path: Path) -> None:
    with pytest.raises(RbeesError, match="cannot be read") as caught:
        auth.read_token(tmp_path / "none")
    assert caught.value.exit_code == ExitCode.CONFIGURATION


def test_bearer_tokens_let_pass() -> None:
    BearerAuth(Token(SECRET)).check(f"Bearer {SECRET}")
    BearerAuth(Token(SECRET)).check(f"bearer  {SECRET}")
    NoAuth().check(None)


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", SECRET, f"Basic {SECRET}", "Bearer rbk_" + "b" * 43])
def test_anything_else_does_not(header: str | None) -> None:
    with pytest.raises(RbeesError) as caught:
        BearerAuth(Token(SECRET)).check(header)
    assert caught.value.code is ErrorCode.UNAUTHENTICATED
    assert "bbb" not in caught.value.message


LOOPBACK = ["127.0.0.1", "127.8.9.1", "::1", "[::1]", "localhost"]
OPEN = ["0.0.0.0", "::", "192.168.1.5", "10.0.0.1", "fe80::1%eth0", "example.org", "", "127.0.0.1.example.org", "169.254.169.254"]


@pytest.mark.parametrize("bind", LOOPBACK)
def test_loopback_needs_nothing(bind: str) -> None:
    auth.check_bind(bind, None, None, False)


@pytest.mark.parametrize("bind", OPEN)
@pytest.mark.parametrize(
    ("token", "tls", "insecure"),
    [(None, None, False), (None, TLS, False), (None, None, True), (None, TLS, True), (Token(SECRET), None, False)],
)
def test_anything_else_needs_a_token_and_tls(bind: str, token: Token | None, tls: ssl.SSLContext | None, insecure: bool) -> None:
    with pytest.raises(RbeesError, match="Refusing to listen") as caught:
        auth.check_bind(bind, token, tls, insecure)
    assert caught.value.exit_code == 78


@pytest.mark.parametrize("bind", OPEN)
def test_with_both_or_said_aloud_it_listens(bind: str) -> None:
    auth.check_bind(bind, Token(SECRET), TLS, False)
    auth.check_bind(bind, Token(SECRET), None, True)


def test_readable_traffic_is_said_aloud(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("orcd", format_="json")
    auth.check_bind(OPEN[0], Token(SECRET), TLS, True)
    assert capsys.readouterr().err == ""
    auth.check_bind(OPEN[0], Token(SECRET), None, True)
    assert '"action": "insecure_lan"' in capsys.readouterr().err


def test_certificate_and_key_come_together(tmp_path: Path) -> None:
    assert auth.tls_server_context(None, None) is None
    assert auth.tls_client_context(None) is None
    key = write(tmp_path / "key.pem", "no key")
    for pair in ((None, key), (key, None)):
        with pytest.raises(RbeesError, match="belong together"):
            auth.tls_server_context(*pair)
    with pytest.raises(RbeesError, match="PEM pair"):
        auth.tls_server_context(key, key)
    with pytest.raises(RbeesError, match="chmod 600"):
        auth.tls_server_context(key, write(tmp_path / "open.pem", "no key", 0o644))
    for path in (key, tmp_path / "none"):
        with pytest.raises(RbeesError, match="no PEM certificate"):
            auth.tls_client_context(path)
