"""The process's outgoing connections: one aiohttp session, made on first use inside the running loop.

Every socket gets TCP_USER_TIMEOUT where the system has it, so that a peer that vanished is noticed, and none is opened to a
link-local or cloud metadata address, whatever name led there.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from types import TracebackType
from typing import Final, Self

import aiohttp
from yarl import URL

USER_TIMEOUT_MS: Final = 10_000
KEEP_ALIVE_S: Final = 60.0
"""Below the servers' own limit, so that no request goes out on a connection that is just being closed."""
_METADATA: Final = frozenset({"100.100.100.200", "fd00:ec2::254"})
"""Metadata services of clouds outside the link-local range."""


class ForbiddenAddress(OSError):
    """A name led to an address that rbees never dials."""


class Dialer:
    """Owns the session that several clients may share; whoever made it closes it."""

    def __init__(self, connect_timeout_s: float = 5.0) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._session: aiohttp.ClientSession | None = None

    def session(self) -> aiohttp.ClientSession:
        """The session. Call it only inside the event loop that will use it."""
        if self._session is None or self._session.closed:
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S, socket_factory=_guarded_socket)
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_timeout_s),
                raise_for_status=False,
            )
        return self._session

    async def close(self) -> None:
        """Close every connection; harmless where none was opened."""
        if self._session is not None:
            await self._session.close()
            # aiohttp closes transports on the next turn of the loop.
            await asyncio.sleep(0)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()


async def answers(url: str, within_s: float) -> bool:
    """Whether the port of `url` takes a connection in time. The kernel does that even for a process that stands still."""
    place = URL(url)
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(within_s):
            found = (await loop.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM))[0]
            with _guarded_socket(found) as probe:
                await loop.sock_connect(probe, found[4])
    except (OSError, ValueError):
        # ValueError is what the resolver raises for a name that can be no host's.
        return False
    return True


def _guarded_socket(found: aiohttp.AddrInfoType) -> socket.socket:
    family, kind, protocol, _, address = found
    # Checked here, after the name was resolved: a resolver that changes its answer changes nothing.
    resolved = ipaddress.ip_address(str(address[0]).partition("%")[0])
    mapped = getattr(resolved, "ipv4_mapped", None) or resolved
    if mapped.is_link_local or str(mapped) in _METADATA:
        raise ForbiddenAddress("link-local and metadata addresses are never dialled")
    made = socket.socket(family=family, type=kind, proto=protocol)
    made.setblocking(False)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
    return made
