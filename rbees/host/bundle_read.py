"""Reading a bundle, which a stranger may have made: a folder or a tar, from a file or down a pipe.

The reader of tars is small on purpose. It takes plain files under the names and with the sizes that the manifest has just stated,
in that order, and nothing else, so links, devices, `..` and whatever else an archive may hold have no way in; no entry is ever
given to a library that would unpack it. Nothing is written here.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from rbees.host.bundle import MANIFEST, MAX_MANIFEST_BYTES, BundleFile, Manifest, read_manifest
from rbees.host.partial_file import PIECE_BYTES
from rbees.protocol.errors import ErrorCode, RbeesError

_BLOCK: Final = tarfile.BLOCKSIZE
_BEGINNING: Final = f"{MANIFEST}\0".encode()
"""Of every tar that is a bundle: the name of its first entry."""


class Bundle(Protocol):
    """A bundle that is being read, its files one after the other."""

    manifest: Manifest
    can_go_back: bool
    """Whether a file may be read a second time."""

    def pieces(self, file: BundleFile, start: int) -> Iterator[bytes]:
        """The bytes of the next file from `start` on, or of the same file once more. Raises as `open_bundle`."""
        ...

    def finish(self) -> None:
        """Look whether the bundle ends here. Raises as `open_bundle`."""
        ...


@contextlib.contextmanager
def open_bundle(named: str, standard_input: BinaryIO) -> Iterator[Bundle]:
    """The bundle at a path, or that comes by `standard_input` where `named` is `-`.

    Raises:
        RbeesError: MODEL_NOT_FOUND (there is none), INVALID_REQUEST (it is none, or not what its manifest says), CHECKSUM_MISMATCH
            (it ends too early), CONFIGURATION (it cannot be read).
    """
    with contextlib.ExitStack() as stack:
        if named == "-":
            yield _TarBundle(standard_input, "The bundle from standard input", _is_seekable(standard_input))
            return
        path = Path(named).expanduser()
        with _reading(path):
            if path.is_dir():
                bundle: Bundle = _FolderBundle(path)
            else:
                source = stack.enter_context(path.open("rb"))
                bundle = _TarBundle(source, f"The bundle {path}", _is_seekable(source))
        yield bundle


class _FolderBundle:
    can_go_back = True

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        if not (folder / MANIFEST).is_file():
            raise _no_bundle_in(folder)
        with _opened(folder / MANIFEST) as source:
            document = source.read(MAX_MANIFEST_BYTES + 1)
        if len(document) > MAX_MANIFEST_BYTES:
            raise _refusal(f"The bundle {folder}", f"has a {MANIFEST} of more than {MAX_MANIFEST_BYTES >> 10} KiB")
        self.manifest = read_manifest(document)
        for file in self.manifest.files:
            with _opened(folder / file.member) as source:
                if os.fstat(source.fileno()).st_size != file.size_bytes:
                    raise _refusal(f"The bundle {folder}", f"has a {file.member} of another size than its {MANIFEST} says")

    def pieces(self, file: BundleFile, start: int) -> Iterator[bytes]:
        left = file.size_bytes - start
        with _opened(self._folder / file.member) as source, _reading(self._folder / file.member):
            source.seek(start)
            while left and (piece := source.read(min(PIECE_BYTES, left))):
                left -= len(piece)
                yield piece

    def finish(self) -> None:
        """A folder has no end to be missed: each file's size is known."""


