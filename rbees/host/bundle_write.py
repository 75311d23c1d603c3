"""Writing a bundle: into a folder, into a tar, or down a pipe. Every byte is summed on its way, so that what is written is right.

Files get the name that was asked for once they are whole and on the disk. What an interruption leaves is hidden beside it
(`.NAME.incomplete`); the next export to the same place goes on with a folder and begins a tar once more.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from rbees.host.bundle import MANIFEST, BundleFile, Manifest
from rbees.host.fetch_place import FULL
from rbees.host.partial_file import PIECE_BYTES, PartialFile, locked
from rbees.protocol import codec
from rbees.protocol.downloads import HubFile
from rbees.protocol.errors import ErrorCode, RbeesError

TAR_SUFFIX: Final = ".tar"
SPARE_BYTES: Final = 16 << 20
"""What an export leaves free on the disk."""
_BLOCK: Final = tarfile.BLOCKSIZE

Tell = Callable[[int, bool], None]
"""Is told how many bytes are done, and whether another process is waited for."""


@dataclass(frozen=True, slots=True)
class Export:
    """A model to be written: its manifest, and where its files lie."""

    manifest: Manifest
    paths: Sequence[Path]
    tell: Tell

    def files(self) -> Iterator[tuple[BundleFile, Path, int]]:
        """Each file, where it lies, and how many bytes come before it."""
        before = 0
        for file, path in zip(self.manifest.files, self.paths, strict=True):
            yield file, path, before
            before += file.size_bytes


def place_of_export(named: str, manifest: Manifest) -> Path:
    """What `--to` means: in a folder that is there, a folder with the model's name; else the very path.

    Raises:
        RbeesError: INVALID_REQUEST: there is something already.
    """
    path = Path(named).expanduser()
    is_bundle = (path / MANIFEST).exists()
    target = path / manifest.name if path.is_dir() and not is_bundle else path
    if target.exists() or target.is_symlink():
        message = f"There is already {target}; remove it, or name another place with `--to`."
        raise RbeesError(ErrorCode.INVALID_REQUEST, message)
    return target


def is_pipe(named: str) -> bool:
    """True for something that takes bytes and keeps no names, such as a named pipe or a tape."""
    try:
        mode = os.stat(named).st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def write_place(export: Export, target: Path) -> None:
    """Write a tar if the name says so, else a folder.

    Raises:
        RbeesError: STORAGE_FULL, CONFIGURATION (cannot be written), CHECKSUM_MISMATCH (the model is not what it was).
    """
    is_tar = target.name.endswith(TAR_SUFFIX)
    draft = target.with_name(f".{target.name}.incomplete")
    lock = target.with_name(f".{target.name}.lock")
    with _writing(target), locked(lock, lambda: export.tell(0, True)):
        try:
            _check_space(draft, export.manifest.total_bytes)
            (_write_tar_file if is_tar else _write_folder)(export, draft)
            if target.exists() or target.is_symlink():
                message = f"Meanwhile {target} has come into being; remove it, or name another place with `--to`."
                raise RbeesError(ErrorCode.INVALID_REQUEST, message)
            os.rename(draft, target)
            _settle(target.parent)
        finally:
            lock.unlink(missing_ok=True)


def write_tar(export: Export, sink: BinaryIO) -> None:
    """Write the model as a tar; the same model always gives the same bytes.

    Raises:
        RbeesError: CHECKSUM_MISMATCH, MODEL_NOT_FOUND; then the end of the tar is missing, and nobody takes it for whole.
        OSError: from `sink`.
    """
    document = codec.encode(export.manifest)
    sink.write(_header(MANIFEST, len(document)) + document + _padding(len(document)))
    for file, path, before in export.files():
        sink.write(_header(file.member, file.size_bytes))
        digest = hashlib.sha256()
        done = 0
        for piece in _pieces(path, 0):
            digest.update(piece)
            done += len(piece)
            if done > file.size_bytes:
                break
            sink.write(piece)
            export.tell(before + done, False)
        if done != file.size_bytes or digest.hexdigest() != file.sha256:
            raise _changed(path)
        sink.write(_padding(file.size_bytes))
    sink.write(bytes(2 * _BLOCK))
    sink.flush()


def _write_tar_file(export: Export, draft: Path) -> None:
    with open(draft, "wb", opener=_no_link) as sink:
        try:
            write_tar(export, sink)
            os.fsync(sink.fileno())
        except BaseException:
            # Nobody goes on with it, so it does not stay to fill the disk.
            draft.unlink(missing_ok=True)
            raise


def _write_folder(export: Export, draft: Path) -> None:
    with contextlib.suppress(FileExistsError):
        draft.mkdir()
    if draft.is_symlink() or not draft.is_dir():
        raise RbeesError(ErrorCode.CONFIGURATION, f"{draft} is in the way; remove it.")
    wanted = {file.member for file in export.manifest.files}
    for left in draft.iterdir():
        if left.name not in wanted:
            left.unlink()
    for file, path, before in export.files():
        _copy(export, file, path, draft / file.member, before)
    with open(draft / MANIFEST, "wb", opener=_no_link) as sink:
        sink.write(codec.encode(export.manifest) + b"\n")
        sink.flush()
        os.fsync(sink.fileno())
    _settle(draft)


def _copy(export: Export, file: BundleFile, path: Path, target: Path, before: int) -> None:
    """Have the file at `target`, going on with what an earlier export has left there."""
    expected = HubFile(path=file.path, size_bytes=file.size_bytes, sha256=file.sha256)
    with open(target, "ab+", opener=_no_link) as sink:
        partial = PartialFile(sink, expected, lambda done: export.tell(before + done, False))
        partial.take_in()
        kept = partial.size_bytes
        _append(partial, path, file.size_bytes)
        if not partial.is_right() and kept:
            partial.start_over()
            _append(partial, path, file.size_bytes)
        if not partial.is_right():
            raise _changed(path)
        sink.flush()
        os.fsync(sink.fileno())


def _append(partial: PartialFile, path: Path, size_bytes: int) -> None:
    for piece in _pieces(path, partial.size_bytes):
        partial.write(piece[: size_bytes - partial.size_bytes])
        if partial.size_bytes == size_bytes:
            return


def _pieces(path: Path, start: int) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            file.seek(start)
            while piece := file.read(PIECE_BYTES):
                yield piece
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise RbeesError(ErrorCode.MODEL_NOT_FOUND, f"The file {path} cannot be read ({reason}); check it.") from None


def _check_space(draft: Path, total_bytes: int) -> None:
    kept = sum(path.lstat().st_size for path in draft.iterdir()) if draft.is_dir() and not draft.is_symlink() else 0
    missing, free = max(0, total_bytes - kept), shutil.disk_usage(draft.parent).free
    if not draft.is_dir() and draft.is_file() and not draft.is_symlink():
        free += draft.stat().st_size  # It is begun once more.
    if free < missing + SPARE_BYTES:
        message = (
            f"{-(-missing >> 20)} MiB are to be written, {SPARE_BYTES >> 20} MiB are to stay free, and the disk of "
            f"{draft.parent} has {free >> 20} MiB free; free some, or name another place with `--to`."
        )
        raise RbeesError(ErrorCode.STORAGE_FULL, message, needed_bytes=missing + SPARE_BYTES, free_bytes=free)


def _header(name: str, size_bytes: int) -> bytes:
    # Nothing of this host and no time goes into it.
    entry = tarfile.TarInfo(name)
    entry.size = size_bytes
    return entry.tobuf(tarfile.GNU_FORMAT)


def _padding(size_bytes: int) -> bytes:
    return bytes(-size_bytes % _BLOCK)


def _no_link(name: str, flags: int) -> int:
    # What was left there is ours or it is nothing: a link would have us write elsewhere.
    return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)


def _settle(folder: Path) -> None:
    """Have the names in a folder on the disk, where its file system can do that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _changed(path: Path) -> RbeesError:
    message = f"{path} is no longer what its checksum says; look at it with `rbees-pool models verify`."
    return RbeesError(ErrorCode.CHECKSUM_MISMATCH, message, file=path.name)


@contextlib.contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise unwritable_place(target, error) from None


def unwritable_place(target: Path, error: OSError) -> RbeesError:
    """What the system said when it was written to."""
    if error.errno in FULL:
        message = f"The disk of {target.parent} ran full; free some space, or name another place with `--to`."
        return RbeesError(ErrorCode.STORAGE_FULL, message)
    if error.errno == errno.EFBIG:
        message = f"The file system of {target.parent} takes no file that large; use one that does, such as exFAT or ext4."
        return RbeesError(ErrorCode.STORAGE_FULL, message)
    reason = os.strerror(error.errno or 0)
    advice = "make its folder" if error.errno == errno.ENOENT else "see who may write there"
    if error.errno == errno.EROFS:
        advice = "mount the disk so that it can be written"
    message = f"{target} cannot be written ({reason}); {advice}, or name another place with `--to`."
    return RbeesError(ErrorCode.CONFIGURATION, message, path=str(target))
