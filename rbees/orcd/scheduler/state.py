"""PURE: what the scheduler knows: jobs that have not ended, pools, workers. It holds facts and decides nothing.

A job's life is a table. Every change of phase goes through `Job.move`, so a transition that is not in the table cannot
happen:

            +----------------------- RETURN ------------------------+
            v                                                       |
    --> QUEUED --DISPATCH--> DISPATCHED --START--> RUNNING ---------+
            |                 ^   |   |              |  |           |
            |              ATTACH |   +--------------|--------------+
            |                 |  HOLD                | HOLD         |
            +----- HOLD ----> HELD <-----------------+              |
                               +------------------------------------+
    END leads from every phase to ENDED, and nothing leads out of it.

QUEUED jobs wait for a worker. HELD ones have an attempt that may still run on a worker which cannot be asked at present
(orcd has restarted, or the worker's pool is silent): neither given up nor taken up until the pool reports or its lease ends.
The protocol's `queued`, `dispatched` and `running` are QUEUED, HELD or DISPATCHED, and RUNNING; an ended job is forgotten
here, the store has it. Each attempt has an epoch above all earlier ones, and facts about any other epoch are dropped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NamedTuple

from rbees.orcd.scheduler.estimates import Estimates
from rbees.orcd.scheduler.events import JobSpec
from rbees.orcd.scheduler.judge import Judge
from rbees.orcd.scheduler.roster import Rooms, Roster, Serving, Widths
from rbees.orcd.scheduler.speeds import Place, Speeds
from rbees.orcd.scheduler.uses import Uses
from rbees.protocol.errors import ErrorBody
from rbees.protocol.pools import Device, ModelFacts, PoolState, UnusableModel, WorkerFacts
from rbees.protocol.workers import Backend, WorkerState

EMPTY: Final = 1 << 30
"""The width of a worker without attempts: whatever finds no slot waits inside it."""


class Phase(Enum):
    """Where a job stands."""

    QUEUED = "queued"
    HELD = "held"
    DISPATCHED = "dispatched"
    RUNNING = "running"
    ENDED = "ended"


class Move(Enum):
    """What moves a job on."""

    DISPATCH = "dispatch"
    HOLD = "hold"
    ATTACH = "attach"
    START = "start"
    RETURN = "return"
    END = "end"


TRANSITIONS: Final[dict[tuple[Phase, Move], Phase]] = {
    (Phase.QUEUED, Move.DISPATCH): Phase.DISPATCHED,
    (Phase.QUEUED, Move.HOLD): Phase.HELD,
    (Phase.QUEUED, Move.END): Phase.ENDED,
    (Phase.HELD, Move.ATTACH): Phase.DISPATCHED,
    (Phase.HELD, Move.RETURN): Phase.QUEUED,
    (Phase.HELD, Move.END): Phase.ENDED,
    (Phase.DISPATCHED, Move.START): Phase.RUNNING,
    (Phase.DISPATCHED, Move.HOLD): Phase.HELD,
    (Phase.DISPATCHED, Move.RETURN): Phase.QUEUED,
    (Phase.DISPATCHED, Move.END): Phase.ENDED,
    (Phase.RUNNING, Move.START): Phase.RUNNING,
    (Phase.RUNNING, Move.HOLD): Phase.HELD,
    (Phase.RUNNING, Move.RETURN): Phase.QUEUED,
    (Phase.RUNNING, Move.END): Phase.ENDED,
}


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try of a job on one worker."""

    epoch: int
    worker_id: str
    pool_id: str
    alone: bool = False
    """Nothing else may be dispatched to the worker meanwhile."""


