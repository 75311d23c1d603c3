"""What of a spawn's device options contradicts itself, its backend or its devices."""

from __future__ import annotations

from typing import Any

import pytest

from rbees.protocol.device_options import (
    NOTHING_ASKED,
    DeviceOptions,
    check_device_options,
    fits_heads,
    kv_bytes,
    options_of,
    with_defaults,
)
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.pools import SpawnCommand

TWO = ("cuda:0", "cuda:1")


@pytest.mark.parametrize(
    ("backend", "devices", "options"),
    [
        ("cpu", ("cpu",), {}),
        ("cpu", ("cpu",), {"gpu_layers": 0, "split_mode": "none", "kv_type_k": "q8_0", "kv_type_v": "q4_0"}),
        ("cpu", ("cpu",), {"flash_attention": "off", "kv_type_k": "q8_0", "kv_type_v": "bf16"}),
        ("scripted", ("cpu",), {}),
        ("metal", ("metal:0",), {"gpu_layers": 12}),
        ("cuda", ("cuda:3",), {"gpu_layers": 99, "split_mode": "none", "main_gpu": 0}),
        ("cuda", ("cuda:MIG-0c757cd7-e942-5726-a0b8-0e8fb7067135",), {"gpu_layers": 12}),
        ("cuda", ("cuda:MIG-GPU-0c757cd7-e942/1/0",), {}),
        ("cuda", ("cuda:GPU-0c757cd7-e942", "cuda:GPU-1d868de8-e942"), {"tensor_split": (3.0, 1.0)}),
        ("cuda", TWO, {"tensor_split": (3.0, 1.0)}),
        ("cuda", TWO, {"split_mode": "row", "tensor_split": (1.0, 0.0)}),
        ("cuda", TWO, {"split_mode": "none", "main_gpu": 1}),
    ],
)
def test_what_can_be_done_passes(backend: str, devices: tuple[str, ...], options: dict[str, Any]) -> None:
    check_device_options(backend, devices, DeviceOptions(**options))


@pytest.mark.parametrize(
    ("backend", "devices", "options", "field"),
    [
        ("cpu", ("cpu",), {"gpu_layers": 1}, "gpu_layers"),
        ("cpu", ("cpu",), {"split_mode": "layer"}, "split_mode"),
        ("cpu", ("cpu",), {"tensor_split": (1.0,)}, "tensor_split"),
        ("scripted", ("cpu",), {"main_gpu": 0}, "main_gpu"),
        ("cpu", ("cpu",), {"flash_attention": "off", "kv_type_v": "q8_0"}, "kv_type_v"),
        ("cpu", ("cuda:0",), {}, "devices"),
        ("cpu", ("cpu:0",), {}, "devices"),
        ("cuda", ("cuda",), {}, "devices"),
        ("cuda", ("cuda:-1",), {}, "devices"),
        ("cuda", ("cuda:MIG-",), {}, "devices"),
        ("cuda", ("cuda:MIG-a b",), {}, "devices"),
        ("metal", ("metal:MIG-0c757cd7-e942",), {}, "devices"),
        ("cuda", ("cuda:MIG-0c757cd7-e942", "cuda:MIG-1d868de8-e942"), {}, "devices"),
        ("cuda", ("cuda:GPU-0c757cd7-e942", "cuda:1"), {}, "devices"),
        ("cuda", ("cuda:0", "cuda:0"), {}, "devices"),
        ("cuda", ("cuda:0", "metal:0"), {}, "devices"),
        ("cuda", tuple(f"cuda:{i}" for i in range(17)), {}, "devices"),
        ("metal", ("metal:0", "metal:1"), {}, "devices"),
        ("cuda", ("cuda:0",), {"tensor_split": (1.0,)}, "tensor_split"),
        ("cuda", TWO, {"tensor_split": (1.0,)}, "tensor_split"),
        ("cuda", TWO, {"tensor_split": (0.0, 0.0)}, "tensor_split"),
        ("cuda", TWO, {"tensor_split": (float("nan"), 1.0)}, "tensor_split"),
        ("cuda", TWO, {"tensor_split": (1.0, 1.0), "split_mode": "none", "main_gpu": 0}, "tensor_split"),
        ("cuda", TWO, {"split_mode": "none"}, "split_mode"),
        ("cuda", ("cuda:0",), {"split_mode": "row"}, "split_mode"),
        ("cuda", TWO, {"main_gpu": 0}, "main_gpu"),
        ("cuda", TWO, {"split_mode": "none", "main_gpu": 2}, "main_gpu"),
    ],
)
def test_what_contradicts_itself_is_refused(backend: str, devices: tuple[str, ...], options: dict[str, Any], field: str) -> None:
    with pytest.raises(RbeesError) as caught:
        check_device_options(backend, devices, DeviceOptions(**options))
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    assert caught.value.details == {"field": field}
    assert caught.value.message.endswith(".")


def test_what_is_left_out_is_as_the_defaults_say() -> None:
    defaults = DeviceOptions(kv_type_k="q8_0", flash_attention="on", load_mode="mmap")
    command = SpawnCommand(model_ref="m", kv_type_k="f32", tensor_split=(1.0, 2.0))
    assert options_of(SpawnCommand(model_ref="m")) == NOTHING_ASKED
    merged = with_defaults(options_of(command), defaults)
    assert merged == DeviceOptions(kv_type_k="f32", flash_attention="on", load_mode="mmap", tensor_split=(1.0, 2.0))


def test_bytes_of_keys_and_values_follow_their_type() -> None:
    assert [kv_bytes(64, kind) for kind in (None, "f16", "f32", "bf16")] == [128, 128, 256, 128]
    assert [kv_bytes(64, kind) for kind in ("q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")] == [68, 48, 44, 40, 36, 36]
    assert fits_heads("q8_0", 64)
    assert not fits_heads("q8_0", 80)
    assert fits_heads(None, 80)
