"""Files on the disk: each lies in one folder under its id, and exists for clients once the database has a row of it.

Content comes first and is synced, then the row; a row goes first, then the content. So a process killed in between leaves only what
no row names, and that is removed at the next start. What a client calls its file is data and never part of a path.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from rbees.orcd.store.batches import BatchStore, FileRow
from rbees.protocol.batches import FilePurpose
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.service import logs
from rbees.service.clock import Clock
from rbees.service.identity import Identities

PIECE_BYTES: Final = 1 << 20
"""Of an upload that are written at once."""
DEFAULT_EXPIRY_S: Final = 30 * 24 * 3_600
"""Of a file that was uploaded for a batch, as the API reference has it."""
_MODE: Final = 0o600


class Files:
    """The folder and its files. `folder` is private and exists."""

    def __init__(self, folder: Path, store: BatchStore, clock: Clock, max_file_bytes: int) -> None:
        self._folder = folder
        self._store = store
        self._clock = clock
        self._identities = Identities(clock)
        self.max_file_bytes = max_file_bytes

    async def clean(self) -> None:
        """Remove what an earlier process left half done."""
        known = await self._store.names_in_folder()
        removed = await asyncio.to_thread(_remove_others, self._folder, known)
        if removed:
            logs.logger().info("removed unfinished files", action="files_cleaned", count=removed)

    def new_id(self) -> str:
        """An id that no file has."""
        return self._identities.file_id()

    def path(self, file_id: str) -> Path:
        """Where the content of a file lies, whose id was made here."""
        return self._folder / file_id

    def upload(self) -> Upload:
        """A file that is still to come."""
        return Upload(self, self._store, self._clock, self.new_id())

    async def row(self, file_id: str) -> FileRow:
        """A file. Raises RbeesError FILE_NOT_FOUND."""
        row = await self._store.file(file_id)
        if row is None or (row.expires_at_ms is not None and row.expires_at_ms <= self._clock.unix_ms()):
            message = "No file has this id, or it has expired; list them with `GET /v1/files`."
            raise RbeesError(ErrorCode.FILE_NOT_FOUND, message, file_id=file_id[:64])
        return row

    async def list(self, *, after: str | None, purpose: str | None, limit: int, newest_first: bool) -> list[FileRow]:
        """Files behind the one with the id `after`, at most `limit`."""
        return await self._store.files(after=after, purpose=purpose, limit=limit, newest_first=newest_first)

    async def open(self, file_id: str) -> BinaryIO:
        """The content of a file that has a row. Raises RbeesError FILE_NOT_FOUND where it was taken away."""
        try:
            return await asyncio.to_thread(self.path(file_id).open, "rb")
        except FileNotFoundError:
            message = "The content of this file is gone from orcd's state folder; delete the file and upload it again."
            raise RbeesError(ErrorCode.FILE_NOT_FOUND, message, file_id=file_id) from None

    async def delete(self, file_id: str) -> None:
        """Remove a file for good. Raises RbeesError FILE_NOT_FOUND, FILE_IN_USE."""
        await self.row(file_id)
        deleting = asyncio.ensure_future(self._delete(file_id))
        try:
            is_gone = await asyncio.shield(deleting)
        except asyncio.CancelledError:
            await asyncio.wait([deleting])  # A client that leaves meanwhile must not leave content without a row.
            raise
        if not is_gone:
            await self.row(file_id)
            message = "A batch that has not ended reads this file; cancel the batch or wait for its end."
            raise RbeesError(ErrorCode.FILE_IN_USE, message, file_id=file_id)

    async def _delete(self, file_id: str) -> bool:
        """Whether it could be."""
        if not await self._store.delete_file(file_id):
            return False
        await self.remove(file_id)
        return True

    async def sweep(self) -> None:
        """Remove what has expired. Raises RbeesError STORAGE_FULL."""
        for file_id in await self._store.expired_files(self._clock.unix_ms()):
            await self._delete(file_id)

    async def remove(self, file_id: str) -> None:
        """Remove the content of a file that has no row."""
        await asyncio.to_thread(self.path(file_id).unlink, missing_ok=True)


class Upload:
    """A file that is being uploaded. Use it as a context manager: what was not kept is gone at the end."""

    def __init__(self, files: Files, store: BatchStore, clock: Clock, file_id: str) -> None:
        self._files = files
        self._store = store
        self._clock = clock
        self._id = file_id
        self._path = files.path(file_id)
        self._file: BinaryIO | None = None
        self._piece = bytearray()
        self._kept = False
        self.size_bytes = 0

    def __enter__(self) -> Upload:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
            if not self._kept:
                self._path.unlink(missing_ok=True)

    async def write(self, content: bytes) -> None:
        """Take more of it. Raises RbeesError REQUEST_TOO_LARGE, STORAGE_FULL."""
        self.size_bytes += len(content)
        if self.size_bytes > self._files.max_file_bytes:
            raise too_large(self._files.max_file_bytes)
        self._piece += content
        if len(self._piece) >= PIECE_BYTES:
            await self._flush(sync=False)

    async def keep(self, name: str, purpose: FilePurpose, expires_after_s: int | None) -> FileRow:
        """All of it has come: make it durable, and a file. Raises RbeesError STORAGE_FULL."""
        await self._flush(sync=True)
        now_ms = self._clock.unix_ms()
        expires_at_ms = now_ms + 1000 * (DEFAULT_EXPIRY_S if expires_after_s is None else expires_after_s)
        row = FileRow(self._id, name, purpose, self.size_bytes, now_ms, expires_at_ms)
        # From here on the content stays: a client that leaves while the row is written must not leave a row without it.
        self._kept = True
        try:
            await self._store.add_file(row)
        except RbeesError:
            self._kept = False
            raise
        return row

    async def _flush(self, *, sync: bool) -> None:
        piece, self._piece = bytes(self._piece), bytearray()
        writing = asyncio.ensure_future(asyncio.to_thread(self._write, piece, sync))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            # The file is closed and removed only when nobody writes to it any more.
            await asyncio.wait([writing])
            raise

    def _write(self, piece: bytes, sync: bool) -> None:
        with room_on_disk():
            if self._file is None:
                self._file = os.fdopen(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, _MODE), "wb", 0)
            write_all(self._file.fileno(), piece)
            if sync:
                os.fsync(self._file.fileno())
                sync_folder(self._path.parent)


def append(path: Path, at: int, content: bytes) -> None:
    """Write `content` durably at the offset `at`, in place of all that stands there and behind it. Blocks on the disk.

    Done again with the same offset it has the same effect, whatever became of the first time. Raises RbeesError STORAGE_FULL.
    """
    with room_on_disk():
        descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, _MODE)
        try:
            os.lseek(descriptor, at, os.SEEK_SET)
            write_all(descriptor, content)
            os.ftruncate(descriptor, at + len(content))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if at == 0:
            sync_folder(path.parent)


def size_of(path: Path) -> int:
    """Of a file, 0 where there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def write_all(descriptor: int, content: bytes) -> None:
    """All of `content` at once; the system may take it in parts."""
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def sync_folder(folder: Path) -> None:
    """Have the names in a folder outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def too_large(limit_bytes: int) -> RbeesError:
    """The refusal of a file above the limit."""
    message = f"The file is larger than {limit_bytes} bytes (`max_file_bytes`); split it."
    return RbeesError(ErrorCode.REQUEST_TOO_LARGE, message, limit_bytes=limit_bytes)


@contextmanager
def room_on_disk() -> Iterator[None]:
    """Says a full disk by its code."""
    try:
        yield
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        message = "The disk under orcd's state folder is full; free space and send the file again."
        raise RbeesError(ErrorCode.STORAGE_FULL, message) from None


def _remove_others(folder: Path, known: set[str]) -> int:
    removed = 0
    for entry in folder.iterdir():
        if entry.name not in known and entry.is_file():
            entry.unlink(missing_ok=True)
            removed += 1
    return removed
