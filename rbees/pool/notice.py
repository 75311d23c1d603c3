"""The daemon of this host is told at once that a command has brought or taken models: by itself it looks every ten seconds."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from rbees.protocol.errors import RbeesError

if TYPE_CHECKING:
    from rbees.pool.here import Here
    from rbees.terminal.notes import Notes


async def tell_daemon(here: Here, said: Notes) -> None:
    """Have the daemon that serves these models look, if one runs; return once orcd knows too, so that a job may name them next.

    What the command was for is done by then, so a daemon that cannot be told is only mentioned.
    """
    from rbees.pool.state import OwnState

    if not OwnState(here.settings, here.state).daemon_runs():
        return
    from rbees.pool.target import find_pool

    try:
        async with (await asyncio.to_thread(find_pool, None, None)).client() as pool:
            await pool.search_models()
    except RbeesError as error:
        said.keep(f"the pool daemon could not be told, and looks by itself within ten seconds: {error.message}")
