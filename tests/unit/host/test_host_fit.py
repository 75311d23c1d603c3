"""Fit and preflight: the arithmetic of memory, and the answer to every kind of spawn."""

from __future__ import annotations

from typing import Any

import pytest

from rbees.host.fit import Fit, Refusal, Room, fit, usable_for
from rbees.host.preflight import Wish, preflight
from rbees.protocol.demand import demand
from rbees.protocol.device_options import NOTHING_ASKED, DeviceOptions
from rbees.protocol.errors import ErrorCode
from rbees.protocol.pools import Device, ModelFacts
from rbees.protocol.workers import Backend
from tests.support.host_facts import GIB, MIB, device, model, scripted

CTX = 4_096


def room(of: Device, *, held: int = 0, pending: int = 0, reserve: int = 256 * MIB) -> Room:
    return Room(of, held, pending, reserve)


def ask(
    *rooms: Room,
    of: ModelFacts | None = None,
    backend: Backend | None = None,
    devices: tuple[str, ...] = (),
    ctx: int | None = None,
    problems: dict[Backend, str | None] | None = None,
    options: DeviceOptions = NOTHING_ASKED,
) -> Fit | Refusal:
    wish = Wish(backend, devices, ctx, 4, options)
    return preflight(of or model(), wish, rooms, default_ctx=CTX, problems=problems or {})


def test_the_kv_cache_is_counted_exactly() -> None:
    needed = demand(model(), ctx=CTX, slots=4)
    assert needed.kv_bytes == 4 * CTX * 32 * 8 * (128 + 128) * 2
    assert needed.weights_bytes == 4 * GIB
    assert needed.total_bytes == needed.weights_bytes + needed.kv_bytes + needed.compute_bytes + needed.runtime_bytes


def test_more_slots_and_more_context_never_need_less() -> None:
    totals = [
        demand(model(), ctx=ctx, slots=slots).total_bytes for ctx, slots in ((512, 1), (1024, 1), (1024, 2), (4096, 2), (4096, 8))
    ]
    assert totals == sorted(totals)


def test_it_fits() -> None:
    answer = fit(model(), [room(device())], backend="cpu", ctx=None, slots=4, default_ctx=CTX)
    assert isinstance(answer, Fit)
    assert (answer.ctx, answer.slots, answer.backend) == (CTX, 4, "cpu")


def test_context_is_the_trained_length_where_that_is_less() -> None:
    answer = fit(model(context_length=1024), [room(device())], backend="cpu", ctx=None, slots=1, default_ctx=CTX)
    assert isinstance(answer, Fit)
    assert answer.ctx == 1024


def test_too_large_says_by_how_much() -> None:
    answer = fit(model(), [room(device(free=3 * GIB))], backend="cpu", ctx=None, slots=4, default_ctx=CTX)
    assert isinstance(answer, Refusal)
    assert answer.code is ErrorCode.INSUFFICIENT_VRAM
    needed = demand(model(), ctx=CTX, slots=4).total_bytes
    assert answer.details["needed_bytes"] == needed
    assert answer.details["available_bytes"] == 3 * GIB - 256 * MIB
    assert answer.details["missing_bytes"] == needed - (3 * GIB - 256 * MIB)
    assert "MiB too few" in answer.message


def test_what_others_hold_makes_the_device_busy() -> None:
    answer = fit(model(), [room(device(), held=6 * GIB)], backend="cpu", ctx=None, slots=4, default_ctx=CTX)
    assert isinstance(answer, Refusal)
    assert answer.code is ErrorCode.DEVICE_BUSY
    assert answer.details["held_by_workers_bytes"] == 6 * GIB


def test_a_worker_that_still_loads_has_its_memory_set_aside() -> None:
    taken = room(device(free=8 * GIB), held=3 * GIB, pending=3 * GIB)
    assert taken.free_bytes == 5 * GIB - 256 * MIB
    assert taken.free_without_workers_bytes == 8 * GIB - 256 * MIB


def test_more_context_than_trained_is_incompatible() -> None:
    answer = ask(room(device()), ctx=100_000)
    assert isinstance(answer, Refusal)
    assert answer.code is ErrorCode.MODEL_INCOMPATIBLE
    assert answer.details == {"context_length": 32_768, "asked_ctx": 100_000}


def test_accelerators_come_before_the_cpu_and_the_roomiest_first() -> None:
    answer = ask(room(device("cpu")), room(device("cuda:0", free=6 * GIB + 512 * MIB)), room(device("cuda:1")))
    assert isinstance(answer, Fit)
    assert (answer.device.device_id, answer.backend) == ("cuda:1", "cuda")


def test_the_cpu_takes_what_no_accelerator_can() -> None:
    answer = ask(room(device("cpu")), room(device("cuda:0", free=GIB)))
    assert isinstance(answer, Fit)
    assert answer.device.device_id == "cpu"


