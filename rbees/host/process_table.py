"""The durable records of worker processes: one small file for each, written before and after the start.

A pool daemon and commands that work without one share them. A record without a process id means that the start was under way
when whoever began it ended. Of a worker that ended another file tells how, for as long as its log is kept.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from rbees.host.table_lock import TableLock
from rbees.host.worker_spec import WorkerSpec
from rbees.protocol.codec import Message
from rbees.protocol.pools import WorkerFacts

_SUFFIX: Final = ".json"
_ENDED_SUFFIX: Final = ".ended"
_LOG_SUFFIX: Final = ".log"
_DRAFT_SUFFIX: Final = ".new"
_OLD_DRAFT_S: Final = 60.0
"""No write takes so long; what wrote an older draft was killed."""
KEPT_LOGS: Final = 50
"""Logs of ended workers that are kept; older ones are deleted whenever a worker ends, and when the pool starts."""

M = TypeVar("M", bound=Message)


class ProcessRecord(Message, frozen=True, kw_only=True):
    """What must survive the pool daemon to find the process again and to tell its story."""

    spec: WorkerSpec
    reserved_bytes: int
    """On all its devices together."""
    reserved: dict[str, int] = {}
    """By device id; empty in the records of earlier versions, whose workers used one device."""
    started_at_ms: int
    pid: int | None = None
    started: str | None = None
    """Tells this process from a later one with the same id; see `process.identify`."""
    was_ready: bool = False
    measured_bytes: int | None = None
    """What it said that it takes on its devices together, once its model was loaded."""
    stop_asked: bool = False
    """Somebody wanted it ended: whoever finds it goes on with that, and its end is no failure."""
    stopped_by: str | None = None
    """Who that was, and why, where it was said."""

    def held_on(self, device_id: str) -> int:
        """Bytes that it holds on a device: those that are set aside for it, until it has measured what it takes."""
        if not self.measured_bytes or device_id not in self.spec.devices:
            return self.reserved_on(device_id)
        # It measures all its devices together; the shares are as they were reckoned.
        whole = sum(self.reserved_on(device) for device in self.spec.devices)
        if whole == 0:
            return self.measured_bytes // len(self.spec.devices)
        return self.measured_bytes * self.reserved_on(device_id) // whole

    def reserved_on(self, device_id: str) -> int:
        """Bytes that are set aside for it on a device."""
        if self.reserved:
            return self.reserved.get(device_id, 0)
        return self.reserved_bytes // len(self.spec.devices) if device_id in self.spec.devices else 0


class EndedWorker(Message, frozen=True, kw_only=True):
    """How a worker ended."""

    facts: WorkerFacts
    while_loading: bool
    told: bool
    """Whether a pool daemon has passed it on. A command without one cannot, so the next daemon does."""


class ProcessTable:
    """The records in one folder. All methods block on the disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.lock = TableLock(folder / "lock")

    def log_path(self, worker_id: str) -> Path:
        """Where the worker's output goes."""
        return self._folder / f"{worker_id}{_LOG_SUFFIX}"

    def write(self, record: ProcessRecord) -> None:
        """Make the record durable: when this returns, a crash of the machine does not lose it.

        Raises:
            OSError: the disk is full or fails.
        """
        self._replace(self._path(record.spec.worker_id), msgspec.json.encode(record))

    def remove(self, worker_id: str) -> None:
        """Delete the record; harmless if there is none."""
        self._path(worker_id).unlink(missing_ok=True)

    def record_of(self, worker_id: str) -> ProcessRecord | None:
        """The worker's record; None where there is none that can be read."""
        return _read(self._path(worker_id), ProcessRecord)

    def load(self) -> tuple[ProcessRecord, ...]:
        """All records that can be read; damaged ones are deleted, their processes are found by their command line."""
        return self._load(_SUFFIX, ProcessRecord)

    def write_ended(self, ended: EndedWorker) -> None:
        """Remember how a worker ended.

        Raises:
            OSError: the disk is full or fails.
        """
        self._replace(self._ended_path(ended.facts.worker_id), msgspec.json.encode(ended))

    def load_ended(self, known: Collection[str] = ()) -> tuple[EndedWorker, ...]:
        """The workers that ended and are still remembered, without those that are known; what is damaged is deleted."""
        return self._load(_ENDED_SUFFIX, EndedWorker, known)

    def ended_of(self, worker_id: str) -> EndedWorker | None:
        """How this worker ended; None where nothing was written down of that."""
        return _read(self._ended_path(worker_id), EndedWorker)

    def remove_ended(self, worker_id: str) -> None:
        """Delete what was written down of an end that was none: the worker was started again. Harmless if there is nothing."""
        self._ended_path(worker_id).unlink(missing_ok=True)

    def drop_old_logs(self) -> None:
        """Delete the oldest logs of workers that have no record any more, with what is remembered of these, and stale drafts."""
        left: dict[str, float] = {}
        for path in (*self._folder.glob(f"*{_LOG_SUFFIX}"), *self._folder.glob(f"*{_ENDED_SUFFIX}")):
            if not self._path(path.stem).exists():
                left[path.stem] = max(left.get(path.stem, 0.0), _modified_s(path))
        for worker_id in sorted(left, key=left.__getitem__, reverse=True)[KEPT_LOGS:]:
            for suffix in (_LOG_SUFFIX, _ENDED_SUFFIX):
                (self._folder / f"{worker_id}{suffix}").unlink(missing_ok=True)
        for draft in self._folder.glob(f"*{_DRAFT_SUFFIX}"):
            if time.time() - _modified_s(draft) > _OLD_DRAFT_S:
                draft.unlink(missing_ok=True)

    def _path(self, worker_id: str) -> Path:
        return self._folder / f"{worker_id}{_SUFFIX}"

    def _ended_path(self, worker_id: str) -> Path:
        return self._folder / f"{worker_id}{_ENDED_SUFFIX}"

    def _load(self, suffix: str, kind: type[M], known: Collection[str] = ()) -> tuple[M, ...]:
        found = []
        for path in sorted(path for path in self._folder.glob(f"*{suffix}") if path.stem not in known):
            try:
                found.append(msgspec.json.decode(path.read_bytes(), type=kind))
            except OSError:
                continue
            except (msgspec.MsgspecError, UnicodeDecodeError):
                path.unlink(missing_ok=True)
        return tuple(found)

    def _replace(self, path: Path, content: bytes) -> None:
        # A daemon and a command may write of the same worker at once, each by a draft of its own.
        draft = path.with_name(f"{path.name}.{os.getpid()}{_DRAFT_SUFFIX}")
        try:
            with open(draft, "wb", opener=_private) as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, path)
        except OSError:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
            raise
        self._sync_folder()

    def _sync_folder(self) -> None:
        descriptor = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _read(path: Path, kind: type[M]) -> M | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _modified_s(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        # Another worker that ended at the same moment had it deleted.
        return 0.0


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