@dataclass(slots=True)
class Job:
    """A job that has not ended."""

    spec: JobSpec
    rank_s: float
    """Its place in the queue, see queue.py."""
    model_sha256: str | None
    work: float = 1.0
    """How much of a worker it is expected to take, see `prospects.work`; known with its model."""
    phase: Phase = Phase.QUEUED
    epoch: int = 0
    """Of the latest attempt."""
    attempt: Attempt | None = None
    failures: int = 0
    refusals: int = 0
    """In a row: attempts that no worker took up."""
    queued_at_s: float = 0.0
    """When it last began to wait."""
    timeout_s: float | None = None
    """When its `timeout_ms` are over; set by the first dispatch that this process knows of."""
    deadline_s: float | None = None
    """When its `deadline_at_ms` has come, by the monotonic clock."""
    suspect: bool = False
    """It was on workers that died: it runs alone from now on."""
    deaths_in_company: int = 0
    deaths_alone: int = 0
    patient_until_s: float | None = None
    """Set when it first waited although a worker was free: after that it takes any."""
    avoid: str | None = None
    """The worker of the last failed attempt: others are preferred."""
    noted: tuple[object, ...] | None = None
    """What its watchers were told last."""

    def move(self, move: Move) -> None:
        """Move on by the table; a move that the table lacks is a defect."""
        following = TRANSITIONS.get((self.phase, move))
        assert following is not None, f"{move.name} may not follow in phase {self.phase.name}"
        self.phase = following


class Stay(NamedTuple):
    """An attempt on a worker, by the monotonic clock."""

    since_s: float
    until_s: float
    """As expected when it was dispatched."""
    choices: int
    streams: int
    """How many answers were written there, its own among them, when it began."""


@dataclass(slots=True)
class Worker:
    """A worker process, from the command that asks for it until its pool says that it is gone."""

    worker_id: str
    pool_id: str
    model_ref: str
    model_sha256: str
    backend: Backend
    devices: tuple[str, ...]
    size_bytes: int
    """Of the model's file."""
    memory_bytes: int
    """Estimated until the worker reports what it takes."""
    is_shared: bool = False
    """Several devices, or one and main memory, hold the model together."""
    expected_bytes: int = 0
    """The estimate by which orcd had it started."""
    state: WorkerState = "starting"
    slots: int = 0
    facts: WorkerFacts | None = None
    """As last reported; None until then."""
    listed: bool = False
    """Its pool has named it in a report, so that a report without it means that it is gone."""
    accepted: bool = False
    measured: bool = False
    """A report has shown it ready: the device's free bytes account for it."""
    asked_at_s: float = 0.0
    asked: bool = False
    """orcd itself had it started, at `asked_at_s`."""
    vouched_at_s: float = 0.0
    """When its pool last spoke of it."""
    ready_since_s: float = 0.0
    idle_since_s: float = 0.0
    attempts: dict[str, int] = field(default_factory=dict)
    """Epoch by job id, of the attempts that run here."""
    stays: dict[str, Stay] = field(default_factory=dict)
    """The same attempts, as far as scheduling goes."""
    taken_slots: int = 0
    """How many slots the attempts here take; may exceed `slots` after old attempts were taken up again."""
    prefixes: set[str] = field(default_factory=set)
    """Beginnings of prompts that it holds: as it told last, and those it was given since."""
    sole_job: str | None = None
    """The job that must be alone here."""
    claim: Claim | None = None
    doubt: str | None = None
    """Why it gets no new work although it looks ready."""
    doubted_at_s: float = 0.0
    hung: bool = False
    strikes: int = 0
    broken: dict[str, None] = field(default_factory=dict)
    """Jobs whose stream broke since its pool last vouched for it: they were on board if it turns out to have died."""
    stop_asked_at_s: float | None = None
    pinned: bool = False
    """The settings name its model as one that is never stopped to make room or for want of work."""

    @property
    def place(self) -> Place:
        """Under what name its speeds are learned."""
        return Place(self.model_sha256, self.size_bytes, self.pool_id, self.backend)

    def count_slots(self) -> None:
        """Its attempts or its slots have changed."""
        self.taken_slots = sum(self.slots_for(stay.choices) for stay in self.stays.values())

    @property
    def free_slots(self) -> int:
        """How many more slots may be given away."""
        return self.slots - self.taken_slots

    @property
    def width(self) -> int:
        """How many answers a job may make at once to find all its slots free here."""
        return self.free_slots if self.taken_slots else EMPTY

    def slots_for(self, choices: int) -> int:
        """How many slots a job with so many answers takes here: those that find none free wait inside the worker."""
        return min(choices, self.slots)

    def has_slots_for(self, choices: int) -> bool:
        """True where all the slots that such a job takes are free."""
        return self.slots_for(choices) <= self.free_slots


