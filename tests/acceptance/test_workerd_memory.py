"""`rbees workerd memory` beside real loads: what is reckoned is what the library then takes, for models of several shapes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import gguf
import pytest

from rbees.host.gguf import read_header
from rbees.host.model_facts import facts, shape_of
from rbees.protocol.demand import demand
from rbees.protocol.device_options import DeviceOptions, FlashAttention
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.workerd.adapters import read_adapters
from rbees.workerd.engine.backend import LoadSpec
from rbees.workerd.engine.llama import load, reckoning
from rbees.workerd.engine.llama.log import LibraryLog
from rbees.workerd.loading import load_backend
from rbees.workerd.memory import Need, Place, as_text, ask
from tests.support.tiny_bert import TinyBert
from tests.support.tiny_gguf import write_tiny_gguf
from tests.support.tiny_lora import write_lora
from tests.support.tiny_mamba import write_tiny_mamba

HAIKU = Path(__file__).parents[2] / "rbees" / "host" / "data" / "models" / "haiku.gguf"
HUNDREDTH_MIB = (1 << 20) // 100
"""The library writes sizes with two digits behind the point."""


def spec(path: Path, *, slots: int = 4, ctx: int = 512, adapters: tuple[str, ...] = (), **options: Any) -> LoadSpec:
    cells, pooling = options.pop("cells", None), options.pop("pooling", None)
    return LoadSpec(
        str(path),
        "cpu",
        "cpu",
        slots,
        ctx,
        cells,
        1,
        options=DeviceOptions(**options),
        adapters=read_adapters(adapters),
        pooling=pooling,
    )


def taken_by(asked: LoadSpec, monkeypatch: pytest.MonkeyPatch) -> tuple[Counter[str], int]:
    """What a real load of the same spec takes, by kind, as the library writes it, and its KV cells."""
    logs: list[LibraryLog] = []

    class Recording(LibraryLog):
        def __init__(self) -> None:
            super().__init__()
            logs.append(self)

    monkeypatch.setattr(load, "LibraryLog", Recording)
    backend = load_backend(asked, lambda _: True)
    cells = backend.facts.cells
    backend.close()
    taken: Counter[str] = Counter()
    for (kind, _), size in logs[0].footprint.buffers.items():
        taken[kind] += size
    return taken, cells


CASES: dict[str, dict[str, Any]] = {
    "embedded": {},
    "embedded, many slots": {"slots": 40, "ctx": 256},
    "embedded, read": {"load_mode": "none"},
    "wide": {"ctx": 2_048},
    "wide, cells of its own": {"cells": 3_000, "ctx": 2_048},
    "wide, eight bits": {"kv_type_k": "q8_0", "kv_type_v": "q4_0"},
    "wide, no flash attention": {"flash_attention": "off"},
    "deep": {},
    "mamba": {},
    "deep, vectors too": {"pooling": "mean"},
    "bert": {"ctx": 64},
    "bert, long texts": {"ctx": 16_384},
    "bert, long texts, no flash attention": {"ctx": 4_096, "flash_attention": "off"},
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_reckoned_is_what_a_load_takes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.gguf"
    match name.partition(",")[0]:
        case "embedded":
            path = HAIKU
        case "wide":
            write_tiny_gguf(path, width=512, heads=8, heads_kv=4, layers=3)
        case "deep":
            write_tiny_gguf(path, layers=12)
        case "mamba":
            write_tiny_mamba(path)
        case "bert":
            TinyBert(context_length=CASES[name]["ctx"]).write(path, gguf.PoolingType.MEAN)
    asked = spec(path, **{"load_mode": "none", **CASES[name]})
    need = ask(asked)
    taken, cells = taken_by(asked, monkeypatch)
    (place,) = need.places
    assert place.place == "cpu"
    assert place.weights_bytes == pytest.approx(taken["model"], rel=0.002, abs=2 * HUNDREDTH_MIB)
    assert place.kv_bytes == pytest.approx(taken["KV"] + taken["RS"], abs=2 * HUNDREDTH_MIB)
    assert place.compute_bytes == taken["compute"]
    assert place.outputs_bytes == taken["output"]
    assert need.total_bytes == pytest.approx(taken.total(), rel=0.005)
    assert need.kv_cells == (0 if name.startswith("bert") else cells)


@pytest.mark.parametrize(
    ("ctx", "flash_attention"), [(512, "auto"), (1_000, "auto"), (4_096, "auto"), (16_384, "auto"), (8_192, "off")]
)
def test_a_preflight_knows_that_a_text_for_vectors_is_computed_in_one_call(
    tmp_path: Path, ctx: int, flash_attention: FlashAttention
) -> None:
    path = TinyBert(context_length=ctx).write(tmp_path / "bert.gguf", gguf.PoolingType.MEAN)
    (place,) = ask(spec(path, ctx=ctx, flash_attention=flash_attention)).places
    header = read_header(path)
    bert = facts(shape_of(header), ref="file:bert", aliases=(), sha256="", file_name=path.name, size_bytes=header.file_bytes)
    needed = demand(bert, ctx=ctx, slots=4, options=DeviceOptions(flash_attention=flash_attention))
    reckoned = needed.compute_bytes + needed.runtime_bytes
    assert place.compute_bytes + place.outputs_bytes <= reckoned <= place.compute_bytes * 1.05 + (100 << 20)


def test_adapters_are_reckoned_with(tmp_path: Path) -> None:
    adapter = write_lora(tmp_path / "a.gguf", HAIKU, rank=16)
    plain, adapted = ask(spec(HAIKU)), ask(spec(HAIKU, adapters=(str(adapter),)))
    assert adapted.places[0].adapters_bytes == pytest.approx(adapter.stat().st_size, rel=0.2)
    assert plain.places[0].adapters_bytes == 0
    assert adapted.total_bytes > plain.total_bytes


def test_what_layers_on_devices_take_is_told_apart() -> None:
    """Where there is no accelerator, from what the library writes where there is one."""
    lines = [
        "load_tensors: layer   0 assigned to device CPU, is_swa = 0",
        "load_tensors: layer   1 assigned to device CUDA0, is_swa = 0",
        "load_tensors: layer   2 assigned to device CUDA1, is_swa = 0",
        "llama_kv_cache: layer   0: dev = CPU",
        "llama_kv_cache: layer   1: dev = CUDA0",
        "llama_kv_cache: size =   12.00 MiB (  4096 cells,   2 layers,  4/1 seqs), K (f16):    6.00 MiB, V (f16):    6.00 MiB",
        "llama_memory_recurrent, layer   1: dev = CUDA1",
        "llama_memory_recurrent: size =    3.00 MiB (     4 cells,   1 layers,  4 seqs  0 rs_seq), R (f32):    1.00 MiB",
    ]
    names = {"CUDA0": "cuda:0", "CUDA1": "cuda:1"}
    mib = 1 << 20
    assert reckoning.cells_of(lines, names) == {"cpu": 6 * mib, "cuda:0": 6 * mib, "cuda:1": 3 * mib}
    tensors = [("token_embd.weight", 10), ("blk.0.attn_q.weight", 3), ("blk.1.ffn_up.weight", 5), ("output_norm.weight", 1)]
    assert reckoning.weights_of(lines, tensors, 19 + 10, names) == {"cpu": 13, "cuda:0": 5, "cuda:1": 11}


@pytest.mark.parametrize(
    ("content", "code"),
    [(b"not a model", ErrorCode.MODEL_INCOMPATIBLE), (b"GGUF", ErrorCode.MODEL_INCOMPATIBLE), (None, ErrorCode.MODEL_NOT_FOUND)],
)
def test_what_cannot_be_reckoned_with_is_refused(tmp_path: Path, content: bytes | None, code: ErrorCode) -> None:
    path = tmp_path / "model.gguf"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RbeesError) as caught:
        ask(spec(path))
    assert caught.value.code is code


def test_a_context_without_heads_that_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RbeesError) as caught:
        ask(spec(write_tiny_gguf(tmp_path / "odd.gguf"), kv_type_k="q8_0"))
    assert caught.value.details == {"field": "kv_type_k", "head_length": 16}


@pytest.mark.parametrize("pooling", [None, "mean"])
def test_cells_for_each_slot_are_refused_where_memory_cannot_be_cut(tmp_path: Path, pooling: str | None) -> None:
    path = write_tiny_mamba(tmp_path / "mamba.gguf")
    asked = spec(path, kv_layout="per_slot", pooling=pooling)
    for refusing in (ask, lambda asked: load_backend(asked, lambda _: True)):
        with pytest.raises(RbeesError, match="leave the KV layout `per_slot` out") as caught:
            refusing(asked)
        assert (caught.value.code, caught.value.details) == (ErrorCode.MODEL_INCOMPATIBLE, {"field": "kv_layout"})
    assert ask(spec(path, kv_layout="unified", pooling=pooling)).kv_cells == 4 * 512


def test_vectors_alone_have_no_cells_to_divide(tmp_path: Path) -> None:
    path = TinyBert().write(tmp_path / "bert.gguf", gguf.PoolingType.MEAN)
    assert ask(spec(path, kv_layout="per_slot")).kv_cells == 0


def test_the_command_prints_a_table_or_json() -> None:
    words = [sys.executable, "-m", "rbees", "workerd", "memory", f"--model={HAIKU}", "--slots=2", "--ctx=128"]
    shown = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert shown.splitlines()[0].split() == ["weights", "adapters", "kv", "compute", "outputs", "total"]
    assert shown.splitlines()[-1].endswith("MiB for 2 × 128 tokens (384 KV cells); all in MiB."), (
        "one slot more to move others about"
    )
    found = json.loads(subprocess.run([*words, "--json"], capture_output=True, text=True, check=True).stdout)
    assert found["total_bytes"] == sum(place["total_bytes"] for place in found["places"])
    refused = subprocess.run([*words, "--gpu-layers=3"], capture_output=True, text=True, check=False)
    assert (refused.returncode, "`--gpu-layers` is for cuda and metal" in refused.stderr) == (78, True)


def test_a_file_that_was_cut_is_told_to_be_truncated(tmp_path: Path) -> None:
    (tmp_path / "cut.gguf").write_bytes(HAIKU.read_bytes()[:1_500_000])
    with pytest.raises(RbeesError) as caught:
        ask(spec(tmp_path / "cut.gguf"))
    assert caught.value.message == "The model file is truncated: it ends inside its tensor data; copy or download it again."


def test_several_places_stand_below_each_other() -> None:
    sizes = dict.fromkeys(("weights_bytes", "adapters_bytes", "kv_bytes", "compute_bytes", "outputs_bytes"), 1 << 20)
    places = tuple(Place(place=name, total_bytes=5 << 20, **sizes) for name in ("cpu", "cuda:0"))
    text = as_text(Need(ctx=64, slots=1, kv_cells=64, places=places, total_bytes=10 << 20))
    assert [line.split()[0] for line in text.splitlines()[1:3]] == ["cpu", "cuda:0"]
    assert "10.00 MiB" in text
