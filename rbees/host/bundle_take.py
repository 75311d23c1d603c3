"""Taking a bundle in: its files go where a download would put them, by the same names, locks and checks.

Bytes come into the file that an interrupted download or import leaves too, whichever of them goes on with it. No file gets its
name before all of them are here, right by their sha256 and a model by their headers. What is here already under one of the names
stays, and where it is something else the import is refused.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from rbees.host.bundle import Manifest
from rbees.host.bundle_read import Bundle
from rbees.host.bundle_write import Tell
from rbees.host.fetch_place import FULL, Place, check_space, disk_full, made, place_of, unwritable, write_ref
from rbees.host.gguf import read_header
from rbees.host.hub_cache import HubCache
from rbees.host.model_facts import shape_of
from rbees.host.model_files import is_scripted
from rbees.host.model_store import read_scripted
from rbees.host.partial_file import PartialFile, TooLong, locked, sum_of
from rbees.protocol.downloads import FetchOrder, HubFile
from rbees.protocol.errors import ErrorCode, RbeesError

_YES: Final = frozenset({"1", "ON", "YES", "TRUE"})
_State = tuple[int, int, int, int]
_SET_BACK_NS: Final = 10_000_000_000


@dataclass(frozen=True, slots=True)
class Taken:
    """What is here now, in the order of the files."""

    paths: tuple[Path, ...]
    sha256: tuple[str, ...]
    taken_bytes: int
    """0 where everything was here already."""


def order_of(manifest: Manifest, folder: Path | None, models: Path) -> FetchOrder:
    """What a download of the same files would be told. `folder` is named by the user; `models` is for what is of no repository."""
    reference = manifest.reference
    if reference is not None:
        assert reference.revision is not None, "a manifest is checked before it is used"
        place = str(folder) if folder is not None else None
        return FetchOrder(repository=reference.repository, commit=reference.revision, files=manifest.hub_files, local_dir=place)
    # Models of one name may differ; by a folder of its own each keeps the name of its file, by which it goes.
    place = str(folder or models / manifest.sha256[:16])
    return FetchOrder(repository="", commit="", files=manifest.hub_files, local_dir=place)


def take(bundle: Bundle, order: FetchOrder, cache: HubCache, tell: Tell, environ: Mapping[str, str]) -> Taken:
    """Bring the model of a bundle here.

    Raises:
        RbeesError: INVALID_REQUEST (another file has the name), STORAGE_FULL, CONFIGURATION (the place cannot be written),
            CHECKSUM_MISMATCH, MODEL_INCOMPATIBLE, or as `open_bundle`.
    """
    with _writing():
        return _Taking(bundle, order, cache, tell).run(by_link=environ.get("HF_HUB_DISABLE_SYMLINKS", "").upper() not in _YES)


class _Taking:
    def __init__(self, bundle: Bundle, order: FetchOrder, cache: HubCache, tell: Tell) -> None:
        self._bundle = bundle
        self._order = order
        self._cache = cache
        self._tell = tell
        self._before_bytes = 0
        """Of the files that are done."""
        self._taken_bytes = 0
        self._copied: dict[int, _State] = {}
        """Of the files whose bytes wait for their name, by number, the state in which they were found right."""

    def run(self, *, by_link: bool) -> Taken:
        order = self._order
        places = [place_of(order, file, self._cache) for file in order.files]
        held = [self._is_here(file, place) for file, place in zip(order.files, places, strict=True)]
        self._check_space(places, held)
        for number, (file, place) in enumerate(zip(order.files, places, strict=True)):
            self._bring(number, file, place, is_here=held[number])
            self._before_bytes += file.size_bytes
        self._bundle.finish()
        self._check_headers(places)
        for number, (file, place) in enumerate(zip(order.files, places, strict=True)):
            self._name(number, file, place, by_link=by_link)
        if order.local_dir is None:
            self._write_refs()
        sums = tuple(str(file.sha256) for file in order.files)
        return Taken(tuple(place.target for place in places), sums, self._taken_bytes)

    def _check_space(self, places: list[Place], held: list[bool]) -> None:
        missing = 0
        for file, place, is_here in zip(self._order.files, places, held, strict=True):
            if not is_here and not place.blob.exists():
                missing += max(0, file.size_bytes - (place.kept_bytes() if self._bundle.can_go_back else 0))
        check_space(made(places[0].blob.parent), missing)

    def _bring(self, number: int, file: HubFile, place: Place, *, is_here: bool) -> None:
        """Have the bytes of the file here, under the name of unfinished ones unless they are here already."""
        if is_here:
            self._pass_over(number, file)
            return
        made(place.blob.parent)
        with self._locked(place):
            if sum_of(place.blob, file, self._count) is not None:
                self._pass_over(number, file)
            else:
                self._copy(number, file, place)

    def _pass_over(self, number: int, file: HubFile) -> None:
        for _ in self._bundle.pieces(self._bundle.manifest.files[number], file.size_bytes):
            raise AssertionError("nothing is behind a file's end")
        self._count(file.size_bytes)

    def _copy(self, number: int, file: HubFile, place: Place) -> None:
        if self._bundle.can_go_back:
            place.join_draft()
        with place.partial.open("ab+") as sink:
            partial = PartialFile(sink, file, self._count)
            if self._bundle.can_go_back:
                partial.take_in()
            else:
                # All of it comes once more, and only once: what was kept could not be told from what is wrong in it.
                partial.start_over()
            kept = partial.size_bytes
            is_right = self._append(number, partial)
            if not is_right and kept:
                partial.start_over()
                kept = 0
                is_right = self._append(number, partial)
            sink.flush()
            summed = _marked(sink.fileno())
            os.fsync(sink.fileno())
        if not is_right:
            place.partial.unlink(missing_ok=True)
            message = f"The bytes of {file.path} are not those that the bundle promises and were thrown away; export it once more."
            raise RbeesError(ErrorCode.CHECKSUM_MISMATCH, message, file=file.path)
        self._taken_bytes += file.size_bytes - kept
        self._copied[number] = summed

    def _append(self, number: int, partial: PartialFile) -> bool:
        try:
            for piece in self._bundle.pieces(self._bundle.manifest.files[number], partial.size_bytes):
                partial.write(piece)
        except TooLong:
            return False
        return partial.is_right()

    def _count(self, done_bytes: int) -> None:
        self._tell(self._before_bytes + done_bytes, False)

    def _name(self, number: int, file: HubFile, place: Place, *, by_link: bool) -> None:
        with self._locked(place):
            if number in self._copied and not self._is_here(file, place):
                if self._is_still_right(number, file, place):
                    os.replace(place.partial, place.blob)
                elif not place.blob.exists():
                    message = f"Another process has taken the bytes of {file.path} away; import the bundle once more."
                    raise RbeesError(ErrorCode.CHECKSUM_MISMATCH, message)
            if not place.target.exists():
                place.name(by_link=by_link)

    def _is_still_right(self, number: int, file: HubFile, place: Place) -> bool:
        """Whether what waits for the name is what was summed: until now others could have the lock, and begin it again."""
        if not place.partial.exists():
            return False
        if _state_of(place.partial.stat()) == self._copied[number]:
            return True
        return sum_of(place.partial, file, lambda _: self._tell(self._before_bytes, False)) is not None

    @contextlib.contextmanager
    def _locked(self, place: Place) -> Iterator[None]:
        """Be the only one who writes the file, a download of it included."""
        made(place.lock.parent)
        with locked(place.lock, lambda: self._tell(self._before_bytes, True)):
            try:
                yield
            finally:
                if self._order.local_dir is not None:
                    # In a folder of its own nothing but the model is left; who waits for the lock notices that its file is gone.
                    place.lock.unlink(missing_ok=True)

    def _is_here(self, file: HubFile, place: Place) -> bool:
        """Whether the very file has its name already.

        Raises:
            RbeesError: INVALID_REQUEST: another one has it.
        """
        if not place.target.exists():
            # A link that leads nowhere is in nobody's way; naming the file replaces it.
            return False
        if sum_of(place.target, file, lambda _: self._tell(self._before_bytes, False)) is not None:
            return True
        message = (
            f"There is another file at {place.target}, which stays: its bytes are not those of the bundle. Delete that model first "
            "(`rbees-pool models delete`), or name another folder with `--local-dir`."
        )
        raise RbeesError(ErrorCode.INVALID_REQUEST, message, field="local_dir", path=str(place.target))

    def _write_refs(self) -> None:
        """Remember the branches, unless this host has seen them at another commit; then the model goes by its own."""
        for branch in self._bundle.manifest.branches:
            if not (self._cache.repository(self._order.repository) / "refs" / branch).exists():
                write_ref(msgspec.structs.replace(self._order, revision=branch), self._cache)

    def _check_headers(self, places: list[Place]) -> None:
        """Raises RbeesError MODEL_INCOMPATIBLE, where no worker could ever serve the files; then they do not stay."""
        paths = [
            place.partial if number in self._copied else place.target if place.target.exists() else place.blob
            for number, place in enumerate(places)
        ]
        try:
            if is_scripted(places[0].target):
                read_scripted(paths[0])
            else:
                shape_of(*(read_header(path) for path in paths))
        except RbeesError:
            for number in self._copied:
                places[number].partial.unlink(missing_ok=True)
            raise


def _marked(descriptor: int) -> _State:
    """The state of a file, of which any later write makes another one.

    Clocks of file systems are coarse, so a write at this very moment might leave the time as it is: it is set back.
    """
    status = os.fstat(descriptor)
    os.utime(descriptor, ns=(status.st_atime_ns, status.st_mtime_ns - _SET_BACK_NS))
    return _state_of(os.fstat(descriptor))


def _state_of(status: os.stat_result) -> _State:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise disk_full() from None
        raise unwritable(error.filename or "of the models", error) from None
