"""What a source of device facts is: one for each kind of hardware, each in a gateway file of its own."""

from __future__ import annotations

from typing import Protocol

from rbees.protocol.pools import Device


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
