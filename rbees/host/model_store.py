"""The model files of this host: which there are, what their headers say, and which one a reference means.

Files come from the package, from the configured folders and from the state folder. A file counts once its header has passed
the bounded reader and its sha256 is known; the sum is computed once and kept by path, size, time and inode. All methods
that touch the disk block: call them from a thread. `models()` and `names()` never do.
"""

from __future__ import annotations

import difflib
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rbees.host.checksums import Checksums, Fingerprint, fingerprint
from rbees.host.gguf import read_header, refusal
from rbees.host.model_facts import MAX_SCRIPTED_BYTES, Shape, facts, scripted_shape, shape_of
from rbees.host.model_files import ModelFolders, alias_of, is_file, is_scripted
from rbees.protocol import model_ref
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.model_ref import AliasRef, FileRef, HubRef
from rbees.protocol.pools import ModelFacts
from rbees.service.catalog import Catalog

HASH_AT_ONCE_BYTES: Final = 64 << 20
"""So much is summed while the folders are searched, because whoever starts waits for that; the rest one by one afterwards."""


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model that can be served."""

    facts: ModelFacts
    path: Path


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A file as found: its canonical reference and the further names it goes by."""

    path: Path
    ref: str
    aliases: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return (self.ref, *self.aliases)


@dataclass(frozen=True, slots=True)
class _Examined:
    """What one look at a file showed: a shape or a problem, valid while the fingerprint stays."""

    fingerprint: Fingerprint | None
    shape: Shape | None = None
    problem: RbeesError | None = None


@dataclass(frozen=True, slots=True)
class _Unsummed:
    """A file that can be served once its checksum is known."""

    name: str
    size_bytes: int

    def error(self) -> RbeesError:
        message = f"The checksum of {self.name} is still being computed; try again."
        return RbeesError(ErrorCode.MODEL_LOADING, message, retry_after_s=5)


@dataclass(frozen=True, slots=True)
class _Index:
    """One consistent view of all models; replaced as a whole."""

    stored: Mapping[str, StoredModel] = field(default_factory=dict)
    """By every name."""
    problems: Mapping[str, RbeesError] = field(default_factory=dict)
    """Files that cannot be served, by every name."""
    refused: Mapping[str, RbeesError] = field(default_factory=dict)
    """The same, by reference only."""
    facts: tuple[ModelFacts, ...] = ()
    unsummed: tuple[Path, ...] = ()


