"""Sessions share a lane, nobody waits longer than the bound that `lane.py` states, and an adversary comes close to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice

from hypothesis import example, given, settings
from hypothesis import strategies as st

from rbees.orcd.scheduler.lane import MANY, Entry, Lane

AGEING_S = 10.0


@dataclass
class Waiting:
    """A job and what counts towards its bound."""

    entry: Entry
    accepted_at_s: float
    own_work: float
    sessions: set[str]
    others_before: set[str] = field(default_factory=set)
    """Of the other priority: jobs that may come first."""
    largest: float = 0.0
    served_work: float = 0.0
    """Of jobs of its priority that were served since, in their turn."""


class Desk:
    """One lane and a clock."""

    def __init__(self) -> None:
        self.lane = Lane()
        self.now_s = 0.0
        self.orders = 0
        self.waiting: dict[str, Waiting] = {}
        self.largest = {False: 0.0, True: 0.0}
        """By priority: work of one job since none waited last."""

    def accept(self, session: str, work: float, *, batch: bool = False) -> str:
        self.orders += 1
        name = f"job-{self.orders}"
        entry = Entry(name, self.now_s + AGEING_S * batch, self.orders, batch, session, work, came_back=False)
        same = [other for other in self.waiting.values() if other.entry.is_batch == batch]
        own = sum(other.entry.work for other in same if other.entry.session == session)
        ahead = self.lane.ahead_of(entry)
        self.lane.put(entry)
        assert self.lane.ahead(name) == ahead, "what was told before it came"
        self.largest[batch] = max(self.largest[batch] if same else 0.0, work)
        newcomer = Waiting(entry, self.now_s, own, {other.entry.session for other in same} | {session})
        newcomer.largest = self.largest[batch]
        for other in same:
            other.sessions.add(session)
            other.largest = max(other.largest, work)
        if batch:
            newcomer.others_before = {name for name, other in self.waiting.items() if not other.entry.is_batch}
        else:
            for other in self.waiting.values():
                if other.entry.is_batch and self.now_s <= other.accepted_at_s + AGEING_S:
                    other.others_before.add(name)
        self.waiting[name] = newcomer
        self.check_order()
        return name

    def check_order(self) -> None:
        """Who comes before whom is found without going through all, and the same as if one had."""
        self.lane.check_integrity()
        work = 0.0
        for index, name in enumerate(self.lane.front()):
            assert self.lane.ahead(name) == index
            assert abs(self.lane.work_before(name) - work) < 1e-6
            work += self.waiting[name].entry.work

    def serve(self) -> str | None:
        """The next job goes to a worker; everybody's bound is checked."""
        name = self.lane.head()
        if name is None:
            return None
        assert list(islice(self.lane.front(), 1)) == [name]
        served = self.waiting.pop(name)
        in_turn = not served.entry.is_batch or not self._is_aged(served)
        for other in self.waiting.values():
            if other.entry.is_batch == served.entry.is_batch and in_turn:
                other.served_work += served.entry.work
                assert other.served_work <= bound(other) + 1e-9, "more came first than the bound allows"
            elif other.entry.is_batch and not served.entry.is_batch:
                assert name in other.others_before, "an interactive job came first that is too young for that"
            elif served.entry.is_batch and not other.entry.is_batch:
                assert self.now_s >= served.accepted_at_s + AGEING_S, "a batch job came first that has not waited long"
        self.lane.remove(name, served=True)
        self.check_order()
        return name

    def _is_aged(self, batch: Waiting) -> bool:
        """It came before an interactive job, by its age and not in its turn."""
        return any(not other.entry.is_batch for other in self.waiting.values())

    def cancel(self, index: int) -> None:
        if self.waiting:
            name = sorted(self.waiting)[index % len(self.waiting)]
            del self.waiting[name]
            self.lane.remove(name, served=False)
            self.lane.check_integrity()


def bound(job: Waiting) -> float:
    """F w + 2 (F - 1) c."""
    sessions = len(job.sessions)
    return sessions * job.own_work + 2 * (sessions - 1) * job.largest


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("accept"), st.sampled_from("abcd"), st.sampled_from((1.0, 1.0, 3.0, 20.0)), st.booleans()),
        st.just(("serve",)),
        st.tuples(st.just("wait"), st.floats(0.1, 6.0)),
        st.tuples(st.just("cancel"), st.integers(0, 50)),
    ),
    max_size=120,
)


