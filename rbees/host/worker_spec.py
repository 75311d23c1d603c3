"""PURE: how a worker process is started, as data, and as the command line from which the same data can be read back.

The command line is the last record of a worker that survives the loss of its pool's state, so everything needed to adopt
the process stands in it; the secret never does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from rbees.protocol.codec import Message
from rbees.protocol.workers import Backend

PROGRAM: Final = ("-m", "rbees", "workerd", "serve")

ENVIRONMENT: Final = frozenset(
    {
        "CUDA_PATH",
        "CURL_CA_BUNDLE",
        "DYLD_LIBRARY_PATH",
        "HOME",
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


class WorkerSpec(Message, frozen=True, kw_only=True):
    """One worker process to start, or found running."""

    worker_id: str
    nonce: str
    """`<owner>-<random>`: the owner is the pool's state folder in short, so that two pools never adopt each other's workers."""
    model_path: str
    model_ref: str
    model_sha256: str
    backend: Backend
    device: str
    slots: int
    ctx: int
    """KV cells per sequence."""
    bind: str
    port: int = 0
    callback_url: str | None = None
    runtime_dir: str
    safe_mode: bool = False


def arguments(spec: WorkerSpec, secret_fd: int | None) -> list[str]:
    """The arguments after the interpreter, as an argument list."""
    options = {
        "--worker-id": spec.worker_id,
        "--nonce": spec.nonce,
        "--model": spec.model_path,
        "--model-ref": spec.model_ref,
        "--model-sha256": spec.model_sha256,
        "--backend": spec.backend,
        "--device": spec.device,
        "--slots": str(spec.slots),
        "--ctx": str(spec.ctx),
        "--bind": spec.bind,
        "--port": str(spec.port),
        "--runtime-dir": spec.runtime_dir,
    }
    if spec.callback_url is not None:
        options["--callback-url"] = spec.callback_url
    if secret_fd is not None:
        options["--secret-fd"] = str(secret_fd)
    words = [f"{name}={value}" for name, value in options.items()]
    return [*PROGRAM, *words, *(["--safe-mode"] if spec.safe_mode else [])]


def read_arguments(command_line: Sequence[str]) -> WorkerSpec | None:
    """The spec that `arguments` made, from a process's command line; None for every other process."""
    words = list(command_line)
    if tuple(words[1 : 1 + len(PROGRAM)]) != PROGRAM:
        return None
    found: dict[str, object] = {"safe_mode": "--safe-mode" in words}
    for word in words[1 + len(PROGRAM) :]:
        name, equals, value = word.partition("=")
        if equals and name.startswith("--"):
            found[name.removeprefix("--").replace("-", "_")] = value
    found["model_path"] = found.pop("model", None)
    try:
        return msgspec.convert(found, WorkerSpec, strict=False)
    except msgspec.ValidationError:
        return None


def environment(own: Mapping[str, str]) -> dict[str, str]:
    """What of this process's environment a worker gets: listed names only, so that no credential slips through."""
    passed = {name: value for name, value in own.items() if name in ENVIRONMENT or name.startswith(ENVIRONMENT_PREFIXES)}
    return passed | FIXED_ENVIRONMENT


def owner_of(nonce: str) -> str:
    """The pool that started the process."""
    return nonce.partition("-")[0]
