"""What the clients of the three daemons have in common: whom they call, with what proof, and how that ends."""

from __future__ import annotations

import ssl
from types import TracebackType
from typing import ClassVar, Final, NamedTuple, Self
from urllib.parse import quote

from rbees.clients.dialer import Dialer
from rbees.clients.failures import not_understood
from rbees.clients.http import HttpClient
from rbees.protocol import codec
from rbees.protocol.codec import Message
from rbees.protocol.errors import ErrorCode, RbeesError

_TITLE: Final = "rbees "


class Introduction(NamedTuple):
    """Who a daemon is."""

    role: str
    version: str
    date: str | None
    """Its clock, as its answer's `Date` header has it."""


class _Info(Message, frozen=True):
    title: str
    version: str


class _Document(Message, frozen=True):
    """What is read of `/openapi.json`."""

    info: _Info


class DaemonClient:
    """Calls one daemon. Every method of a subclass raises `RbeesError`: the code it was answered with, or `unreachable`."""

    unreachable: ClassVar[ErrorCode]

    def __init__(
        self,
        base_url: str,
        *,
        token: str | None = None,
        ssl: ssl.SSLContext | None = None,
        connect_timeout_s: float = 5.0,
        dialer: Dialer | None = None,
        role: str | None = None,
    ) -> None:
        self._http = HttpClient(
            base_url,
            token=token,
            ssl=ssl,
            unreachable=self.unreachable,
            connect_timeout_s=connect_timeout_s,
            dialer=dialer,
            role=role,
        )

    @property
    def url(self) -> str:
        """Where this client calls."""
        return self._http.url

    async def introduction(self) -> Introduction:
        """Ask the daemon who it is, which every version of it can tell."""
        async with self._http.body("GET", "/openapi.json") as (headers, pieces):
            content = b"".join([piece async for piece in pieces])
        try:
            info = codec.decode(content, _Document).info
        except RbeesError:
            raise not_understood(self.url) from None
        if not info.title.startswith(_TITLE):
            raise not_understood(self.url)
        return Introduction(info.title.removeprefix(_TITLE), info.version, headers.get("Date"))

    async def close(self) -> None:
        """Close this client's connections."""
        await self._http.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()


def segment(text: str) -> str:
    """`text` as one segment of a path, whatever it holds."""
    return quote(text, safe="")
