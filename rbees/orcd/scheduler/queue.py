"""PURE: which waiting job comes next.

Models have lanes of their own, so a model that cannot be placed delays no other; who is next in one, and how long anybody waits at
most, `lane.py` says. Which model gets room first goes by the rank of its oldest job: the moment of acceptance, to which a batch job
adds `batch_ages_after_s`. The rank never changes, also not when a failed attempt brings a job back. Suspect jobs, which must run
alone, stand beside the common lane in the order of their ranks, so that waiting for an empty worker does not hold up jobs that may
share one. So do large jobs, which some worker refused because its context is too small (`contexts.py`).
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import islice

from rbees.orcd.scheduler.job import Job
from rbees.orcd.scheduler.lane import Entry, Key, Lane
from rbees.protocol.jobs import Priority


class _Kind(Enum):
    """With whom a job waits."""

    COMMON = "common"
    ALONE = "alone"
    LARGE = "large"


@dataclass(slots=True)
class _Place:
    key: Key
    lane: tuple[str, _Kind] | None
    """Model and kind of job; None while it may not be placed yet."""
    due_s: float
    came_back: bool


class Queue:
    """All jobs in phase QUEUED, in the order in which they are dispatched."""

    def __init__(self) -> None:
        self._all: list[Key] = []
        self._lanes: dict[str, Lane] = {}
        """By model: of jobs that may share a worker."""
        self._alone: dict[str, list[Key]] = {}
        """By model: of those that may not."""
        self._large: dict[str, list[Key]] = {}
        """By model: of those that may, where the context is large enough for them."""
        self._places: dict[str, _Place] = {}
        self._sleeping: list[tuple[float, str]] = []
        self._sleepers: Counter[str] = Counter()
        """By model: how many jobs pause before a retry."""

        self._changes: Counter[str] = Counter()
        """By model: how often a job has entered or left its lane."""
        self.counts: Counter[tuple[str, Priority]] = Counter()
        """How many jobs wait, by the model that they name and by priority."""

    def __len__(self) -> int:
        return len(self._all)

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._places

    def put(self, job: Job, due_s: float, now_s: float) -> None:
        """Add a job that may be placed from `due_s` on; one whose model is unknown only takes its place in the order."""
        key = (job.rank_s, job.spec.order, job.spec.job_id)
        insort(self._all, key)
        self.counts[job.spec.model, job.spec.priority] += 1
        self._places[job.spec.job_id] = _Place(key, None, due_s, came_back=job.epoch > 0)
        if due_s > now_s:
            assert job.model_sha256 is not None, "a job that was never dispatched has nothing to pause for"
            self._sleepers[job.model_sha256] += 1
            heapq.heappush(self._sleeping, (due_s, job.spec.job_id))
        else:
            self._enter_lane(job)

    def remove(self, job: Job, *, served: bool = False) -> None:
        """Take a job out: `served` if it goes to a worker."""
        place = self._places.pop(job.spec.job_id)
        _take(self._all, place.key)
        self._uncount((job.spec.model, job.spec.priority))
        self._leave_lane(place, served=served)
        if place.due_s > 0.0:
            self._count_awake(job)

    def refile(self, job: Job) -> None:
        """The job's model was resolved, or the job became suspect: move it to the lane where it belongs now."""
        place = self._places[job.spec.job_id]
        if place.lane is not None or place.due_s == 0.0:
            self._leave_lane(place)
            self._enter_lane(job)

    def end_pause(self, job: Job) -> None:
        """Let a job that pauses before a retry be placed at once; harmless for any other that waits."""
        if self._places[job.spec.job_id].due_s > 0.0:
            self._count_awake(job)
            self._enter_lane(job)

    def wake(self, now_s: float, jobs: dict[str, Job]) -> set[str]:
        """Let jobs whose delay is over be placed; the models they are for."""
        woken: set[str] = set()
        while self._sleeping and self._sleeping[0][0] <= now_s:
            due_s, job_id = heapq.heappop(self._sleeping)
            place = self._places.get(job_id)
            if place is not None and place.due_s == due_s:
                job = jobs[job_id]
                self._count_awake(job)
                self._enter_lane(job)
                assert job.model_sha256 is not None
                woken.add(job.model_sha256)
        return woken

    def head(self, model_sha256: str, alone: bool) -> str | None:
        """The next job of a model that may share a worker, or must not."""
        if alone:
            keys = self._alone.get(model_sha256)
            return keys[0][2] if keys else None
        lane = self._lanes.get(model_sha256)
        return lane.head() if lane is not None else None

    def about_at(self, model_sha256: str, index: int) -> str | None:
        """Of the jobs that may share a worker, the one that has about `index` others before it."""
        lane = self._lanes.get(model_sha256)
        return lane.about_at(index) if lane is not None else None

    def depth(self, model_sha256: str) -> int:
        """How many jobs of a model could be placed now."""
        return sum(len(keys) for keys in self._beside(model_sha256)) + len(self._lanes.get(model_sha256, ()))

    def first_key(self, model_sha256: str) -> Key | None:
        """The key of the model's oldest job that could be placed now."""
        lane = self._lanes.get(model_sha256)
        oldest = [lane.oldest() if lane else None, *(keys[0] for keys in self._beside(model_sha256))]
        return min((key for key in oldest if key is not None), default=None)

    def key(self, job: Job) -> Key:
        """Where a job that waits stands among all."""
        return self._places[job.spec.job_id].key

    def waiting_models(self) -> set[str]:
        """Models with jobs that could be placed now."""
        return {*self._lanes, *self._alone, *self._large}

    def in_order(self, models: Iterable[str]) -> list[str]:
        """Those of `models` that have jobs which could be placed now, by the rank of their oldest job."""
        first = {model: key for model in models if (key := self.first_key(model)) is not None}
        return sorted(first, key=first.__getitem__)

    def changes(self, model_sha256: str) -> int:
        """Equal for two moments between which no job could have come to the front of the model's jobs."""
        return self._changes[model_sha256]

    def wanted_soon(self) -> set[str]:
        """Models all of whose waiting jobs still pause before a retry: a worker started now is ready when they are."""
        return {model for model in self._sleepers if not self.depth(model)}

    def ahead(self, job: Job) -> int | None:
        """How many jobs of its model come before a job that could be placed now."""
        place = self._places.get(job.spec.job_id)
        if place is None or place.lane is None:
            return None
        model_sha256, kind = place.lane
        suspects, large = self._alone.get(model_sha256, []), self._large.get(model_sha256, [])
        match kind:
            case _Kind.ALONE:
                return bisect_left(suspects, place.key)
            case _Kind.LARGE:
                return len(suspects) + bisect_left(large, place.key)
            case _Kind.COMMON:
                return len(suspects) + len(large) + self._lanes[model_sha256].ahead(job.spec.job_id)

    def ahead_of(self, job: Job) -> int:
        """The same for a job that is not here and would come now."""
        assert job.model_sha256 is not None
        lane = self._lanes.get(job.model_sha256)
        beside = sum(len(keys) for keys in self._beside(job.model_sha256))
        return beside + (lane.ahead_of(_entry(job)) if lane is not None else 0)

    def work_before(self, job: Job) -> float:
        """The work of those jobs of its model that come before a job that could be placed now."""
        place = self._places[job.spec.job_id]
        assert place.lane is not None
        lane = self._lanes.get(place.lane[0])
        return lane.work_before(job.spec.job_id) if lane is not None and place.lane[1] is _Kind.COMMON else 0.0

    def has_others(self, model_sha256: str) -> bool:
        """Whether any of the model's jobs waits for a worker of its own, or for one with a larger context."""
        return bool(self._beside(model_sha256))

    def large(self, model_sha256: str) -> list[str]:
        """The model's jobs that share a worker only where the context is large enough, the oldest first."""
        return [key[2] for key in self._large.get(model_sha256, ())]

    def lane(self, model_sha256: str) -> Lane | None:
        """The jobs of a model that may share a worker."""
        return self._lanes.get(model_sha256)

    def last(self, model_sha256: str) -> str | None:
        """The youngest of the model's jobs that could be placed now, wherever a worker is."""
        lane, alone = self._lanes.get(model_sha256), self._alone.get(model_sha256)
        keys = [key for key in (lane.youngest() if lane else None, alone[-1] if alone else None) if key is not None]
        return max(keys)[2] if keys else None

    def front(self, model_sha256: str, count: int) -> Iterator[str]:
        """The first jobs of a model: those that run alone, the large ones, then the others, `count` of each."""
        for keys in self._beside(model_sha256):
            yield from [key[2] for key in keys[:count]]
        lane = self._lanes.get(model_sha256)
        if lane is not None:
            yield from list(islice(lane.front(), count))

    def first(self, count: int) -> list[str]:
        """The first of all waiting jobs."""
        return [key[2] for key in self._all[:count]]

    def position(self, job_id: str) -> int | None:
        """1 for the first of all waiting jobs; None if the job does not wait."""
        place = self._places.get(job_id)
        return None if place is None else bisect_left(self._all, place.key) + 1

    def is_delayed(self, job_id: str) -> bool:
        """True while the job waits for its retry."""
        return self._places[job_id].due_s > 0.0

    def check_integrity(self, waiting: dict[str, Job]) -> None:
        """Assert that exactly the jobs of `waiting` are here, once each, in order and in the lane where they belong."""
        assert self._all == sorted(self._all)
        assert len(self._all) == len(self._places)
        assert self.counts == Counter((job.spec.model, job.spec.priority) for job in waiting.values())
        sleepers = Counter(waiting[job_id].model_sha256 for job_id, place in self._places.items() if place.due_s > 0.0)
        assert self._sleepers == sleepers
        assert set(self._places) == set(waiting)
        filed = {key[2]: (model, _Kind.ALONE) for model, keys in self._alone.items() for key in keys}
        filed |= {key[2]: (model, _Kind.LARGE) for model, keys in self._large.items() for key in keys}
        filed |= {job_id: (model, _Kind.COMMON) for model, lane in self._lanes.items() for job_id in lane.front()}
        assert filed == {job_id: place.lane for job_id, place in self._places.items() if place.lane is not None}
        for job_id, lane in filed.items():
            assert lane == (waiting[job_id].model_sha256, _kind(waiting[job_id]))
        for keys in (*self._alone.values(), *self._large.values()):
            assert keys, "an empty lane is removed"
            assert keys == sorted(keys)
        for one in self._lanes.values():
            assert len(one), "an empty lane is removed"
            one.check_integrity()

    def _enter_lane(self, job: Job) -> None:
        place = self._places[job.spec.job_id]
        place.due_s = 0.0
        if job.model_sha256 is None:
            return
        kind = _kind(job)
        place.lane = (job.model_sha256, kind)
        self._changes[job.model_sha256] += 1
        match kind:
            case _Kind.ALONE:
                insort(self._alone.setdefault(job.model_sha256, []), place.key)
            case _Kind.LARGE:
                insort(self._large.setdefault(job.model_sha256, []), place.key)
            case _Kind.COMMON:
                self._lanes.setdefault(job.model_sha256, Lane()).put(_entry(job, came_back=place.came_back))

    def _beside(self, model_sha256: str) -> list[list[Key]]:
        """What waits beside the common lane: first who must run alone."""
        return [keys for table in (self._alone, self._large) if (keys := table.get(model_sha256))]

    def _uncount(self, kind: tuple[str, Priority]) -> None:
        self.counts[kind] -= 1
        if not self.counts[kind]:
            del self.counts[kind]

    def _count_awake(self, job: Job) -> None:
        assert job.model_sha256 is not None
        self._sleepers[job.model_sha256] -= 1
        if not self._sleepers[job.model_sha256]:
            del self._sleepers[job.model_sha256]

    def _leave_lane(self, place: _Place, *, served: bool = False) -> None:
        if place.lane is None:
            return
        model_sha256, kind = place.lane
        self._changes[model_sha256] += 1
        place.lane = None
        if kind is not _Kind.COMMON:
            table = self._alone if kind is _Kind.ALONE else self._large
            keys = table[model_sha256]
            _take(keys, place.key)
            if not keys:
                del table[model_sha256]
            return
        lane = self._lanes[model_sha256]
        lane.remove(place.key[2], served=served)
        if not len(lane):
            del self._lanes[model_sha256]


def _entry(job: Job, *, came_back: bool = False) -> Entry:
    spec = job.spec
    return Entry(spec.job_id, job.rank_s, spec.order, spec.priority == "batch", spec.session_id, job.work, came_back)


def _kind(job: Job) -> _Kind:
    if job.suspect:
        return _Kind.ALONE
    return _Kind.LARGE if job.needs_ctx else _Kind.COMMON


def _take(keys: list[Key], key: Key) -> None:
    index = bisect_left(keys, key)
    assert keys[index] == key, "a job is looked for where it is not"
    del keys[index]