def test_unhealthy_devices_are_passed_over_and_refused_by_name() -> None:
    sick = device("cuda:0", healthy=False, problem="NVML has not answered for 9 s; the driver may hang.")
    answer = ask(room(sick), room(device()))
    assert isinstance(answer, Fit)
    assert answer.device.device_id == "cpu"
    named = ask(room(sick), room(device()), devices=("cuda:0",))
    assert isinstance(named, Refusal)
    assert named.code is ErrorCode.BACKEND_UNAVAILABLE
    assert "NVML has not answered" in named.message


@pytest.mark.parametrize(
    ("keywords", "code"),
    [
        ({"devices": ("cuda:7",)}, ErrorCode.BACKEND_UNAVAILABLE),
        ({"devices": ("metal:0",), "backend": "metal"}, ErrorCode.BACKEND_UNAVAILABLE),
        ({"devices": ("cpu:1",)}, ErrorCode.INVALID_REQUEST),
        ({"devices": ("gpu0",)}, ErrorCode.INVALID_REQUEST),
        ({"devices": ("cpu", "cpu")}, ErrorCode.INVALID_REQUEST),
        ({"options": DeviceOptions(gpu_layers=3)}, ErrorCode.INVALID_REQUEST),
        ({"options": DeviceOptions(kv_type_v="q8_0", flash_attention="off")}, ErrorCode.INVALID_REQUEST),
        ({"of": model(key_length=80), "options": DeviceOptions(kv_type_k="q8_0")}, ErrorCode.MODEL_INCOMPATIBLE),
        ({"devices": ("cpu",), "backend": "cuda"}, ErrorCode.BACKEND_UNAVAILABLE),
        ({"backend": "metal"}, ErrorCode.BACKEND_UNAVAILABLE),
        ({"backend": "scripted"}, ErrorCode.MODEL_INCOMPATIBLE),
        ({"of": scripted(), "backend": "cuda"}, ErrorCode.MODEL_INCOMPATIBLE),
        ({"problems": {"cpu": "llama-cpp-python is not installed here; run x."}}, ErrorCode.BACKEND_UNAVAILABLE),
    ],
)
def test_wishes_that_cannot_be_met(keywords: dict[str, Any], code: ErrorCode) -> None:
    answer = ask(room(device("cpu")), **keywords)
    assert isinstance(answer, Refusal)
    assert answer.code is code


@pytest.mark.parametrize(
    ("devices", "backend", "code"),
    [
        (("cuda:1",), "cuda", ErrorCode.INVALID_REQUEST),
        (("cuda:1",), None, ErrorCode.INVALID_REQUEST),
        (("cpu",), "cuda", ErrorCode.INVALID_REQUEST),
        (("metal:0",), "metal", ErrorCode.BACKEND_UNAVAILABLE),
        (("metal:0",), "cuda", ErrorCode.BACKEND_UNAVAILABLE),
    ],
)
def test_a_wrong_index_is_one_of_a_backend_that_is_here(devices: tuple[str, ...], backend: Backend | None, code: ErrorCode) -> None:
    answer = ask(room(device("cpu")), room(device("cuda:0")), devices=devices, backend=backend)
    assert isinstance(answer, Refusal)
    assert (answer.code, answer.details["devices"]) == (code, ["cpu", "cuda:0"])


@pytest.mark.parametrize("backend", [None, "cpu", "scripted"])
def test_scripted_models_run_on_the_cpu_whatever_is_installed(backend: Backend | None) -> None:
    answer = ask(room(device("cuda:0")), room(device("cpu")), of=scripted(), backend=backend, problems={"cpu": "No llama."})
    assert isinstance(answer, Fit)
    assert (answer.backend, answer.device.device_id) == ("scripted", "cpu")


def test_of_several_refusals_the_nearest_to_success_is_told() -> None:
    answer = ask(room(device("cuda:0", free=GIB)), room(device("cuda:1", free=2 * GIB)), backend="cuda")
    assert isinstance(answer, Refusal)
    assert answer.details["device_id"] == "cuda:1"


def test_kv_types_change_what_the_cache_takes() -> None:
    plain = demand(model(), ctx=CTX, slots=4)
    eight_bits = demand(model(), ctx=CTX, slots=4, options=DeviceOptions(kv_type_k="q8_0", kv_type_v="q8_0"))
    mixed = demand(model(), ctx=CTX, slots=4, options=DeviceOptions(kv_type_k="f32"))
    assert eight_bits.kv_bytes == plain.kv_bytes * 34 // 64
    assert mixed.kv_bytes == plain.kv_bytes * 3 // 2
    assert eight_bits.compute_bytes == plain.compute_bytes


def test_without_flash_attention_computing_takes_more() -> None:
    plain = demand(model(), ctx=CTX, slots=4)
    without = demand(model(), ctx=CTX, slots=4, options=DeviceOptions(flash_attention="off"))
    scores = 2 * 20 * 32_000 * 4 - 20 * 32_000 * 4
    assert plain.compute_bytes == 512 * (2 * 4 * CTX + 4 * 16 * 4_096) + scores
    assert without.compute_bytes == 512 * 4 * (4 * CTX + 4 * CTX * 32 + 6 * 4_096) + scores, "each head's scores of every cell"


