"""Which pool daemon a command talks to: a flag, the `rbees up` that runs here, the one that holds this host's own state folder,
wherever it listens, or whoever answers where the settings say. One order for every command.
"""

from __future__ import annotations

import asyncio
import functools
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import click

from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.terminal.output import json_option

if TYPE_CHECKING:
    from rbees.clients.poold import PooldClient
    from rbees.service.role_settings import PooldSettings

Action = Callable[..., Awaitable[int | None]]
LISTEN_S: Final = 2.0
SETTLE_LOOK_S: Final = 0.1
SETTLE_LOOKS: Final = 150
"""How often a daemon that has just started is looked at before it tells where it listens."""


@dataclass(frozen=True)
class Address:
    """A pool daemon and how to call it. Importing a client is left until somebody listens there."""

    url: str
    token: str | None = field(default=None, repr=False)
    tls_ca_file: str | None = None
    is_certain: bool = False
    """True of one that was named, or is known to run here: while it does, nobody else works on its folder."""

    def client(self) -> PooldClient:
        """A client of it, to be used as a context manager. Raises as `find_pool`."""
        from rbees.clients.poold import PooldClient
        from rbees.service import auth

        return PooldClient(self.url, token=self.token, ssl=auth.tls_client_context(self.tls_ca_file), role="poold")

    def is_listening(self) -> bool:
        """Whether anything takes connections there."""
        parts = urlsplit(self.url)
        try:
            with socket.create_connection((parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)), LISTEN_S):
                return True
        except (OSError, ValueError):
            return False


def find_pool(poold_url: str | None, token_file: str | None) -> Address:
    """Where the pool daemon is.

    Raises:
        RbeesError: CONFIGURATION, for settings, folders or a token file that cannot be used; INVALID_REQUEST, for a token that
            the `rbees up` which is found here does not ask for; POOL_UNREACHABLE, for a daemon here that does not begin to listen.
    """
    from rbees.service import settings
    from rbees.service.home import read_home
    from rbees.service.role_settings import PooldSettings

    own = settings.load("poold", PooldSettings, {"token_file": token_file}).values
    home = read_home() if poold_url is None else None
    if home is not None:
        if token_file is not None:
            message = (
                f"`rbees up` runs here at {home.poold_url} and asks for no token; leave `--token-file` out, or name `--poold-url`."
            )
            raise RbeesError(ErrorCode.INVALID_REQUEST, message, field="token_file")
        # A configured token belongs to the configured daemon; home mode asks for none.
        return Address(home.poold_url, is_certain=True)
    secret = _secret(own.token_file)
    if poold_url is not None:
        return Address(poold_url, secret, own.tls_ca_file, is_certain=True)
    return _at_lock(Address(own_url(own), secret, own.tls_ca_file))


def _at_lock(address: Address) -> Address:
    """Of the daemon that holds this host's own state folder, once it tells where it listens; `address` where none holds it.

    Whoever looked at the port of the settings first could reach the daemon of a stranger. Raises as `find_pool`.
    """
    from rbees.pool.state import own_state

    own = own_state()
    for look in range(SETTLE_LOOKS):
        if look:
            time.sleep(SETTLE_LOOK_S)
        if (url := own.daemon_url()) is not None:
            return replace(address, url=_as_certified(url, own.settings), is_certain=True)
        if not own.daemon_runs():
            return address
    message = f"A pool daemon works on {own.folder} and does not tell where it listens; see its log, or name it by `--poold-url`."
    raise RbeesError(ErrorCode.POOL_UNREACHABLE, message)


def _as_certified(url: str, own: PooldSettings) -> str:
    """The same daemon under the name that its certificate is for: it tells an address, and the settings tell the name."""
    parts = urlsplit(url)
    if parts.scheme != "https" or own.endpoint is None:
        return url
    if parts.port == own.port:
        return own.endpoint
    name = urlsplit(own.endpoint).hostname or ""
    return f"https://{f'[{name}]' if ':' in name else name}:{parts.port}"


def _secret(token_file: str | None) -> str | None:
    # An empty name is none: whoever calls a stranger's daemon by its url keeps the token of his own.
    if not token_file:
        return None
    from rbees.service import auth

    return auth.read_secret(token_file)


def own_url(own: Any) -> str:
    """Where this host's daemon listens, as its settings say. `own` is a `PooldSettings` or `OrcdSettings`."""
    endpoint = getattr(own, "endpoint", None)
    if endpoint is not None:
        return str(endpoint)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(own.bind, own.bind)  # noqa: S104
    scheme = "https" if own.tls_cert_file else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{own.port}"


def asks_poold_if_there(action: Action) -> Callable[..., int | None]:
    """Make a click callback of `async def action(pool | None, *, as_json, …)`, with the options that name the daemon.

    `pool` is None where no daemon runs here and none was named.
    """

    async def act(address: Address, /, **rest: Any) -> int | None:
        if not address.is_certain and not address.is_listening():
            return await action(None, **rest)
        async with address.client() as pool:
            return await action(pool, **rest)

    return _callback(action, act)


def asks_keeper(action: Action) -> Callable[..., int | None]:
    """The same of `async def action(keeper, *, as_json, …)`: the daemon, or where none runs this host's own workers.

    A daemon that starts meanwhile is asked in their place, before anything was started.
    """

    async def act(address: Address, /, **rest: Any) -> int | None:
        if address.is_certain or address.is_listening():
            async with address.client() as pool:
                return await action(pool, **rest)
        from rbees.pool.local_workers import DaemonRuns, LocalWorkers
        from rbees.pool.state import own_state
        from rbees.service import logs
        from rbees.terminal.notes import notes

        # Most of what a daemon would log is said by the command itself.
        logs.configure("pool", "error")
        own = own_state()
        with notes(silent=bool(rest.get("as_json"))) as said, suppress(DaemonRuns):
            if not own.daemon_runs():
                async with LocalWorkers(own, said.keep) as keeper:
                    return await action(keeper, **rest)
        async with (await asyncio.to_thread(_at_lock, address)).client() as pool:
            return await action(pool, **rest)

    return _callback(action, act)


def _callback(action: Action, act: Action) -> Callable[..., int | None]:
    @click.option("--poold-url", metavar="URL", help="The pool daemon to talk to.  [default: the one of this host]")
    @click.option("--token-file", type=click.Path(), help="File (mode 0600) with the cluster token.")
    @json_option
    @functools.wraps(action)
    def callback(*, poold_url: str | None, token_file: str | None, **rest: Any) -> int | None:
        return asyncio.run(act(find_pool(poold_url, token_file), **rest))  # type: ignore[arg-type]

    return callback
