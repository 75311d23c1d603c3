"""How a model is laid on devices: what reaches llama.cpp, and on the CPU what comes of it.

Where there is no accelerator, what would go to one is shown by the parameters that the library is called with.
"""

from __future__ import annotations

import ctypes
import time
from pathlib import Path
from typing import Any

import llama_cpp as ll
import pytest

from rbees.protocol.device_options import DeviceOptions, KvType, LoadMode, kv_bytes
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.sampling import Sampling
from rbees.workerd.engine.backend import Backend, LoadSpec
from rbees.workerd.engine.engine import Engine
from rbees.workerd.engine.llama import devices, load
from rbees.workerd.engine.llama.devices import Accelerator
from rbees.workerd.engine.llama.footprint import Footprint
from rbees.workerd.engine.llama.log import LibraryLog
from rbees.workerd.engine.llama.residency import drop_mapped_pages
from rbees.workerd.engine.sequence import Work
from rbees.workerd.loading import load_backend
from tests.support.scripted_models import ids_of, run_out
from tests.support.tiny_gguf import write_tiny_gguf
from tests.support.worker_process import running_worker

MIB = 1 << 20


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Heads of 32, so that every KV type fits."""
    return write_tiny_gguf(tmp_path_factory.mktemp("models") / "tiny.gguf", seed=3, width=128, heads=4, heads_kv=2)


def spec(path: Path, backend: Any = "cpu", device: str = "cpu", **options: Any) -> LoadSpec:
    return LoadSpec(str(path), backend, device, 2, 256, None, 1, options=DeviceOptions(**options))


def answer(backend: Backend) -> list[int]:
    engine = Engine(backend, slots=2, now=time.monotonic)
    prompt = tuple(backend.tokenize("of bees", add_special=True, parse_special=True))
    engine.submit(Work("job", prompt, (), 24, Sampling(temperature=0, ignore_eos=True), True))
    return ids_of(run_out(engine), "job")


def footprints(monkeypatch: pytest.MonkeyPatch) -> list[Footprint]:
    """What the library will say of its buffers, load by load."""
    seen: list[Footprint] = []

    class Recording(LibraryLog):
        def __init__(self) -> None:
            super().__init__()
            seen.append(self.footprint)

    monkeypatch.setattr(load, "LibraryLog", Recording)
    return seen


@pytest.mark.parametrize("kv_type", ["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"])
def test_every_kv_type_computes_and_takes_what_it_should(tiny: Path, kv_type: KvType, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = footprints(monkeypatch)
    backend = load_backend(spec(tiny, kv_type_k=kv_type, kv_type_v=kv_type), lambda _: True)
    assert len(answer(backend)) == 24
    cells, layers, vector = backend.facts.cells, 2, 2 * 32
    backend.close()
    assert seen[0].buffers["KV", "CPU"] == pytest.approx(2 * kv_bytes(cells * layers * vector, kv_type), abs=MIB // 100)


def test_keys_and_values_may_be_stored_differently(tiny: Path) -> None:
    plain = load_backend(spec(tiny), lambda _: True)
    mixed = load_backend(spec(tiny, kv_type_k="f32", kv_type_v="q8_0", flash_attention="on"), lambda _: True)
    same = sum(a == b for a, b in zip(answer(plain), answer(mixed), strict=True))
    assert same >= 8, "eight bits are near enough for the first tokens at least"
    plain.close()
    mixed.close()


def test_flash_attention_may_be_off(tiny: Path) -> None:
    backend = load_backend(spec(tiny, flash_attention="off", kv_type_k="q8_0"), lambda _: True)
    assert len(answer(backend)) == 24
    backend.close()


def test_a_kv_type_that_does_not_fit_the_heads_is_refused_with_their_length(tmp_path: Path) -> None:
    odd = write_tiny_gguf(tmp_path / "odd.gguf")
    with pytest.raises(RbeesError) as caught:
        load_backend(spec(odd, kv_type_v="q8_0"), lambda _: True)
    assert caught.value.code is ErrorCode.MODEL_INCOMPATIBLE
    assert caught.value.details == {"field": "kv_type_v", "head_length": 16}


@pytest.mark.parametrize("mode", ["auto", "none", "mmap", "mlock", "mmap+mlock", "direct-io"])
def test_every_way_to_read_the_weights_gives_the_same_model(tiny: Path, mode: LoadMode) -> None:
    backend = load_backend(spec(tiny, load_mode=mode), lambda _: True)
    plain = load_backend(spec(tiny), lambda _: True)
    assert answer(backend) == answer(plain)
    backend.close()
    plain.close()


def test_pages_that_were_only_read_do_not_stay_resident(tmp_path: Path) -> None:
    """They come back when they are touched, so the answer is the same."""
    path = write_tiny_gguf(tmp_path / "wide.gguf", width=512, heads=8, heads_kv=8, layers=4)
    kept = load_backend(spec(path, load_mode="none"), lambda _: True)
    mapped = load_backend(spec(path), lambda _: True)
    assert drop_mapped_pages(str(path)) >= path.stat().st_size * 0.9
    assert resident_of(path) == 0
    assert answer(mapped) == answer(kept)
    assert resident_of(path) > 0
    kept.close()
    mapped.close()


def resident_of(path: Path) -> int:
    """KiB of the file that this process has in memory."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        if "-" in line.partition(" ")[0]:
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            total += int(line.split()[1])
    return total