class _TarBundle:
    def __init__(self, source: BinaryIO, place: str, can_go_back: bool) -> None:
        self._source = source
        self._place = place
        self.can_go_back = can_go_back
        self._current: BundleFile | None = None
        self._begins_at = 0
        size_bytes = self._enter(MANIFEST, None)
        if size_bytes > MAX_MANIFEST_BYTES:
            raise _refusal(place, f"has a {MANIFEST} of more than {MAX_MANIFEST_BYTES >> 10} KiB")
        document = self._exactly(size_bytes)
        self._exactly(-size_bytes % _BLOCK)
        self.manifest = read_manifest(document)

    def pieces(self, file: BundleFile, start: int) -> Iterator[bytes]:
        with _reading(self._place):
            if file is not self._current:
                self._enter(file.member, file.size_bytes)
                self._current = file
                self._begins_at = self._source.tell() if self.can_go_back else 0
            elif self.can_go_back:
                self._source.seek(self._begins_at)
            self._skip(start)
            left = file.size_bytes - start
            while left:
                piece = self._some(min(PIECE_BYTES, left))
                left -= len(piece)
                yield piece
            self._exactly(-file.size_bytes % _BLOCK)

    def finish(self) -> None:
        with _reading(self._place):
            if any(self._exactly(2 * _BLOCK)):
                raise _refusal(self._place, f"holds more than its {MANIFEST} says")
            # Programs that copy archives fill the last record up.
            while rest := self._source.read(PIECE_BYTES):
                if any(rest):
                    raise _refusal(self._place, "goes on behind its end")

    def _enter(self, name: str, size_bytes: int | None) -> int:
        """Read the header of the next entry, which must be this file; its size."""
        block = self._first_block() if name == MANIFEST else self._exactly(_BLOCK)
        try:
            entry = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
        except (tarfile.HeaderError, UnicodeDecodeError, ValueError):
            if name == MANIFEST:
                raise self._no_bundle() from None
            raise _refusal(self._place, f"has something else where {name} should begin") from None
        if name == MANIFEST and entry.name != MANIFEST:
            raise self._no_bundle()
        if entry.name != name or entry.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            raise _refusal(self._place, f"has something else where the file {name} should be")
        if entry.size < 0 or size_bytes not in (None, entry.size):
            raise _refusal(self._place, f"has a {name} of another size than its {MANIFEST} says")
        return entry.size

    def _first_block(self) -> bytes:
        """The header that every bundle begins with; what is too short for one may still be the beginning of it."""
        found = b""
        while len(found) < _BLOCK and (piece := self._source.read(_BLOCK - len(found))):
            found += piece
        if len(found) < _BLOCK:
            raise self._too_early() if found[: len(_BEGINNING)] == _BEGINNING[: len(found)] else self._no_bundle()
        return found

    def _skip(self, count: int) -> None:
        if self.can_go_back:
            self._source.seek(count, os.SEEK_CUR)
            return
        while count:
            count -= len(self._some(min(PIECE_BYTES, count)))

    def _some(self, most: int) -> bytes:
        piece = self._source.read(most)
        if not piece:
            raise self._too_early()
        return piece

    def _exactly(self, count: int) -> bytes:
        found = b""
        while len(found) < count:
            found += self._some(count - len(found))
        return found

    def _no_bundle(self) -> RbeesError:
        return _refusal(self._place, "is no bundle of a model: `rbees-pool models export` makes one")

    def _too_early(self) -> RbeesError:
        return RbeesError(ErrorCode.CHECKSUM_MISMATCH, f"{self._place} ends too early; export the model once more.")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """A plain file of a folder; a link or a pipe is not followed or waited for."""
    with _reading(path):
        if path.is_symlink():
            raise _refusal(f"The bundle {path.parent}", f"has a link where the file {path.name} should be")
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise _refusal(f"The bundle {path.parent}", f"has something else where the file {path.name} should be")
            yield file


@contextlib.contextmanager
def _reading(place: Path | str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise RbeesError(ErrorCode.MODEL_NOT_FOUND, f"There is no {place} on this host; check the path.") from None
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise RbeesError(ErrorCode.CONFIGURATION, f"{place} cannot be read ({reason}); check it and who may.") from None


def _is_seekable(source: BinaryIO) -> bool:
    try:
        return source.seekable()
    except OSError:
        return False


def _no_bundle_in(folder: Path) -> RbeesError:
    inside = sorted(path.parent.name for path in folder.glob(f"*/{MANIFEST}")) + sorted(path.name for path in folder.glob("*.tar"))
    hint = f"; name one of those inside: {', '.join(inside[:5])}" if inside else ""
    message = f"The folder {folder} is no bundle of a model, since it has no {MANIFEST}{hint}."
    return RbeesError(ErrorCode.INVALID_REQUEST, message)


def _refusal(place: str, reason: str) -> RbeesError:
    return RbeesError(ErrorCode.INVALID_REQUEST, f"{place} {reason}; nothing of it can be used.")
