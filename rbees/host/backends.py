"""Which inference backends this installation could run, found without loading the inference library.

The library is only ever loaded in worker processes: a daemon that never imports it cannot be taken down by it.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, get_args

import msgspec

from rbees.protocol.pools import Device
from rbees.protocol.workers import Backend
from rbees.service.extras import install_command

_CUDA: Final = ("libggml-cuda*", "-DGGML_CUDA=on")
_ROCM: Final = ("libggml-hip*", "-DGGML_HIP=on")
_METAL: Final = ("libggml-metal*", "-DGGML_METAL=on")
_BUILDS: Final[dict[tuple[Backend, str | None], tuple[tuple[str, str], ...]]] = {
    ("cuda", "nvidia"): (_CUDA,),
    ("cuda", "amd"): (_ROCM,),
    ("cuda", None): (_CUDA, _ROCM),
    ("metal", None): (_METAL,),
}
"""By backend and maker of the device: the libraries of which one is needed, each with the flag that has it built."""


def library_folder() -> Path | None:
    """Where llama-cpp-python keeps its shared libraries; None where it is not installed. Blocks on the disk."""
    # Installed a moment ago, it may be in a folder that the import system remembers without it.
    importlib.invalidate_caches()
    found = importlib.util.find_spec("llama_cpp")
    if found is None or not found.submodule_search_locations:
        return None
    return Path(found.submodule_search_locations[0]) / "lib"


def problem_of(backend: Backend, folder: Path | None, vendor: str | None = None) -> str | None:
    """Why `backend` cannot run with the libraries in `folder`, as a sentence with the command that helps; None if it can.

    Without the `vendor` of a device, any library of the backend will do.
    """
    if backend == "scripted":
        return None
    if folder is None:
        return f"llama-cpp-python is not installed here; run `{install_command('llama')}` (it needs a C++ compiler and CMake)."
    builds = _BUILDS.get((backend, vendor)) or _BUILDS.get((backend, None), ())
    if builds and not any(any(folder.glob(library)) for library, _ in builds):
        flag = builds[0][1]
        what = "ROCm" if builds[0] is _ROCM else backend
        return (
            f"llama-cpp-python is built without {what} here; run "
            f"`CMAKE_ARGS={flag} {install_command('llama', '--force-reinstall', '--no-binary', 'llama-cpp-python')}`."
        )
    return None


def with_backend_problems(
    devices: Sequence[Device], problems: Mapping[Backend, str | None], of_vendors: Mapping[str, str | None] | None = None
) -> tuple[Device, ...]:
    """The devices, with accelerators that no installed backend can use marked as unhealthy.

    `of_vendors` is what `Installation.of_vendors` says; it goes before `problems`. The CPU stays as it is: the scripted backend
    runs there too, and a spawn says what is missing.
    """
    known = of_vendors or {}
    return tuple(_with_problem(device, known.get(device.vendor or "", problems[device.backend])) for device in devices)


class Installation:
    """What can run here, as last looked: it changes while a daemon runs, when somebody follows the advice that it gave."""

    def __init__(self, find: Callable[[], Path | None] = library_folder) -> None:
        self._find = find
        self._problems: Mapping[Backend, str | None] = {}
        self._of_vendors: Mapping[str, str | None] = {}
        self.look()

    @property
    def problems(self) -> Mapping[Backend, str | None]:
        """For each backend why it cannot run, or None; answers at once."""
        return self._problems

    @property
    def of_vendors(self) -> Mapping[str, str | None]:
        """The same for the makers of devices that the backend `cuda` is built for in different ways."""
        return self._of_vendors

    def look(self) -> None:
        """Look again. Blocks on the disk; any thread may call it."""
        folder = self._find()
        self._problems = {backend: problem_of(backend, folder) for backend in get_args(Backend)}
        self._of_vendors = {vendor: problem_of("cuda", folder, vendor) for _, vendor in _BUILDS if vendor is not None}


def _with_problem(device: Device, problem: str | None) -> Device:
    if problem is None or not device.healthy or device.backend == "cpu":
        return device
    return msgspec.structs.replace(device, healthy=False, problem=problem)