@dataclass(frozen=True, slots=True)
class Claim:
    """Why a worker takes no more work: it empties, either for one suspect job or to make room for another model."""

    model_sha256: str
    job_id: str | None


@dataclass(slots=True)
class Pool:
    """A host, as its daemon reported it."""

    pool_id: str
    boot_id: str
    heard_at_s: float
    state: PoolState = "live"
    devices: tuple[Device, ...] = ()
    models: tuple[ModelFacts, ...] = ()
    unusable: tuple[UnusableModel, ...] = ()
    workers: dict[str, Worker] = field(default_factory=dict)
    reported: tuple[WorkerFacts, ...] = ()
    freed_bytes: dict[str, int] = field(default_factory=dict)
    """By device: memory of workers that ended since the last measurement."""
    excused: bool = False
    """Its present silence has already been held against orcd itself once."""


@dataclass(slots=True)
class LoadTrouble:
    """Why a model is not started on a pool for a while."""

    error: ErrorBody
    failures: deque[float] = field(default_factory=deque)
    """When loads failed."""
    refusals: int = 0
    """In a row, for want of room."""
    blocked_until_s: float = 0.0
    unusable: dict[Backend, ErrorBody] = field(default_factory=dict)
    """By backend: why another try would end the same way until the pool daemon is started anew."""
    need_bytes: dict[str, int] = field(default_factory=dict)
    """By device: what the pool's preflight said it must have free."""
    unshared: bool = False
    """It did not come up shared by devices, so it is not tried so again until the pool daemon is started anew."""


