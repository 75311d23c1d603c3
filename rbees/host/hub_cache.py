"""The Hugging Face cache of this user, as its own tools lay it out, so that models are shared with them and never kept twice.

    models--org--repo/blobs/<sha256>             the bytes, once
    models--org--repo/snapshots/<commit>/<file>  a link to them, by name
    models--org--repo/refs/<branch>              the commit that a branch was at when it was last asked for

Layout: huggingface.co/docs/huggingface_hub/guides/manage-cache. Where the folder is follows the library's variables. Reading
needs no library; writing is `model_fetch.py`'s.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from rbees.protocol import model_ref
from rbees.protocol.errors import RbeesError
from rbees.protocol.model_ref import HubRef

COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_MAX_REPOSITORIES: Final = 10_000
_MAX_SNAPSHOTS: Final = 100
_MAX_FILES: Final = 1_000
_MAX_DEPTH: Final = 4


def cache_folder(environ: Mapping[str, str]) -> Path:
    """Where the cache is; it need not exist."""
    named = environ.get("HF_HUB_CACHE") or environ.get("HUGGINGFACE_HUB_CACHE")
    if named:
        return _place(named)
    home = environ.get("HF_HOME")
    return (_place(home) if home else _place(environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface") / "hub"


@dataclass(frozen=True, slots=True)
class CachedFile:
    """A GGUF file of a snapshot: `ref` names repository, commit and file; `branches` are where the commit is the newest."""

    path: Path
    ref: HubRef
    branches: tuple[str, ...]
    is_newest: bool
    """Of the snapshots of its repository that hold a file of this name."""


class HubCache:
    """One cache folder, read only."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def files(self) -> Iterator[CachedFile]:
        """Every GGUF file of every snapshot, in a stable order; within a repository what branches are at comes first."""
        for repository, folder in self._repositories():
            yield from _files_of(repository, folder)

    def repository(self, name: str) -> Path:
        """The folder of a repository; it need not exist."""
        return self.folder / f"models--{name.replace('/', '--')}"

    def snapshot(self, repository: str, commit: str) -> Path:
        """The folder of a repository's files at a commit; it need not exist."""
        return self.repository(repository) / "snapshots" / commit

    def contains(self, path: Path) -> bool:
        """True if `path` really ends inside the cache, symbolic links followed."""
        return Path(os.path.realpath(self.folder)) in Path(os.path.realpath(path)).parents

    def _repositories(self) -> Iterator[tuple[str, Path]]:
        try:
            names = sorted(entry.name for entry in islice(os.scandir(self.folder), _MAX_REPOSITORIES))
        except OSError:
            return
        for name in names:
            kind, *parts = name.split("--")
            if kind == "models" and len(parts) == 2:
                yield "/".join(parts), self.folder / name


def _files_of(repository: str, folder: Path) -> Iterator[CachedFile]:
    branches = _branches(folder / "refs")
    seen: set[str] = set()
    for commit in _commits(folder / "snapshots", branches):
        for name in _gguf_files(folder / "snapshots" / commit):
            ref = _reference(repository, commit, name)
            if ref is not None:
                yield CachedFile(folder / "snapshots" / commit / name, ref, branches.get(commit, ()), name not in seen)
                seen.add(name)


def _commits(snapshots: Path, branches: Mapping[str, tuple[str, ...]]) -> list[str]:
    """What `main` is at first, then what other branches are at, then the rest by age."""
    try:
        found = [entry for entry in islice(os.scandir(snapshots), _MAX_SNAPSHOTS) if COMMIT.fullmatch(entry.name)]
        aged = sorted(found, key=lambda entry: (-entry.stat().st_mtime_ns, entry.name))
    except OSError:
        return []
    return sorted(
        (entry.name for entry in aged), key=lambda commit: ("main" not in branches.get(commit, ()), commit not in branches)
    )


def _branches(refs: Path) -> dict[str, tuple[str, ...]]:
    """By commit, the branches and tags that are at it."""
    found: dict[str, tuple[str, ...]] = {}
    for folder, subfolders, names in os.walk(refs):
        subfolders.sort()
        for name in sorted(names)[:_MAX_SNAPSHOTS]:
            path = Path(folder, name)
            try:
                with path.open(encoding="ascii") as file:
                    commit = file.read(64).strip()
            except (OSError, UnicodeDecodeError):
                continue
            found[commit] = (*found.get(commit, ()), str(path.relative_to(refs)))
    return found


def _gguf_files(snapshot: Path) -> Iterator[str]:
    for folder, subfolders, names in islice(os.walk(snapshot), _MAX_FILES):
        depth = len(Path(folder).relative_to(snapshot).parts)
        subfolders[:] = sorted(subfolders) if depth < _MAX_DEPTH else []
        for name in sorted(names):
            if name.lower().endswith(".gguf"):
                yield str(Path(folder, name).relative_to(snapshot))


def _reference(repository: str, commit: str, file: str) -> HubRef | None:
    try:
        file.encode()
        parsed = model_ref.parse(f"hf:{repository}@{commit}::file={file}")
    except (RbeesError, UnicodeEncodeError):
        return None
    return parsed if isinstance(parsed, HubRef) else None


def _place(named: str) -> Path:
    return Path(os.path.expandvars(os.path.expanduser(named)))
