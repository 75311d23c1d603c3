"""Where model files may lie, and which files there are taken for models.

A reference or a symbolic link never leads outside the folders that the operator named: what counts is where a path really
ends. Searching is bounded in depth and number, so that a folder named by mistake (`/`) costs little.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from rbees.protocol import model_ref
from rbees.protocol.errors import RbeesError

SCRIPTED_SUFFIX: Final = ".scripted.json"
SUFFIXES: Final = (".gguf", SCRIPTED_SUFFIX)
MAX_DEPTH: Final = 6
MAX_FILES: Final = 10_000
MAX_FOLDERS: Final = 10_000


def is_scripted(path: Path) -> bool:
    """True for a description that the scripted backend runs."""
    return path.name.endswith(SCRIPTED_SUFFIX)


def alias_of(path: Path) -> str | None:
    """The short name that a file gets from its own: without the suffix, where that makes an alias."""
    for suffix in SUFFIXES:
        if path.name.endswith(suffix):
            try:
                reference = model_ref.parse(path.name.removesuffix(suffix))
            except RbeesError:
                return None
            return str(reference) if isinstance(reference, model_ref.AliasRef) else None
    return None


@dataclass(frozen=True, slots=True)
class ModelFolders:
    """The folders whose files may be served, as the operator wrote them."""

    roots: Sequence[Path]

    def contains(self, path: Path) -> bool:
        """True if `path` really ends inside one of the folders, symbolic links followed."""
        target = Path(os.path.realpath(path))
        return any(Path(os.path.realpath(root)) in target.parents for root in self.roots)

    def lists(self, path: Path) -> bool:
        """True if `path`, as written, is below one of the folders."""
        return any(root in path.parents for root in self.roots)

    def files(self) -> Iterator[Path]:
        """Every file that looks like a model and can be named by a reference, in a stable order."""
        return islice((path for root in self.roots for path in _files_of(root)), MAX_FILES)

    def each(self) -> Iterator[Path]:
        """Every folder that is searched for models, in a stable order."""
        return (folder for root in self.roots for folder, _ in _walk(root))


def _walk(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """The folders and the names of their files."""
    for folder, subfolders, names in islice(os.walk(root), MAX_FOLDERS):
        depth = len(Path(folder).relative_to(root).parts)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith(".")) if depth < MAX_DEPTH else []
        yield Path(folder), sorted(names)


def _files_of(root: Path) -> Iterator[Path]:
    for folder, names in _walk(root):
        for name in names:
            path = folder / name
            if name.endswith(SUFFIXES) and not name.startswith(".") and _can_be_named(path):
                yield path


def _can_be_named(path: Path) -> bool:
    try:
        str(path).encode()
        model_ref.parse(f"file:{path}")
    except (RbeesError, UnicodeEncodeError):
        return False
    return is_file(path)


def is_file(path: Path) -> bool:
    """As `Path.is_file`, and False also where the system will not say (a folder that may not be entered, a name too long)."""
    try:
        return path.is_file()
    except OSError:
        return False
