"""The durable records of worker processes: one small file for each, written before and after the start.

A record without a process id means that the start was under way when this host's pool daemon ended.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

import msgspec

from rbees.host.worker_spec import WorkerSpec
from rbees.protocol.codec import Message

_SUFFIX: Final = ".json"
KEPT_LOGS: Final = 50
"""Logs of ended workers that are kept; older ones are deleted whenever a worker ends, and when the pool starts."""


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

    def reserved_on(self, device_id: str) -> int:
        """Bytes that are set aside for it on a device."""
        if self.reserved:
            return self.reserved.get(device_id, 0)
        return self.reserved_bytes // len(self.spec.devices) if device_id in self.spec.devices else 0


class ProcessTable:
    """The records in one folder. All methods block on the disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def log_path(self, worker_id: str) -> Path:
        """Where the worker's output goes."""
        return self._folder / f"{worker_id}.log"

    def write(self, record: ProcessRecord) -> None:
        """Make the record durable: when this returns, a crash of the machine does not lose it.

        Raises:
            OSError: the disk is full or fails.
        """
        path = self._path(record.spec.worker_id)
        draft = path.with_suffix(".new")
        try:
            with open(draft, "wb", opener=_private) as file:
                file.write(msgspec.json.encode(record))
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, path)
        except OSError:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
            raise
        self._sync_folder()

    def remove(self, worker_id: str) -> None:
        """Delete the record; harmless if there is none."""
        self._path(worker_id).unlink(missing_ok=True)

    def load(self) -> tuple[ProcessRecord, ...]:
        """All records that can be read; damaged ones are deleted, their processes are found by their command line."""
        records = []
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            try:
                records.append(msgspec.json.decode(path.read_bytes(), type=ProcessRecord))
            except OSError:
                continue
            except (msgspec.MsgspecError, UnicodeDecodeError):
                path.unlink(missing_ok=True)
        return tuple(records)

    def drop_old_logs(self) -> None:
        """Delete the oldest logs of workers that have no record any more."""
        logs = [path for path in self._folder.glob("*.log") if not self._path(path.stem).exists()]
        for path in sorted(logs, key=_modified_s, reverse=True)[KEPT_LOGS:]:
            path.unlink(missing_ok=True)

    def _path(self, worker_id: str) -> Path:
        return self._folder / f"{worker_id}{_SUFFIX}"

    def _sync_folder(self) -> None:
        descriptor = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _modified_s(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        # Another worker that ended at the same moment had it deleted.
        return 0.0


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
