"""Taking up after a restart what an earlier process accepted: every job that had not ended, in the order of acceptance."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rbees.orcd.journal import Journal
from rbees.orcd.live import LiveJob, Stream
from rbees.orcd.scheduler.events import CancelAsked, Event, JobRecovered, JobSpec
from rbees.orcd.store.jobs import JobStore, UnendedJob
from rbees.protocol.events import StreamState


async def recover(store: JobStore, journal: Journal, post: Callable[[Event], None]) -> int:
    """Hand every unended job to the journal and the scheduler; returns how many there were."""
    jobs = await store.unended()
    for stored, accepted_at_ms in zip(jobs, _accepted_at_ms(jobs), strict=True):
        journal.restore(_live(stored))
        post(_event(stored, accepted_at_ms))
        if stored.cancel_asked:
            post(CancelAsked(stored.job_id))
    return len(jobs)


def _accepted_at_ms(jobs: Sequence[UnendedJob]) -> list[int]:
    """When each was accepted. Where the wall clock was set back between two of them, the older one's moment is put right."""
    moments: list[int] = []
    for stored in reversed(jobs):
        moments.append(min(stored.created_at_ms, moments[-1]) if moments else stored.created_at_ms)
    return moments[::-1]


def _live(stored: UnendedJob) -> LiveJob:
    state = StreamState.WAITING if stored.started_at_ms is None else StreamState.RUNNING
    return LiveJob(
        number=stored.number,
        job_id=stored.job_id,
        created_at_ms=stored.created_at_ms,
        cancel_on_disconnect=stored.cancel_on_disconnect,
        stream=Stream(state, stored.last_seq, stored.epoch, stored.worker_seq, choices=stored.choices, kind=stored.kind),
        status=stored.status,
        dispatched_at_ms=stored.dispatched_at_ms,
        started_at_ms=stored.started_at_ms,
        cancel_asked=stored.cancel_asked,
        correlation_id=stored.correlation_id,
        watched=stored.watched,
    )


def _event(stored: UnendedJob, accepted_at_ms: int) -> JobRecovered:
    running = stored.status != "queued"
    return JobRecovered(
        job=JobSpec(
            job_id=stored.job_id,
            model=stored.model,
            model_sha256=stored.model_sha256,
            priority=stored.priority,
            order=stored.number,
            timeout_ms=stored.timeout_ms,
            deadline_at_ms=stored.deadline_at_ms,
            choices=stored.choices,
            prompt_bytes=stored.extent.prompt_bytes,
            max_tokens=stored.max_tokens,
            session_id=stored.session_id or "",
            prefixes=stored.extent.names,
        ),
        epoch=stored.epoch,
        failures=stored.failures,
        accepted_at_ms=accepted_at_ms,
        deaths=stored.deaths,
        worker_id=stored.worker_id if running else None,
        pool_id=stored.pool_id if running else None,
    )
