"""The sha256 of each piece of a model file: computed when somebody first asks for them, and kept by the sha256 of the whole.

What is kept says nothing about where the file lies, so it holds for every file with these bytes. Everything here blocks.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Collection
from pathlib import Path
from typing import Final

from rbees.host.checksums import fingerprint
from rbees.host.pieces import piece_bytes_of, piece_count
from rbees.protocol import codec
from rbees.protocol.downloads import FilePieces
from rbees.protocol.errors import RbeesError

FOLDER: Final = "pieces"
_CHUNK_BYTES: Final = 1 << 20


class PieceSums:
    """Remembers sums in a folder of its own. A file of it that is missing or damaged costs time and nothing else."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._closed = threading.Event()

    def known(self, sha256: str) -> FilePieces | None:
        """The sums of a file with this sha256, if they were computed or came with it."""
        try:
            kept = codec.decode((self._folder / sha256).read_bytes(), FilePieces)
        except (OSError, RbeesError):
            return None
        return kept if kept.sha256 == sha256 and is_complete(kept) else None

    def compute(self, path: Path, sha256: str) -> FilePieces | None:
        """The same, read from the file; None if it vanished or changed meanwhile, or after `close`."""
        before = fingerprint(path)
        if before is None:
            return None
        piece_bytes = piece_bytes_of(before.size_bytes)
        try:
            with path.open("rb") as file:
                sums = tuple(self._sums(file.fileno(), before.size_bytes, piece_bytes))
        except OSError:
            return None
        if len(sums) < piece_count(before.size_bytes, piece_bytes) or fingerprint(path) != before:
            return None
        return FilePieces(sha256=sha256, size_bytes=before.size_bytes, piece_bytes=piece_bytes, pieces=sums)

    def remember(self, found: FilePieces, held: Collection[str]) -> None:
        """Keep the sums, and forget those of files that are gone: `held` are the sha256 of the files that this host has."""
        with contextlib.suppress(OSError):
            self._folder.mkdir(mode=0o700, exist_ok=True)
            for name in os.listdir(self._folder):
                if name.partition(".")[0] not in held:
                    (self._folder / name).unlink(missing_ok=True)
            draft = self._folder / f"{found.sha256}.{os.getpid()}.new"
            draft.write_bytes(codec.encode(found))
            os.replace(draft, self._folder / found.sha256)

    def close(self) -> None:
        """Make a running `compute` end at once."""
        self._closed.set()

    def _sums(self, descriptor: int, size_bytes: int, piece_bytes: int) -> list[str]:
        made: list[str] = []
        for first in range(0, size_bytes, piece_bytes):
            found = sum_of_extent(descriptor, first, min(piece_bytes, size_bytes - first))
            if found is None or self._closed.is_set():
                break
            made.append(found)
        return made


def sum_of_extent(descriptor: int, first: int, length: int) -> str | None:
    """The sha256 of a part of a file; None where the file ends before."""
    digest = hashlib.sha256()
    return digest.hexdigest() if add_extent(digest, descriptor, first, length) else None


def add_extent(digest: hashlib._Hash, descriptor: int, first: int, length: int) -> bool:
    """Take a part of a file into a sum; False where the file ends before."""
    buffer = memoryview(bytearray(min(_CHUNK_BYTES, length)))
    position, end = first, first + length
    while position < end:
        count = os.preadv(descriptor, [buffer[: min(_CHUNK_BYTES, end - position)]], position)
        if count == 0:
            return False
        digest.update(buffer[:count])
        position += count
    return True


def is_complete(found: FilePieces) -> bool:
    """True if there is a sum for each piece, as there must be in whatever another host says."""
    return (
        found.size_bytes >= 0
        and found.piece_bytes == piece_bytes_of(found.size_bytes)
        and len(found.pieces) == piece_count(found.size_bytes, found.piece_bytes)
    )
