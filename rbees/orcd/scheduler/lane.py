"""PURE: the order of the jobs that wait for one model: fair among sessions, interactive before batch, and nobody waits for ever.

**Sessions.** Jobs of one session come in the order of acceptance; sessions take turns by the work that they have been given, as in
start-time fair queueing: a job's tag is the virtual time V at which it comes, or where the work of the session's job before it
ends, if that is later; the lowest tag is next, and V is the tag of the latest job that was next and was served. Once nobody waits V
starts anew. So whoever asks for much delays himself, whoever asks for little waits for about one job of each other session, and
a session that was alone for an hour owes nothing for that.

**Priorities.** Interactive and batch jobs have tags of their own. Interactive ones come first, but before each comes every batch
job of lower rank, the oldest first: the rank is the moment of acceptance, to which a batch job adds `batch_ages_after_s` (A).

**Bound.** When a job is accepted, let w be the work of its session's jobs of its priority that wait before it, F the number of
sessions with jobs of that priority waiting at any time until it is dispatched, and c the largest work of one such job since none
waited last. Then jobs of that priority with at most F w + 2 (F - 1) c of work are dispatched between its acceptance and its own
first dispatch: tags of other sessions' jobs that come before it lie between V and its own tag, which is at most w + c after V, and
the work of all but each session's last ends there. The same holds at any later moment for what waits then. Set aside are jobs that
come back after failed attempts.

Let B be the work of those that come first whatever their sessions' turns. Before a batch job these are the interactive jobs that
wait, older batch jobs with higher tags, and interactive jobs accepted within A of it, which nobody knows yet and `explain` leaves
out. Before an interactive job they are the batch jobs older, by rank, than the youngest of the interactive jobs that come before
it: than it or those of lower tags, and, where other sessions wait that may send more such jobs, than the moment of its own turn.
Batch jobs that give way go on where they were, so what they take in all is in R or B once.

With m slots none of which is free before its turn, and s seconds for each unit of work in one slot, it waits for
(R + (F w + 2 (F - 1) c + B) s) / m seconds at most, where R is what those slots still have to do. `bounds.py` finds m and s.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

MANY: Final = 1_024
"""So many sessions that owe something are remembered although none of their jobs waits."""
SAMPLED: Final = 128
Key = tuple[float, int, str]
"""A number, the order of acceptance, the job's id: the first is the rank or the tag."""


class Entry(NamedTuple):
    """What a lane needs to know of a job."""

    job_id: str
    rank_s: float
    order: int
    is_batch: bool
    session: str
    work: float
    came_back: bool
    """A failed attempt brought it back: it was served already and goes before all others of its priority."""


class Bound(NamedTuple):
    """The parts of F w + 2 (F - 1) c."""

    own_work: float
    sessions: int
    largest_work: float
    work: float


class _Place(NamedTuple):
    entry: Entry
    tag: float


@dataclass(slots=True)
class _Share:
    """The jobs of one priority."""

    keys: list[Key] = field(default_factory=list)
    """By tag."""
    ranks: list[Key] = field(default_factory=list)
    virtual: float = 0.0
    ends: dict[str, float] = field(default_factory=dict)
    """By session: where the work of its latest job ends."""
    served: dict[str, float] = field(default_factory=dict)
    """By session: where the work of its latest job that was served ends."""
    waiting: dict[str, int] = field(default_factory=dict)
    """By session: how many jobs."""
    largest: float = 0.0
    """Work of one job."""

    def forget_past(self) -> None:
        """Once they are many, drop sessions that wait for nothing: a lane may not be empty for weeks, with a new session each time.

        Of those that still owe a part of their last job the older ones go: each of them counts as another session from then on.
        """
        if len(self.ends) <= 2 * (len(self.waiting) + MANY):
            return
        owing = [name for name, end in self.ends.items() if name not in self.waiting and end > self.virtual]
        kept = self.waiting.keys() | set(owing[-MANY:])
        self.ends = {name: end for name, end in self.ends.items() if name in kept}
        self.served = {name: end for name, end in self.served.items() if name in kept}


