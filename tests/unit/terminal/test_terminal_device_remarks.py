"""What `rbees-pool status` says of devices beside their table."""

from __future__ import annotations

from rbees.protocol.pools import IdleAccelerator, NumaNode
from rbees.terminal.device_remarks import device_pairs
from tests.support.host_facts import GIB, device

REASON = "There is no backend."


def test_what_is_wrong_is_said_once_and_with_its_age() -> None:
    hung = device("cuda:0", healthy=False, problem="NVML hangs.", age_ms=75_000)
    lost = device("cuda:1", healthy=False, problem="It is lost.", age_ms=900)
    assert device_pairs([hung, lost, device("cpu")], problems=("NVML hangs.", "Metal does not answer.")) == [
        ("ill", "cuda:0: NVML hangs. It was measured 1.2 min ago."),
        ("ill", "cuda:1: It is lost."),
        ("trouble", "Metal does not answer."),
    ]


def test_accelerators_that_lie_idle() -> None:
    arc = IdleAccelerator(
        name="Intel Arc A770",
        vendor="intel",
        memory_architecture="vram",
        total_bytes=16 * GIB,
        temperature_celsius=45.0,
        reason=REASON,
    )
    inside = IdleAccelerator(name="Intel UHD", vendor="intel", memory_architecture="unified", reason=REASON)
    bare = IdleAccelerator(name="Some GPU", vendor="amd", memory_architecture="vram", reason=REASON)
    assert device_pairs([], [arc, inside, bare]) == [
        ("idle", f"Intel Arc A770 (16.0 GiB, 45 °C): {REASON}"),
        ("idle", f"Intel UHD (shares main memory): {REASON}"),
        ("idle", f"Some GPU: {REASON}"),
    ]


def test_cores_threads_and_nodes_of_memory() -> None:
    nodes = tuple(NumaNode(node=number, processors="0", total_bytes=1, free_bytes=1) for number in (0, 1))
    (pair,) = device_pairs([device("cpu", physical_cores=8, logical_cores=16, numa=nodes)])
    assert pair == ("cores", "8 (16 threads), memory in 2 nodes")
    assert device_pairs([device("cpu", physical_cores=4, logical_cores=4), device("cuda:0")]) == [("cores", "4")]
