"""What a source of device facts is: one for each kind of hardware, each in a gateway file of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final, Protocol, runtime_checkable

from rbees.protocol.pools import Device, IdleAccelerator

_FIRST_PID_NAMESPACE: Final = "pid:[4026531836]"
"""A constant of the kernel."""


class NoSuchHardware(Exception):
    """This host has none of the source's devices and will not get any while the process runs."""


class Source(Protocol):
    """Where facts about one kind of device come from."""

    name: str
    """As an operator would call it: `NVML`, `Metal`, `CPU`."""

    def measure(self) -> tuple[Device, ...]:
        """The devices now, with `measured_at_ms` left 0. May block.

        Raises:
            RbeesError: BACKEND_UNAVAILABLE, with a sentence that becomes the devices' `problem`.
            NoSuchHardware: there is nothing to measure.
        """
        ...


@runtime_checkable
class TellsHolders(Protocol):
    """A source that knows which process holds how much of a device's memory.

    Drivers name processes as the whole machine counts them; see `sees_all_pids`.
    """

    held: Mapping[str, Mapping[int, int]]
    """Bytes by device id and process id, as of the last measurement; replaced as a whole, so that any thread may read it."""


@runtime_checkable
class TellsIdle(Protocol):
    """A source that sees accelerators on which no worker can run."""

    idle: tuple[IdleAccelerator, ...]
    """As of the last measurement."""


def sees_all_pids() -> bool:
    """False in a container that counts processes of its own: there a driver's process ids would mean other processes."""
    try:
        return os.readlink("/proc/self/ns/pid") == _FIRST_PID_NAMESPACE
    except OSError:
        return False
