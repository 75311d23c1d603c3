"""The figures that orcd publishes, named in one place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Final

from rbees.protocol.jobs import JobStatus
from rbees.service.metrics import Metrics

_SECONDS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
_EVENTS: Final = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000)


class Figures:
    """Counters and distributions of the orchestrator."""

    def __init__(self, metrics: Metrics) -> None:
        self.accepted = metrics.counter("jobs_accepted_total", "Jobs made durable.")
        self.ended = metrics.counter("jobs_ended_total", "Jobs that have ended, by how.", ("status",))
        self.first_token = metrics.histogram("job_first_token_seconds", "From acceptance to the first token.", buckets=_SECONDS)
        self.commit_seconds = metrics.histogram("journal_commit_seconds", "Time of one group commit.", buckets=_SECONDS)
        self.commit_events = metrics.histogram("journal_commit_events", "Events in one group commit.", buckets=_EVENTS)
        self.decision_seconds = metrics.histogram(
            "scheduler_decision_seconds", "Time of one turn of the scheduler.", buckets=_SECONDS
        )
        self.stalls = metrics.counter("loop_stall_seconds_total", "Time by which the event loop woke late.")
        self.watchers = metrics.gauge("job_watchers", "Open event streams.")
        self._watchers = metrics.gauge("status_watchers", "Open streams of what changes in the cluster.")
        self._jobs = metrics.gauge("jobs", "Jobs that have not ended, by status.", ("status",))
        self._estimates = metrics.gauge(
            "memory_estimate_ratio",
            "Memory expected of the latest workers over what they took, by quantile; 1 is exact.",
            ("quantile",),
        )
        for status in ("completed", "failed", "cancelled"):
            self.ended.labels(status)

    def watch_estimates(self, quantile: Callable[[float], float]) -> None:
        """Publish how well the memory of the latest workers was foretold, read whenever the figures are."""
        for share in ("0.05", "0.5", "0.95"):
            self._estimates.labels(share).set_function(partial(quantile, float(share)))

    def watch_watchers(self, count: Callable[[], int]) -> None:
        """Publish how many look on, read whenever the figures are."""
        self._watchers.set_function(count)

    def watch_counts(self, counts: Counter[JobStatus]) -> None:
        """Publish how many live jobs have each status, read whenever the figures are."""
        statuses: tuple[JobStatus, ...] = ("queued", "dispatched", "running")
        for status in statuses:
            self._jobs.labels(status).set_function(partial(counts.__getitem__, status))
