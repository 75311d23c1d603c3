"""Which pool daemon a command talks to: a flag, the `rbees up` that runs here, or this host's own settings."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import click

from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.terminal.output import json_option

if TYPE_CHECKING:
    from rbees.clients.poold import PooldClient

Action = Callable[..., Awaitable[int | None]]


def find_pool(poold_url: str | None, token_file: str | None) -> PooldClient:
    """A client of the pool daemon; use it as a context manager.

    Raises:
        RbeesError: CONFIGURATION, for settings or a token file that cannot be used; INVALID_REQUEST, for a token that the
            `rbees up` which is found here does not ask for.
    """
    from rbees.clients.poold import PooldClient
    from rbees.service import auth, settings
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
        return PooldClient(home.poold_url)
    token = auth.read_secret(own.token_file) if own.token_file else None
    return PooldClient(poold_url or own_url(own), token=token, ssl=auth.tls_client_context(own.tls_ca_file), role="poold")


def own_url(own: Any) -> str:
    """Where this host's daemon listens, as its settings say. `own` is a `PooldSettings` or `OrcdSettings`."""
    endpoint = getattr(own, "endpoint", None)
    if endpoint is not None:
        return str(endpoint)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(own.bind, own.bind)  # noqa: S104
    scheme = "https" if own.tls_cert_file else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{own.port}"


def asks_poold(action: Action) -> Callable[..., int | None]:
    """Make a click callback of `async def action(pool, *, as_json, …)`, with the options that name the daemon."""

    @click.option("--poold-url", metavar="URL", help="The pool daemon to talk to.  [default: the one of this host]")
    @click.option("--token-file", type=click.Path(), help="File (mode 0600) with the cluster token.")
    @json_option
    @functools.wraps(action)
    def callback(*, poold_url: str | None, token_file: str | None, **rest: Any) -> int | None:
        async def act() -> int | None:
            async with find_pool(poold_url, token_file) as pool:
                return await action(pool, **rest)

        return asyncio.run(act())

    return callback
