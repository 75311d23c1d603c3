"""The cluster at a glance, as orcd sees it: one document, or the same as a stream of what changes.

It says what a live view shows and no more; models in full are in `GET /v2/models`, jobs in `GET /v2/tasks`.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from rbees.protocol.codec import Message
from rbees.protocol.jobs import JobStatus, Kind, Priority
from rbees.protocol.pools import Device, PoolState
from rbees.protocol.workers import Backend, WorkerState

SHORTEST_WATCH_S: Final = 0.5
LONGEST_WATCH_S: Final = 60.0
WatchSeconds = Annotated[float, msgspec.Meta(ge=SHORTEST_WATCH_S, le=LONGEST_WATCH_S)]

RUNNING_SHOWN: Final = 100
"""Of the jobs that workers have, so many are listed: those that have been there for longest."""
WAITING_SHOWN: Final = 100
"""Of the models that jobs wait for, so many are listed: those with the most jobs."""


class WorkerGlance(Message, frozen=True, kw_only=True):
    """A worker, from the moment in which orcd had it started."""

    worker_id: str
    state: WorkerState
    model: str
    backend: Backend
    devices: tuple[str, ...]
    slots: int
    """0 until its pool has said."""
    slots_busy: int
    """As orcd gave them away."""
    ctx: int | None = None
    memory_bytes: int
    """An estimate until it has loaded."""
    load_progress: float = 0.0
    safe_mode: bool = False
    tokens_per_s: float = 0.0
    doubt: str | None = None
    """Why it gets no new work although it looks ready."""


class PoolGlance(Message, frozen=True, kw_only=True):
    """A pool with its devices and workers."""

    pool_id: str
    endpoint: str
    state: PoolState
    drains: bool = False
    version: str
    heard_at_s: float
    """Its last report, in seconds since orcd began; compare with `uptime_s` of the overview."""
    clock_ahead_ms: int | None = None
    devices: tuple[Device, ...]
    models: int
    workers: tuple[WorkerGlance, ...]


class WaitingGlance(Message, frozen=True, kw_only=True):
    """The jobs of one priority that wait for one model."""

    model: str
    """As the jobs name it."""
    priority: Priority
    jobs: int
    oldest_s: float | None = None
    """How long the first of them has waited; absent where it does not stand among the first of all."""
    waiting_for: str | None = None
    """What that one waits for, in one sentence."""


class RunningGlance(Message, frozen=True, kw_only=True):
    """A job that a worker has."""

    job_id: str
    status: JobStatus
    kind: Kind
    model: str
    priority: Priority
    pool_id: str
    worker_id: str
    attempt: int
    running_s: float | None = None
    """Of this attempt; absent while its pool has to confirm it."""
    tokens: int
    """All that were made so far, by earlier attempts too."""


class JobCounts(Message, frozen=True, kw_only=True):
    """Jobs that have not ended, by status."""

    queued: int
    dispatched: int
    running: int


class Rates(Message, frozen=True, kw_only=True):
    """Of the last `window_s` seconds."""

    window_s: float
    jobs_per_s: float
    """That ended, however they did."""
    tokens_per_s: float


class Overview(Message, frozen=True, kw_only=True, tag_field="type", tag="overview"):
    """All that belongs to no single pool. In a stream it ends each round of changes."""

    version: str
    """Of orcd."""
    at_ms: int
    uptime_s: float
    problem: str | None = None
    """Why orcd takes no new jobs at present."""
    pools: int
    jobs: JobCounts
    waiting: tuple[WaitingGlance, ...]
    running: tuple[RunningGlance, ...]
    rates: Rates


class PoolChanged(Message, frozen=True, kw_only=True, tag_field="type", tag="pool"):
    """A pool that is new or has changed, in full."""

    pool: PoolGlance


class PoolGone(Message, frozen=True, kw_only=True, tag_field="type", tag="gone"):
    """A pool that was forgotten."""

    pool_id: str


StatusEvent = PoolChanged | PoolGone | Overview


class ClusterStatus(Message, frozen=True, kw_only=True):
    """`GET /v2/status`."""

    overview: Overview
    pools: tuple[PoolGlance, ...]
