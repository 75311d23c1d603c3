"""What there is to say of a host's devices that no table has room for, as names and values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from rbees.terminal.quantities import bytes_text, duration_text

if TYPE_CHECKING:
    from rbees.protocol.pools import Device, IdleAccelerator

OLD_MS: Final = 10_000
"""A measurement older than that is worth a word."""


def device_pairs(
    devices: Sequence[Device], idle: Sequence[IdleAccelerator] = (), problems: Sequence[str] = ()
) -> list[tuple[str, str]]:
    """Cores, devices that are ill, accelerators that lie idle, and `problems` of those who report devices."""
    ill = [device for device in devices if not device.healthy]
    told = {device.problem for device in ill}
    return [
        *(("cores", _cores(device)) for device in devices if device.physical_cores is not None),
        *(("ill", _illness(device)) for device in ill),
        *(("idle", _idleness(accelerator)) for accelerator in idle),
        # What a source says of itself it says of its devices too.
        *(("trouble", problem) for problem in problems if problem not in told),
    ]


def _cores(cpu: Device) -> str:
    threads = f" ({cpu.logical_cores} threads)" if cpu.logical_cores not in (None, cpu.physical_cores) else ""
    nodes = f", memory in {len(cpu.numa)} nodes" if cpu.numa else ""
    return f"{cpu.physical_cores}{threads}{nodes}"


def _illness(device: Device) -> str:
    seen = f" It was measured {duration_text(device.age_ms / 1000)} ago." if device.age_ms and device.age_ms >= OLD_MS else ""
    return f"{device.device_id}: {device.problem or 'It reports no reason.'}{seen}"


def _idleness(found: IdleAccelerator) -> str:
    facts = ", ".join(_facts(found))
    return f"{found.name}{f' ({facts})' if facts else ''}: {found.reason}"


def _facts(found: IdleAccelerator) -> Iterator[str]:
    if found.total_bytes is not None:
        yield bytes_text(found.total_bytes)
    elif found.memory_architecture == "unified":
        yield "shares main memory"
    if found.temperature_celsius is not None:
        yield f"{found.temperature_celsius:.0f} °C"
