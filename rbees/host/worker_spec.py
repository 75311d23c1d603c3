"""PURE: how a worker process is started, as data, and as the command line from which the same data can be read back.

The command line is the last record of a worker that survives the loss of its pool's state, so everything needed to adopt
the process stands in it; the secret never does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from rbees.protocol.device_options import DeviceOptions, cuda_uuids
from rbees.protocol.vectors import Pooling
from rbees.protocol.workers import Backend

PROGRAM: Final = ("-P", "-m", "rbees", "workerd", "serve")
"""`-P`: nothing is imported from the folder in which the process happens to start."""

ENVIRONMENT: Final = frozenset(
    {
        "CUDA_PATH",
        "CURL_CA_BUNDLE",
        "DYLD_LIBRARY_PATH",
        "HOME",
        "HSA_OVERRIDE_GFX_VERSION",
        "LANG",
        "LD_LIBRARY_PATH",
        "LOGNAME",
        "OMP_NUM_THREADS",
        "PATH",
        "PYTHONDONTWRITEBYTECODE",
        "PYTHONPATH",
        "RBEES_HOME",
        "TMPDIR",
        "TZ",
        "USER",
        "VIRTUAL_ENV",
        "XDG_CACHE_HOME",
        "XDG_CONFIG_HOME",
        "XDG_RUNTIME_DIR",
    }
)
ENVIRONMENT_PREFIXES: Final = ("LC_", "RBEES_WORKERD_")
FIXED_ENVIRONMENT: Final = {
    # llama.cpp's assertions would otherwise try to attach a debugger to the dying worker.
    "GGML_NO_BACKTRACE": "1",
    # NVML numbers devices by bus; CUDA would put the fastest first.
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
}


class WorkerSpec(DeviceOptions, frozen=True, kw_only=True):
    """One worker process to start, or found running."""

    worker_id: str
    nonce: str
    """`<owner>-<random>`: the owner is the pool's state folder in short, so that two pools never adopt each other's workers."""
    model_path: str
    model_ref: str
    model_sha256: str
    backend: Backend
    device: str
    """Its id, or the ids of several with commas between them."""
    slots: int
    ctx: int
    """KV cells per sequence."""
    threads: int | None = None
    """Compute threads: the cores that the host may use."""
    bind: str
    port: int = 0
    callback_url: str | None = None
    runtime_dir: str
    pooling: Pooling | None = None
    """How the model makes vectors, where the pool knows."""
    safe_mode: bool = False
    insecure_lan: bool = False
    allowed_host: str | None = None
    """The name by which other hosts call the worker, where that is not its address."""
    tls_cert_file: str | None = None
    tls_key_file: str | None = None
    tls_ca_file: str | None = None

    @property
    def devices(self) -> tuple[str, ...]:
        """The ids of the devices that it uses."""
        return tuple(self.device.split(","))


_VALUES: Final = {
    "worker_id": "--worker-id",
    "nonce": "--nonce",
    "model_path": "--model",
    "model_ref": "--model-ref",
    "model_sha256": "--model-sha256",
    "backend": "--backend",
    "device": "--device",
    "slots": "--slots",
    "ctx": "--ctx",
    "threads": "--threads",
    "gpu_layers": "--gpu-layers",
    "split_mode": "--split-mode",
    "main_gpu": "--main-gpu",
    "flash_attention": "--flash-attention",
    "kv_type_k": "--kv-type-k",
    "kv_type_v": "--kv-type-v",
    "kv_layout": "--kv-layout",
    "load_mode": "--load-mode",
    "pooling": "--pooling",
    "bind": "--bind",
    "port": "--port",
    "callback_url": "--callback-url",
    "runtime_dir": "--runtime-dir",
    "allowed_host": "--allowed-host",
    "tls_cert_file": "--tls-cert-file",
    "tls_key_file": "--tls-key-file",
    "tls_ca_file": "--tls-ca-file",
}
_LISTS: Final = {"tensor_split": "--tensor-split"}
_SWITCHES: Final = {"safe_mode": "--safe-mode", "insecure_lan": "--insecure-lan"}


def arguments(spec: WorkerSpec, secret_fd: int | None) -> list[str]:
    """The arguments after the interpreter, as an argument list."""
    words = [f"{flag}={value}" for name, flag in _VALUES.items() if (value := getattr(spec, name)) is not None]
    words += [f"{flag}={','.join(map(str, value))}" for name, flag in _LISTS.items() if (value := getattr(spec, name))]
    if secret_fd is not None:
        words.append(f"--secret-fd={secret_fd}")
    switches = [flag for name, flag in _SWITCHES.items() if getattr(spec, name)]
    return [*PROGRAM, *words, *switches]


def read_arguments(command_line: Sequence[str]) -> WorkerSpec | None:
    """The spec that `arguments` made, from a process's command line; None for every other process."""
    words = list(command_line)
    if tuple(words[1 : 1 + len(PROGRAM)]) != PROGRAM:
        return None
    given = dict(word.split("=", 1) for word in words[1 + len(PROGRAM) :] if "=" in word)
    found: dict[str, object] = {name: given[flag] for name, flag in _VALUES.items() if flag in given}
    found |= {name: given[flag].split(",") for name, flag in _LISTS.items() if flag in given}
    found |= {name: flag in words for name, flag in _SWITCHES.items()}
    try:
        return msgspec.convert(found, WorkerSpec, strict=False)
    except msgspec.ValidationError:
        return None


def environment(own: Mapping[str, str], devices: tuple[str, ...] = ()) -> dict[str, str]:
    """What of this process's environment a worker gets: listed names only, so that no credential slips through.

    `devices` are those that it is to use; where they go by uuids, CUDA is told in the environment.
    """
    passed = {name: value for name, value in own.items() if name in ENVIRONMENT or name.startswith(ENVIRONMENT_PREFIXES)}
    return passed | FIXED_ENVIRONMENT | visible_devices(devices)


def visible_devices(devices: tuple[str, ...]) -> dict[str, str]:
    """The variable by which CUDA shows a process these devices only; empty where they go by numbers."""
    uuids = cuda_uuids(devices)
    return {"CUDA_VISIBLE_DEVICES": ",".join(uuids)} if uuids else {}


def owner_of(nonce: str) -> str:
    """The pool that started the process."""
    return nonce.partition("-")[0]