class Lane:
    """All jobs that could be given to a worker of one model now, but for those that must run alone."""

    def __init__(self) -> None:
        self._shares = {False: _Share(), True: _Share()}
        self._places: dict[str, _Place] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._places

    def __iter__(self) -> Iterator[str]:
        """All jobs, in no order."""
        return iter(self._places)

    def put(self, entry: Entry) -> None:
        """Add a job."""
        share = self._shares[entry.is_batch]
        tag = share.virtual
        if not entry.came_back:
            tag = max(tag, share.ends.get(entry.session, 0.0))
            share.ends[entry.session] = tag + entry.work
        insort(share.keys, (tag, entry.order, entry.job_id))
        insort(share.ranks, (entry.rank_s, entry.order, entry.job_id))
        share.waiting[entry.session] = share.waiting.get(entry.session, 0) + 1
        share.largest = max(share.largest, entry.work)
        self._places[entry.job_id] = _Place(entry, tag)

    def remove(self, job_id: str, *, served: bool) -> None:
        """Take a job out: `served` if it was given to a worker, else it counts as if it had never come."""
        place = self._places.pop(job_id)
        entry, share = place.entry, self._shares[place.entry.is_batch]
        was_next = share.keys[0][2] == job_id
        _take(share.keys, (place.tag, entry.order, job_id))
        _take(share.ranks, (entry.rank_s, entry.order, job_id))
        share.waiting[entry.session] -= 1
        if served:
            if was_next:
                share.virtual = max(share.virtual, place.tag)
            share.served[entry.session] = max(share.served.get(entry.session, 0.0), place.tag + entry.work)
        if not share.waiting[entry.session]:
            del share.waiting[entry.session]
            # What it gave up without having had it is not held against it.
            share.ends[entry.session] = share.served.get(entry.session, 0.0)
            share.forget_past()
        if not share.keys:
            self._shares[entry.is_batch] = _Share()

    def head(self) -> str | None:
        """Who is next."""
        return next(self.front(), None)

    def front(self) -> Iterator[str]:
        """All jobs as they would follow if none came and none left. The lane must not change meanwhile."""
        chats, batches = self._shares[False], self._shares[True]
        aged = 0
        for _, _, job_id in chats.keys:
            rank = self._rank(job_id)
            while aged < len(batches.ranks) and batches.ranks[aged] < rank:
                yield batches.ranks[aged][2]
                aged += 1
            yield job_id
        gone = {key[2] for key in batches.ranks[:aged]}
        yield from (job_id for _, _, job_id in batches.keys if job_id not in gone)

    def about_at(self, index: int) -> str | None:
        """The job that has about `index` others before it: exactly so while only one priority waits."""
        for share in self._shares.values():
            if index < len(share.keys):
                return share.keys[index][2]
            index -= len(share.keys)
        return None

    def ahead(self, job_id: str) -> int:
        """How many would come before a job if none came and none left."""
        return len(self._before(self._places[job_id]))

    def ahead_of(self, newcomer: Entry) -> int:
        """The same for a job that would come now; the lane is left as it is."""
        share = self._shares[newcomer.is_batch]
        tag = max(share.virtual, share.ends.get(newcomer.session, 0.0))
        return len(self._before(_Place(newcomer, tag)))

    def work_before(self, job_id: str) -> float:
        """Of those that would come before a job if none came and none left; of many `SAMPLED` stand for all."""
        before = self._before(self._places[job_id])
        sample = before[:: -(-len(before) // SAMPLED)] if before else before
        return sum([self._places[name].entry.work for _, _, name in sample]) * (len(before) / max(len(sample), 1))

    def _before(self, place: _Place) -> list[Key]:
        """Tags or ranks of those that `front` has before a job, in any order, found without going through all."""
        chats, batches = self._shares[False], self._shares[True]
        rank, key = _rank(place.entry), (place.tag, place.entry.order, place.entry.job_id)
        if not place.entry.is_batch:
            earlier = chats.keys[: bisect_left(chats.keys, key)]
            aged = bisect_left(batches.ranks, rank)
            if aged < len(batches.ranks) and chats.ranks and batches.ranks[aged] < chats.ranks[-1]:
                # A younger chat whose session has its turn earlier takes along what is older than it.
                aged = max([aged, *(bisect_left(batches.ranks, self._rank(name)) for _, _, name in earlier)])
            return earlier + batches.ranks[:aged]
        aged = bisect_left(batches.ranks, chats.ranks[-1]) if chats.ranks else 0
        older = bisect_left(batches.ranks, rank)
        if older < aged:
            taken_by = next(index for index, (_, _, name) in enumerate(chats.keys) if self._rank(name) > rank)
            return chats.keys[:taken_by] + batches.ranks[:older]
        places = [self._places[name] for _, _, name in batches.ranks[:aged]]
        taken_along = [_rank(one.entry) for one in places if (one.tag, one.entry.order, one.entry.job_id) > key]
        return chats.keys + batches.keys[: bisect_left(batches.keys, key)] + taken_along

    def most_before(self, job_id: str) -> Bound:
        """The bound on what is dispatched before a job, as things stand: more sessions may still come."""
        place = self._places[job_id]
        share = self._shares[place.entry.is_batch]
        sessions = len(share.waiting)
        mine = (place.tag, place.entry.order, job_id)
        own = [self._places[other].entry for _, _, other in share.keys[: bisect_left(share.keys, mine)]]
        before = sum(entry.work for entry in own if entry.session == place.entry.session)
        return Bound(before, sessions, share.largest, sessions * before + 2 * (sessions - 1) * share.largest)

    def sessions(self, job_id: str) -> int:
        """How many of them have jobs of this job's priority that wait."""
        return len(self._shares[self._places[job_id].entry.is_batch].waiting)

    def interactive_work(self) -> float:
        """Of all interactive jobs."""
        return sum(self._places[name].entry.work for _, _, name in self._shares[False].keys)

    def older_work(self, job_id: str) -> float:
        """Of batch jobs that have their turn after a batch job and may come before it by their age."""
        place, share = self._places[job_id], self._shares[True]
        key = (place.tag, place.entry.order, job_id)
        older = [self._places[name] for _, _, name in share.ranks[: bisect_left(share.ranks, self._rank(job_id))]]
        return sum(one.entry.work for one in older if (one.tag, one.entry.order, one.entry.job_id) > key)

    def youngest_before(self, job_id: str) -> float:
        """The highest rank of an interactive job and of those that have their turn before it."""
        place, share = self._places[job_id], self._shares[False]
        mine = (place.tag, place.entry.order, job_id)
        return max(self._rank(name)[0] for _, _, name in share.keys[: bisect_left(share.keys, mine) + 1])

    def batch_by_age(self) -> Iterator[tuple[float, float]]:
        """Rank and work of each batch job, the oldest first. The lane must not change meanwhile."""
        return ((rank_s, self._places[name].entry.work) for rank_s, _, name in self._shares[True].ranks)

    def oldest(self) -> Key | None:
        """The lowest rank, with the order of acceptance and the job."""
        return min((share.ranks[0] for share in self._shares.values() if share.ranks), default=None)

    def youngest(self) -> Key | None:
        """The highest rank."""
        return max((share.ranks[-1] for share in self._shares.values() if share.ranks), default=None)

    def check_integrity(self) -> None:
        """Assert that the parts of the lane agree."""
        for is_batch, share in self._shares.items():
            places = [place for place in self._places.values() if place.entry.is_batch is is_batch]
            assert share.keys == sorted((place.tag, place.entry.order, place.entry.job_id) for place in places)
            assert share.ranks == sorted(self._rank(place.entry.job_id) for place in places)
            assert sum(share.waiting.values()) == len(places)
            assert share.waiting.keys() == {place.entry.session for place in places}
            assert share.keys or share == _Share(), "nobody owes anything while nobody waits"

    def _rank(self, job_id: str) -> Key:
        return _rank(self._places[job_id].entry)


def _rank(entry: Entry) -> Key:
    return (entry.rank_s, entry.order, entry.job_id)


def _take(keys: list[Key], key: Key) -> None:
    index = bisect_left(keys, key)
    assert keys[index] == key, "a job is looked for where it is not"
    del keys[index]