class ModelStore:
    """The models of one host."""

    def __init__(self, catalog: Catalog, folders: ModelFolders, checksums: Checksums) -> None:
        self._catalog = catalog
        self._folders = folders
        self._checksums = checksums
        self._examined: dict[Path, _Examined] = {}
        self._failed_to_sum: set[Path] = set()
        self._index = _Index()
        self._writing = threading.Lock()

    def models(self) -> tuple[ModelFacts, ...]:
        """All models that can be served, by reference."""
        return self._index.facts

    def problems(self) -> Mapping[str, RbeesError]:
        """Why files that look like models are not served, by reference and alias."""
        return self._index.problems

    def refused(self) -> Mapping[str, RbeesError]:
        """The same, each file once, by reference."""
        return self._index.refused

    def refresh(self) -> None:
        """Search all folders again; cheap where nothing changed."""
        with self._writing:
            candidates = tuple(self._candidates())
            known = {candidate.path for candidate in candidates}
            self._examined = {path: seen for path, seen in self._examined.items() if path in known}
            self._index = self._build(candidates)
            self._checksums.save()

    def sum_next(self) -> bool:
        """Compute one checksum that `refresh` left; False when none is left. May take minutes."""
        # A file that cannot be read, or is just being written, must not keep the others waiting: it is tried last.
        for path in sorted(self._index.unsummed, key=self._failed_to_sum.__contains__):
            if self._checksums.compute(path) is not None:
                self._failed_to_sum.discard(path)
                self.refresh()
                return True
            self._failed_to_sum.add(path)
        return False

    def close(self) -> None:
        """Let a running checksum end at once."""
        self._checksums.close()

    def resolve(self, text: str, sha256: str | None = None) -> StoredModel:
        """The model that a reference names, looked at again if the file has changed.

        Raises:
            RbeesError: INVALID_REQUEST (no reference), MODEL_NOT_FOUND, MODEL_INCOMPATIBLE, MODEL_LOADING (not yet summed).
        """
        reference = model_ref.parse(text)
        stored = self._look_up(str(reference), sha256)
        if stored is None or fingerprint(stored.path) != self._examined_fingerprint(stored.path):
            self.refresh()
            stored = self._look_up(str(reference), sha256)
        if stored is None and isinstance(reference, FileRef):
            stored = self._same_file(Path(reference.path), sha256)
        if stored is None:
            raise self._explain(reference, sha256)
        return stored

    def _look_up(self, name: str, sha256: str | None) -> StoredModel | None:
        index = self._index
        by_name = index.stored.get(name)
        if sha256 is None or (by_name is not None and by_name.facts.sha256 == sha256):
            return by_name
        return next((model for model in index.stored.values() if model.facts.sha256 == sha256), None)

    def _same_file(self, path: Path, sha256: str | None) -> StoredModel | None:
        """The model that is the same file under another spelling, such as a folder that is a symbolic link."""
        if not self._folders.contains(path):
            return None
        target = os.path.realpath(path)
        same = (model for model in self._index.stored.values() if os.path.realpath(model.path) == target)
        return next((model for model in same if sha256 in (None, model.facts.sha256)), None)

    def _examined_fingerprint(self, path: Path) -> Fingerprint | None:
        examined = self._examined.get(path)
        return examined.fingerprint if examined else None

    def _explain(self, reference: AliasRef | HubRef | FileRef, sha256: str | None) -> RbeesError:
        index, name = self._index, str(reference)
        if name in index.problems:
            return index.problems[name]
        if sha256 is not None and name in index.stored:
            return _not_found(f"This pool's file for {name} is another one than was asked for: its sha256 differs.")
        if isinstance(reference, FileRef):
            return self._explain_file(Path(reference.path))
        if isinstance(reference, HubRef):
            return _not_found(
                f"This pool holds no copy of {name}, and rbees does not download models by itself yet; put the file into one of "
                "its model_dirs and name it `file:…`."
            )
        close = difflib.get_close_matches(name, [*index.stored, *index.problems], n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "list the models with `rbees-pool models list`."
        return RbeesError(ErrorCode.MODEL_NOT_FOUND, f"This pool has no model {name!r}; {hint}", close_names=close)

    def _explain_file(self, path: Path) -> RbeesError:
        if not self._folders.contains(path):
            return _not_found("The file lies outside the folders that this pool serves; add its folder to `model_dirs`.")
        if not is_file(path):
            return _not_found(f"There is no file {path.name} at this place; check the path.")
        return refusal("has a name that does not end in `.gguf`, so it is not taken for a model")

    def _candidates(self) -> Iterator[_Candidate]:
        """Packaged files under their short name, then everything in the folders; the first owner of an alias keeps it."""
        names: dict[Path, list[str]] = {}
        for entry in self._catalog.values():
            if entry.packaged:
                yield _Candidate(entry.path, entry.name, ())
            else:
                names.setdefault(entry.path, []).append(entry.name)
        taken = set(self._catalog)
        for path in (*self._folders.files(), *(path for path in names if not self._folders.lists(path))):
            aliases = names.get(path, [])
            own = alias_of(path)
            if own is not None and own not in taken:
                taken.add(own)
                aliases = [*aliases, own]
            yield _Candidate(path, f"file:{path}", tuple(aliases))

    def _build(self, candidates: Iterable[_Candidate]) -> _Index:
        stored: dict[str, StoredModel] = {}
        problems: dict[str, RbeesError] = {}
        refused: dict[str, RbeesError] = {}
        unsummed: list[Path] = []
        left_bytes = HASH_AT_ONCE_BYTES
        for candidate in candidates:
            found = self._examine(candidate)
            if isinstance(found, _Unsummed) and found.size_bytes <= left_bytes:
                left_bytes -= found.size_bytes
                self._checksums.compute(candidate.path)
                found = self._examine(candidate)
            if isinstance(found, _Unsummed):
                unsummed.append(candidate.path)
                found = found.error()
            if isinstance(found, RbeesError):
                problems |= dict.fromkeys(candidate.names, found)
                refused[candidate.ref] = found
            else:
                stored |= dict.fromkeys(candidate.names, found)
        unique = {model.facts.ref: model.facts for model in stored.values()}
        return _Index(stored, problems, refused, tuple(unique[ref] for ref in sorted(unique)), tuple(unsummed))

    def _examine(self, candidate: _Candidate) -> StoredModel | _Unsummed | RbeesError:
        path = candidate.path
        print_ = fingerprint(path)
        seen = self._examined.get(path)
        if seen is None or seen.fingerprint != print_:
            seen = self._examined[path] = _look_at(path, print_, self._problem_of_place(candidate))
        if seen.problem is not None:
            return seen.problem
        assert seen.shape is not None
        assert print_ is not None
        sha256 = self._checksums.known(path)
        if sha256 is None:
            return _Unsummed(path.name, print_.size_bytes)
        made = facts(
            seen.shape,
            ref=candidate.ref,
            aliases=candidate.aliases,
            sha256=sha256,
            file_name=path.name,
            size_bytes=print_.size_bytes,
        )
        return StoredModel(made, path)

    def _problem_of_place(self, candidate: _Candidate) -> RbeesError | None:
        if candidate.ref in self._catalog:
            return None if is_file(candidate.path) else _not_found(f"The file of {candidate.ref} is missing; install rbees again.")
        if not self._folders.contains(candidate.path):
            return _not_found(f"{candidate.path.name} leads outside the folders that this pool serves; add them to `model_dirs`.")
        return None


def _look_at(path: Path, print_: Fingerprint | None, problem: RbeesError | None) -> _Examined:
    if problem is not None:
        return _Examined(print_, problem=problem)
    if print_ is None:
        return _Examined(None, problem=_not_found(f"The file {path.name} is gone or cannot be read."))
    try:
        if is_scripted(path):
            return _Examined(print_, _read_scripted(path))
        return _Examined(print_, shape_of(read_header(path)))
    except RbeesError as error:
        return _Examined(print_, problem=error)
    except OSError as error:
        # Valid for no fingerprint: a permission that is given later does not change one.
        return _Examined(None, problem=_not_found(f"The file {path.name} cannot be read ({error.strerror}); check who may."))


def _read_scripted(path: Path) -> Shape:
    with path.open("rb") as file:
        document = file.read(MAX_SCRIPTED_BYTES + 1)
    if len(document) > MAX_SCRIPTED_BYTES:
        raise refusal(f"is no scripted model: it has more than {MAX_SCRIPTED_BYTES} bytes")
    return scripted_shape(document)


def _not_found(message: str) -> RbeesError:
    return RbeesError(ErrorCode.MODEL_NOT_FOUND, message)