class Library:
    """Stands in for a library that sees accelerators: what it is called with, and never a model."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]) -> None:
        self.known = [Accelerator(4096 * (i + 1), name) for i, name in enumerate(names)]
        self.params: dict[str, Any] = {}
        monkeypatch.setattr(devices, "accelerators", lambda _backend: self.known)
        monkeypatch.setattr(ll, "llama_supports_gpu_offload", lambda: True)
        monkeypatch.setattr(ll, "llama_model_load_from_file", self._load)

    def _load(self, _path: bytes, params: Any) -> None:
        self.params = {name: getattr(params, name) for name in ("n_gpu_layers", "split_mode", "main_gpu", "load_mode")}
        self.params["devices"] = _until_null(params.devices)
        self.params["tensor_split"] = [params.tensor_split[i] for i in range(len(self.known))] if params.tensor_split else None


def _until_null(address: int) -> list[int]:
    """The list of pointers that ends with a null pointer."""
    found: list[int] = []
    while (value := ctypes.c_void_p.from_address(address + ctypes.sizeof(ctypes.c_void_p) * len(found)).value) is not None:
        found.append(value)
    return found


@pytest.mark.parametrize(
    ("device", "options", "expected"),
    [
        ("cuda:1", {}, {"devices": [8192], "n_gpu_layers": -1, "split_mode": "NONE", "main_gpu": 0, "tensor_split": None}),
        ("cuda:0", {"gpu_layers": 7}, {"devices": [4096], "n_gpu_layers": 7, "split_mode": "NONE"}),
        ("cuda:0", {"gpu_layers": 0, "load_mode": "none"}, {"n_gpu_layers": 0, "load_mode": "NONE"}),
        ("cuda:2,cuda:0", {}, {"devices": [12288, 4096], "split_mode": "LAYER", "tensor_split": None}),
        (
            "cuda:0,cuda:1,cuda:2",
            {"split_mode": "row", "tensor_split": (3.0, 1.0, 0.5)},
            {"devices": [4096, 8192, 12288], "split_mode": "ROW", "tensor_split": [3.0, 1.0, 0.5]},
        ),
        ("cuda:0,cuda:1", {"split_mode": "none", "main_gpu": 1}, {"devices": [4096, 8192], "split_mode": "NONE", "main_gpu": 1}),
    ],
)
def test_what_is_asked_of_accelerators_reaches_the_library(
    tiny: Path, device: str, options: dict[str, Any], expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    library = Library(monkeypatch, ("CUDA0", "CUDA1", "CUDA2"))
    with pytest.raises(RbeesError):
        load_backend(spec(tiny, "cuda", device, **options), lambda _: True)
    for name, value in expected.items():
        prefix = {"split_mode": "LLAMA_SPLIT_MODE_", "load_mode": "LLAMA_LOAD_MODE_"}.get(name)
        assert library.params[name] == (getattr(ll, prefix + value) if prefix else value), name


def test_devices_that_go_by_uuids_are_those_that_cuda_was_told_to_show(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA numbers what it shows from 0, in the order in which it was told."""
    library = Library(monkeypatch, ("CUDA0",))
    instance = "MIG-0c757cd7-e942-5726-a0b8-0e8fb7067135"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(RbeesError) as caught:
        load_backend(spec(tiny, "cuda", f"cuda:{instance}"), lambda _: True)
    assert caught.value.code is ErrorCode.BACKEND_UNAVAILABLE
    assert f"`CUDA_VISIBLE_DEVICES={instance}`" in caught.value.message
    assert library.params == {}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", instance)
    with pytest.raises(RbeesError):
        load_backend(spec(tiny, "cuda", f"cuda:{instance}"), lambda _: True)
    assert library.params["devices"] == [4096]


