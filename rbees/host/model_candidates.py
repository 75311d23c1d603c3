"""Which files of this host could be models, and the names they go by: from the package, the folders, the shared hub cache and
what a user registered.

Nothing is opened here. Of several files with one name the first has it: packaged files before folders, folders before the cache.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from rbees.host.hub_cache import CachedFile, HubCache
from rbees.host.local_folders import LocalFolders
from rbees.host.model_files import ModelFolders, alias_of, is_file
from rbees.host.registered_models import RegisteredModels
from rbees.host.variants import PART, Variant, ranked
from rbees.protocol.downloads import HubFile
from rbees.protocol.model_ref import HubRef
from rbees.protocol.quantizations import label_of
from rbees.service.catalog import Catalog

Origin = Literal["package", "folder", "cache", "registered"]
MAX_PARTS: Final = 1_000


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model's file, or the files of one that comes in parts, as found: its canonical reference and its further names."""

    paths: tuple[Path, ...]
    ref: str
    aliases: tuple[str, ...]
    origin: Origin

    @property
    def path(self) -> Path:
        """The first file, which names the whole."""
        return self.paths[0]

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        return (self.ref, *self.aliases)

    @property
    def promised(self) -> tuple[str | None, ...]:
        """For each file the sha256 that the hub gave, where the cache remembers it: it is the name of the blob."""
        if self.origin != "cache":
            return (None,) * len(self.paths)
        names = [path.resolve().name for path in self.paths]
        return tuple(name if len(name) == 64 and set(name) <= set("0123456789abcdef") else None for name in names)


@dataclass(frozen=True, slots=True)
class Places:
    """Where models of this host may come from."""

    catalog: Catalog
    folders: ModelFolders
    cache: HubCache | None = None
    registered: RegisteredModels | None = None
    own: Path | None = None
    """The folder among `folders` that is rbees' own: for models of no repository."""
    local: LocalFolders | None = None
    """Where people put models besides: nothing there is one of this host's."""

    def candidates(self) -> Iterator[Candidate]:
        """All of them, in a stable order."""
        names = _Names()
        for entry in self.catalog.values():
            if entry.packaged and entry.path is not None:
                yield Candidate((entry.path,), entry.name, (), "package")
            if entry.path is not None:
                names.take(entry.name)
        yield from self._in_folders(names)
        yield from self._registered(names)
        yield from self._cached(names)

    def contains(self, candidate: Candidate) -> bool:
        """True if every file really lies where it was found, symbolic links followed."""
        match candidate.origin:
            case "package":
                return True
            case "registered":
                # Whoever registered the file named it, wherever it leads.
                return True
            case "cache":
                return self.cache is not None and all(self.cache.contains(path) for path in candidate.paths)
            case "folder":
                return all(self.folders.contains(path) for path in candidate.paths)

    def _in_folders(self, names: _Names) -> Iterator[Candidate]:
        users: dict[Path, list[str]] = {}
        for entry in self.catalog.values():
            if entry.path is not None and not entry.packaged:
                users.setdefault(entry.path, []).append(entry.name)
        given = self._given_names()
        further = [path for path in users if not self.folders.lists(path)]
        for path in (*self.folders.files(), *further):
            paths = parts_of(path)
            if paths:
                aliases = [*users.get(path, ()), *names.free([*self._known_as(path), *given.get(path, ()), short_name(path)])]
                yield Candidate(paths, f"file:{path}", tuple(aliases), "folder")

    def _known_as(self, path: Path) -> list[str]:
        """Names of the catalogue for a file that was downloaded into a folder of its own: by its own name or its folder's."""
        return [
            entry.name
            for entry in self.catalog.values()
            if entry.hub is not None
            and (path.name == entry.hub.file.rpartition("/")[2] if entry.hub.file else path.parent.name == entry.name)
        ]

    def _registered(self, names: _Names) -> Iterator[Candidate]:
        for path, given in self._given_names().items():
            for name in given if not self._is_found_anyway(path) else ():
                yield Candidate(parts_of(path) or (path,), f"file:{path}", tuple(names.free([name])), "registered")

    def _given_names(self) -> dict[Path, list[str]]:
        """By file, the names that a user of this host gave it."""
        given: dict[Path, list[str]] = {}
        for name, path in sorted(self.registered.all().items() if self.registered is not None else ()):
            given.setdefault(path, []).append(name)
        return given

    def _is_found_anyway(self, path: Path) -> bool:
        return self.folders.lists(path) or (self.cache is not None and self.cache.folder in path.parents)

    def _cached(self, names: _Names) -> Iterator[Candidate]:
        if self.cache is None:
            return
        files = [file for file in self.cache.files() if not PART.search(file.path.name) or parts_of(file.path)]
        best = _best(files)
        given = self._given_names()
        for file in files:
            known = self._hub_names(file, best.get(file.ref.repository) == file.ref)
            aliases = names.free([*given.get(file.path, ()), *known, short_name(file.path)])
            yield Candidate(parts_of(file.path), str(file.ref), tuple(aliases), "cache")

    def _hub_names(self, file: CachedFile, is_best: bool) -> list[str]:
        ref = file.ref
        named = [
            entry.name
            for entry in self.catalog.values()
            if entry.hub is not None
            and entry.hub.repository == ref.repository
            and entry.hub.revision in {None, ref.revision, *file.branches}
            and (file.is_newest or entry.hub.revision is not None)
            and (entry.hub.file == ref.file or (entry.hub.file is None and is_best))
        ]
        open_ = [HubRef(ref.repository, branch, ref.file) for branch in file.branches]
        open_ += [HubRef(ref.repository, None, ref.file)] if file.is_newest else []
        open_ += [HubRef(ref.repository)] if is_best else []
        return [*named, *map(str, open_)]


class _Names:
    """Who has which name."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def take(self, name: str) -> None:
        self._taken.add(name)

    def free(self, wanted: Iterable[str | None]) -> list[str]:
        """Those of `wanted` that nobody has yet; they are taken now."""
        got = []
        for name in wanted:
            if name is not None and name not in self._taken:
                self._taken.add(name)
                got.append(name)
        return got


def parts_of(path: Path) -> tuple[Path, ...]:
    """The files of the model that `path` begins; empty where `path` is a later part of one whose first part lies beside it."""
    match = PART.search(path.name)
    if match is None or not 1 < int(match["count"]) <= MAX_PARTS:
        return (path,)
    stem, suffix = path.name[: match.start()], path.name[match.end("count") :]
    every = [path.with_name(f"{stem}-{number:05d}-of-{match['count']}{suffix}") for number in range(1, int(match["count"]) + 1)]
    if int(match["number"]) != 1:
        return () if is_file(every[0]) else (path,)
    return tuple(every) if all(map(is_file, every)) else (path,)


def _best(files: Sequence[CachedFile]) -> dict[str, HubRef]:
    """By repository, the file that a reference to no particular one means."""
    held: dict[str, dict[str, HubRef]] = {}
    for file in files:
        if file.is_newest and file.ref.file is not None:
            held.setdefault(file.ref.repository, {})[file.ref.file] = file.ref
    return {repository: refs[_first(refs)] for repository, refs in held.items()}


def _first(paths: Iterable[str]) -> str:
    return ranked(Variant((HubFile(path=path, size_bytes=0),), label_of(path)) for path in paths)[0].path


def short_name(path: Path) -> str | None:
    """What a file is called by its own name, without what makes it a part."""
    match = PART.search(path.name)
    return alias_of(path if match is None else path.with_name(f"{path.name[: match.start()]}.gguf"))
