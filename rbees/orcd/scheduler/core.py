"""PURE: the decision core of orcd. Facts and wishes come in one at a time, decisions go out as a list of effects.

Every event is handled in three movements: take the fact over into the state; let what time has brought about happen (retries
that are due, timeouts); look at the queues of the models for which something has changed. The order matters: a fact that has
arrived counts before a deadline that has passed, so a completed job never times out.

The scheduler does no I/O, reads no clock and draws no random number; the same events and moments give the same effects.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from heapq import nsmallest
from itertools import takewhile
from typing import Final, assert_never

from rbees.orcd.scheduler import (
    admission,
    attempts,
    eviction,
    explain,
    growth,
    leases,
    placement,
    poison,
    prospects,
    reports,
    retry,
    survey,
)
from rbees.orcd.scheduler.effects import Effect, ResolveModel
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
from rbees.orcd.scheduler.judge import Judge
from rbees.orcd.scheduler.learned import Learned
from rbees.orcd.scheduler.policy import Policy
from rbees.orcd.scheduler.queue import Queue
from rbees.orcd.scheduler.rehearsal import Rehearsal
from rbees.orcd.scheduler.speeds import Took
from rbees.orcd.scheduler.state import Attempt, Job, Move, Phase, State, Worker
from rbees.orcd.scheduler.survey import Told
from rbees.orcd.scheduler.turn import Turn
from rbees.protocol.errors import ErrorBody, ErrorCode, RbeesError
from rbees.protocol.pools import Device, ModelFacts, PoolState, WorkerFacts

ENDED_WORKERS_KEPT_S: Final = 600.0
NEWCOMER: Final = "newcomer"
"""The id of a job of which is asked what would become of it."""
NEWEST: Final = 1 << 62
"""Its place in the order of acceptance."""
DUE: Final = 1_023
"""Of the deadlines, so many are looked at to find those that have just come."""
LOOKS_OF_A_TICK: Final = 32
"""So many models are looked at for what time may have changed; with more, the next tick goes on behind them."""


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
        self._looked_at = ""
        """The last model that a tick looked at."""

    def handle(self, event: Event, moment: Moment) -> list[Effect]:
        """Take one event over and decide what follows, to be carried out in the order given."""
        turn = Turn(self._state, self._queue, self._policy, moment)
        if self._state.started_at_s is None:
            self._state.started_at_s, self._state.started_at_ms = moment.monotonic_s, moment.unix_ms
        self._take_over(turn, event)
        self._let_time_pass(turn)
        placement.drop_stale_claims(turn)
        # After a restart thousands of jobs come back before the first pool does, and then every tick looks at them anyhow.
        comes_too_early = isinstance(event, JobRecovered) and not self._state.pools
        if turn.touched and len(self._queue) and not self._state.draining and not comes_too_early:
            placement.place(turn)
        return turn.effects

    def _take_over(self, turn: Turn, event: Event) -> None:
        match event:
            case JobArrived(job=spec):
                self._arrive(turn, spec)
            case JobRecovered():
                self._recover(turn, event)
            case CancelAsked(job_id=job_id):
                self._cancel(turn, job_id)
            case PoolReported():
                if reports.pool_reported(turn, event):
                    self._resolve_waiting(turn)
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
                self._started(turn, job_id, epoch)
            case AttemptProved(job_id=job_id, epoch=epoch):
                job = self._current(job_id, epoch)
                if job is not None:
                    poison.clear(turn, job)
            case AttemptCompleted(job_id=job_id, epoch=epoch, took=took):
                self._completed(turn, job_id, epoch, took)
            case PrefixesCached(worker_id=worker_id, prefixes=prefixes):
                if worker_id in self._state.workers:
                    self._state.remember_prefixes(self._state.workers[worker_id], prefixes)
            case AttemptFailed():
                self._failed(turn, event)
            case AttemptCancelled(job_id=job_id, epoch=epoch):
                self._stopped_by_worker(turn, job_id, epoch)
            case LoopStalled(seconds=seconds):
                leases.extend(turn, seconds)
            case DrainBegan():
                self._state.draining = True
            case Ticked():
                self._tick(turn)
            case _:
                assert_never(event)

    # --- jobs -------------------------------------------------------------------------------------------------------

    def _arrive(self, turn: Turn, spec: JobSpec) -> None:
        self._enter(turn, spec, since_s=turn.now_s)

    def _enter(self, turn: Turn, spec: JobSpec, since_s: float) -> Job | None:
        """Take a job up into the queue, with its model resolved if that is possible; None if that ended it."""
        assert spec.job_id not in self._state.jobs, "a job arrives once"
        job = Job(spec, since_s + self._ageing_s(spec), spec.model_sha256, queued_at_s=turn.now_s)
        self._state.jobs[spec.job_id] = job
        if spec.deadline_at_ms is not None:
            job.deadline_s = turn.now_s + (spec.deadline_at_ms - turn.moment.unix_ms) / 1000
            heapq.heappush(self._state.deadlines, (job.deadline_s, spec.job_id))
        if job.model_sha256 is not None:
            job.work = prospects.work(self._state, job)
        self._queue.put(job, turn.now_s, turn.now_s)
        if job.model_sha256 is None:
            self._state.unresolved.setdefault(spec.model, {})[spec.job_id] = None
            self._resolve(turn, spec.model)
        else:
            self._state.uses.asked(job.model_sha256, turn.now_s)
            turn.touched.add(job.model_sha256)
        return self._state.jobs.get(spec.job_id)

    def _ageing_s(self, spec: JobSpec) -> float:
        return self._policy.batch_ages_after_s if spec.priority == "batch" else 0.0

    def _recover(self, turn: Turn, event: JobRecovered) -> None:
        assert self._state.started_at_s is not None
        # A wall clock that was set back meanwhile cannot make a job younger than this process.
        waited_s = max(0, self._state.started_at_ms - event.accepted_at_ms) / 1000
        job = self._enter(turn, event.job, since_s=self._state.started_at_s - waited_s)
        if job is None:
            return
        job.epoch, job.failures = event.epoch, event.failures
        poison.remember(turn, job, event.deaths)
        if event.worker_id is not None:
            self._queue.remove(job)
            attempts.start_time(turn, job)
            job.move(Move.HOLD)
            job.attempt = Attempt(event.epoch, event.worker_id, event.pool_id or "")
            self._state.hold(job, turn.now_s + self._policy.lost_after_s)
            worker = self._state.workers.get(event.worker_id)
            if worker is not None:
                reports.settle_held(turn, worker)

    def _cancel(self, turn: Turn, job_id: str) -> None:
        job = self._state.jobs.get(job_id)
        if job is not None:
            message = "The job was cancelled on request."
            attempts.finish(turn, job, "cancelled", ErrorBody(code=ErrorCode.CANCELLED, message=message))

    def _resolve(self, turn: Turn, reference: str) -> None:
        """Find out which file the reference of some waiting jobs means, over what pools hold at present."""
        if not self._state.pools:
            self._tell_the_first(turn, reference, explain.NO_POOL)
            return
        try:
            facts = self.resolve(reference)
        except RbeesError as error:
            if self._state.is_settled(turn.now_s, self._policy.settle_s):
                for job in self._state.unresolved_jobs(reference):
                    attempts.finish(turn, job, "failed", error.body())
            else:
                self._tell_the_first(turn, reference, explain.UNRESOLVED)
            return
        assert facts is not None
        for job in self._state.unresolved_jobs(reference):
            self._state.leave_unresolved(job)
            job.model_sha256 = facts.sha256
            job.work = prospects.work(self._state, job)
            self._state.uses.asked(facts.sha256, turn.now_s)
            turn.effects.append(ResolveModel(job.spec.job_id, facts.sha256, facts.ref))
            self._queue.refile(job)
        turn.touched.add(facts.sha256)

    def _tell_the_first(self, turn: Turn, reference: str, obstacle: explain.Obstacle) -> None:
        """Each note is a row on the disk, and after a restart every waiting job comes through here."""
        jobs = self._state.unresolved[reference]
        for job_id in self._queue.first(self._policy.noted_jobs):
            if job_id in jobs:
                explain.tell(turn, self._state.jobs[job_id], obstacle)

    def _resolve_waiting(self, turn: Turn) -> None:
        for reference in list(self._state.unresolved):
            self._resolve(turn, reference)

    # --- attempts ---------------------------------------------------------------------------------------------------

    def _current(self, job_id: str, epoch: int) -> Job | None:
        """The job if `epoch` is its present attempt; facts about any other are dropped."""
        job = self._state.jobs.get(job_id)
        return job if job is not None and job.attempt is not None and job.attempt.epoch == epoch else None

    def _worker_of(self, job: Job) -> Worker | None:
        return None if job.attempt is None else self._state.workers.get(job.attempt.worker_id)

    def _started(self, turn: Turn, job_id: str, epoch: int) -> None:
        job = self._current(job_id, epoch)
        if job is not None and job.phase is not Phase.HELD:
            job.move(Move.START)
            job.refusals = 0
            self._show_life(turn, job)

    def _completed(self, turn: Turn, job_id: str, epoch: int, took: Took | None) -> None:
        job = self._current(job_id, epoch)
        if job is not None:
            worker = self._worker_of(job)
            if worker is not None and took is not None and job_id in worker.stays:
                # Those that ran when it began and those that run now are the ends of what ran meanwhile.
                streams = (worker.stays[job_id].streams + worker.taken_slots) / 2
                self._state.speeds.attempt_took(
                    worker.place, took, streams=streams, choices=job.spec.choices, prompt_bytes=job.spec.prompt_bytes
                )
            self._show_life(turn, job)
            attempts.complete(turn, job)

    def _show_life(self, turn: Turn, job: Job) -> None:
        worker = self._worker_of(job)
        if worker is not None:
            worker.strikes = 0
            if worker.doubt is not None and not worker.hung:
                reports.trust(turn, worker)

    def _failed(self, turn: Turn, event: AttemptFailed) -> None:
        job = self._current(event.job_id, event.epoch)
        if job is None:
            return
        worker = self._worker_of(job)
        if event.final:
            attempts.finish(turn, job, "failed", event.error, abandon=False)
        elif event.error.code in retry.NOT_TAKEN_UP:
            if worker is not None and event.error.code in {ErrorCode.DRAINING, ErrorCode.MODEL_LOADING}:
                worker.state = "draining" if event.error.code is ErrorCode.DRAINING else "loading"
                self._state.changed[worker.worker_id] = None
            attempts.fail(turn, job, event.error, "failed", counted=False, fence=False)
        elif job.phase is not Phase.HELD and worker is not None and event.worker_suspect:
            self._failed_with_worker(turn, job, worker, event)
        else:
            attempts.fail(turn, job, event.error, "failed", fence=event.worker_suspect)

    def _failed_with_worker(self, turn: Turn, job: Job, worker: Worker, event: AttemptFailed) -> None:
        """The connection broke or the worker stands still. Where its whole pool is quiet this is no news: the lease decides."""
        if leases.is_quiet(turn, self._state.pools[worker.pool_id]):
            reports.suspend(turn, worker, job.spec.job_id)
            attempts.hold(turn, job, until_s=None)
            return
        reports.doubt(turn, worker, job.spec.job_id, event.error, hung=event.worker_hung)
        attempts.fail(turn, job, event.error, "failed")

    def _stopped_by_worker(self, turn: Turn, job_id: str, epoch: int) -> None:
        """Nobody asked for this attempt to stop, or the job would be forgotten: the worker gave it up by itself."""
        job = self._current(job_id, epoch)
        if job is not None:
            message = "The worker stopped the attempt by itself."
            attempts.fail(turn, job, ErrorBody(code=ErrorCode.WORKER_UNREACHABLE, message=message), "failed", fence=False)

    # --- workers ----------------------------------------------------------------------------------------------------

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

    # --- time -------------------------------------------------------------------------------------------------------

    def _let_time_pass(self, turn: Turn) -> None:
        turn.touched |= self._queue.wake(turn.now_s, self._state.jobs)
        deadlines = self._state.deadlines
        while deadlines and deadlines[0][0] <= turn.now_s:
            deadline_s, job_id = heapq.heappop(deadlines)
            job = self._state.jobs.get(job_id)
            if job is not None and deadline_s in {job.timeout_s, job.deadline_s}:
                attempts.finish(turn, job, "failed", _too_late(job, deadline_s))

    def _tick(self, turn: Turn) -> None:
        for pool in leases.check(turn):
            reports.pool_lost(turn, pool)
        for pool in leases.out_of_reach(turn):
            reports.pool_out_of_reach(turn, pool)
        for job_id in [job_id for job_id, until_s in self._state.held_until.items() if until_s <= turn.now_s]:
            job = self._state.jobs[job_id]
            message = "The pool of the worker that ran the job has not come back in time."
            attempts.fail(turn, job, ErrorBody(code=ErrorCode.POOL_UNREACHABLE, message=message), "lost")
        self._give_up_silent_spawns(turn)
        eviction.stop_long_idle(turn)
        ended = self._state.ended_workers
        for worker_id in list(takewhile(lambda ended_: turn.now_s - ended[ended_] > ENDED_WORKERS_KEPT_S, ended)):
            del ended[worker_id]
        if self._state.pools and self._state.is_settled(turn.now_s, self._policy.settle_s):
            # Time alone explains no reference; it only ends the hope that another pool will.
            self._resolve_waiting(turn)
        for model_sha256, pool_id in self._state.troubles:
            # A pause may be over.
            self._state.rooms_of(model_sha256).changed[pool_id] = None
        turn.touched |= self._state.choosy
        turn.touched.update(self._aging())
        turn.touched.update(self._queue.wanted_soon())

    def _aging(self) -> Iterator[str]:
        """Models with waiting jobs for which something may have changed by time alone, of many models some at each tick."""
        models = self._queue.waiting_models()
        after = [model for model in models if model > self._looked_at] if len(models) > LOOKS_OF_A_TICK else models
        chosen = nsmallest(LOOKS_OF_A_TICK, after)
        self._looked_at = chosen[-1] if len(chosen) == LOOKS_OF_A_TICK else ""
        for model_sha256 in chosen:
            rooms = self._state.rooms_of(model_sha256)
            # Where all workers are at work and there is room for no other, time brings nothing.
            if len(rooms.free) or rooms.changed or not self._state.serving_of(model_sha256).slots:
                yield model_sha256

    def _give_up_silent_spawns(self, turn: Turn) -> None:
        patience_s = self._policy.spawn_patience_s
        for worker in [self._state.workers[worker_id] for worker_id in self._state.unheard]:
            if turn.now_s - worker.asked_at_s >= patience_s:
                message = f"Pool {worker.pool_id} has not listed the worker within {patience_s:.0f} s of being told to start it."
                reports.give_up_spawn(turn, worker, ErrorBody(code=ErrorCode.POOL_UNREACHABLE, message=message))

    # --- queries ----------------------------------------------------------------------------------------------------

    def resolve(self, reference: str) -> ModelFacts | None:
        """The model that a reference means over what pools hold now; None where no pool is known yet, so the job may wait.

        Raises:
            RbeesError: MODEL_NOT_FOUND with close names, or why a pool cannot serve the file of that name.
        """
        pools = self._state.pools.values()
        if not pools:
            return None
        unusable = [problem for pool in pools for problem in pool.unusable]
        return admission.resolve(reference, [pool.models for pool in pools], unusable)

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
        job = Job(spec, now_s + self._ageing_s(spec), spec.model_sha256, queued_at_s=now_s)
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
        newcomer = Job(spec, now_s + self._ageing_s(spec), spec.model_sha256, queued_at_s=now_s)
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

    def workers(self) -> tuple[WorkerFacts, ...]:
        """Every worker that a pool has reported and that has not ended, by id."""
        return _facts(self._state.workers.values())

    def models(self) -> tuple[tuple[ModelFacts, tuple[str, ...], int], ...]:
        """Every model that a pool holds: its facts, the pools that hold it, and how many workers serve it now."""
        serving = {
            sha256: sum(self._state.is_sound(worker) for worker in workers.values())
            for sha256, workers in self._state.workers_of.items()
        }
        return tuple(
            (holders[min(holders)], tuple(sorted(holders)), serving.get(sha256, 0))
            for sha256, holders in sorted(self._state.holders.items())
        )

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
        self._state.check_integrity()
        self._queue.check_integrity({key: job for key, job in self._state.jobs.items() if job.phase is Phase.QUEUED})


def _too_late(job: Job, at_s: float) -> ErrorBody:
    if at_s == job.deadline_s:
        where = "while it waited for a worker" if job.timeout_s is None else "before it was done"
        message = f"The job's deadline came {where}."
        return ErrorBody(code=ErrorCode.DEADLINE_EXCEEDED, message=message, details={"deadline_at_ms": job.spec.deadline_at_ms})
    message = f"The job did not end within {job.spec.timeout_ms} ms of its first dispatch."
    return ErrorBody(code=ErrorCode.TIMEOUT, message=message, details={"timeout_ms": job.spec.timeout_ms})


def _facts(workers: Iterable[Worker]) -> tuple[WorkerFacts, ...]:
    return tuple(worker.facts for worker in sorted(workers, key=lambda worker: worker.worker_id) if worker.facts is not None)
