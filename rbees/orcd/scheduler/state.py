"""PURE: what the scheduler knows: jobs that have not ended, pools, workers. It holds facts and decides nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rbees.orcd.scheduler.estimates import Estimates
from rbees.orcd.scheduler.fleet import Claim, LoadTrouble, Pool, Worker
from rbees.orcd.scheduler.job import Job
from rbees.orcd.scheduler.judge import Judge
from rbees.orcd.scheduler.roster import Rooms, Roster, Serving, Widths
from rbees.orcd.scheduler.speeds import Speeds
from rbees.orcd.scheduler.uses import Uses
from rbees.protocol.pools import ModelFacts


class State:
    """Everything the scheduler knows, with the indices that keep decisions cheap."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.pools: dict[str, Pool] = {}
        self.kept_s: dict[str, float] = {}
        """By model that workers have: for how long a client wants it kept without work; infinite until its memory is needed."""
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
        self.looked_at = ""
        """The last model that a tick looked at."""
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
            self.kept_s.pop(worker.model_sha256, None)
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

    def keeps_not(self, worker: Worker, job: Job) -> None:
        """The worker does not compute the job's prompt after all; what others there share with it counts on."""
        others = (self.jobs[job_id].spec.prefixes for job_id in worker.attempts if job_id != job.spec.job_id)
        self._forget_prefixes(worker, worker.prefixes.intersection(job.spec.prefixes).difference(*others))

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
