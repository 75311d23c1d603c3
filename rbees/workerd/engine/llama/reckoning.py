"""What a model would take, asked of the library without loading its weights. Only for a process that may be ended by it.

The library then lays out all buffers and allocates few. Of what it writes, the sizes of compute and output buffers and the
sum of the KV cells are right; weights and KV cells are spread over devices here, by the layer that each belongs to.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from rbees.workerd.engine.abort_flag import make_flag
from rbees.workerd.engine.backend import LoadSpec
from rbees.workerd.engine.llama.adapters import load_adapters, put_in_force
from rbees.workerd.engine.llama.context import text_context
from rbees.workerd.engine.llama.devices import check_backend, chosen_devices
from rbees.workerd.engine.llama.embedding import make_embedder
from rbees.workerd.engine.llama.facts import cell_count, check_layout, sequence_length
from rbees.workerd.engine.llama.library import NotLoaded, ggml, ll, open_library
from rbees.workerd.engine.llama.log import LibraryLog
from rbees.workerd.engine.llama.model import check_kind, load_model

MAIN_MEMORY: Final = "cpu"
_MIB: Final = 1 << 20
_ASSIGNED: Final = re.compile(r"layer +(\d+) assigned to device (\S+),")
_CELLS_OF: Final = re.compile(r"(?:layer +\d+): dev = (\S+)")
_CELLS: Final = re.compile(r"size = +([\d.]+) MiB \( *\d+ cells, +\d+ layers")
_REASONS: Final = {
    "not within the file bounds": "is truncated: it ends inside its tensor data; copy or download it again",
    "failed to read tensor info": "is truncated: it ends inside the list of its tensors; copy or download it again",
    "failed to read key-value pairs": "is truncated or damaged: its header cannot be read; copy or download it again",
    "unknown model architecture": "is of an architecture that this version of llama.cpp does not know; update rbees",
    "missing tensor": "lacks a tensor that its architecture needs; convert the model again",
    "key not found in model": "lacks a value in its header that its architecture needs; convert the model again",
}
"""What the library's complaints mean, completing "The model file …"."""
_LAYER: Final = re.compile(r"blk\.(\d+)\.")


@dataclass(slots=True)
class Reckoned:
    """Bytes by place: `cpu` is main memory, `cuda:0` and so on are devices."""

    ctx: int
    cells: int
    weights: Counter[str] = field(default_factory=Counter)
    kv: Counter[str] = field(default_factory=Counter)
    compute: Counter[str] = field(default_factory=Counter)
    outputs: Counter[str] = field(default_factory=Counter)
    adapters: Counter[str] = field(default_factory=Counter)

    def kinds(self) -> tuple[Counter[str], ...]:
        """Weights, adapters, KV cells, compute and output buffers."""
        return self.weights, self.adapters, self.kv, self.compute, self.outputs


def reckon(spec: LoadSpec) -> Reckoned:
    """What a worker of this spec would take.

    Raises:
        NotLoaded
        RbeesError: MODEL_INCOMPATIBLE, BACKEND_UNAVAILABLE
    """
    log = _KeepingLog()
    open_library(log)
    check_backend(spec)
    model = _model(spec, log)
    check_kind(model)
    adapters = load_adapters(model, spec.adapters, log)
    flag = make_flag()
    embedder = make_embedder(spec, model, adapters, log, flag)
    log.footprint.settle()
    cells = 0
    if embedder is None or embedder.generates:
        check_layout(spec, model)
        context = text_context(spec, model, flag)
        put_in_force(context, adapters, spec.adapters)
        cells = cell_count(spec, model)
    names = {device.name: name for device, name in zip(chosen_devices(spec), spec.devices, strict=False)}
    reckoned = Reckoned(ctx=sequence_length(spec, model), cells=cells)
    reckoned.weights = weights_of(log.lines, _tensors(spec.path), int(ll.llama_model_size(model)), names)
    reckoned.kv = cells_of(log.lines, names)
    for kind, place in (("compute", reckoned.compute), ("output", reckoned.outputs), ("LoRA", reckoned.adapters)):
        for (found, buffer), size in log.footprint.buffers.items():
            if found == kind:
                place[_place(buffer, names)] += size
    return reckoned


