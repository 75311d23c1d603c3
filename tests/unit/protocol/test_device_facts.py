"""Machines are upgraded one at a time: what a pool says of its devices is read by older and newer ones alike."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from rbees.protocol import codec
from rbees.protocol.errors import RbeesError
from rbees.protocol.pools import Device, Heartbeat, PoolStatus, WorkerFacts
from rbees.protocol.workers import MOST
from tests.support.host_facts import device

FIRST_VERSION: dict[str, Any] = {
    "device_id": "cuda:0",
    "backend": "cuda",
    "name": "NVIDIA GeForce RTX 3060",
    "memory_architecture": "vram",
    "total_bytes": 12,
    "free_bytes": 10,
    "healthy": True,
    "problem": None,
    "measured_at_ms": 1_764_000_000_000,
    "utilization": 0.25,
    "temperature_celsius": 41,
    "driver_version": "580.65.06",
    "compute_capability": "8.6",
    "physical_cores": None,
}
"""Every field that the first version knew: none was required that is not here, and none of these may go."""


def test_what_an_older_pool_says_is_understood() -> None:
    found = codec.decode(msgspec.json.encode(FIRST_VERSION), Device)
    assert (found.age_ms, found.uuid, found.features, found.numa) == (None, None, (), ())


def test_a_newer_pool_says_all_that_an_older_orchestrator_needs() -> None:
    said = msgspec.json.decode(codec.encode(device("cuda:0", uuid="GPU-1", age_ms=3)))
    assert FIRST_VERSION.keys() <= said.keys()


@pytest.mark.parametrize("type_", [Device, Heartbeat, PoolStatus, WorkerFacts])
def test_what_is_not_known_yet_is_passed_over(type_: type[msgspec.Struct]) -> None:
    assert not type_.__struct_config__.forbid_unknown_fields


@pytest.mark.parametrize("number", [-1, MOST + 1, 10**30])
def test_numbers_that_no_machine_has_are_refused(number: int) -> None:
    """Else they reach what keeps them, which knows no integer of more than 64 bits."""
    with pytest.raises(RbeesError, match=r"at `\$\.total_bytes`"):
        codec.decode(msgspec.json.encode({**FIRST_VERSION, "total_bytes": number}), Device)
    assert codec.decode(msgspec.json.encode({**FIRST_VERSION, "total_bytes": MOST}), Device).total_bytes == MOST
    assert msgspec.msgpack.encode(MOST)
