"""A pool host at a glance: what its daemon tells, or what is found where none runs."""

from __future__ import annotations

from typing import Final

from rbees.protocol.pools import Device, HostStatus, PoolStatus, WorkerFacts
from rbees.terminal.columns import Column, Page, Sheet
from rbees.terminal.device_remarks import device_pairs
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


def status_page(found: PoolStatus | HostStatus, url: str | None) -> Page:
    """What was found as names and tables; `url` says where the daemon is, where there is one."""
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


def state_of(facts: WorkerFacts) -> str:
    """A worker's state in words, with what makes it a special one."""
    about = [f"{facts.load_progress:.0%}"] if facts.state == "loading" else []
    if facts.safe_mode:
        about.append("safe mode")
    if facts.end is not None and facts.state == "failed":
        about.append(facts.end.signal or facts.end.code or "unknown")
    return f"{facts.state} ({', '.join(about)})" if about else facts.state


def _orcd(found: PoolStatus) -> str:
    if found.orcd_url is None:
        return "nobody yet; name `orcd_url` in the settings or run `llorch pool register`"
    return f"{found.orcd_url} ({'registered' if found.registered else 'not registered'})"


def _row(device: Device) -> list[str]:
    state = "healthy" if device.healthy else device.problem or "unhealthy"
    load = "" if device.utilization is None else f"{device.utilization:.0%}"
    temperature = "" if device.temperature_celsius is None else f"{device.temperature_celsius:.0f} C"
    return [device.device_id, device.name, bytes_text(device.free_bytes), bytes_text(device.total_bytes), load, temperature, state]
