"""`rbees pool status`: what can be typed. What it shows is imported only when it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from rbees.pool.target import asks_poold_if_there
from rbees.terminal.output import print_json
from rbees.terminal.pages import print_page, show_again, watch_option

if TYPE_CHECKING:
    from rbees.clients.poold import PooldClient
    from rbees.protocol.pools import HostStatus, PoolStatus
    from rbees.terminal.columns import Page


@click.command("status")
@watch_option
@asks_poold_if_there
async def status(pool: PooldClient | None, *, watch_s: float | None, as_json: bool) -> int | None:
    """Show the host's devices, models and workers, and whom it reports to. Without a pool daemon it looks for itself."""
    from rbees.pool.found_here import found_here
    from rbees.service.clock import SystemClock
    from rbees.terminal.host_page import status_page

    async def look() -> PoolStatus | HostStatus:
        return await pool.status() if pool is not None else await found_here()

    def page(found: PoolStatus | HostStatus) -> Page:
        return status_page(found, pool.url if pool is not None else None)

    if watch_s is not None:
        return await show_again(look, page, SystemClock(), watch_s, as_json=as_json)
    found = await look()
    if as_json:
        print_json(found)
    else:
        print_page(page(found))
    return None
