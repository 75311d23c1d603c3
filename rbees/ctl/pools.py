"""`llorch pool …`: what can be typed."""

from __future__ import annotations

from typing import Any

import click

from rbees.ctl.forward import PoolCommands, with_host_options
from rbees.ctl.target import Target, asks_orcd
from rbees.terminal.pages import watch_option


@click.group(cls=PoolCommands, no_args_is_help=True)
def pool() -> None:
    """The hosts that run models.

    Beside the commands below, every command of `rbees-pool` runs on other hosts: `llorch pool models list --host mac`. It goes
    over HTTP where the host's pool daemon answers and the command allows it, else over SSH.
    """


@pool.command(name="list")
@asks_orcd
async def list_(target: Target, **given: Any) -> None:
    """List the pools that orcd knows."""
    from rbees.ctl.pool_actions import list_pools

    await list_pools(target, **given)


@pool.command()
@with_host_options
@watch_option
@asks_orcd
async def status(target: Target, **given: Any) -> int | None:
    """Show devices, models and workers, as orcd sees them: of the pools with these ids or on these hosts, or of all.

    A host that orcd does not know, and every one with `--via` or `--all`, is asked itself.
    """
    from rbees.ctl.pool_actions import show_status

    return await show_status(target, **given)


@pool.command()
@click.argument("endpoint")
@asks_orcd
async def register(target: Target, **given: Any) -> None:
    """Have orcd take a pool host in: `http://mac.home.arpa:9200`, just `mac.home.arpa`, or a name as `--host` takes it."""
    from rbees.ctl.pool_actions import register_pool

    await register_pool(target, **given)


@pool.command()
@click.argument("host", metavar="HOST|ID")
@asks_orcd
async def drain(target: Target, **given: Any) -> None:
    """Give a pool no new work, also after a restart; what runs there goes on."""
    from rbees.ctl.pool_actions import drain_pool

    await drain_pool(target, **given)


@pool.command()
@click.argument("host", metavar="HOST|ID")
@asks_orcd
async def resume(target: Target, **given: Any) -> None:
    """Give a drained pool work again."""
    from rbees.ctl.pool_actions import resume_pool

    await resume_pool(target, **given)


@pool.command()
@click.argument("host", metavar="HOST|ID")
@asks_orcd
async def remove(target: Target, **given: Any) -> None:
    """Have orcd forget a pool; its jobs go on elsewhere. A daemon whose settings name this orchestrator comes back by itself."""
    from rbees.ctl.pool_actions import remove_pool

    await remove_pool(target, **given)
