"""Measures what the doctor asks about this machine: compiler, backends, ports, disks. What it means is said in `findings.py`.

A backend is tried in a child process, by the program itself: a driver or a kernel that kills whoever calls it must not kill the
doctor, and the inference library is never loaded here.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rbees.host import findings
from rbees.host.backends import library_folder, problem_of
from rbees.host.build_flags import AMX_ARGS
from rbees.host.findings import Finding
from rbees.host.worker_spec import visible_devices
from rbees.protocol import codec
from rbees.protocol.errors import ErrorEnvelope, RbeesError
from rbees.protocol.pools import Device
from rbees.protocol.workers import Backend
from rbees.service.catalog import PACKAGED_MODELS
from rbees.service.extras import install_command

TRIAL_LIMIT_S: Final = 300.0
"""A first call on some GPUs compiles kernels for minutes."""
COMPILE_LIMIT_S: Final = 60.0
_PROGRAM: Final = b"#include <cstdio>\nint main() { return 0; }\n"


@dataclass(frozen=True, slots=True)
class Tried:
    """How a trial ended: in a sentence if it failed, and by which signal if it was killed."""

    said: bytes
    problem: str | None = None
    signal: str | None = None


def compiler_problem() -> str | None:
    """Why no C++ program can be built here, as a sentence with what to do; None if one can. Blocks for a second."""
    compiler = shutil.which(os.environ.get("CXX") or "c++")
    how = "Debian, Ubuntu: apt-get install build-essential; Fedora: dnf install gcc-c++; macOS: xcode-select --install"
    if compiler is None:
        return f"No C++ compiler is here; install one ({how})."
    try:
        done = subprocess.run(
            [compiler, "-x", "c++", "-o", os.devnull, "-"],
            input=_PROGRAM,
            capture_output=True,
            timeout=COMPILE_LIMIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return f"The C++ compiler {compiler} cannot be run; install another ({how})."
    return f"The C++ compiler {compiler} cannot build a program: its headers are missing ({how})." if done.returncode else None


def try_backends(devices: Sequence[Device]) -> Iterator[Finding]:
    """For each device whether workers can compute on it, tried for real; the CPU comes first. Blocks for seconds each."""
    folder = library_folder()
    for device in sorted(devices, key=lambda device: (device.backend != "cpu", device.device_id)):
        problem = problem_of(device.backend, folder, device.vendor)
        if problem is not None:
            verdict = findings.failed if device.backend == "cpu" else findings.warning
            yield verdict("backend", f"{device.name} ({device.device_id}) lies idle: {problem}", device=device.device_id)
        else:
            yield _tried(device)


def packaged_model() -> Path:
    """The smallest of the models that come with rbees."""
    return min(PACKAGED_MODELS.glob("*.gguf"), key=lambda path: path.stat().st_size)


def port_error(bind: str, port: int) -> int:
    """Why nobody can listen there now, as a number of errno(3); 0 if one can."""
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As the daemon itself does: what an earlier one left in TIME_WAIT does not count as taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((bind.strip("[]"), port))
            probe.listen()
        except OSError as error:
            return error.errno or errno.EIO
    return 0


def free_bytes(folder: Path) -> int:
    """Room on the disk that holds a folder, or would hold it."""
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    return shutil.disk_usage(existing).free


def _tried(device: Device) -> Finding:
    place = f"{device.name} ({device.device_id})"
    result = _try(device.backend, device.device_id)
    if result.problem is None:
        # How fast is for a benchmark: of so few tokens any figure would be noise.
        return findings.ok("backend", f"{place} loads a model and decodes {_decoded(result.said)} tokens.", device=device.device_id)
    if result.signal is None:
        return findings.failed("backend", f"{place} does not work: {result.problem}", device=device.device_id)
    if _try(device.backend, device.device_id, "--safe-mode").problem is None:
        again = install_command("llama", "--force-reinstall", "--no-cache-dir", "--no-binary", "llama-cpp-python")
        message = (
            f"{place} works in safe mode only, which is slower: fast kernels die of {result.signal} here; "
            f'build without them, `CMAKE_ARGS="{AMX_ARGS}" {again}`.'
        )
        return findings.warning("backend", message, device=device.device_id, signal=result.signal)
    return findings.failed("backend", f"{place} does not work: {result.problem}", device=device.device_id, signal=result.signal)


def _try(backend: Backend, device: str, *more: str) -> Tried:
    words = ("workerd", "try", "--model", str(packaged_model()), "--backend", backend, "--device", device, "--ctx", "256", "--json")
    # NVML numbers devices by PCI bus, and so the workers of a pool do.
    environment = {**os.environ, "CUDA_DEVICE_ORDER": "PCI_BUS_ID", **visible_devices((device,))}
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "rbees", *words, *more],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TRIAL_LIMIT_S,
            env=environment,
            cwd="/",
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Tried(b"", f"it had not answered after {TRIAL_LIMIT_S / 60:.0f} minutes; its driver may hang.")
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        return Tried(b"", f"the process that used it was killed by {name}; look at the driver's log (`dmesg`).", name)
    return Tried(done.stdout, None if done.returncode == 0 else _reason(done.stderr))


def _reason(stderr: bytes) -> str:
    """What the child said of its failure, which is one of our own sentences."""
    lines = stderr.strip().splitlines()
    try:
        return codec.decode(lines[-1] if lines else b"", ErrorEnvelope).error.message
    except RbeesError:
        return "the process that used it ended without a word; run `rbees workerd try` to see more."


def _decoded(said: bytes) -> int | str | bool:
    return codec.decode(said, dict[str, int | str | bool])["decoded_tokens"]
