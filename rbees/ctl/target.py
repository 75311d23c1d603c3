"""Which orchestrator a command talks to: a flag, a setting, the `rbees up` that runs here, or the default address."""

from __future__ import annotations

import asyncio
import functools
import importlib
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import click

from rbees.protocol.errors import ErrorCode, ExitCode, RbeesError
from rbees.terminal.output import json_option

if TYPE_CHECKING:
    from rbees.clients.orcd import OrcdClient
    from rbees.service.home import Home

DEFAULT_URL: Final = "http://127.0.0.1:8080"


@dataclass(frozen=True)
class Target:
    """An orchestrator and how to call it."""

    url: str
    token: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = None
    is_home: bool = False
    """True where a supervisor on this machine starts the orchestrator again if it dies."""

    def client(self) -> OrcdClient:
        """A client of it, to be used as a context manager."""
        from rbees.clients.orcd import OrcdClient

        return OrcdClient(self.url, token=self.token, ssl=self.tls, role="ctl")


def find_target(orcd_url: str | None, token_file: str | None, on_wait: Callable[[], None] = lambda: None) -> Target:
    """The orchestrator that flags, settings or a running `rbees up` name, in this order. `on_wait` hears of one that is starting.

    Raises:
        RbeesError: CONFIGURATION, for settings or a token file that cannot be used; ORCD_UNREACHABLE, where `rbees up` takes long;
            INVALID_REQUEST, for a token that `rbees up`, which is found here, does not ask for.
    """
    from rbees.service import auth, settings
    from rbees.service.role_settings import CtlSettings

    chosen = settings.load("ctl", CtlSettings, {"orcd_url": orcd_url, "token_file": token_file}).values
    home = _find_home(on_wait) if chosen.orcd_url is None else None
    if home is not None:
        if token_file is not None:
            raise _token_without_use(home.orcd_url)
        # A configured token belongs to the configured orchestrator; home mode asks for none.
        return Target(home.orcd_url, is_home=True)
    return Target(
        chosen.orcd_url or DEFAULT_URL,
        token=auth.read_secret(chosen.token_file) if chosen.token_file else None,
        tls=auth.tls_client_context(chosen.tls_ca_file),
    )


def _find_home(on_wait: Callable[[], None]) -> Home | None:
    from rbees.service.home import wait_for_home

    home = wait_for_home(on_wait=on_wait)
    if home is None:
        # `rbees up &` may stand on the line before this command. The import that every command needs takes longer than
        # `rbees up` takes to make itself known, so a second look behind it finds one that was started first.
        importlib.import_module("rbees.clients.orcd")
        home = wait_for_home(on_wait=on_wait)
    return home


def _token_without_use(url: str) -> RbeesError:
    """Whoever names a token means another orchestrator than the one that was found."""
    message = (
        f"`rbees up` runs here at {url} and asks for no token; leave `--token-file` out, or name the other one by `--orcd-url`."
    )
    return RbeesError(ErrorCode.INVALID_REQUEST, message, field="token_file")


Action = Callable[..., Awaitable[int | None]]


def asks_orcd(action: Action) -> Callable[..., int | None]:
    """Make a click callback of `async def action(target, *, as_json, …)`, with the options that name the orchestrator."""

    @functools.wraps(action)
    def act(target: Target, **given: Any) -> int | None:
        async def work() -> int | None:
            return await action(target, **given)

        return asyncio.run(work())

    return names_orcd(act)


def names_orcd(action: Callable[..., int | None]) -> Callable[..., int | None]:
    """The same of `def action(target, *, as_json, …)`, which runs an event loop itself, if it needs one."""

    @click.option("--orcd-url", "--orcd", metavar="URL", help="The orchestrator to talk to.")
    @click.option("--token-file", type=click.Path(), help="File (mode 0600) with the cluster token.")
    @json_option
    @functools.wraps(action)
    def callback(*, orcd_url: str | None, token_file: str | None, **rest: Any) -> int | None:
        def on_wait() -> None:
            if not rest.get("as_json"):
                click.echo("waiting for `rbees up`, which is starting", err=True)

        target = find_target(orcd_url, token_file, on_wait)
        try:
            return action(target, **rest)
        except asyncio.CancelledError:
            # An action that handles Ctrl-C itself cancels its own task upon the second one.
            raise KeyboardInterrupt from None
        except BrokenPipeError:
            # What is still buffered is dropped where the program ends; click would make an ordinary failure of this.
            return ExitCode.PIPE_CLOSED

    return callback