@settings(max_examples=500, deadline=None, print_blob=True)
@given(STEPS)
@example([("accept", "b", 1.0, False)] * 9 + [("accept", "a", 20.0, False)] + [("serve",)] * 2 + [("accept", "a", 1.0, False)])
@example([("accept", "a", 1.0, True), ("wait", 6.0), ("wait", 5.0), ("accept", "b", 1.0, False), ("serve",), ("serve",)])
def test_nobody_waits_longer_than_the_bound(steps: list[tuple[object, ...]]) -> None:
    desk = Desk()
    for step in steps:
        match step:
            case ("accept", str(session), float(work), bool(batch)):
                desk.accept(session, work, batch=batch)
            case ("serve",):
                desk.serve()
            case ("wait", float(seconds)):
                desk.now_s += seconds
            case ("cancel", int(index)):
                desk.cancel(index)
    while desk.serve() is not None:
        pass
    assert not desk.waiting
    assert len(desk.lane) == 0


def test_an_adversary_reaches_more_than_half_of_the_bound() -> None:
    """Sessions that flood the lane let a job with a backlog of its own wait nearly as long as the bound says."""
    for sessions, backlog in ((2, 0), (4, 0), (4, 5), (8, 20)):
        desk = Desk()
        flooding = [f"flood-{number}" for number in range(sessions - 1)]
        desk.accept("own", 1.0)
        desk.serve()
        for session in flooding:
            for _ in range(2 * backlog + 4):
                desk.accept(session, 1.0)
        for _ in range(backlog):
            desk.accept("own", 1.0)
        last = desk.accept("own", 1.0)
        job = desk.waiting[last]
        while last in desk.waiting:
            desk.serve()
        assert job.served_work >= bound(job) / 2
        assert job.served_work <= bound(job)


def test_who_asks_for_much_does_not_delay_who_asks_for_little() -> None:
    desk = Desk()
    for _ in range(1_000):
        desk.accept("flood", 1.0)
    for _ in range(500):
        desk.serve()
    small = desk.accept("small", 1.0)
    followers = [desk.serve() for _ in range(3)]
    assert small in followers


def test_a_session_that_was_alone_owes_nothing() -> None:
    desk = Desk()
    for _ in range(100):
        desk.accept("alone", 1.0)
        desk.serve()
    turns = []
    for _ in range(10):
        desk.accept("alone", 1.0)
        desk.accept("new", 1.0)
    while (name := desk.lane.head()) is not None:
        turns.append(desk.waiting[name].entry.session)
        desk.serve()
    assert turns[:10].count("alone") == 5


def test_shares_are_of_work_and_not_of_jobs() -> None:
    desk = Desk()
    for _ in range(40):
        desk.accept("long", 10.0)
        desk.accept("short", 1.0)
    given = {"long": 0.0, "short": 0.0}
    for _ in range(40):
        name = desk.lane.head()
        assert name is not None
        entry = desk.waiting[name].entry
        given[entry.session] += entry.work
        desk.serve()
    assert abs(given["long"] - given["short"]) <= 10.0


def test_what_was_taken_back_is_not_held_against_its_session() -> None:
    desk = Desk()
    taken_back = [desk.accept("rueful", 1.0) for _ in range(50)]
    for _ in range(10):
        desk.accept("other", 1.0)
    for name in taken_back:
        del desk.waiting[name]
        desk.lane.remove(name, served=False)
    again = desk.accept("rueful", 1.0)
    assert again in [desk.serve() for _ in range(2)]


def test_sessions_are_forgotten_although_somebody_always_waits() -> None:
    desk = Desk()
    for number in range(4 * MANY):
        desk.accept(f"session-{number}", 1.0)
        if number >= 3:
            desk.serve()
    assert len(desk.waiting) == 3
    remembered = desk.lane._shares[False]
    assert max(len(remembered.ends), len(remembered.served)) <= 2 * (MANY + 4)


def test_a_job_that_comes_back_goes_first() -> None:
    desk = Desk()
    for _ in range(5):
        desk.accept("a", 1.0)
    desk.serve()
    desk.lane.put(Entry("returned", 0.0, 0, False, "a", 1.0, came_back=True))
    assert desk.lane.head() == "returned"
    assert desk.lane.ahead("job-5") == 4
