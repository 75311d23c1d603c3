"""Drives one Scheduler through a list of events by a clock that moves only when told; its state is checked after each."""

from __future__ import annotations

from typing import Any

from rbees.orcd.scheduler.core import Scheduler
from rbees.orcd.scheduler.effects import Effect, Note, SpawnWorker
from rbees.orcd.scheduler.events import (
    AttemptFailed,
    Event,
    JobArrived,
    JobRecovered,
    JobSpec,
    Moment,
    PoolReported,
    Ticked,
    WorkerBecameReady,
    WorkerEnded,
)
from rbees.orcd.scheduler.policy import Policy
from rbees.orcd.scheduler.survey import Told
from rbees.protocol.errors import ErrorBody, ErrorCode
from rbees.protocol.jobs import Priority
from rbees.protocol.pools import Device, ModelFacts, WorkerFacts
from tests.simulation import facts

HAIKU = facts.model("haiku", 4 << 20)
NOVEL = facts.model("novel", 6 * facts.GIB)
CPU = facts.device("cpu", 16 * facts.GIB, 14 * facts.GIB)
CRASH = ErrorBody(code=ErrorCode.WORKER_CRASHED, message="SIGSEGV")
UNREACHABLE = ErrorBody(code=ErrorCode.WORKER_UNREACHABLE, message="The connection broke.")


class Drive:
    """A scheduler and the time it lives in."""

    def __init__(self, policy: Policy | None = None, *, noted: bool = False) -> None:
        self.scheduler = Scheduler(policy or Policy())
        self.now_s = 100.0
        self._noted = noted
        self._orders = 0
        self._draws = 0
        self._jumped_s = 0.0

    def send(self, event: Event, *, after_s: float = 0.0) -> list[Effect]:
        """Handle one event. Notes are left out unless the drive was made to show them."""
        self.now_s += after_s
        self._draws += 1
        moment = Moment(self.now_s, round((self.now_s + self._jumped_s) * 1000), self._draws.to_bytes(10, "big"))
        effects = self.scheduler.handle(event, moment)
        self.scheduler.check_integrity()
        return [effect for effect in effects if self._noted or not isinstance(effect, Note)]

    def clock_jumps(self, seconds: float) -> None:
        """The time of day is set; the monotonic clock knows nothing of that."""
        self._jumped_s += seconds

    def tick(self, *, after_s: float = 0.0) -> list[Effect]:
        """Let time pass and have it noticed."""
        return self.send(Ticked(), after_s=after_s)

    def ticks(self, seconds: float) -> list[Effect]:
        """Let time pass second by second; everything that it led to."""
        return [effect for _ in range(round(seconds)) for effect in self.tick(after_s=1.0)]

    def spec(self, job_id: str, model: ModelFacts = HAIKU, **fields: Any) -> JobSpec:
        """The next job; `resolved=False` leaves its model to be found."""
        self._orders += 1
        sha256 = model.sha256 if fields.pop("resolved", True) else None
        priority: Priority = fields.pop("priority", "interactive")
        return JobSpec(job_id, model.ref, sha256, priority, self._orders, fields.pop("timeout_ms", 300_000), **fields)

    def job(self, job_id: str, model: ModelFacts = HAIKU, **fields: Any) -> list[Effect]:
        """A job arrives."""
        return self.send(JobArrived(self.spec(job_id, model, **fields)))

    def recovered(
        self,
        spec: JobSpec,
        epoch: int = 0,
        failures: int = 0,
        worker_id: str | None = None,
        *,
        deaths: int = 0,
        accepted_s_ago: float = 0.0,
        after_s: float = 0.0,
    ) -> list[Effect]:
        """A job is taken up after a restart; with `worker_id`, of pool `a`, an attempt of it may run there."""
        accepted_at_ms = round((self.now_s + self._jumped_s - accepted_s_ago) * 1000)
        pool_id = None if worker_id is None else "a"
        return self.send(JobRecovered(spec, epoch, failures, worker_id, pool_id, accepted_at_ms, deaths), after_s=after_s)

    def plan(self, spec: JobSpec) -> Told:
        """What would become of a job now."""
        return self.scheduler.plan(spec, self.now_s, round(self.now_s * 1000))

    def report(
        self,
        pool_id: str = "a",
        *workers: WorkerFacts,
        boot: str = "1",
        devices: tuple[Device, ...] = (CPU,),
        models: tuple[ModelFacts, ...] = (HAIKU,),
        default_ctx: int = 0,
        after_s: float = 0.0,
    ) -> list[Effect]:
        """A pool reports its whole state."""
        report = PoolReported(pool_id, boot, False, devices, models, workers, default_ctx=default_ctx)
        return self.send(report, after_s=after_s)

    def ready(self, pool_id: str, worker: WorkerFacts) -> list[Effect]:
        """A pool passes on that a worker has loaded."""
        return self.send(WorkerBecameReady(pool_id, worker))

    def died(self, pool_id: str, worker_id: str, *, loading: bool = False, error: ErrorBody = CRASH) -> list[Effect]:
        """A pool passes on that a worker is gone."""
        return self.send(WorkerEnded(pool_id, worker_id, error, loading))

    def broke(self, job_id: str, epoch: int, *, hung: bool = False) -> list[Effect]:
        """The stream of an attempt broke off."""
        return self.send(AttemptFailed(job_id, epoch, UNREACHABLE, final=False, worker_suspect=True, worker_hung=hung))


def spawned(effects: list[Effect]) -> SpawnWorker:
    """The one worker that the effects start."""
    (spawn,) = [effect for effect in effects if isinstance(effect, SpawnWorker)]
    return spawn


def kinds(effects: list[Effect]) -> list[str]:
    """The names of the effects."""
    return [type(effect).__name__ for effect in effects]
