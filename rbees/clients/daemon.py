"""What the clients of the three daemons have in common: whom they call, with what proof, and how that ends."""

from __future__ import annotations

import ssl
from types import TracebackType
from typing import ClassVar, Self
from urllib.parse import quote

from rbees.clients.dialer import Dialer
from rbees.clients.http import HttpClient
from rbees.protocol.errors import ErrorCode


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
