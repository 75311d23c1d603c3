"""PURE: which waiting job comes next.

Jobs rank by `rank_s`: the moment of acceptance, to which a batch job adds `batch_ages_after_s` (A). So interactive jobs come
before batch jobs, a batch job comes before interactive ones accepted more than A later, and equal ranks go by order of
acceptance. The rank never changes, also not when a failed attempt brings a job back, so nothing is ever sorted again.

**Bound.** Let a batch job be accepted at t, when n jobs for its model wait or run, and let i interactive jobs for its model be
accepted in (t, t + A]. Then at most n + i other jobs of its model are dispatched before its own first dispatch, however many
arrive after t + A, and each of them at most 1 + `retries` times. For an interactive job i is 0. Jobs that must run alone stand
outside of this: they wait, besides, for a worker to empty, one such job after the other.

Models have lanes of their own, so a model that cannot be placed delays no other; which model gets room first goes by the
rank of its first job. Suspect jobs, which must run alone, have a lane beside the common one, so that waiting for an empty
worker does not hold up jobs that may share one.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from rbees.orcd.scheduler.state import Job

Key = tuple[float, int, str]
"""Rank, order of acceptance, job id."""


@dataclass(slots=True)
class _Place:
    key: Key
    lane: tuple[str, bool] | None
    """Model and whether the job runs alone; None while it may not be placed yet."""
    due_s: float


class Queue:
    """All jobs in phase QUEUED, in the order in which they are dispatched."""

    def __init__(self) -> None:
        self._all: list[Key] = []
        self._lanes: dict[tuple[str, bool], list[Key]] = {}
        self._places: dict[str, _Place] = {}
        self._sleeping: list[tuple[float, str]] = []
        self._sleepers: Counter[str] = Counter()
        """By model: how many jobs pause before a retry."""

    def __len__(self) -> int:
        return len(self._all)

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._places

    def put(self, job: Job, due_s: float, now_s: float) -> None:
        """Add a job that may be placed from `due_s` on; one whose model is unknown only takes its place in the order."""
        key = (job.rank_s, job.spec.order, job.spec.job_id)
        insort(self._all, key)
        self._places[job.spec.job_id] = _Place(key, None, due_s)
        if due_s > now_s:
            assert job.model_sha256 is not None, "a job that was never dispatched has nothing to pause for"
            self._sleepers[job.model_sha256] += 1
            heapq.heappush(self._sleeping, (due_s, job.spec.job_id))
        else:
            self._enter_lane(job)

    def remove(self, job: Job) -> None:
        """Take a job out."""
        place = self._places.pop(job.spec.job_id)
        _take(self._all, place.key)
        self._leave_lane(place)
        if place.due_s > 0.0:
            self._count_awake(job)

    def refile(self, job: Job) -> None:
        """The job's model was resolved or the job became suspect: move it to the lane where it belongs now."""
        place = self._places[job.spec.job_id]
        if place.lane is not None or place.due_s == 0.0:
            self._leave_lane(place)
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
        """The next job of a lane."""
        lane = self._lanes.get((model_sha256, alone))
        return lane[0][2] if lane else None

    def behind(self, model_sha256: str, count: int) -> str | None:
        """Of the jobs that may share a worker, the one that has `count` others before it."""
        lane = self._lanes.get((model_sha256, False), ())
        return lane[count][2] if count < len(lane) else None

    def depth(self, model_sha256: str) -> int:
        """How many jobs of a model could be placed now."""
        return len(self._lanes.get((model_sha256, False), ())) + len(self._lanes.get((model_sha256, True), ()))

    def first_key(self, model_sha256: str) -> Key | None:
        """The key of the model's first job that could be placed now."""
        heads = [lane[0] for alone in (False, True) if (lane := self._lanes.get((model_sha256, alone)))]
        return min(heads, default=None)

    def models(self) -> list[str]:
        """Models with jobs that could be placed now, by the rank of their first job."""
        first: dict[str, Key] = {}
        for (model, _), lane in self._lanes.items():
            if model not in first or lane[0] < first[model]:
                first[model] = lane[0]
        return sorted(first, key=first.__getitem__)

    def wanted_soon(self) -> set[str]:
        """Models all of whose waiting jobs still pause before a retry: a worker started now is ready when they are."""
        return {model for model in self._sleepers if not self.depth(model)}

    def ahead(self, job: Job) -> int | None:
        """How many jobs of its model come before a job that could be placed now."""
        place = self._places.get(job.spec.job_id)
        if place is None or place.lane is None:
            return None
        lanes = [self._lanes.get((place.lane[0], alone), []) for alone in (False, True)]
        return sum(bisect_left(lane, place.key) for lane in lanes)

    def last(self, model_sha256: str) -> str | None:
        """The last of the model's jobs that could be placed now."""
        tails = [lane[-1] for alone in (False, True) if (lane := self._lanes.get((model_sha256, alone)))]
        return max(tails)[2] if tails else None

    def front(self, model_sha256: str, count: int) -> Iterator[str]:
        """The first jobs of both lanes of a model."""
        for alone in (True, False):
            for key in self._lanes.get((model_sha256, alone), ())[:count]:
                yield key[2]

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
        sleepers = Counter(waiting[job_id].model_sha256 for job_id, place in self._places.items() if place.due_s > 0.0)
        assert self._sleepers == sleepers
        assert set(self._places) == set(waiting)
        filed = {key[2]: lane for lane, keys in self._lanes.items() for key in keys}
        assert filed == {job_id: place.lane for job_id, place in self._places.items() if place.lane is not None}
        for job_id, lane in filed.items():
            assert lane == (waiting[job_id].model_sha256, waiting[job_id].suspect)
        for keys in self._lanes.values():
            assert keys, "an empty lane is removed"
            assert keys == sorted(keys)

    def _enter_lane(self, job: Job) -> None:
        place = self._places[job.spec.job_id]
        place.due_s = 0.0
        if job.model_sha256 is not None:
            place.lane = (job.model_sha256, job.suspect)
            insort(self._lanes.setdefault(place.lane, []), place.key)

    def _count_awake(self, job: Job) -> None:
        assert job.model_sha256 is not None
        self._sleepers[job.model_sha256] -= 1
        if not self._sleepers[job.model_sha256]:
            del self._sleepers[job.model_sha256]

    def _leave_lane(self, place: _Place) -> None:
        if place.lane is not None:
            keys = self._lanes[place.lane]
            _take(keys, place.key)
            if not keys:
                del self._lanes[place.lane]
            place.lane = None


def _take(keys: list[Key], key: Key) -> None:
    index = bisect_left(keys, key)
    assert keys[index] == key, "a job is looked for where it is not"
    del keys[index]