def test_metal_has_a_device_of_its_own_name(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library(monkeypatch, ("MTL0",))
    with pytest.raises(RbeesError):
        load_backend(spec(tiny, "metal", "metal:0", gpu_layers=3), lambda _: True)
    assert (library.params["devices"], library.params["n_gpu_layers"]) == ([4096], 3)


def test_a_device_that_is_not_there_is_refused_before_the_load(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library(monkeypatch, ("CUDA0", "CUDA1"))
    with pytest.raises(RbeesError) as caught:
        load_backend(spec(tiny, "cuda", "cuda:5"), lambda _: True)
    assert caught.value.code is ErrorCode.BACKEND_UNAVAILABLE
    assert caught.value.details == {"devices": ["cuda:0", "cuda:1"]}
    assert library.params == {}


def test_the_registry_of_the_real_library_is_read() -> None:
    """Without an accelerator it holds none, and with one it names it."""
    found = devices.accelerators("cuda")
    assert bool(found) <= ll.llama_supports_gpu_offload()
    assert all(device.handle and device.name for device in found)


def test_what_is_on_devices_is_counted_by_the_librarys_own_words() -> None:
    footprint = Footprint()
    for line in (
        "load_tensors:        CUDA0 model buffer size =   300.50 MiB",
        "load_tensors:   CPU_Mapped model buffer size =   137.94 MiB",
        "llama_kv_cache:      CUDA0 KV buffer size =    96.00 MiB",
        "llama_kv_cache:      CUDA0 KV buffer size =    12.00 MiB",
        "sched_reserve:      CUDA0 compute buffer size =    50.00 MiB",
        "sched_reserve:      CUDA0 compute buffer size =    40.25 MiB",
        "sched_reserve:  CUDA_Host compute buffer size =    10.00 MiB",
        "llama_context: CUDA_Host  output buffer size =     4.00 MiB",
        "llama_context: n_ctx = 4096",
    ):
        footprint.note(line)
    assert footprint.bytes_on(("CUDA0",)) == round((300.5 + 96 + 12 + 40.25) * MIB)
    assert footprint.bytes_on(("CUDA1",)) == 0


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--gpu-layers=3"], "`--gpu-layers` is for cuda and metal"),
        (["--kv-type-v=q4_0", "--flash-attention=off"], "leave `--flash-attention` out"),
        (["--device=cuda:0"], "does not run on a device"),
        (["--split-mode=layer"], "`--split-mode` is for cuda and metal"),
    ],
)
async def test_contradicting_flags_end_a_worker_before_it_loads(
    tiny: Path, tmp_path: Path, flags: list[str], sentence: str
) -> None:
    async with running_worker(tiny, tmp_path, *flags, backend="cpu") as worker:
        assert await worker.ended() == 78
        assert sentence in worker.log
