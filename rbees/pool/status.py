"""`rbees pool status`: the host at a glance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from rbees.pool.device_remarks import device_pairs
from rbees.pool.target import asks_poold
from rbees.terminal.output import print_json, print_pairs, print_table
from rbees.terminal.quantities import bytes_text

if TYPE_CHECKING:
    from rbees.clients.poold import PooldClient
    from rbees.protocol.pools import Device, PoolStatus


@click.command("status")
@asks_poold
async def status(pool: PooldClient, *, as_json: bool) -> None:
    """Show the host's devices, models and workers, and whom it reports to."""
    found = await pool.status()
    if as_json:
        print_json(found)
        return
    print_pairs(
        [
            ("pool", f"{found.pool_id} at {pool.url}, version {found.version}"),
            ("reports to", _orcd(found)),
            ("models", str(len(found.models))),
            ("workers", str(len(found.workers))),
            *device_pairs(found.devices, found.idle_accelerators, found.device_problems),
        ]
    )
    click.echo()
    print_table(
        ["device", "name", "free", "of", "state"], [_row(device) for device in found.devices], empty="No device has been measured."
    )


def _orcd(found: PoolStatus) -> str:
    if found.orcd_url is None:
        return "nobody yet; name `orcd_url` in the settings or run `llorch pool register`"
    return f"{found.orcd_url} ({'registered' if found.registered else 'not registered'})"


def _row(device: Device) -> list[str]:
    state = "healthy" if device.healthy else device.problem or "unhealthy"
    return [device.device_id, device.name, bytes_text(device.free_bytes), bytes_text(device.total_bytes), state]
