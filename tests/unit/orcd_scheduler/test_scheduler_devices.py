"""A model that no accelerator can hold alone: several share it, or main memory takes what does not fit."""

from __future__ import annotations

from msgspec.structs import replace

from rbees.orcd.scheduler.effects import Finish, SpawnWorker
from rbees.protocol.errors import ErrorCode
from tests.simulation import facts
from tests.unit.orcd_scheduler.driver import Drive, spawned

GIB = facts.GIB
LARGE = replace(facts.model("large", 20 * GIB), layers=40)
MAIN_MEMORY = facts.device("cpu", 64 * GIB, 60 * GIB)


def gpu(index: int, total: int = 16, free: int = 15, *, healthy: bool = True) -> object:
    return facts.device(f"cuda:{index}", total * GIB, free * GIB, healthy=healthy)


def start(*devices: object) -> SpawnWorker:
    drive = Drive()
    drive.report("a", models=(LARGE,), devices=devices)  # type: ignore[arg-type]
    return spawned(drive.job("job-1", LARGE))


def test_one_that_can_hold_it_all_is_preferred() -> None:
    spawn = start(MAIN_MEMORY, gpu(0), gpu(1), gpu(2, 48, 40))
    assert (spawn.devices, spawn.gpu_layers) == (("cuda:2",), None)


def test_several_share_what_none_could_hold_alone() -> None:
    spawn = start(MAIN_MEMORY, gpu(0), gpu(1))
    assert (spawn.devices, spawn.gpu_layers, spawn.backend) == (("cuda:0", "cuda:1"), None, "cuda")


def part(name: str, total: int = 16, free: int = 15) -> object:
    """An instance that MIG made on a GPU."""
    return facts.device(f"cuda:MIG-{name}", total * GIB, free * GIB)


def test_instances_of_divided_gpus_share_nothing_but_main_memory() -> None:
    spawn = start(MAIN_MEMORY, part("a"), part("b"))
    assert spawn.devices == ("cuda:MIG-b",)
    assert spawn.gpu_layers is not None
    huge = replace(LARGE, size_bytes=200 * GIB)
    drive = Drive()
    for _ in range(2):
        drive.report("a", models=(huge,), devices=(MAIN_MEMORY, part("a"), part("b", 20)), after_s=20.0)  # type: ignore[arg-type]
    (finish,) = drive.job("job-1", huge)
    assert isinstance(finish, Finish)
    assert finish.error.details["missing_bytes"] == (200 - 64 - 20) * GIB


def test_an_unhealthy_one_takes_no_share() -> None:
    spawn = start(MAIN_MEMORY, gpu(0), gpu(1, healthy=False))
    assert spawn.devices == ("cuda:0",)
    assert spawn.gpu_layers is not None


def test_the_layers_that_fit_go_to_the_accelerator_and_the_others_stay_in_main_memory() -> None:
    spawn = start(MAIN_MEMORY, gpu(0, 16, 11))
    assert spawn.devices == ("cuda:0",)
    assert spawn.gpu_layers is not None
    assert 18 <= spawn.gpu_layers <= 21, "about half of 41, with some room left"


def test_where_few_layers_would_fit_or_main_memory_is_short_it_is_the_processor_or_nothing() -> None:
    assert start(MAIN_MEMORY, gpu(0, 16, 2)).devices == ("cpu",)
    drive = Drive()
    drive.report("a", models=(LARGE,), devices=(facts.device("cpu", 24 * GIB, 4 * GIB), gpu(0, 16, 11)))  # type: ignore[arg-type]
    effects = drive.job("job-1", LARGE)
    assert [effect for effect in effects if isinstance(effect, SpawnWorker) and effect.gpu_layers is not None] == []


def test_only_what_all_devices_together_could_not_hold_is_impossible() -> None:
    huge = replace(LARGE, size_bytes=200 * GIB)
    drive = Drive()
    for _ in range(2):
        drive.report("a", models=(huge,), devices=(MAIN_MEMORY, gpu(0), gpu(1)), after_s=20.0)  # type: ignore[arg-type]
    (finish,) = drive.job("job-1", huge)
    assert isinstance(finish, Finish)
    assert finish.error.code is ErrorCode.NO_PLACEMENT
    assert finish.error.details["missing_bytes"] == (200 - 64 - 32) * GIB


def test_sharing_shows_in_a_plan() -> None:
    drive = Drive()
    drive.report("a", models=(LARGE,), devices=(MAIN_MEMORY, gpu(0), gpu(1)))  # type: ignore[arg-type]
    places = {one.devices: one for one in drive.plan(drive.spec("new", LARGE)).candidates}
    assert places["cuda:0", "cuda:1"].chosen
    assert places["cpu",].refusal is None
    assert places["cuda:1",].gpu_layers is not None
