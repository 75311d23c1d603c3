"""Taking a model off this host, and what unfinished downloads left there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rbees.host.hub_cache import HubCache
from rbees.host.model_candidates import Candidate
from rbees.protocol import model_ref
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.model_ref import HubRef


@dataclass(frozen=True, slots=True)
class Removed:
    """What is gone."""

    paths: tuple[Path, ...]
    freed_bytes: int


def remove(model: Candidate, cache: HubCache) -> Removed:
    """Remove a model's files: of the shared cache the name, and the bytes unless another name has them too.

    Raises:
        RbeesError: FORBIDDEN for what ships with rbees, and for what was only registered (the details say `registered`);
            CONFIGURATION where the files cannot be removed.
    """
    if model.origin == "registered":
        message = f"{model.ref} is not rbees' own file, so it stays; only on its host its name can be taken away."
        raise RbeesError(ErrorCode.FORBIDDEN, message, registered=True)
    if model.origin == "package":
        raise RbeesError(ErrorCode.FORBIDDEN, f"{model.ref} ships with rbees and stays; uninstall rbees to be rid of it.")
    try:
        return _remove_cached(model, cache) if model.origin == "cache" else _remove_files(model)
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        message = f"The files of {model.ref} cannot be removed ({reason}); check who may write their folder."
        raise RbeesError(ErrorCode.CONFIGURATION, message) from None


def _remove_files(model: Candidate) -> Removed:
    freed = sum(path.lstat().st_size for path in model.paths)
    for path in model.paths:
        path.unlink()
    return Removed(model.paths, freed)


def _remove_cached(model: Candidate, cache: HubCache) -> Removed:
    reference = model_ref.parse(model.ref)
    assert isinstance(reference, HubRef), "what lies in the cache is named by its repository"
    repository = cache.repository(reference.repository)
    freed = 0
    for path in model.paths:
        blob, is_link = path.resolve(), path.is_symlink()
        size = blob.stat().st_size if blob.exists() else 0
        path.unlink()
        if is_link and not _is_named(blob, repository):
            blob.unlink(missing_ok=True)
        freed += 0 if blob.exists() else size
    _remove_empty(repository)
    return Removed(model.paths, freed)


def _is_named(blob: Path, repository: Path) -> bool:
    """True if a snapshot still has these bytes, or if they are no blob of this repository alone."""
    if blob.parent != (repository / "blobs").resolve():
        return True
    return any(link.resolve() == blob for link in (repository / "snapshots").rglob("*") if link.is_symlink())


def _remove_empty(repository: Path) -> None:
    """Take away what a repository without files leaves, from the inside out."""
    snapshots = repository / "snapshots"
    for folder, _, _ in os.walk(snapshots, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(folder)
    if snapshots.exists():
        return
    for folder, _, names in os.walk(repository / "refs", topdown=False):
        for name in names:
            Path(folder, name).unlink()
        os.rmdir(folder)
    for place in (repository / "blobs", repository):
        with contextlib.suppress(OSError):
            place.rmdir()


def unfinished(cache: HubCache) -> Iterator[tuple[Path, int]]:
    """What interrupted downloads left in the shared cache, with its size in bytes."""
    for path in sorted(cache.folder.glob("models--*/blobs/*.incomplete")):
        with contextlib.suppress(OSError):
            yield path, path.stat().st_size
