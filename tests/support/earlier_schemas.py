"""Jobs as orcd wrote them under each earlier schema: with the columns that it had, and nothing of what came later."""

from __future__ import annotations

import json
import sqlite3
from typing import Any, Final

from rbees.orcd.store.migrations import packaged
from rbees.service.sse import frame

EARLIER: Final = range(1, len(packaged()))
"""The schemas before the newest."""
_ADDED: Final[dict[int, dict[str, Any]]] = {2: {"watched": 0}, 3: {"kind": "generate"}}
"""What later versions wrote with each job beside what the first one did."""
_USAGE: Final = {"prompt_tokens": 3, "cached_tokens": 0, "completion_tokens": 1}
_TIMINGS: Final = {"queued_ms": 1.0, "prefill_ms": 1.0, "decode_ms": 2.0, "total_ms": 5.0}
_END: Final = {"type": "end", "choices": [{"finish_reason": "stop", "choice": 0}], "usage": _USAGE, "timings": _TIMINGS}
_ERROR: Final = {"type": "error", "error": {"code": "TIMEOUT", "message": "It took too long.", "details": {}}}
_QUEUED: Final = {"type": "queued", "queue_position": 1, "created_at_ms": 1}
_FAILED: Final = {"type": "metrics", "stage": "attempt_failed", "epoch": 1, "reason": "It died.", "code": "WORKER_CRASHED"}
_AGAIN: Final = {"type": "metrics", "stage": "attempt_started", "epoch": 2, "worker_id": "worker-b", "pool_id": "pool"}


def write_jobs(
    connection: sqlite3.Connection, version: int, model: str = "bees", *, model_sha256: str = "ab" * 32, at_ms: int = 1
) -> None:
    """Six jobs of the time `at_ms`, of which two have ended: `job-queued`, `-running`, `-requeued`, `-cancelling`, `-completed` and
    `-failed`.
    """
    _Writer(connection, version, model, model_sha256, at_ms).write()


class _Writer:
    def __init__(self, connection: sqlite3.Connection, version: int, model: str, model_sha256: str, at_ms: int) -> None:
        self._connection = connection
        self._version = version
        self._model = model
        self._model_sha256 = model_sha256
        self._at_ms = at_ms
        self._number = 0

    def write(self) -> None:
        """Write the jobs in the order of their acceptance."""
        self._job("queued", [(0, 0, [_QUEUED])])
        self._job(
            "running",
            # Without tokens: they would have to be those of the model that goes on.
            [(0, 0, [_QUEUED]), (1, 1, [_started()]), (1, 1, [_FAILED]), (2, 1, [_AGAIN])],
            status="running",
            dispatched_at_ms=self._at_ms,
            started_at_ms=self._at_ms,
        )
        self._attempt(1, "worker-a", "lost", counted=1)
        self._attempt(2, "worker-b", "running")
        self._job("requeued", [(0, 0, [_QUEUED]), (1, 0, [_FAILED])], dispatched_at_ms=self._at_ms)
        self._attempt(1, "worker-a", "failed", counted=1)
        self._job("cancelling", [(0, 0, [_QUEUED])], cancel_asked=1)
        ended = {"dispatched_at_ms": self._at_ms, "started_at_ms": self._at_ms, "ended_at_ms": self._at_ms}
        journal = [(0, 0, [_QUEUED]), (1, 3, [_started(), _token(0), _END])]
        self._job("completed", journal, status="completed", outcome=_json(_END), idempotency_key="key-completed", **ended)
        self._attempt(1, "worker-a", "completed")
        self._job("failed", [(0, 0, [_QUEUED, _ERROR])], status="failed", outcome=_json(_ERROR), ended_at_ms=self._at_ms)

    def _job(self, name: str, journal: list[tuple[int, int, list[dict[str, Any]]]], **fields: Any) -> None:
        self._number += 1
        request = {"model": self._model, "prompt": "hum", "max_tokens": 40, "seed": 7}
        row = {
            "number": self._number,
            "job_id": f"job-{name}",
            "status": "queued",
            "model": self._model,
            "priority": "interactive",
            "seed": 7,
            "timeout_ms": 300_000,
            "cancel_on_disconnect": 0,
            "request": _json(request),
            "request_sha256": b"digest",
            "accepted_position": 1,
            "created_at_ms": self._at_ms,
            **fields,
        }
        if "dispatched_at_ms" in fields:
            # Nothing is dispatched before it is known which file its model is.
            row |= {"model_sha256": self._model_sha256, "model_ref": f"{self._model}@{self._model_sha256}"}
        for version, added in _ADDED.items():
            row |= added if version <= self._version else {}
        self._insert("jobs", row)
        seq = 1
        for epoch, worker_seq, events in journal:
            frames = b"".join(frame(seq + place, event["type"], _json(event)) for place, event in enumerate(events))
            last_seq = seq + len(events) - 1
            values = {"job": self._number, "first_seq": seq, "last_seq": last_seq, "epoch": epoch}
            self._insert("journal", {**values, "worker_seq": worker_seq, "frames": frames})
            seq = last_seq + 1

    def _attempt(self, epoch: int, worker_id: str, outcome: str, counted: int = 0) -> None:
        values = {"job": self._number, "epoch": epoch, "worker_id": worker_id, "pool_id": "pool", "started_at_ms": self._at_ms}
        self._insert("attempts", {**values, "outcome": outcome, "counted": counted})

    def _insert(self, table: str, row: dict[str, Any]) -> None:
        places = ", ".join("?" * len(row))
        self._connection.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({places})", [*row.values()])


def _started() -> dict[str, Any]:
    return {"type": "started", "epoch": 1, "worker_id": "worker-a", "model": "file:/m", "prompt_tokens": 3, "pool_id": "pool"}


def _token(index: int) -> dict[str, Any]:
    return {"type": "token", "text": "hum ", "index": index, "token_ids": [1000 + index], "choice": 0, "part": "text"}


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
