"""A pool host at a glance: what its daemon tells, or what is found where none runs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from rbees import __version__
from rbees.pool.device_remarks import device_pairs
from rbees.protocol.codec import Message
from rbees.protocol.pools import Device, ModelFacts, PoolStatus
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
    Column("model", least=12),
    Column("devices", rank=2, least=6),
    Column("slots", rank=1, right=True),
    Column("memory", rank=3, right=True),
)


class RunningWorker(Message, frozen=True, kw_only=True):
    """A worker process that was found without a daemon to ask."""

    worker_id: str
    model_ref: str
    devices: tuple[str, ...]
    slots: int
    reserved_bytes: int
    pid: int


class HostStatus(Message, frozen=True, kw_only=True):
    """What can be said of a host on which no pool daemon runs."""

    version: str
    devices: tuple[Device, ...]
    models: tuple[ModelFacts, ...]
    workers: tuple[RunningWorker, ...]
    daemon: bool = False


async def found_here() -> HostStatus:
    """Look without a daemon; only who does pays for the imports."""
    from rbees.pool.here import Here

    here = Here()
    models = await asyncio.to_thread(here.models)
    workers = await asyncio.to_thread(_running_workers, here.state)
    return HostStatus(version=__version__, devices=await here.devices(), models=models.models, workers=workers)


def _running_workers(state: Path) -> tuple[RunningWorker, ...]:
    from rbees.host.process import Identity, is_running
    from rbees.host.process_table import ProcessTable
    from rbees.service import folders

    return tuple(
        RunningWorker(
            worker_id=record.spec.worker_id,
            model_ref=record.spec.model_ref,
            devices=record.spec.devices,
            slots=record.spec.slots,
            reserved_bytes=record.reserved_bytes,
            pid=record.pid,
        )
        for record in ProcessTable(folders.make_private_folder(state / "workers")).load()
        if record.pid is not None and is_running(Identity(record.pid, record.started or ""))
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
        workers = [
            (
                worker.worker_id,
                f"loading {worker.load_progress:.0%}" if worker.state == "loading" else worker.state,
                worker.model_ref,
                ", ".join(worker.devices),
                str(worker.slots),
                bytes_text(worker.memory_bytes),
            )
            for worker in found.workers
        ]
    else:
        pairs = [("pool", f"no pool daemon runs here; this is version {found.version}")]
        workers = [
            (one.worker_id, "runs", one.model_ref, ", ".join(one.devices), str(one.slots), bytes_text(one.reserved_bytes))
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
