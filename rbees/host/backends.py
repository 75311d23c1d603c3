"""Which inference backends this installation could run, found without loading the inference library.

The library is only ever loaded in worker processes: a daemon that never imports it cannot be taken down by it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from rbees.protocol.pools import Device
from rbees.protocol.workers import Backend

_LIBRARY: Final[dict[Backend, str]] = {"cuda": "libggml-cuda*", "metal": "libggml-metal*"}
_BUILD_FLAG: Final[dict[Backend, str]] = {"cuda": "-DGGML_CUDA=on", "metal": "-DGGML_METAL=on"}


def library_folder() -> Path | None:
    """Where llama-cpp-python keeps its shared libraries; None where it is not installed."""
    found = importlib.util.find_spec("llama_cpp")
    if found is None or not found.submodule_search_locations:
        return None
    return Path(found.submodule_search_locations[0]) / "lib"


def problem_of(backend: Backend, folder: Path | None) -> str | None:
    """Why `backend` cannot run with the libraries in `folder`, as a sentence with the command that helps; None if it can."""
    if backend == "scripted":
        return None
    if folder is None:
        return "llama-cpp-python is not installed here; run `pip install 'rbees[llama]'` (it needs a C++ compiler and CMake)."
    if backend in _LIBRARY and not any(folder.glob(_LIBRARY[backend])):
        flag = _BUILD_FLAG[backend]
        return (
            f"llama-cpp-python is built without {backend} here; run "
            f"`CMAKE_ARGS={flag} pip install --force-reinstall --no-binary llama-cpp-python 'rbees[llama]'`."
        )
    return None


def with_backend_problems(devices: Sequence[Device], folder: Path | None) -> tuple[Device, ...]:
    """The devices, with accelerators that no installed backend can use marked as unhealthy.

    The CPU stays as it is: the scripted backend runs there too, and a spawn says what is missing.
    """
    return tuple(_with_problem(device, folder) for device in devices)


def _with_problem(device: Device, folder: Path | None) -> Device:
    problem = problem_of(device.backend, folder)
    if problem is None or not device.healthy or device.backend == "cpu":
        return device
    return msgspec.structs.replace(device, healthy=False, problem=problem)
