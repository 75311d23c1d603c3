"""`llorch pool …`: what can be typed."""

from __future__ import annotations

from typing import Any

import click

from rbees.ctl.target import Target, asks_orcd


@click.group(no_args_is_help=True)
def pool() -> None:
    """The hosts that run models."""


@pool.command(name="list")
@asks_orcd
async def list_(target: Target, **given: Any) -> None:
    """List the pools that orcd knows."""
    from rbees.ctl.pool_actions import list_pools

    await list_pools(target, **given)


@pool.command()
@click.option("--host", metavar="HOST|ID", help="Only this pool: its id, its host name or its name under `[hosts]`.")
@asks_orcd
async def status(target: Target, **given: Any) -> None:
    """Show devices, models and workers."""
    from rbees.ctl.pool_actions import show_status

    await show_status(target, **given)


@pool.command()
@click.argument("endpoint")
@asks_orcd
async def register(target: Target, **given: Any) -> None:
    """Have orcd take a pool host in: `http://mac.home.arpa:9200`, just `mac.home.arpa`, or its name under `[hosts]`."""
    from rbees.ctl.pool_actions import register_pool

    await register_pool(target, **given)
