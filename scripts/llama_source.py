"""`python -m scripts.llama_source`: fetch llama.cpp's chat templates and vocabularies into build/, for tests that use them.

They lie in the source archive of llama-cpp-python, which pip fetches by the version and the hashes of requirements/runtime.txt;
nothing else is downloaded, and what is in build/ already is used again.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Final

FOLDER: Final = Path("build/llama-source")
TEMPLATES: Final = FOLDER / "templates"
LOCK: Final = Path("requirements/runtime.txt")
VOCABULARIES: Final = FOLDER / "vocabularies"
_TEMPLATE: Final = re.compile("/vendor/llama.cpp/models/templates/")
_VOCABULARY: Final = re.compile("/vendor/llama.cpp/models/ggml-vocab-(gpt-2|llama-bpe|llama-spm|qwen2).gguf$")
_VOCABULARY_COUNT: Final = 4


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
    return _unpacked(_TEMPLATE, TEMPLATES)


def vocabularies() -> Path:
    """The folder of the tokenizers that tests use: GGUF files without weights."""
    if VOCABULARIES.exists() and len(list(VOCABULARIES.iterdir())) < _VOCABULARY_COUNT:
        shutil.rmtree(VOCABULARIES)  # Unpacked when tests used fewer.
    return _unpacked(_VOCABULARY, VOCABULARIES)


def _unpacked(wanted: re.Pattern[str], folder: Path) -> Path:
    """`folder` with the archive's files of these names; unpacked where it is not there yet."""
    if not folder.exists():
        unfinished = folder.with_suffix(".part")
        unfinished.mkdir(parents=True, exist_ok=True)
        with tarfile.open(archive()) as packed:
            for member in packed:
                if wanted.search(member.name) and member.isfile():
                    member.name = Path(member.name).name
                    packed.extract(member, unfinished, filter="data")
        unfinished.rename(folder)
    return folder


def locked(name: str) -> str:
    """The lock's entry of one package: its version and hashes."""
    entry = re.search(rf"^{re.escape(name)}==.*?(?=^\S|\Z)", LOCK.read_text(), re.MULTILINE | re.DOTALL)
    assert entry is not None, f"{LOCK} does not name {name}"
    return entry[0]


if __name__ == "__main__":
    templates()
    vocabularies()
