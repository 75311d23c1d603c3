"""PURE: the decision core of orcd. Facts and wishes come in one at a time, decisions go out as a list of effects.

Every event is handled in three movements: take the fact over into the state; let what time has brought about happen (retries
that are due, timeouts); look at the queues of the models for which something has changed. The order matters: a fact that has
arrived counts before a deadline that has passed, so a completed job never times out.

The scheduler does no I/O, reads no clock and draws no random number; the same events and moments give the same effects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final, assert_never

from rbees.orcd.scheduler import (
    admission,
    arrivals,
    contexts,
    eviction,
    explain,
    glance,
    growth,
    leases,
    outcomes,
    passing,
    placement,
    prospects,
    reports,
    survey,
)
from rbees.orcd.scheduler.effects import Effect
from rbees.orcd.scheduler.events import (
    AttemptCancelled,
    AttemptCompleted,
    AttemptFailed,
    AttemptProved,
    AttemptStarted,
    CancelAsked,
    DrainBegan,
    Event,
    JobArrived,
    JobRecovered,
    JobSpec,
    LetGoAsked,
    LoopStalled,
    Moment,
    PoolDrainChanged,
    PoolForgotten,
    PoolReported,
    PrefixesCached,
    SpawnAccepted,
    SpawnRefused,
    Ticked,
    WorkerBecameReady,
    WorkerEnded,
)
from rbees.orcd.scheduler.fleet import Worker
from rbees.orcd.scheduler.glance import Address, RunningJob
from rbees.orcd.scheduler.integrity import check_state
from rbees.orcd.scheduler.job import Job, Phase
from rbees.orcd.scheduler.judge import Judge
from rbees.orcd.scheduler.learned import Learned
from rbees.orcd.scheduler.policy import Policy
from rbees.orcd.scheduler.queue import Queue
from rbees.orcd.scheduler.rehearsal import Rehearsal
from rbees.orcd.scheduler.state import State
from rbees.orcd.scheduler.survey import Told
from rbees.orcd.scheduler.turn import Turn
from rbees.protocol.cluster import PoolGlance, WaitingGlance
from rbees.protocol.errors import ErrorBody
from rbees.protocol.pools import Device, ModelFacts, PoolState, WorkerFacts

NEWCOMER: Final = "newcomer"
"""The id of a job of which is asked what would become of it."""
NEWEST: Final = 1 << 62
"""Its place in the order of acceptance."""
DUE: Final = 1_023
"""Of the deadlines, so many are looked at to find those that have just come."""


@dataclass(frozen=True, slots=True)
class PoolFacts:
    """A pool as the scheduler sees it, for the API."""

    pool_id: str
    boot_id: str
    state: PoolState
    heartbeat_age_s: float
    devices: tuple[Device, ...]
    models: tuple[ModelFacts, ...]
    workers: tuple[WorkerFacts, ...]
    drains: bool
    """An operator wants no new work there."""


class Scheduler:
    """The scheduler of one orcd. Not thread-safe: it belongs to the loop that feeds it."""

    def __init__(self, policy: Policy, judge: Judge | None = None, learned: Learned | None = None) -> None:
        self._policy = policy
        self._state = State()
        self._state.judge = judge
        if learned is not None:
            self._state.speeds, self._state.estimates = learned.speeds, learned.estimates
        self._queue = Queue()

    def handle(self, event: Event, moment: Moment) -> list[Effect]:
        """Take one event over and decide what follows, to be carried out in the order given."""
        turn = Turn(self._state, self._queue, self._policy, moment)
        if self._state.started_at_s is None:
            self._state.started_at_s, self._state.started_at_ms = moment.monotonic_s, moment.unix_ms
        self._take_over(turn, event)
        passing.pass_on(turn)
        placement.drop_stale_claims(turn)
        # After a restart thousands of jobs come back before the first pool does, and then every tick looks at them anyhow.
        comes_too_early = isinstance(event, JobRecovered) and not self._state.pools
        if turn.touched and len(self._queue) and not self._state.draining and not comes_too_early:
            placement.place(turn)
        return turn.effects

    def _take_over(self, turn: Turn, event: Event) -> None:
        match event:
            case JobArrived(job=spec):
                arrivals.enter(turn, spec, since_s=turn.now_s)
            case JobRecovered():
                arrivals.recover(turn, event)
            case CancelAsked(job_id=job_id):
                arrivals.cancel(turn, job_id)
            case LetGoAsked(model_sha256=model_sha256):
                eviction.keep(turn.state, model_sha256, 0.0)
            case PoolReported():
                if reports.pool_reported(turn, event):
                    arrivals.resolve_waiting(turn)
            case PoolForgotten(pool_id=pool_id):
                if pool_id in self._state.pools:
                    reports.pool_forgotten(turn, self._state.pools[pool_id])
            case PoolDrainChanged(pool_id=pool_id, drains=drains):
                reports.pool_drain_changed(turn, pool_id, drains=drains)
            case WorkerBecameReady(pool_id=pool_id, facts=facts):
                if pool_id in self._state.pools:
                    reports.worker_ready(turn, self._state.pools[pool_id], facts)
            case WorkerEnded():
                self._worker_ended(turn, event)
            case SpawnAccepted(worker_id=worker_id):
                if worker_id in self._state.workers:
                    self._state.workers[worker_id].accepted = True
            case SpawnRefused(worker_id=worker_id, error=error):
                self._spawn_refused(turn, worker_id, error)
            case AttemptStarted(job_id=job_id, epoch=epoch):
                outcomes.started(turn, job_id, epoch)
            case AttemptProved(job_id=job_id, epoch=epoch):
                outcomes.proved(turn, job_id, epoch)
            case AttemptCompleted(job_id=job_id, epoch=epoch, took=took):
                outcomes.completed(turn, job_id, epoch, took)
            case PrefixesCached(worker_id=worker_id, prefixes=prefixes):
                if worker_id in self._state.workers:
                    self._state.remember_prefixes(self._state.workers[worker_id], prefixes)
            case AttemptFailed():
                outcomes.failed(turn, event)
            case AttemptCancelled(job_id=job_id, epoch=epoch):
                outcomes.stopped_by_worker(turn, job_id, epoch)
            case LoopStalled(seconds=seconds):
                leases.extend(turn, seconds)
            case DrainBegan():
                self._state.draining = True
            case Ticked():
                passing.tick(turn)
            case _:
                assert_never(event)

    def _worker_ended(self, turn: Turn, event: WorkerEnded) -> None:
        worker = self._state.workers.get(event.worker_id)
        if worker is None or worker.pool_id != event.pool_id:
            reports.unknown_worker_ended(turn, event.pool_id, event.worker_id, event.error)
        else:
            served = not event.while_loading and worker.stop_asked_at_s is None
            reports.worker_ended(turn, worker, event.error, while_loading=event.while_loading)
            if served and not self._state.draining:
                growth.replace(turn, worker)

    def _spawn_refused(self, turn: Turn, worker_id: str, error: ErrorBody) -> None:
        worker = self._state.workers.get(worker_id)
        if worker is not None and worker.facts is None:
            reports.give_up_spawn(turn, worker, error)

    # --- queries ----------------------------------------------------------------------------------------------------

    def resolve(self, reference: str) -> ModelFacts | None:
        """The model that a reference means, see `arrivals.find_model`."""
        return arrivals.find_model(self._state, self._policy, reference)

    def held_model(self, reference: str) -> ModelFacts | None:
        """The model that a reference means among those that pools hold, see `admission.held`."""
        return admission.held(reference, [facts for pool in self._state.pools.values() for facts in pool.models])

    def queue_position(self, job_id: str) -> int | None:
        """1 for the next of its model's jobs; None if the job does not wait.

        One that cannot be placed yet, for its model is unknown or it pauses before a retry, has its place among all that wait.
        """
        job = self._state.jobs.get(job_id)
        if job is None or job.phase is not Phase.QUEUED:
            return None
        ahead = self._queue.ahead(job)
        return self._queue.position(job_id) if ahead is None else ahead + 1

    def position_of(self, spec: JobSpec, now_s: float) -> int:
        """The same for a job that would come now."""
        if spec.model_sha256 is None:
            return len(self._queue) + 1
        job = Job(spec, now_s + arrivals.ageing_s(self._policy, spec), spec.model_sha256, queued_at_s=now_s)
        return self._queue.ahead_of(job) + 1

    def waiting_for(self, job_id: str) -> str | None:
        """One sentence on what a waiting job waits for; None if it does not wait."""
        job = self._state.jobs.get(job_id)
        if job is None or job.phase is not Phase.QUEUED:
            return None
        if self._queue.is_delayed(job_id):
            return explain.RETRY.reason
        if not self._state.pools:
            return explain.NO_POOL.reason
        if job.model_sha256 is None:
            return explain.UNRESOLVED.reason
        return self._state.waits.get(job.model_sha256, explain.TURN.reason)

    def explain(self, job_id: str, now_s: float) -> Told | None:
        """What can be said of a job that has not ended; None where it is not known."""
        job = self._state.jobs.get(job_id)
        return None if job is None else survey.of_job(self._state, self._queue, self._policy, job, now_s)

    def plan(self, spec: JobSpec, now_s: float, now_ms: int) -> Told:
        """What would become of a job that came now, with every place that it could go to. Its model must be resolved."""
        if self._state.draining:
            return survey.draining()
        newcomer, after, effects = self._rehearse(spec, now_s, now_ms)
        told = survey.of_newcomer(self._state, newcomer, after._state, after._queue, effects, now_s)
        told = survey.with_places(self._state, self._policy, newcomer, told, now_s)
        return survey.too_late(told, newcomer, now_ms) if survey.is_hopeless(told, newcomer, now_ms) else told

    def refusal_for_deadline(self, spec: JobSpec, now_s: float, now_ms: int) -> ErrorBody | None:
        """Why a job that came now is not taken, if it could not be done by its deadline. Looks only at the likeliest places."""
        if self._state.draining:
            return None
        newcomer, after, effects = self._rehearse(spec, now_s, now_ms)
        told = survey.of_newcomer(self._state, newcomer, after._state, after._queue, effects, now_s)
        if not survey.is_hopeless(told, newcomer, now_ms):
            return None
        return survey.too_late(told, newcomer, now_ms).error

    def _rehearse(self, spec: JobSpec, now_s: float, now_ms: int) -> tuple[Job, Scheduler, list[Effect]]:
        """A job as it would come now, a scheduler to which it has come, and what that led to. This one remains as it is."""
        spec = replace(spec, job_id=NEWCOMER, order=NEWEST)
        state = self._state
        rehearsal = Rehearsal((state.judge, state.speeds, state.estimates))
        # The beginning of a heap is a heap, and the few that may be due at the moment stand there.
        rehearsal.replace(state.deadlines, state.deadlines[:DUE])
        after = rehearsal.of(self)
        effects = after.handle(JobArrived(spec), Moment(now_s, now_ms, bytes(10)))
        rehearsal.end()
        newcomer = Job(spec, now_s + arrivals.ageing_s(self._policy, spec), spec.model_sha256, queued_at_s=now_s)
        newcomer.work = prospects.work(state, newcomer)
        return newcomer, after, effects

    def pools(self, now_s: float) -> tuple[PoolFacts, ...]:
        """Every known pool, by id; `now_s` is the monotonic reading against which heartbeat ages are taken."""
        return tuple(
            PoolFacts(
                pool.pool_id,
                pool.boot_id,
                pool.state,
                max(now_s - pool.heard_at_s, 0.0),
                pool.devices,
                pool.models,
                _facts(pool.workers.values()),
                pool.pool_id in self._state.drained,
            )
            for pool in sorted(self._state.pools.values(), key=lambda pool: pool.pool_id)
        )

    def pool_glances(
        self, began_s: float, address_of: Callable[[str], Address | None], tokens_per_s: Callable[[str], float]
    ) -> Iterator[PoolGlance]:
        """Every pool as a live view shows it, by id; its address and the pace of its workers are known elsewhere."""
        return glance.pools(self._state, began_s, address_of, tokens_per_s)

    def waiting_glances(self, now_s: float) -> tuple[WaitingGlance, ...]:
        """What waits, by model and priority."""
        return glance.waiting(self._state, self._queue, now_s, self.waiting_for)

    def running_jobs(self) -> list[RunningJob]:
        """The jobs that workers have, as far as a live view shows them."""
        return glance.running(self._state)

    def workers(self) -> tuple[WorkerFacts, ...]:
        """Every worker that a pool has reported and that has not ended, by id."""
        return _facts(self._state.workers.values())

    def serving(self, sha256: str) -> tuple[str, ...]:
        """The workers that serve a model now, those with a free slot first."""
        sound = [worker for worker in self._state.workers_of.get(sha256, {}).values() if self._state.is_sound(worker)]
        return tuple(worker.worker_id for worker in sorted(sound, key=lambda worker: (worker.free_slots <= 0, worker.worker_id)))

    def models(self) -> tuple[tuple[ModelFacts, tuple[str, ...], int, int], ...]:
        """Every model that a pool holds: its facts, the pools that hold it, how many workers serve it now, `contexts.served`."""
        serving = {
            sha256: sum(self._state.is_sound(worker) for worker in workers.values())
            for sha256, workers in self._state.workers_of.items()
        }
        return tuple(
            (holders[min(holders)], tuple(sorted(holders)), serving.get(sha256, 0), contexts.served(self._state, sha256))
            for sha256, holders in sorted(self._state.holders.items())
        )

    def kept_for_s(self, model_sha256: str, now_s: float) -> float:
        """See `eviction.kept_for_s`."""
        return eviction.kept_for_s(self._state, self._policy, model_sha256, now_s)

    def learned(self) -> Learned:
        """What it has learned so far; it goes on learning in the same objects."""
        return Learned(speeds=self._state.speeds, estimates=self._state.estimates)

    def estimate_quantile(self, share: float) -> float:
        """Of the latest workers' memory: expected over taken, for the figures."""
        return self._state.estimates.quantile(share)

    def pool_of(self, worker_id: str) -> str | None:
        """The pool that has the worker."""
        worker = self._state.workers.get(worker_id)
        return None if worker is None else worker.pool_id

    def check_integrity(self) -> None:
        """Assert that state and queue agree with themselves and with each other. For tests, and for an idle moment."""
        check_state(self._state)
        self._queue.check_integrity({key: job for key, job in self._state.jobs.items() if job.phase is Phase.QUEUED})


def _facts(workers: Iterable[Worker]) -> tuple[WorkerFacts, ...]:
    return tuple(worker.facts for worker in sorted(workers, key=lambda worker: worker.worker_id) if worker.facts is not None)
