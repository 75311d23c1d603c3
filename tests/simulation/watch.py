"""What is asserted at each turn: effects are compared with what the scheduler had been told, kept apart from its own state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rbees.orcd.scheduler.effects import Attach, Dispatch, Effect, Finish, Requeue, SpawnWorker, StopWorker
from rbees.orcd.scheduler.events import (
    AttemptCompleted,
    AttemptFailed,
    DrainBegan,
    Event,
    LoopStalled,
    PoolDrainChanged,
    PoolForgotten,
    PoolReported,
    Ticked,
    WorkerBecameReady,
    WorkerEnded,
)
from rbees.orcd.scheduler.policy import Policy
from rbees.protocol.errors import ErrorCode
from rbees.protocol.pools import WorkerFacts

if TYPE_CHECKING:
    from tests.simulation.shell import Record

TICK_S = 1.0


class Watch:
    """The facts that one orcd process has heard, and the attempts that it believes to run."""

    def __init__(self, policy: Policy, records: dict[str, Record]) -> None:
        self._policy = policy
        self._records = records
        self._told: dict[str, WorkerFacts] = {}
        self._pool_of: dict[str, str] = {}
        self._heard_at_s: dict[str, float] = {}
        self._last_report: dict[str, PoolReported] = {}
        self._running: dict[str, str] = {}
        """Worker by job."""
        self._spawned: set[str] = set()
        self._announced_at_s: dict[str, float] = {}
        """Workers that are known only because their start was passed on."""
        self._suspects: set[str] = set()
        """Workers of which an attempt said that they stand still or cannot be reached."""
        self._too_small: dict[str, set[str]] = {}
        """By job: workers that refused it since their context is too small."""
        self._draining = False
        self._drained: set[str] = set()
        self._quiet = False

    def is_quiet(self, event: Event) -> bool:
        """True where an event brought nothing new, so that the state cannot have changed."""
        return self._quiet and isinstance(event, PoolReported | Ticked)

    def hears(self, event: Event, now_s: float) -> None:
        """An event is on its way to the scheduler."""
        self._quiet = True
        match event:
            case PoolReported():
                self._quiet = self._last_report.get(event.pool_id) is event
                if not self._quiet or self._announced_at_s:
                    self._take_over(event, now_s)
                self._heard_at_s[event.pool_id] = now_s
                self._last_report[event.pool_id] = event
            case WorkerBecameReady(pool_id=pool_id, facts=facts):
                told = self._told.get(facts.worker_id)
                if told is None or told.state in {"stopped", "failed"} or facts.worker_id in self._announced_at_s:
                    self._announced_at_s[facts.worker_id] = now_s
                self._told[facts.worker_id] = facts
                self._pool_of[facts.worker_id] = pool_id
            case WorkerEnded(worker_id=worker_id):
                self._told.pop(worker_id, None)
                self._forget_attempts_on(worker_id)
            case AttemptCompleted(job_id=job_id, epoch=epoch):
                self._stops_running(job_id, epoch)
            case AttemptFailed(job_id=job_id, epoch=epoch, error=error, worker_suspect=worker_suspect):
                # It may be held and taken up again, but it does not fill a slot meanwhile.
                ran_on = self._stops_running(job_id, epoch)
                if error.code is ErrorCode.CONTEXT_EXCEEDED and ran_on is not None:
                    self._too_small.setdefault(job_id, set()).add(ran_on)
                if worker_suspect and ran_on is not None:
                    self._suspects.add(ran_on)
            case DrainBegan():
                self._draining = True
            case LoopStalled(seconds=seconds):
                for pool_id in self._heard_at_s:
                    self._heard_at_s[pool_id] += seconds
            case PoolForgotten(pool_id=pool_id):
                self._heard_at_s.pop(pool_id, None)
                self._drained.discard(pool_id)
            case PoolDrainChanged(pool_id=pool_id, drains=drains):
                (self._drained.add if drains else self._drained.discard)(pool_id)

    def _take_over(self, event: PoolReported, now_s: float) -> None:
        """What a report leaves out is gone, except where the report may be older than the news of a worker's start."""
        before = self._last_report.get(event.pool_id)
        restarted = before is not None and before.boot_id != event.boot_id
        listed = {worker.worker_id: worker for worker in event.workers}
        for worker_id in [key for key, pool_id in self._pool_of.items() if pool_id == event.pool_id and key not in listed]:
            announced_at_s = self._announced_at_s.get(worker_id, float("-inf"))
            if restarted or now_s - announced_at_s >= self._policy.quiet_after_s:
                self._told.pop(worker_id, None)
                self._announced_at_s.pop(worker_id, None)
        for worker_id, worker in listed.items():
            self._told[worker_id] = worker
            self._pool_of[worker_id] = event.pool_id
            self._announced_at_s.pop(worker_id, None)

    def sees(self, effect: Effect, now_s: float) -> None:
        """The scheduler has decided."""
        match effect:
            case Dispatch(job_id=job_id, epoch=epoch, worker_id=worker_id, pool_id=pool_id):
                assert not self._draining, "dispatched by a process that is about to end"
                assert pool_id not in self._drained, "dispatched to a drained pool"
                record = self._records[job_id]
                assert record.ended is None, "an ended job is dispatched"
                assert epoch == record.epoch + 1, f"epoch {epoch} follows {record.epoch}"
                assert worker_id not in self._too_small.get(job_id, ()), "dispatched to a worker that is too small for it"
                self._takes(job_id, worker_id, pool_id, now_s)
            case Attach(job_id=job_id, epoch=epoch, worker_id=worker_id):
                record = self._records[job_id]
                assert record.ended is None
                assert (epoch, worker_id) == (record.epoch, record.worker_id), "attached to what was not dispatched"
                assert job_id not in self._running
                self._running[job_id] = worker_id
            case Requeue(job_id=job_id, epoch=epoch):
                assert epoch == self._records[job_id].epoch
                self._running.pop(job_id, None)
            case Finish(job_id=job_id, error=error):
                self._running.pop(job_id, None)
                if error.code is ErrorCode.MODEL_NOT_FOUND:
                    assert not self._is_held(self._records[job_id].spec.model), "a model that a pool holds is called unknown"
            case SpawnWorker(worker_id=worker_id, pool_id=pool_id):
                assert pool_id not in self._drained, "a worker is started on a drained pool"
                assert not self._draining, "a worker is started by a process that is about to end"
                assert worker_id not in self._spawned, "a worker id is used twice"
                self._spawned.add(worker_id)
            case StopWorker(worker_id=worker_id):
                is_busy = worker_id in self._running.values()
                assert not is_busy or worker_id in self._suspects, "a busy worker is pushed out"

    def _is_held(self, reference: str) -> bool:
        return any(facts.ref == reference for report in self._last_report.values() for facts in report.models)

    def _stops_running(self, job_id: str, epoch: int) -> str | None:
        """The worker on which the attempt ran, if it was the current one."""
        if job_id not in self._records or self._records[job_id].epoch != epoch:
            return None
        return self._running.pop(job_id, None)

    def _takes(self, job_id: str, worker_id: str, pool_id: str, now_s: float) -> None:
        assert job_id not in self._running, "a second attempt beside a live one"
        worker = self._told.get(worker_id)
        assert worker is not None, "dispatched to a worker that is not there"
        assert worker.state == "ready", f"dispatched to a worker that is {worker.state}"
        assert now_s - self._heard_at_s[pool_id] < self._policy.suspect_after_s + TICK_S, "dispatched to a silent pool"
        beside = [other for other, on in self._running.items() if on == worker_id]
        taken = sum(min(self._records[one].spec.choices, worker.slots) for one in (*beside, job_id))
        assert taken <= worker.slots, "dispatched beyond the slots"
        assert self._records[job_id].model_sha256 == worker.model_sha256, "dispatched to another model"
        self._running[job_id] = worker_id

    def _forget_attempts_on(self, worker_id: str) -> None:
        for job_id in [job_id for job_id, on in self._running.items() if on == worker_id]:
            del self._running[job_id]
