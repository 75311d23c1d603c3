"""Everything the scheduler can decide, as a closed set of values. The executor carries them out in the order given."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from rbees.protocol.errors import ErrorBody
from rbees.protocol.events import Stage
from rbees.protocol.workers import Backend


@dataclass(frozen=True, slots=True)
class ResolveModel:
    """Record once which file the job's reference means; all attempts share it."""

    job_id: str
    model_sha256: str
    model_ref: str


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Store `epoch`, then send the job with the tokens already journaled to the worker and relay what it streams."""

    job_id: str
    epoch: int
    worker_id: str
    pool_id: str
    why: str = field(default="", compare=False)
    """A few words on why there, kept with the attempt."""
    proof_tokens: int | None = None
    """Report `AttemptProved` once this attempt has made so many tokens; None where nobody asks."""


@dataclass(frozen=True, slots=True)
class Attach:
    """After a restart: take up the stream of an attempt that still runs, after the last journaled event."""

    job_id: str
    epoch: int
    worker_id: str
    pool_id: str
    proof_tokens: int | None = None
    """As with `Dispatch`."""


@dataclass(frozen=True, slots=True)
class Abandon:
    """Stop listening to the attempt and have the worker cancel it if it can be reached; its results count no more."""

    job_id: str
    epoch: int
    worker_id: str


@dataclass(frozen=True, slots=True)
class Requeue:
    """Record that the attempt failed and the job waits again; clients see a `metrics` event."""

    job_id: str
    epoch: int
    worker_id: str
    outcome: Literal["failed", "lost", "cancelled"]
    """`cancelled`: it gave way to another job."""
    error: ErrorBody
    counted: bool = True
    """False where the worker refused the job before it took it up; such an attempt is no failure of the job, also not
    in `JobRecovered.failures`."""


@dataclass(frozen=True, slots=True)
class Finish:
    """End the job now: cancelled, timed out, out of retries or impossible to place."""

    job_id: str
    status: Literal["failed", "cancelled"]
    error: ErrorBody


@dataclass(frozen=True, slots=True)
class Note:
    """Tell the job's watchers what it waits for, as a `metrics` event."""

    job_id: str
    stage: Stage
    reason: str
    worker_id: str | None = None
    pool_id: str | None = None
    progress: float | None = None


@dataclass(frozen=True, slots=True)
class SpawnWorker:
    """Have the pool start a worker; harmless when repeated."""

    pool_id: str
    worker_id: str
    model_ref: str
    model_sha256: str
    backend: Backend
    devices: tuple[str, ...]
    gpu_layers: int | None = None
    """Set where only so many layers fit the accelerator."""


@dataclass(frozen=True, slots=True)
class StopWorker:
    """Have the pool stop a worker."""

    pool_id: str
    worker_id: str
    reason: str


Effect = ResolveModel | Dispatch | Attach | Abandon | Requeue | Finish | Note | SpawnWorker | StopWorker
