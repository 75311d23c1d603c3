"""How much memory there is to be had where an allocation failed."""

from __future__ import annotations

import ctypes
import resource
from dataclasses import replace

import psutil

from rbees.workerd.engine.backend import LoadSpec
from rbees.workerd.engine.llama.devices import chosen_devices
from rbees.workerd.engine.llama.library import ggml
from rbees.workerd.engine.shortage import Shortage


def with_available(shortage: Shortage, spec: LoadSpec) -> Shortage:
    """The shortage together with what is free now in the place that it names."""
    for device in chosen_devices(spec):
        if shortage.buffer is not None and shortage.buffer.split("_")[0] == device.name:
            return replace(shortage, available_bytes=_free_on(device.handle))
    return replace(shortage, available_bytes=_free_in_main_memory())


def _free_on(handle: int) -> int:
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    ggml.ggml_backend_dev_memory(ctypes.c_void_p(handle), ctypes.byref(free), ctypes.byref(total))
    return free.value


def _free_in_main_memory() -> int:
    """What the machine has to give, and no more than this process's own limit leaves it."""
    available = int(psutil.virtual_memory().available)
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return available
    return max(0, min(available, limit - int(psutil.Process().memory_info().vms)))
