"""`python -m scripts.llama_source`: fetch llama.cpp's collection of chat templates into build/, for tests that use the real ones.

They lie in the source archive of llama-cpp-python, which pip fetches by the version and the hashes of requirements/runtime.txt;
nothing else is downloaded, and what is in build/ already is used again.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Final

FOLDER: Final = Path("build/llama-source")
TEMPLATES: Final = FOLDER / "templates"
LOCK: Final = Path("requirements/runtime.txt")
_COLLECTION: Final = "/vendor/llama.cpp/models/templates/"


def archive() -> Path:
    """The source archive; asked for as the lock has it, so that another archive is refused."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    found = list(FOLDER.glob("llama_cpp_python-*.tar.gz"))
    if not found:
        wanted = FOLDER / "wanted.txt"
        wanted.write_text(locked("llama-cpp-python"))
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "download", "--quiet"]
        pip += ["--no-deps", "--no-binary", "llama-cpp-python", "--require-hashes", "-r", str(wanted), "-d", str(FOLDER)]
        subprocess.run(pip, check=True)
        found = list(FOLDER.glob("llama_cpp_python-*.tar.gz"))
    return found[0]


def templates() -> Path:
    """The folder of the chat templates."""
    if not TEMPLATES.exists():
        unpacked = FOLDER / "unpacked"
        unpacked.mkdir(parents=True, exist_ok=True)
        with tarfile.open(archive()) as packed:
            for member in packed:
                if _COLLECTION in member.name and member.isfile():
                    member.name = Path(member.name).name
                    packed.extract(member, unpacked, filter="data")
        unpacked.rename(TEMPLATES)
    return TEMPLATES


def locked(name: str) -> str:
    """The lock's entry of one package: its version and hashes."""
    entry = re.search(rf"^{re.escape(name)}==.*?(?=^\S|\Z)", LOCK.read_text(), re.MULTILINE | re.DOTALL)
    assert entry is not None, f"{LOCK} does not name {name}"
    return entry[0]


if __name__ == "__main__":
    templates()
