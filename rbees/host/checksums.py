"""The sha256 of model files, computed once: kept by path, size, modification time and inode.

The cache is only a saving: one that is missing, damaged or stale costs time and nothing else. A daemon and any number of commands
share its file: each adds what it has learned to what is there.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

_CHUNK_BYTES: Final = 1 << 20
_PATIENCE_S: Final = 5.0
"""The lock is held for the moment of a write; a process that was stopped in it keeps nobody for longer than that."""
_LOOK_S: Final = 0.02


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
        self._seen = fingerprint(cache)
        """Of the cache as it was read last."""
        self._entries = _load(cache)
        self._learned: dict[str, _Entry] = {}
        """What the file does not hold yet."""
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
        self._learn(path, _Entry(before, sha256))
        return sha256

    def take_over(self) -> None:
        """Know what other processes have added since."""
        now = fingerprint(self._cache)
        if now != self._seen:
            self._entries.update(_load(self._cache) | self._learned)
            self._seen = now

    def remember(self, path: Path, sha256: str) -> None:
        """Take over a checksum that whoever wrote the file has computed."""
        print_ = fingerprint(path)
        if print_ is not None:
            self._learn(path, _Entry(print_, sha256))

    def save(self) -> None:
        """Add what is new to the cache, whole or not at all, and take over what other processes have added."""
        if not self._learned:
            return
        draft = self._cache.with_suffix(f".{os.getpid()}.new")
        learned = dict(self._learned)
        try:
            with _locked(self._cache.with_suffix(".lock")):
                entries = _load(self._cache) | learned
                draft.write_bytes(msgspec.json.encode(entries))
                os.replace(draft, self._cache)
                self._seen = fingerprint(self._cache)
        except OSError:
            # A full disk or a read-only folder: the sums are computed again next time.
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
        else:
            self._entries.update(entries | self._learned)
        for path, entry in learned.items():
            if self._learned.get(path) is entry:
                del self._learned[path]

    def close(self) -> None:
        """Make a running `compute` end at once."""
        self._closed.set()

    def _learn(self, path: Path, entry: _Entry) -> None:
        self._learned[str(path)] = entry
        self._entries[str(path)] = entry

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


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock file at `path`. Raises OSError: the disk fails, or somebody else holds it and does not let go."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        until = time.monotonic() + _PATIENCE_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise
            time.sleep(_LOOK_S)
        yield
    finally:
        os.close(descriptor)
