"""Taking a model off this host with all that is its own: its bytes, what is left of it unfinished, its folder, its names."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from rbees.host.hub_cache import HubCache
from rbees.host.leftovers import Leftover, beside, leftovers, of_blob
from rbees.host.model_candidates import Candidate, Places
from rbees.protocol import model_ref
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.model_ref import HubRef


@dataclass(frozen=True, slots=True)
class Removed:
    """What is gone."""

    paths: tuple[Path, ...]
    freed_bytes: int


def remove(model: Candidate, places: Places) -> Removed:
    """Remove a model's files: of the shared cache the name, and the bytes unless another name has them too.

    Names that were given to it go too, since a later file at the same place would get them.

    Raises:
        RbeesError: FORBIDDEN for what ships with rbees, and for what was only registered (the details say `registered`);
            CONFIGURATION where the files cannot be removed; STORAGE_FULL where its names cannot.
    """
    if model.origin == "registered":
        message = f"{model.ref} is not rbees' own file, so it stays; only on its host its name can be taken away."
        raise RbeesError(ErrorCode.FORBIDDEN, message, registered=True)
    if model.origin == "package":
        raise RbeesError(ErrorCode.FORBIDDEN, f"{model.ref} ships with rbees and stays; uninstall rbees to be rid of it.")
    try:
        removed = _remove_cached(model, places.cache) if model.origin == "cache" else _remove_files(model, places)
    except OSError as error:
        raise _cannot_be_removed(f"The files of {model.ref}", error) from None
    if places.registered is not None:
        places.registered.remove(model.path)
    return removed


def remove_leftover(path: str, places: Places) -> int | None:
    """Remove what an interrupted transfer left at `path`; the bytes that are free now, or None where `path` names no such thing.

    Raises:
        RbeesError: DEVICE_BUSY where somebody writes it; CONFIGURATION where it cannot be removed.
    """
    found = next((one for one in leftovers(places) if str(one.path) == path), None) if path.endswith(".incomplete") else None
    if found is None:
        return None
    freed = _discarded(found, places)
    if freed is None:
        raise RbeesError(ErrorCode.DEVICE_BUSY, f"{path} is being written; end the download, copy or import that does it first.")
    return freed


def remove_leftovers(places: Places) -> dict[Path, int | None]:
    """Remove all that interrupted transfers left: what is free now by path, None for what somebody writes, which stays.

    Raises:
        RbeesError: CONFIGURATION, where one cannot be removed.
    """
    return {one.path: _discarded(one, places) for one in tuple(leftovers(places))}


def _discarded(one: Leftover, places: Places) -> int | None:
    try:
        freed = one.discard()
    except OSError as error:
        raise _cannot_be_removed(str(one.path), error) from None
    if freed is not None and one.file is None:
        _remove_empty(one.path.parent.parent)
    elif freed is not None:
        _remove_emptied(one.path.parent, places)
    return freed


def _cannot_be_removed(what: str, error: OSError) -> RbeesError:
    message = f"{what} cannot be removed ({os.strerror(error.errno or 0)}); check who may write the folder."
    return RbeesError(ErrorCode.CONFIGURATION, message)


def _remove_files(model: Candidate, places: Places) -> Removed:
    freed = sum(path.lstat().st_size for path in model.paths)
    for path in model.paths:
        path.unlink()
    freed += sum(one.discard() or 0 for one in beside(model.path))
    _remove_emptied(model.path.parent, places)
    return Removed(model.paths, freed)


def _remove_emptied(folder: Path, places: Places) -> None:
    """Take away the folder that a transfer made for one model, if nothing else is in it; never one that the operator named."""
    with contextlib.suppress(OSError):
        while places.folders.lists(folder) and folder not in places.folders.roots:
            folder.rmdir()
            folder = folder.parent


def _remove_cached(model: Candidate, cache: HubCache | None) -> Removed:
    assert cache is not None, "the model was found in it"
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
            freed += sum(one.discard() or 0 for one in of_blob(blob, cache))
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
