"""Listening: a socket, an application behind it, and an orderly end."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from typing import Final

from aiohttp import web

from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.service.bodies import LIMITS
from rbees.service.connection import Connection

BACKLOG: Final = 1024


class Server:
    """Serves one application on one address. `start` once, then `stop` once."""

    def __init__(
        self, app: web.Application, *, bind: str, port: int, ssl: ssl.SSLContext | None = None, drain_timeout_s: float = 30.0
    ) -> None:
        self._bind = bind
        self._port = port
        self._ssl = ssl
        self._limits = app[LIMITS]
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=drain_timeout_s)
        self._listener: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen and serve.

        Raises:
            RbeesError: ADDRESS_IN_USE, or CONFIGURATION where the address is not one of this machine.
        """
        loop = asyncio.get_running_loop()
        listening = await _listen(self._bind, self._port)
        self._port = listening.getsockname()[1]
        await self._runner.setup()
        manager = self._runner.server
        assert manager is not None
        self._listener = await loop.create_server(
            lambda: Connection(manager, loop=loop, limits=self._limits),
            sock=listening,
            ssl=self._ssl,
            backlog=BACKLOG,
            ssl_handshake_timeout=self._limits.head_s if self._ssl else None,
        )

    @property
    def port(self) -> int:
        """The port, as chosen by the system where 0 was asked for."""
        return self._port

    @property
    def url(self) -> str:
        """Where to reach this daemon from its own machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._bind, self._bind)  # noqa: S104
        return f"{'https' if self._ssl else 'http'}://{f'[{host}]' if ':' in host else host}:{self._port}"

    async def stop(self) -> None:
        """Take no new connection, let running requests finish within the drain timeout, then cut them."""
        if self._listener is not None:
            self._listener.close()
        await self._runner.cleanup()


async def check_can_listen(bind: str, port: int) -> None:
    """Whether the address can be had, before anything is written for a daemon that could not serve. Raises as `Server.start`."""
    (await _listen(bind, port)).close()


async def _listen(bind: str, port: int) -> socket.socket:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            bind.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError:
        raise RbeesError(ErrorCode.CONFIGURATION, f"The address {bind} to listen on is unknown; write an IP address.") from None
    family, kind, protocol, _, address = found[0]
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setblocking(False)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        # Two sockets may be bound to one port as long as neither listens, so only this tells that the port is ours.
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise _no_listening(bind, port, error) from None
    return listening


def _no_listening(bind: str, port: int, error: OSError) -> RbeesError:
    if error.errno == errno.EADDRINUSE:
        return RbeesError(
            ErrorCode.ADDRESS_IN_USE,
            f"Another program listens on {bind}:{port}; stop it or choose another port with `--port`.",
            port=port,
        )
    reason = os.strerror(error.errno or 0)
    return RbeesError(
        ErrorCode.CONFIGURATION, f"Cannot listen on {bind}:{port}: {reason}; choose another address or port.", port=port
    )
