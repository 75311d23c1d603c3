"""Who may call: the cluster token, the certificates, and the rule where a daemon may listen.

A token is `rbk_` and 256 random bits. A file with a token, or with a private key, must be readable by its owner alone.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import re
import ssl
import stat
from pathlib import Path
from typing import Final, Protocol

from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.service import folders

_TOKEN: Final = re.compile(r"rbk_[A-Za-z0-9_-]{43}")


class Token:
    """A token to compare with; holds its SHA-256 only, so that neither a dump nor a repr gives it away."""

    __slots__ = ("_digest",)

    def __init__(self, secret: str) -> None:
        self._digest = hashlib.sha256(secret.encode()).digest()

    def matches(self, presented: str) -> bool:
        """True for the token itself; takes the same time whatever is presented."""
        return hmac.compare_digest(self._digest, hashlib.sha256(presented.encode(errors="surrogateescape")).digest())


class Authenticator(Protocol):
    """Decides whether a request may pass."""

    def check(self, authorization: str | None) -> None:
        """Return for a caller who may pass, given the value of the `Authorization` header.

        Raises:
            RbeesError: UNAUTHENTICATED.
        """
        ...


class NoAuth:
    """Everybody may pass: a daemon that only its own machine reaches."""

    def check(self, authorization: str | None) -> None:
        """See `Authenticator`."""


class BearerAuth:
    """Whoever sends `Authorization: Bearer <token>` may pass. The sentences tell others what this daemon wants."""

    def __init__(
        self,
        token: Token,
        *,
        missing: str = "Send the cluster token as `Authorization: Bearer rbk_…`.",
        wrong: str = "The token is not the one of this daemon; compare the token files.",
    ) -> None:
        self._token = token
        self._missing = missing
        self._wrong = wrong

    def check(self, authorization: str | None) -> None:
        """See `Authenticator`."""
        scheme, _, presented = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not presented:
            raise RbeesError(ErrorCode.UNAUTHENTICATED, self._missing)
        if not self._token.matches(presented.strip()):
            raise RbeesError(ErrorCode.UNAUTHENTICATED, self._wrong)


def read_secret(path: str | Path) -> str:
    """The token that a file holds, to be sent to others.

    Raises:
        RbeesError: CONFIGURATION, where the file is missing, open to others, or holds something else. Never with its content.
    """
    text = _read_private(folders.absolute(path), "token file").strip()
    if not _TOKEN.fullmatch(text):
        raise _refusal(f"The token file {path} does not hold a token: `rbk_` and 43 letters, digits, `-` or `_`.")
    return text


def read_token(path: str | Path) -> Token:
    """The token that a file holds, to compare with. Raises as `read_secret`."""
    return Token(read_secret(path))


def is_loopback(bind: str) -> bool:
    """True where nothing but this machine can reach `bind`. A name other than `localhost` may resolve to anything."""
    if bind == "localhost":
        return True
    try:
        return ipaddress.ip_address(bind.strip("[]").partition("%")[0]).is_loopback
    except ValueError:
        return False


def check_bind(bind: str, token: Token | None, tls: ssl.SSLContext | None, insecure_lan: bool) -> None:
    """Refuse to listen where others can reach without a token and TLS.

    Raises:
        RbeesError: CONFIGURATION (exit 78).
    """
    if is_loopback(bind):
        return
    if token is None:
        raise _refusal(
            f"Refusing to listen on {bind} without a token: write one to a file with mode 0600 and name it as `token_file`, "
            "or bind to 127.0.0.1."
        )
    if tls is None and not insecure_lan:
        raise _refusal(
            f"Refusing to listen on {bind} without TLS: name `tls_cert_file` and `tls_key_file`, bind to 127.0.0.1, "
            "or accept readable traffic with `--insecure-lan`."
        )
    if tls is None:
        from rbees.service import logs  # Whoever only reads a token file does not listen, and need not wait for the logger.

        logs.logger().warning("tokens and prompts cross the network readable", action="insecure_lan", bind=bind)


def tls_server_context(cert: str | Path | None, key: str | Path | None) -> ssl.SSLContext | None:
    """TLS 1.2 or later with this certificate chain and key; None where neither is named.

    Raises:
        RbeesError: CONFIGURATION, where only one is named, a file is missing or open to others, or the pair does not fit.
    """
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        raise _refusal("`tls_cert_file` and `tls_key_file` belong together; name both or neither.")
    certificate, private_key = folders.absolute(cert), folders.absolute(key)
    _read_private(private_key, "private key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, private_key)
    except (OSError, ssl.SSLError):
        raise _refusal(f"The certificate {certificate} and the key {private_key} cannot be loaded as a PEM pair.") from None
    return context


def tls_client_context(ca: str | Path | None) -> ssl.SSLContext | None:
    """TLS that trusts the certificates in `ca` and no others; None (the system's own trust) where none is named.

    Raises:
        RbeesError: CONFIGURATION, where the file holds no certificate.
    """
    if ca is None:
        return None
    path = folders.absolute(ca)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(path)
    except (OSError, ssl.SSLError):
        raise _refusal(f"The file {path} named by `tls_ca_file` holds no PEM certificate that can be read.") from None
    return context


def _read_private(path: Path, what: str) -> str:
    try:
        with path.open(encoding="ascii", errors="replace") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077:
                raise _refusal(f"The {what} {path} may be read by others; run `chmod 600 {path}`.")
            return file.read(65_536)
    except OSError as error:
        raise _refusal(f"The {what} {path} cannot be read: {os.strerror(error.errno or 0)}.") from None


def _refusal(message: str) -> RbeesError:
    return RbeesError(ErrorCode.CONFIGURATION, message)
