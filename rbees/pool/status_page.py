"""A pool host at a glance: what its daemon tells, or what is found where none runs."""

from __future__ import annotations

import asyncio
from typing import Final

from rbees import __version__
from rbees.pool.device_remarks import device_pairs
from rbees.pool.workers import state_of
from rbees.protocol.codec import Message
from rbees.protocol.pools import Device, ModelFacts, PoolStatus, WorkerFacts
from rbees.terminal.columns import Column, Page, Sheet
from rbees.terminal.quantities import bytes_text

_DEVICE_COLUMNS: Final = (
    Column("device"),
    Column("name", rank=1, least=12),
    Column("free", right=True),
    Column("of", right=True),
    Column("load", rank=3, right=True),
    Column("temperature", rank=4, right=True),
    Column("state", least=12),
)
_WORKER_COLUMNS: Final = (
    Column("worker"),
    Column("state"),
    Column("model", least=12, tail=True),
    Column("devices", rank=2, least=6),
    Column("slots", rank=1, right=True),
    Column("memory", rank=3, right=True),
)


class HostStatus(Message, frozen=True, kw_only=True):
    """What can be said of a host on which no pool daemon runs."""

    version: str
    devices: tuple[Device, ...]
    models: tuple[ModelFacts, ...]
    workers: tuple[WorkerFacts, ...]
    daemon: bool = False


async def found_here() -> HostStatus:
    """Look without a daemon, as `rbees-pool worker list` does; only who does pays for the imports.

    Raises:
        DaemonRuns: one has started since this command looked for one.
    """
    from rbees.pool.here import Here
    from rbees.pool.local_workers import DaemonRuns, LocalWorkers
    from rbees.pool.state import own_state
    from rbees.service import logs

    # What is found is shown; a log beside it would say it once more.
    logs.configure("pool", "error")
    own, here = own_state(), Here()
    if own.daemon_runs():
        raise DaemonRuns()
    async with LocalWorkers(own, lambda _: None) as keeper:
        workers = (await keeper.workers()).workers
    models = await asyncio.to_thread(here.models)
    return HostStatus(
        version=__version__,
        devices=await here.devices(),
        models=models.models,
        workers=tuple(one for one in workers if one.end is None),
    )


def status_page(found: PoolStatus | HostStatus, url: str | None) -> Page:
    """What was found as names and tables; `url` is the daemon's, where one was asked."""
    remarks = device_pairs(found.devices)
    if isinstance(found, PoolStatus):
        remarks = device_pairs(found.devices, found.idle_accelerators, found.device_problems)
        pairs = [
            ("pool", f"{found.pool_id} at {url}, version {found.version}"),
            ("reports to", _orcd(found)),
        ]
    else:
        pairs = [("pool", f"no pool daemon runs here; this is version {found.version}")]
    workers = [
        (one.worker_id, state_of(one), one.model_ref, ", ".join(one.devices), str(one.slots), bytes_text(one.seen_bytes))
        for one in found.workers
    ]
    return Page(
        pairs=[*pairs, ("models", str(len(found.models))), ("workers", str(len(found.workers))), *remarks],
        sheets=(
            Sheet(_DEVICE_COLUMNS, [_row(device) for device in found.devices], "No device has been measured."),
            Sheet(_WORKER_COLUMNS, workers, "No worker runs."),
        ),
    )


def _orcd(found: PoolStatus) -> str:
    if found.orcd_url is None:
        return "nobody yet; name `orcd_url` in the settings or run `llorch pool register`"
    return f"{found.orcd_url} ({'registered' if found.registered else 'not registered'})"


def _row(device: Device) -> list[str]:
    state = "healthy" if device.healthy else device.problem or "unhealthy"
    load = "" if device.utilization is None else f"{device.utilization:.0%}"
    temperature = "" if device.temperature_celsius is None else f"{device.temperature_celsius:.0f} C"
    return [device.device_id, device.name, bytes_text(device.free_bytes), bytes_text(device.total_bytes), load, temperature, state]
