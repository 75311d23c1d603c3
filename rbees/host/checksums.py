"""The sha256 of model files, computed once: kept by path, size, modification time and inode.

The cache is only a saving: one that is missing, damaged or stale costs time and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

_CHUNK_BYTES: Final = 1 << 20


class Fingerprint(msgspec.Struct, frozen=True):
    """What changes when a file is replaced or written to."""

    size_bytes: int
    modified_ns: int
    inode: int


class _Entry(msgspec.Struct, frozen=True):
    fingerprint: Fingerprint
    sha256: str


def fingerprint(path: Path) -> Fingerprint | None:
    """The fingerprint of a regular file; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return Fingerprint(status.st_size, status.st_mtime_ns, status.st_ino) if path.is_file() else None


def fingerprint_of(paths: Sequence[Path]) -> Fingerprint | None:
    """The fingerprint of several files together; None where one of them is missing."""
    found = [print_ for path in paths if (print_ := fingerprint(path)) is not None]
    if len(found) < len(paths):
        return None
    sizes, times, inodes = zip(*((one.size_bytes, one.modified_ns, one.inode) for one in found), strict=True)
    return Fingerprint(sum(sizes), max(times), sum(inodes))


def sum_of_parts(sums: Sequence[str]) -> str:
    """The identity of a model: the sha256 of its file, or of its parts' sums in hexadecimal, one after the other."""
    return sums[0] if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest()


class Checksums:
    """Remembers checksums in the file `cache`. Threads may share it: entries are only ever replaced whole."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._entries = _load(cache)
        self._changed = False
        self._closed = threading.Event()

    def known(self, path: Path) -> str | None:
        """The checksum of `path` if it was computed for the file as it is now."""
        entry = self._entries.get(str(path))
        return entry.sha256 if entry is not None and entry.fingerprint == fingerprint(path) else None

    def compute(self, path: Path) -> str | None:
        """The checksum, read from the file; None if it vanished or changed meanwhile, or after `close`."""
        before = fingerprint(path)
        sha256 = self._sum(path)
        if before is None or sha256 is None or fingerprint(path) != before:
            return None
        self._entries[str(path)] = _Entry(before, sha256)
        self._changed = True
        return sha256

    def remember(self, path: Path, sha256: str) -> None:
        """Take over a checksum that whoever wrote the file has computed."""
        print_ = fingerprint(path)
        if print_ is not None:
            self._entries[str(path)] = _Entry(print_, sha256)
            self._changed = True

    def save(self) -> None:
        """Write the cache if anything is new, whole or not at all."""
        if not self._changed:
            return
        draft = self._cache.with_suffix(".new")
        try:
            draft.write_bytes(msgspec.json.encode(self._entries))
            os.replace(draft, self._cache)
        except OSError:
            # A full disk or a read-only folder: the sums are computed again next time.
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
        self._changed = False

    def close(self) -> None:
        """Make a running `compute` end at once."""
        self._closed.set()

    def _sum(self, path: Path) -> str | None:
        digest = hashlib.sha256()
        try:
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK_BYTES):
                    if self._closed.is_set():
                        return None
                    digest.update(chunk)
        except OSError:
            return None
        return digest.hexdigest()


def _load(cache: Path) -> dict[str, _Entry]:
    try:
        return msgspec.json.decode(cache.read_bytes(), type=dict[str, _Entry])
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return {}
