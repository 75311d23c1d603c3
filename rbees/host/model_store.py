"""The model files of this host: which there are, what their headers say, and which one a reference means.

Files come from where `model_candidates.py` finds them. A file counts once its header has passed
the bounded reader and its sha256 is known; the sum is computed once and kept by path, size, time and inode. All methods
that touch the disk block: call them from a thread. `models()` and `names()` never do.
"""

from __future__ import annotations

import difflib
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rbees.host.checksums import Checksums, Fingerprint, fingerprint_of, sum_of_parts
from rbees.host.gguf import read_header, refusal
from rbees.host.model_candidates import Candidate, Origin, Places
from rbees.host.model_facts import MAX_SCRIPTED_BYTES, Shape, facts, scripted_shape, shape_of
from rbees.host.model_files import is_file, is_scripted
from rbees.protocol import model_ref
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.model_ref import AliasRef, FileRef, HubRef
from rbees.protocol.pools import ModelFacts
from rbees.service.catalog import Catalog, downloadable

HASH_AT_ONCE_BYTES: Final = 64 << 20
"""So much is summed while the folders are searched, because whoever starts waits for that; the rest one by one afterwards."""


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model that can be served, and its files: one, or the parts in order."""

    facts: ModelFacts
    paths: tuple[Path, ...]
    origin: Origin

    @property
    def path(self) -> Path:
        """The file that a worker opens; the further parts lie beside it."""
        return self.paths[0]


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
    paths: tuple[Path, ...]
    """Those whose sum is not known yet."""

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
    models: tuple[StoredModel, ...] = ()
    """Each once, by reference."""
    facts: tuple[ModelFacts, ...] = ()
    unsummed: tuple[Path, ...] = ()


class ModelStore:
    """The models of one host."""

    def __init__(self, places: Places, checksums: Checksums) -> None:
        self.places = places
        self.checksums = checksums
        self._examined: dict[Path, _Examined] = {}
        self._failed_to_sum: set[Path] = set()
        self._index = _Index()
        self._writing = threading.Lock()
        self.on_change: Callable[[], object] = lambda: None
        """Called in whichever thread found that there are other models than before."""

    @property
    def catalog(self) -> Catalog:
        """The short names that this host knows."""
        return self.places.catalog

    def models(self) -> tuple[ModelFacts, ...]:
        """All models that can be served, by reference."""
        return self._index.facts

    def stored(self) -> tuple[StoredModel, ...]:
        """The same with their files."""
        return self._index.models

    def problems(self) -> Mapping[str, RbeesError]:
        """Why files that look like models are not served, by reference and alias."""
        return self._index.problems

    def refused(self) -> Mapping[str, RbeesError]:
        """The same, each file once, by reference."""
        return self._index.refused

    def refresh(self) -> None:
        """Search all folders again; cheap where nothing changed."""
        with self._writing:
            self.checksums.take_over()
            candidates = tuple(self.places.candidates())
            known = {candidate.path for candidate in candidates}
            self._examined = {path: seen for path, seen in self._examined.items() if path in known}
            before, self._index = self._index, self._build(candidates)
            self.checksums.save()
        if (before.facts, before.refused.keys()) != (self._index.facts, self._index.refused.keys()):
            self.on_change()

    def sum_next(self) -> bool:
        """Compute one checksum that `refresh` left; False when none is left. May take minutes."""
        # A file that cannot be read, or is just being written, must not keep the others waiting: it is tried last.
        for path in sorted(self._index.unsummed, key=self._failed_to_sum.__contains__):
            if self.checksums.compute(path) is not None:
                self._failed_to_sum.discard(path)
                self.refresh()
                return True
            self._failed_to_sum.add(path)
        return False

    def close(self) -> None:
        """Let a running checksum end at once."""
        self.checksums.close()

    def resolve(self, text: str, sha256: str | None = None) -> StoredModel:
        """The model that a reference names, looked at again if the file has changed.

        Raises:
            RbeesError: INVALID_REQUEST (no reference), MODEL_NOT_FOUND, MODEL_INCOMPATIBLE, MODEL_LOADING (not yet summed).
        """
        reference = model_ref.parse(text)
        stored = self._look_up(str(reference), sha256)
        if stored is None or fingerprint_of(stored.paths) != self._examined_fingerprint(stored.path):
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
        if not self.places.folders.contains(path):
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
            return _not_found(f"This pool holds no copy of {name}; fetch it with `rbees-pool models download {name}`.")
        if name in self.places.catalog and self.places.catalog[name].hub is not None:
            return _not_found(f"This pool has not got {name} yet; fetch it with `rbees-pool models download {name}`.")
        close = difflib.get_close_matches(name, [*index.stored, *index.problems, *downloadable(self.places.catalog)], n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "list the models with `rbees-pool models list`."
        return RbeesError(ErrorCode.MODEL_NOT_FOUND, f"This pool has no model {name!r}; {hint}", close_names=close)

    def _explain_file(self, path: Path) -> RbeesError:
        if not self.places.folders.contains(path):
            return _not_found("The file lies outside the folders that this pool serves; add its folder to `model_dirs`.")
        if not is_file(path):
            return _not_found(f"There is no file {path.name} at this place; check the path.")
        return refusal("has a name that does not end in `.gguf`, so it is not taken for a model")

    def _build(self, candidates: Iterable[Candidate]) -> _Index:
        stored: dict[str, StoredModel] = {}
        problems: dict[str, RbeesError] = {}
        refused: dict[str, RbeesError] = {}
        unsummed: list[Path] = []
        left_bytes = HASH_AT_ONCE_BYTES
        for candidate in candidates:
            found = self._examine(candidate)
            if isinstance(found, _Unsummed) and found.size_bytes <= left_bytes:
                left_bytes -= found.size_bytes
                for path in found.paths:
                    self.checksums.compute(path)
                found = self._examine(candidate)
            if isinstance(found, _Unsummed):
                unsummed += found.paths
                found = found.error()
            if isinstance(found, RbeesError):
                problems |= dict.fromkeys(candidate.names, found)
                refused[candidate.ref] = found
            else:
                # Names of one file twice, such as of a folder that is searched under two spellings, stay with the first.
                stored |= {name: found for name in candidate.names if name not in stored}
        unique = {model.facts.ref: model for model in stored.values()}
        models = tuple(unique[ref] for ref in sorted(unique))
        return _Index(stored, problems, refused, models, tuple(model.facts for model in models), tuple(unsummed))

    def _examine(self, candidate: Candidate) -> StoredModel | _Unsummed | RbeesError:
        paths = candidate.paths
        print_ = fingerprint_of(paths)
        seen = self._examined.get(candidate.path)
        if seen is None or seen.fingerprint != print_:
            seen = self._examined[candidate.path] = _look_at(paths, print_, self._problem_of_place(candidate))
        if seen.problem is not None:
            return seen.problem
        assert seen.shape is not None
        assert print_ is not None
        sums = [self.checksums.known(path) for path in paths]
        unknown = tuple(path for path, sha256 in zip(paths, sums, strict=True) if sha256 is None)
        if unknown:
            return _Unsummed(candidate.path.name, print_.size_bytes, unknown)
        known = [sha256 for sha256 in sums if sha256 is not None]
        for path, promised, sha256 in zip(paths, candidate.promised, known, strict=True):
            if promised not in (None, sha256):
                return wrong_bytes(path.name, candidate.ref)
        made = facts(
            seen.shape,
            ref=candidate.ref,
            aliases=candidate.aliases,
            sha256=sum_of_parts(known),
            file_name=candidate.path.name,
            size_bytes=print_.size_bytes,
        )
        return StoredModel(made, paths, candidate.origin)

    def _problem_of_place(self, candidate: Candidate) -> RbeesError | None:
        if candidate.origin == "package":
            return None if is_file(candidate.path) else _not_found(f"The file of {candidate.ref} is missing; install rbees again.")
        if not self.places.contains(candidate):
            return _not_found(f"{candidate.path.name} leads outside the folders that this pool serves; add them to `model_dirs`.")
        return None


def wrong_bytes(name: str, ref: str) -> RbeesError:
    """The refusal of a file of the cache that is not what the hub gave."""
    message = f"The bytes of {name} are not those that the hub promised; delete it with `rbees-pool models delete {ref}`."
    return RbeesError(ErrorCode.CHECKSUM_MISMATCH, message)


def _look_at(paths: Sequence[Path], print_: Fingerprint | None, problem: RbeesError | None) -> _Examined:
    path = paths[0]
    if problem is not None:
        return _Examined(print_, problem=problem)
    if print_ is None:
        return _Examined(None, problem=_not_found(f"The file {path.name} is gone or cannot be read."))
    try:
        if is_scripted(path):
            return _Examined(print_, read_scripted(path))
        return _Examined(print_, shape_of(*(read_header(part) for part in paths)))
    except RbeesError as error:
        return _Examined(print_, problem=error)
    except OSError as error:
        # Valid for no fingerprint: a permission that is given later does not change one.
        return _Examined(None, problem=_not_found(f"The file {path.name} cannot be read ({error.strerror}); check who may."))


def read_scripted(path: Path) -> Shape:
    """What a description for the scripted backend states. Raises RbeesError MODEL_INCOMPATIBLE."""
    with path.open("rb") as file:
        document = file.read(MAX_SCRIPTED_BYTES + 1)
    if len(document) > MAX_SCRIPTED_BYTES:
        raise refusal(f"is no scripted model: it has more than {MAX_SCRIPTED_BYTES} bytes")
    return scripted_shape(document)


def _not_found(message: str) -> RbeesError:
    return RbeesError(ErrorCode.MODEL_NOT_FOUND, message)