def _model(spec: LoadSpec, log: LibraryLog) -> Any:
    """The model without its weights. Raises NotLoaded, with the reason: nobody sees the log of this process."""
    try:
        return load_model(spec, lambda _: True, without_weights=True)
    except NotLoaded as failure:
        reason = (
            log.meaning(_REASONS) or "cannot be loaded: it is damaged, or of a kind that this version of llama.cpp does not know"
        )
        raise NotLoaded(f"The model file {reason}.", **failure.details) from None


class _KeepingLog(LibraryLog):
    """Keeps all lines, which a worker does not."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def _write(self, line: str) -> None:
        self.lines.append(line)
        super()._write(line)


def weights_of(lines: list[str], tensors: list[tuple[str, int]], size: int, names: dict[str, str]) -> Counter[str]:
    """Tensors go where their layer goes, those of no layer with the output, and the embedding stays in main memory.

    What the library counts beyond the tensors of the file, `size` in all, are embeddings that it needs again as the output.
    """
    layers = {int(found[1]): _place(found[2], names) for line in lines if (found := _ASSIGNED.search(line))}
    last = layers.get(max(layers, default=0), MAIN_MEMORY)
    places: Counter[str] = Counter()
    for name, tensor_size in tensors:
        layer = _LAYER.match(name)
        outside = MAIN_MEMORY if name.startswith("token_embd") else last
        places[layers.get(int(layer[1]), MAIN_MEMORY) if layer else outside] += tensor_size
    places[last] += size - places.total()
    return places


def cells_of(lines: list[str], names: dict[str, str]) -> Counter[str]:
    """The library tells the device of each layer, then the size of all of them; a model may have several such memories."""
    places: Counter[str] = Counter()
    layers: Counter[str] = Counter()
    for line in lines:
        if found := _CELLS_OF.search(line):
            layers[_place(found[1], names)] += 1
        elif found := _CELLS.search(line):
            size, count = float(found[1]) * _MIB, max(1, layers.total())
            for place, there in layers.items():
                places[place] += round(size * there / count)
            layers.clear()
    return places


def _place(name: str, names: dict[str, str]) -> str:
    """Where a buffer or device of this name is: `CUDA_Host` and `CPU_REPACK` are main memory, `CUDA0` is a device."""
    return names.get(name.split("_")[0], MAIN_MEMORY)


class _GgufInit(ctypes.Structure):
    _fields_ = [("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p)]


def _tensors(path: str) -> list[tuple[str, int]]:
    """Name and bytes of each tensor of a file that the library has read already."""
    ggml.gguf_init_from_file.restype = ctypes.c_void_p
    ggml.gguf_init_from_file.argtypes = [ctypes.c_char_p, _GgufInit]
    ggml.gguf_get_n_tensors.restype = ctypes.c_int64
    ggml.gguf_get_n_tensors.argtypes = [ctypes.c_void_p]
    ggml.gguf_get_tensor_name.restype = ctypes.c_char_p
    ggml.gguf_get_tensor_name.argtypes = [ctypes.c_void_p, ctypes.c_int64]
    ggml.gguf_get_tensor_size.restype = ctypes.c_size_t
    ggml.gguf_get_tensor_size.argtypes = [ctypes.c_void_p, ctypes.c_int64]
    header = ggml.gguf_init_from_file(os.fsencode(path), _GgufInit(True, None))
    assert header, "the library has read this file already"
    return [
        (ggml.gguf_get_tensor_name(header, i).decode("utf-8", "replace"), int(ggml.gguf_get_tensor_size(header, i)))
        for i in range(ggml.gguf_get_n_tensors(header))
    ]
