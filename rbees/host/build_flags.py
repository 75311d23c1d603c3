"""PURE: how llama.cpp has to be built for what a host has: the flags for CMake, and what else must be installed for them.

Flags are those of llama.cpp's own docs/build.md. One accelerator is chosen, the one that workers can use best.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

Accelerator = Literal["cuda", "metal", "rocm", "vulkan"]

_NO_AMX: Final = "-mno-amx-int8 -mno-amx-bf16 -mno-amx-tile"
AMX_ARGS: Final = f"-DCMAKE_C_FLAGS='{_NO_AMX}' -DCMAKE_CXX_FLAGS='{_NO_AMX}'"
"""Leaves out the kernels for Intel's matrix unit, which virtual machines advertise and then kill the process for; AVX-512 stays."""
_FLAGS: Final[dict[Accelerator, str]] = {
    "cuda": "-DGGML_CUDA=on",
    "metal": "-DGGML_METAL=on",
    "rocm": "-DGGML_HIP=on",
    "vulkan": "-DGGML_VULKAN=on",
}


@dataclass(frozen=True, slots=True)
class Hardware:
    """What was found of accelerators and of what builds programs for them."""

    apple_silicon: bool = False
    nvidia: bool = False
    amd: bool = False
    intel: bool = False
    nvcc: bool = False
    hipcc: bool = False
    glslc: bool = False
    amx_in_vm: bool = False


@dataclass(frozen=True, slots=True)
class Build:
    """How to build. `lacks` says what would have to be installed for the accelerator that is here, None where nothing."""

    accelerator: Accelerator | None
    cmake_args: str
    about: str
    lacks: str | None = None


def build_for(found: Hardware) -> Build:
    """The build that serves this hardware best with what is installed."""
    accelerator, lacks = _accelerator(found)
    parts = [_FLAGS[accelerator]] if accelerator else []
    parts += [AMX_ARGS] if found.amx_in_vm else []
    names = {"cuda": "NVIDIA (CUDA)", "metal": "Apple (Metal)", "rocm": "AMD (ROCm)", "vulkan": "Vulkan"}
    about = f"for {names[accelerator]} and the CPU" if accelerator else "for the CPU"
    if accelerator == "vulkan":
        about += " (rbees has no backend for Vulkan, so workers compute on the CPU)"
    if found.amx_in_vm:
        about += ", without the AMX kernels that virtual machines die of"
    return Build(accelerator, " ".join(parts), about, lacks)


def has_amx_in_vm(cpuinfo: str) -> bool:
    """Whether /proc/cpuinfo shows both the matrix unit and a hypervisor."""
    words = set(re.findall(r"\w+", cpuinfo))
    return "amx_tile" in words and "hypervisor" in words


def _accelerator(found: Hardware) -> tuple[Accelerator | None, str | None]:
    if found.apple_silicon:
        return "metal", None
    if found.nvidia:
        return ("cuda", None) if found.nvcc else (None, "the CUDA toolkit (`nvcc`), for the NVIDIA device that is here")
    if found.amd and found.hipcc:
        return "rocm", None
    if (found.amd or found.intel) and found.glslc:
        return "vulkan", None
    if found.amd:
        return None, "ROCm (`hipcc`) or the Vulkan SDK (`glslc`), for the AMD device that is here"
    if found.intel:
        return None, "the Vulkan SDK (`glslc`), for the Intel device that is here"
    return None, None
