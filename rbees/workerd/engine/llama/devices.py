"""Which devices the library has, and the part of its parameters that says what each of them takes."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from typing import Any, Final

from rbees.protocol.device_options import ACCELERATORS, LoadMode, SplitMode, cuda_uuids
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.workerd.engine.backend import LoadSpec
from rbees.workerd.engine.llama.library import ggml, ll

_REGISTRIES: Final = {"cuda": frozenset({"CUDA", "ROCm", "MUSA"}), "metal": frozenset({"MTL"})}
"""What the library calls its backends; those of one row are built from the same source."""
_SPLIT_MODES: Final[dict[SplitMode, str]] = {
    "none": "LLAMA_SPLIT_MODE_NONE",
    "layer": "LLAMA_SPLIT_MODE_LAYER",
    "row": "LLAMA_SPLIT_MODE_ROW",
}
_LOAD_MODES: Final[dict[LoadMode, str]] = {
    "auto": "LLAMA_LOAD_MODE_AUTO",
    "none": "LLAMA_LOAD_MODE_NONE",
    "mmap": "LLAMA_LOAD_MODE_MMAP",
    "mlock": "LLAMA_LOAD_MODE_MLOCK",
    "mmap+mlock": "LLAMA_LOAD_MODE_MMAP_MLOCK",
    "direct-io": "LLAMA_LOAD_MODE_DIRECT_IO",
}
_ALL_LAYERS: Final = -1


@dataclass(frozen=True, slots=True)
class Accelerator:
    """A device of the library: its address there and its name, such as `CUDA0`."""

    handle: int
    name: str


def accelerators(backend: str) -> list[Accelerator]:
    """The library's devices of a backend, in the order of their indices."""
    for name in ("ggml_backend_dev_get", "ggml_backend_dev_backend_reg"):
        getattr(ggml, name).restype = ctypes.c_void_p
    for name in ("ggml_backend_dev_name", "ggml_backend_reg_name"):
        getattr(ggml, name).restype = ctypes.c_char_p
    ggml.ggml_backend_dev_count.restype = ctypes.c_size_t
    found = []
    for index in range(ggml.ggml_backend_dev_count()):
        handle = ggml.ggml_backend_dev_get(ctypes.c_size_t(index))
        registry = ctypes.c_void_p(ggml.ggml_backend_dev_backend_reg(ctypes.c_void_p(handle)))
        if ggml.ggml_backend_reg_name(registry).decode() in _REGISTRIES[backend]:
            found.append(Accelerator(handle, ggml.ggml_backend_dev_name(ctypes.c_void_p(handle)).decode()))
    return found


def check_backend(spec: LoadSpec) -> None:
    """Refuse a backend, a device or a way to load that this build of the library does not have.

    Raises:
        RbeesError: BACKEND_UNAVAILABLE
    """
    if spec.backend in ACCELERATORS:
        if not ll.llama_supports_gpu_offload():
            raise _not_built_for(spec.backend)
        chosen_devices(spec)
    mode = spec.options.load_mode or "auto"
    supported = {"mmap": ll.llama_supports_mmap, "mlock": ll.llama_supports_mlock}
    for part, is_supported in supported.items():
        if part in mode and not is_supported():
            raise RbeesError(
                ErrorCode.BACKEND_UNAVAILABLE, f"This build of llama.cpp has no {part}; leave `--load-mode` out, or ask for none."
            )


def chosen_devices(spec: LoadSpec) -> list[Accelerator]:
    """The library's accelerators that the spec names; none on the CPU.

    Raises:
        RbeesError: BACKEND_UNAVAILABLE where there is no such device.
    """
    if spec.backend not in ACCELERATORS:
        return []
    known = accelerators(spec.backend)
    indices = _indices(spec.devices)
    if max(indices) >= len(known):
        names = ", ".join(f"{spec.backend}:{index}" for index in range(len(known))) or "none"
        raise RbeesError(
            ErrorCode.BACKEND_UNAVAILABLE,
            f"llama.cpp sees no device {spec.backend}:{max(indices)} here, but {names}; name one of those with `--device`.",
            devices=[f"{spec.backend}:{index}" for index in range(len(known))],
        )
    return [known[index] for index in indices]


class DeviceParams:
    """Fills in `llama_model_params`; it holds what they point to, so it must live until the model is loaded."""

    def __init__(self, spec: LoadSpec) -> None:
        self._options = spec.options
        self._on_cpu = spec.backend not in ACCELERATORS
        handles = [device.handle for device in chosen_devices(spec)]
        # With none in it the list keeps a library that was built for a GPU off it.
        self._devices = (ctypes.c_void_p * (len(handles) + 1))(*handles, None)
        self._shares = (ctypes.c_float * max(ll.llama_max_devices(), len(handles)))(*self._options.tensor_split)

    def fill(self, params: Any) -> None:
        """Say in `params` where the weights go and how they are read."""
        options, several = self._options, len(self._devices) > 2
        params.devices = ctypes.addressof(self._devices)
        params.n_gpu_layers = 0 if self._on_cpu else _ALL_LAYERS if options.gpu_layers is None else options.gpu_layers
        params.split_mode = getattr(ll, _SPLIT_MODES[options.split_mode or ("layer" if several else "none")])
        params.main_gpu = options.main_gpu or 0
        if options.tensor_split:
            params.tensor_split = self._shares
        params.load_mode = getattr(ll, _LOAD_MODES[options.load_mode or "auto"])


def _indices(devices: tuple[str, ...]) -> list[int]:
    """The library's numbers of devices. By uuids CUDA was told which to show, and it numbers them in that order."""
    uuids = cuda_uuids(devices)
    if not uuids:
        return [int(device.partition(":")[2]) for device in devices]
    shown = ",".join(uuids)
    if os.environ.get("CUDA_VISIBLE_DEVICES") != shown:
        raise RbeesError(
            ErrorCode.BACKEND_UNAVAILABLE,
            f"Devices that go by their uuids are chosen by the environment; start the worker with `CUDA_VISIBLE_DEVICES={shown}`.",
        )
    return list(range(len(uuids)))


def _not_built_for(backend: str) -> RbeesError:
    flag = "GGML_CUDA" if backend == "cuda" else "GGML_METAL"
    return RbeesError(
        ErrorCode.BACKEND_UNAVAILABLE,
        f"This llama.cpp was built without {backend}; run "
        f"`CMAKE_ARGS=-D{flag}=on pip install --force-reinstall --no-cache-dir --no-binary llama-cpp-python llama-cpp-python`.",
    )