class State:
    """Everything the scheduler knows, with the indices that keep decisions cheap."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.pools: dict[str, Pool] = {}
        self.suspects: dict[str, None] = {}
        """Pools in state `suspect`."""
        self.drained: dict[str, None] = {}
        """Pools that an operator wants no new work on. They need not be known yet."""
        self.workers: dict[str, Worker] = {}
        self.workers_of: dict[str, dict[str, Worker]] = {}
        """Workers by model."""
        self.holders: dict[str, dict[str, ModelFacts]] = {}
        """By model: the facts of each pool that holds it."""
        self.held: dict[str, dict[str, None]] = {}
        """HELD jobs by worker; the worker itself may be unknown yet."""
        self.held_on: dict[str, dict[str, None]] = {}
        """HELD jobs by pool; under the empty name those of which it is not known."""
        self.held_until: dict[str, float] = {}
        """Recovered jobs: when waiting for their pool ends."""
        self.unresolved: dict[str, dict[str, None]] = {}
        """Queued jobs by a model reference that no pool could explain yet."""
        self.rooms: dict[str, Rooms] = {}
        """By model: the pools where a worker could be started, see rooms.py."""
        self.content: set[str] = set()
        """Models for which no better place was found than their workers have, until something changes on a pool that holds them."""
        self.waits: dict[str, str] = {}
        """By model: what its jobs wait for, in one sentence."""
        self.told: dict[str, tuple[tuple[object, ...], int]] = {}
        """By model: what its first jobs were told last, and the queue's count of changes then."""
        self.deadlines: list[tuple[float, str]] = []
        """Heap of (`timeout_s` or `deadline_s`, job); entries of ended jobs are skipped when they surface."""
        self.troubles: dict[tuple[str, str], LoadTrouble] = {}
        """By model and pool."""
        self.ended_workers: dict[str, float] = {}
        """When workers ended, so that a report from before cannot bring them back."""
        self.claims: dict[str, Worker] = {}
        self.started_at_s: float | None = None
        self.started_at_ms = 0
        """The same moment as Unix time."""
        self.newest_pool_at_s: float = float("-inf")
        self.hold_until_s: float | None = None
        """While most pools are silent at once."""
        self.draining = False
        """No job is placed and no worker started any more, so that no job's time begins to run in vain."""

        self.judge: Judge | None = None
        """A user's own policy; None for the built-in one."""
        self.speeds = Speeds()
        self.estimates = Estimates()
        self.uses = Uses()
        self.open: dict[str, Widths] = {}
        """By model: the workers that may be given a job now, those that would write it fastest first, by their free slots."""
        self.full: dict[str, Roster] = {}
        """By model: sound workers without a free slot, those that should have one first."""
        self.serving: dict[str, Serving] = {}
        """By model: all its sound workers."""
        self.unheard: dict[str, None] = {}
        """Workers that no pool has listed yet."""
        self.unused: dict[str, None] = {}
        """Workers without attempts, those that have been so for longest first."""
        self.coming: dict[str, dict[str, None]] = {}
        """By model: workers that are being started."""
        self.batch_running: dict[str, dict[str, None]] = {}
        """By model: batch jobs that workers have."""
        self.changed: dict[str, None] = {}
        """Workers that may stand wrongly in `open`, `full` or `coming`; set right before the next decision."""
        self.holding: dict[str, dict[str, None]] = {}
        """Workers by the beginnings of prompts that they hold."""
        self.owed: set[str] = set()
        """Models for which workers of others were told to empty; the room is theirs until they have a worker coming."""
        self.choosy: set[str] = set()
        """Models whose first job waits for a worker that is worth waiting for, although another is free."""

    def is_sound(self, worker: Worker) -> bool:
        """True where nothing speaks against the worker itself; it may be full or kept for somebody."""
        return (
            worker.state == "ready"
            and worker.doubt is None
            and worker.stop_asked_at_s is None
            and self.takes_work(self.pools[worker.pool_id])
        )

    def takes_work(self, pool: Pool) -> bool:
        """True where jobs may be given to the pool's workers, and new ones be started."""
        return pool.state == "live" and pool.pool_id not in self.drained

    def is_open(self, worker: Worker) -> bool:
        """True where the worker may be given a job now."""
        return worker.claim is None and worker.sole_job is None and worker.free_slots > 0 and self.is_sound(worker)

    def is_full(self, worker: Worker) -> bool:
        """True where the worker could be given a job as soon as one of its attempts is over."""
        return worker.claim is None and worker.sole_job is None and worker.free_slots <= 0 and self.is_sound(worker)

    def is_settled(self, now_s: float, settle_s: float) -> bool:
        """True where every pool that is going to come back after a start has had the time to."""
        assert self.started_at_s is not None
        return now_s - max(self.started_at_s, self.newest_pool_at_s) >= settle_s

    def add_worker(self, worker: Worker) -> None:
        """Take a worker up into all indices."""
        self.workers[worker.worker_id] = worker
        self.pools[worker.pool_id].workers[worker.worker_id] = worker
        self.workers_of.setdefault(worker.model_sha256, {})[worker.worker_id] = worker
        self.changed[worker.worker_id] = None
        if worker.facts is None:
            self.unheard[worker.worker_id] = None
        self.rest(worker, worker.idle_since_s)

    def rest(self, worker: Worker, now_s: float) -> None:
        """The worker has nothing to do from now on."""
        worker.idle_since_s = now_s
        self.unused.pop(worker.worker_id, None)
        self.unused[worker.worker_id] = None

    def drop_worker(self, worker: Worker) -> None:
        """Take a worker out of all indices; its attempts must have been dealt with."""
        assert not worker.attempts, "a worker with attempts cannot be dropped"
        del self.workers[worker.worker_id]
        del self.pools[worker.pool_id].workers[worker.worker_id]
        siblings = self.workers_of[worker.model_sha256]
        del siblings[worker.worker_id]
        if not siblings:
            del self.workers_of[worker.model_sha256]
        self.release_claim(worker)
        self._forget_prefixes(worker, list(worker.prefixes))
        self.open_of(worker.model_sha256).drop(worker.worker_id)
        self.full_of(worker.model_sha256).drop(worker.worker_id)
        self.serving_of(worker.model_sha256).drop(worker.worker_id)
        self.coming.get(worker.model_sha256, {}).pop(worker.worker_id, None)
        self.unheard.pop(worker.worker_id, None)
        self.unused.pop(worker.worker_id, None)

    def is_coming(self, worker: Worker) -> bool:
        """True where the worker is being started, on a host that is not lost and will give it work."""
        is_young = worker.state in {"starting", "loading"} and worker.stop_asked_at_s is None
        return is_young and self.pools[worker.pool_id].state != "lost" and worker.pool_id not in self.drained

    def coming_of(self, model_sha256: str) -> Iterator[Worker]:
        """The model's workers that are being started."""
        return (self.workers[worker_id] for worker_id in self.coming.get(model_sha256, ()))

    def open_of(self, model_sha256: str) -> Widths:
        """The model's part of `open`."""
        return self.open.setdefault(model_sha256, Widths())

    def full_of(self, model_sha256: str) -> Roster:
        """The model's part of `full`."""
        return self.full.setdefault(model_sha256, Roster())

    def serving_of(self, model_sha256: str) -> Serving:
        """The model's part of `serving`."""
        return self.serving.setdefault(model_sha256, Serving())

    def rooms_of(self, model_sha256: str) -> Rooms:
        """The model's part of `rooms`; every pool that holds the model is marked the first time."""
        rooms = self.rooms.get(model_sha256)
        if rooms is None:
            rooms = self.rooms[model_sha256] = Rooms(dict.fromkeys(self.holders.get(model_sha256, ())))
        return rooms

    def look_again(self, pool: Pool) -> None:
        """Something has changed on the pool that may make room there for any of its models."""
        for facts in pool.models:
            if (rooms := self.rooms.get(facts.sha256)) is not None:
                rooms.changed[pool.pool_id] = None

    def refile(self) -> None:
        """Put every worker for which something has changed where it belongs now."""
        for worker_id in self.changed:
            worker = self.workers.get(worker_id)
            if worker is None:
                continue
            open_, full = self.open_of(worker.model_sha256), self.full_of(worker.model_sha256)
            if self.is_open(worker):
                open_.file(worker_id, self.speeds.step_s(worker.place, worker.taken_slots + 1), worker.width)
            else:
                open_.drop(worker_id)
            if self.is_full(worker):
                full.file(worker_id, min(stay.until_s for stay in worker.stays.values()))
            else:
                full.drop(worker_id)
            if self.is_sound(worker):
                serving = self.serving_of(worker.model_sha256)
                was_only_one = len(serving.workers) == 1
                serving.put(worker_id, worker.slots, self.speeds.step_s(worker.place, 1))
                if was_only_one and len(serving.workers) == 2:
                    # From now on each of them is one that could make room.
                    for name in serving.workers:
                        self.look_again(self.pools[self.workers[name].pool_id])
            else:
                self.serving_of(worker.model_sha256).drop(worker_id)
            if self.is_coming(worker):
                self.coming.setdefault(worker.model_sha256, {})[worker_id] = None
            else:
                self.coming.get(worker.model_sha256, {}).pop(worker_id, None)
        self.changed.clear()

    def remember_prefixes(self, worker: Worker, told: Iterable[str]) -> None:
        """What the worker holds of prompts: what it has told, and what its present attempts have brought."""
        held = set(told)
        for job_id in worker.attempts:
            held.update(self.jobs[job_id].spec.prefixes)
        self._forget_prefixes(worker, worker.prefixes - held)
        self.give_prefixes(worker, held)

    def give_prefixes(self, worker: Worker, prefixes: Iterable[str]) -> None:
        """The worker is about to compute these beginnings of prompts."""
        for prefix in prefixes:
            worker.prefixes.add(prefix)
            self.holding.setdefault(prefix, {})[worker.worker_id] = None

    def _forget_prefixes(self, worker: Worker, prefixes: Iterable[str]) -> None:
        for prefix in prefixes:
            worker.prefixes.discard(prefix)
            holders = self.holding[prefix]
            del holders[worker.worker_id]
            if not holders:
                del self.holding[prefix]

    def set_models(self, pool: Pool, models: tuple[ModelFacts, ...]) -> None:
        """Replace what a pool holds."""
        for facts in pool.models:
            holders = self.holders.get(facts.sha256)
            if holders is not None:
                holders.pop(pool.pool_id, None)
                if not holders:
                    del self.holders[facts.sha256]
        self.look_again(pool)
        pool.models = models
        for facts in models:
            self.holders.setdefault(facts.sha256, {})[pool.pool_id] = facts
        self.look_again(pool)

    def claim(self, worker: Worker, claim: Claim) -> None:
        """Let the worker empty."""
        worker.claim = claim
        self.claims[worker.worker_id] = worker
        self.changed[worker.worker_id] = None

    def release_claim(self, worker: Worker) -> None:
        """Let the worker take work again."""
        worker.claim = None
        if self.claims.pop(worker.worker_id, None) is not None:
            self.changed[worker.worker_id] = None
            self.look_again(self.pools[worker.pool_id])

    def held_jobs(self, pool_id: str) -> list[Job]:
        """Every job whose attempt waits for this pool to be taken up again."""
        return [self.jobs[job_id] for job_id in self.held_on.get(pool_id, ())]

    def hold(self, job: Job, until_s: float | None) -> None:
        """Index a job that has entered HELD; `until_s` None leaves the end to its pool's lease."""
        assert job.attempt is not None
        self.held.setdefault(job.attempt.worker_id, {})[job.spec.job_id] = None
        self.held_on.setdefault(job.attempt.pool_id, {})[job.spec.job_id] = None
        if until_s is not None:
            self.held_until[job.spec.job_id] = until_s

    def unhold(self, job: Job) -> None:
        """Take a job that leaves HELD out of its indices."""
        assert job.attempt is not None
        for index, key in ((self.held, job.attempt.worker_id), (self.held_on, job.attempt.pool_id)):
            jobs = index[key]
            del jobs[job.spec.job_id]
            if not jobs:
                del index[key]
        self.held_until.pop(job.spec.job_id, None)

    def unresolved_jobs(self, reference: str) -> list[Job]:
        """The queued jobs whose model this reference would explain."""
        return [self.jobs[job_id] for job_id in self.unresolved[reference]]

    def leave_unresolved(self, job: Job) -> None:
        """The job's reference was explained, or it does not matter any more."""
        jobs = self.unresolved.get(job.spec.model)
        if jobs is not None and jobs.pop(job.spec.job_id, job) is None and not jobs:
            del self.unresolved[job.spec.model]

    def check_integrity(self) -> None:
        """Assert everything that must hold between two events. Costs time in proportion to the state."""
        for job_id, job in self.jobs.items():
            self._check_job(job_id, job)
        for worker_id, worker in self.workers.items():
            self._check_worker(worker_id, worker)
        assert self.suspects.keys() == {pool_id for pool_id, pool in self.pools.items() if pool.state == "suspect"}
        for pool_id, pool in self.pools.items():
            assert pool.pool_id == pool_id
            assert all(self.workers.get(worker_id) is worker for worker_id, worker in pool.workers.items())
            assert all(pool_id in self.holders[facts.sha256] for facts in pool.models)
        assert sum(map(len, self.workers_of.values())) == len(self.workers)
        held = {(prefix, worker.worker_id) for worker in self.workers.values() for prefix in worker.prefixes}
        assert held == {(prefix, worker_id) for prefix, holders in self.holding.items() for worker_id in holders}
        batch = {
            (job.model_sha256, job_id)
            for job_id, job in self.jobs.items()
            if job.spec.priority == "batch" and job.phase in {Phase.DISPATCHED, Phase.RUNNING}
        }
        assert batch == {(model, job_id) for model, jobs in self.batch_running.items() for job_id in jobs}
        for rosters in (self.open, self.full, self.coming):
            assert all(self.workers.keys() >= set(roster) for roster in rosters.values())
        for serving in self.serving.values():
            assert set(serving.workers) == serving.slots_of.keys() <= self.workers.keys()
            assert serving.slots == sum(serving.slots_of.values())
        assert self.unheard.keys() == {worker_id for worker_id, worker in self.workers.items() if worker.facts is None}
        assert self.unused.keys() == {worker_id for worker_id, worker in self.workers.items() if not worker.attempts}
        since_s = [self.workers[worker_id].idle_since_s for worker_id in self.unused]
        assert since_s == sorted(since_s)
        assert set(self.claims) == {worker.worker_id for worker in self.workers.values() if worker.claim is not None}
        kept = {job_id for job_id, job in self.jobs.items() if job.phase is Phase.HELD}
        assert kept == {job_id for jobs in self.held.values() for job_id in jobs}
        on = {(pool_id, job_id) for pool_id, jobs in self.held_on.items() for job_id in jobs}
        assert on == {(attempt.pool_id, job_id) for job_id in kept if (attempt := self.jobs[job_id].attempt) is not None}
        assert set(self.held_until) <= kept
        unresolved = {job_id for jobs in self.unresolved.values() for job_id in jobs}
        assert unresolved <= {job_id for job_id, job in self.jobs.items() if job.model_sha256 is None}

    def _check_job(self, job_id: str, job: Job) -> None:
        assert job.spec.job_id == job_id
        assert job.phase is not Phase.ENDED
        assert (job.attempt is None) == (job.phase is Phase.QUEUED)
        if job.attempt is None:
            return
        assert job.attempt.epoch == job.epoch >= 1
        assert job.timeout_s is not None
        if job.phase is not Phase.HELD:
            assert self.workers[job.attempt.worker_id].attempts[job_id] == job.epoch
            assert job.model_sha256 == self.workers[job.attempt.worker_id].model_sha256

    def _check_worker(self, worker_id: str, worker: Worker) -> None:
        assert worker.worker_id == worker_id
        assert worker_id in self.pools[worker.pool_id].workers
        assert worker_id in self.workers_of[worker.model_sha256]
        if worker_id not in self.changed:
            assert self.open_of(worker.model_sha256).width(worker_id) == (worker.width if self.is_open(worker) else None)
            assert (worker_id in self.full_of(worker.model_sha256)) == self.is_full(worker)
            assert (worker_id in self.coming.get(worker.model_sha256, {})) == self.is_coming(worker)
            slots = worker.slots if self.is_sound(worker) else None
            assert self.serving_of(worker.model_sha256).slots_of.get(worker_id) == slots
        for job_id, epoch in worker.attempts.items():
            attempt = self.jobs[job_id].attempt
            assert attempt is not None
            assert (attempt.worker_id, attempt.epoch) == (worker_id, epoch)
            assert self.jobs[job_id].phase in {Phase.DISPATCHED, Phase.RUNNING}
        choices = {job_id: stay.choices for job_id, stay in worker.stays.items()}
        assert choices == {job_id: self.jobs[job_id].spec.choices for job_id in worker.attempts}
        assert worker.taken_slots == sum(worker.slots_for(stay.choices) for stay in worker.stays.values())
        if worker.sole_job is not None:
            assert set(worker.attempts) == {worker.sole_job}