def test_a_model_that_is_too_large_fits_with_a_part_of_its_layers() -> None:
    small, main = room(device("cuda:0", free=4 * GIB)), room(device("cpu"))
    assert isinstance(ask(small, main, backend="cuda"), Refusal)
    answer = ask(small, main, backend="cuda", options=DeviceOptions(gpu_layers=10))
    assert isinstance(answer, Fit)
    assert answer.devices[0].device_id == "cuda:0"
    assert answer.reserved["cuda:0"] == answer.demand.total_bytes < 4 * GIB
    whole = demand(model(), ctx=CTX, slots=4)
    assert answer.demand.kv_bytes == pytest.approx(whole.kv_bytes * 9 / 32, abs=2)
    assert answer.reserved["cpu"] + answer.demand.weights_bytes + answer.demand.kv_bytes >= whole.weights_bytes + whole.kv_bytes
    assert whole.total_bytes == demand(model(), ctx=CTX, slots=4, options=DeviceOptions(gpu_layers=33)).total_bytes


def test_layers_that_stay_in_main_memory_must_fit_there() -> None:
    answer = ask(
        room(device("cuda:0", free=4 * GIB)), room(device("cpu", free=GIB)), backend="cuda", options=DeviceOptions(gpu_layers=4)
    )
    assert isinstance(answer, Refusal)
    assert (answer.code, answer.details["device_id"]) == (ErrorCode.INSUFFICIENT_VRAM, "cpu")


def test_a_model_that_no_device_holds_is_spread_over_several() -> None:
    rooms = [room(device(f"cuda:{i}", free=(6 - 2 * i) * GIB)) for i in range(2)]
    assert isinstance(ask(*rooms), Refusal)
    answer = ask(*rooms, devices=("cuda:0", "cuda:1"))
    assert isinstance(answer, Fit)
    assert [found.device_id for found in answer.devices] == ["cuda:0", "cuda:1"]
    first, second = answer.options.tensor_split
    assert first / second == pytest.approx((6 * GIB - 256 * MIB) / (4 * GIB - 256 * MIB), rel=0.01)
    assert sum(answer.reserved.values()) == answer.demand.total_bytes
    assert answer.reserved["cuda:0"] > answer.reserved["cuda:1"]
    whole = demand(model(), ctx=CTX, slots=4)
    assert answer.demand.weights_bytes >= whole.weights_bytes
    lopsided = ask(*rooms, devices=("cuda:0", "cuda:1"), options=DeviceOptions(tensor_split=(1.0, 9.0)))
    assert isinstance(lopsided, Refusal)
    assert (lopsided.code, lopsided.details["device_id"]) == (ErrorCode.INSUFFICIENT_VRAM, "cuda:1")


def test_the_one_of_several_devices_that_takes_all_is_the_one_to_have_room() -> None:
    rooms = [room(device("cuda:0", free=GIB)), room(device("cuda:1"))]
    answer = ask(*rooms, devices=("cuda:0", "cuda:1"), options=DeviceOptions(split_mode="none", main_gpu=1))
    assert isinstance(answer, Fit)
    assert answer.reserved == {"cuda:0": 0, "cuda:1": answer.demand.total_bytes}
    assert answer.options.tensor_split == (), "there is nothing to share out"
    first = ask(*rooms, devices=("cuda:0", "cuda:1"), options=DeviceOptions(split_mode="none", main_gpu=0))
    assert isinstance(first, Refusal)


def test_a_device_of_several_that_is_unhealthy_refuses_them_all() -> None:
    answer = ask(room(device("cuda:0")), room(device("cuda:1", healthy=False, problem="Gone.")), devices=("cuda:0", "cuda:1"))
    assert isinstance(answer, Refusal)
    assert answer.code is ErrorCode.BACKEND_UNAVAILABLE


def test_options_for_accelerators_pass_the_cpu_over() -> None:
    options = DeviceOptions(gpu_layers=5)
    answer = ask(room(device("cpu")), room(device("cuda:0")), options=options)
    assert isinstance(answer, Fit)
    assert answer.backend == "cuda"


def test_defaults_of_a_pool_that_a_model_cannot_take_are_left_out() -> None:
    defaults = DeviceOptions(kv_type_k="q8_0", kv_type_v="q8_0", load_mode="mmap")
    assert usable_for(model(), defaults) == defaults
    assert usable_for(model(key_length=80, value_length=64), defaults) == DeviceOptions(kv_type_v="q8_0", load_mode="mmap")


def test_a_model_that_makes_vectors_needs_room_for_them() -> None:
    plain = model("m", capabilities=("generate",))
    both = model("m", capabilities=("generate", "embed"), pooling="last")
    encoder = model("m", capabilities=("embed",), pooling="mean")
    needs = [demand(facts, ctx=4_096, slots=4) for facts in (plain, both, encoder)]
    assert needs[1].compute_bytes > needs[0].compute_bytes
    assert needs[1].kv_bytes > needs[0].kv_bytes > needs[2].kv_bytes
