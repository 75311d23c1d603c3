"""One worker besieged by sessions that want it all, in virtual time: how long the real scheduler lets jobs wait, beside the bound.

The bound is that of `rbees/orcd/scheduler/lane.py`. With R seconds of running work, w the work of the session's own jobs before,
F sessions that wait, c the largest work of one job, s seconds for a unit of work and m slots, a job waits at most (R + (F w + 2
(F - 1) c) s) / m. Everything goes through `Scheduler.handle`. All jobs of a siege have one priority, and attempts take as long as
their work says, as the bound presumes.
"""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass
from typing import Final

from rbees.orcd.scheduler.core import Scheduler
from rbees.orcd.scheduler.effects import Dispatch
from rbees.orcd.scheduler.events import AttemptCompleted, Event, JobArrived, JobSpec, Moment, PoolReported, Ticked
from rbees.orcd.scheduler.policy import Policy
from rbees.protocol.decisions import WaitBound
from rbees.protocol.jobs import Priority
from tests.simulation import facts

MODEL: Final = facts.model("wanted", facts.GIB)
UNIT_S: Final = 0.1
"""Seconds for a unit of work: what the bound calls s."""
HEARTBEAT_S: Final = 2.0
PROMPT_WORK: Final = 1.0
"""Of any job, beside its answer."""
SHAPES: Final = tuple((sessions, backlog) for sessions in (2, 4, 8, 32) for backlog in (0, 1, 5, 20))
"""Of planned sieges: how many sessions, and how many jobs the victim's own has waiting."""


@dataclass(slots=True)
class Waiting:
    """A job that waits, and what counts towards its bound."""

    order: int
    session: str
    work: float
    accepted_at_s: float
    running_s: float
    """What the attempts that ran when it was accepted still needed, together."""
    own_work: float
    sessions: set[str]
    largest: float
    before: float = 0.0
    """Work of others that was dispatched since."""


@dataclass(frozen=True, slots=True)
class Wait:
    """How a job fared: what was dispatched before it, how long it waited, and the bounds on both."""

    order: int
    """The youngest job has the highest."""
    work: float
    work_bound: float
    seconds: float
    seconds_bound: float

    @property
    def share(self) -> float:
        """Of the work that may come before it."""
        return self.work / self.work_bound if self.work_bound else 0.0

    @property
    def share_of_time(self) -> float:
        """Of the time that it may wait; nobody waits where the bound is nothing, but for the width of a float."""
        return self.seconds / self.seconds_bound if self.seconds_bound > 1e-9 else float(self.seconds > 1e-9)


class Siege:
    """A scheduler with one worker of `slots`, and a clock that moves only when told."""

    def __init__(self, slots: int, priority: Priority = "interactive") -> None:
        self.waits: list[Wait] = []
        self._slots = slots
        self._priority: Priority = priority
        self._scheduler = Scheduler(Policy())
        self._worker = facts.worker("worker", MODEL, slots=slots)
        self._waiting: dict[str, Waiting] = {}
        self._running: list[tuple[float, str, int]] = []
        self._now_s = 0.0
        self._heartbeat_at_s = 0.0
        self._orders = 0
        self._events = 0
        self.advance(0.0)

    def accept(self, session: str, tokens: int) -> None:
        """A job comes."""
        self._orders += 1
        name, work = f"job-{self._orders}", PROMPT_WORK + tokens
        own = sum(other.work for other in self._waiting.values() if other.session == session)
        running_s = sum(until_s - self._now_s for until_s, _, _ in self._running)
        largest = max([work, *(other.largest for other in self._waiting.values())])
        sessions = {session, *(other.session for other in self._waiting.values())}
        for other in self._waiting.values():
            other.sessions.add(session)
            other.largest = largest
        self._waiting[name] = Waiting(self._orders, session, work, self._now_s, running_s, own, sessions, largest)
        # None has a session of its own name, and the timeout is longer than any siege.
        spec = JobSpec(
            name, MODEL.ref, MODEL.sha256, self._priority, self._orders, 86_400_000, max_tokens=tokens, session_id=session
        )
        self._send(JobArrived(spec))

    def advance(self, seconds: float) -> None:
        """Let time pass: attempts end, the pool reports."""
        until_s = self._now_s + seconds
        while self._heartbeat_at_s <= until_s or (self._running and self._running[0][0] <= until_s):
            if self._running and self._running[0][0] < self._heartbeat_at_s:
                self._end_next()
            else:
                self._now_s = self._heartbeat_at_s
                self._heartbeat_at_s += HEARTBEAT_S
                device = facts.device("cpu", 4 * facts.GIB, 3 * facts.GIB)
                self._send(PoolReported("host", "1", False, (device,), (MODEL,), (self._worker,)))
                self._send(Ticked())
        self._now_s = until_s

    def until_next_end(self) -> None:
        """Let time pass until an attempt ends."""
        if self._running:
            self.advance(self._running[0][0] - self._now_s)

    def stated_bound(self) -> WaitBound:
        """What `explain` tells of the youngest job, which must be waiting."""
        told = self._scheduler.explain(f"job-{self._orders}", self._now_s)
        assert told is not None
        assert told.bound is not None
        return told.bound

    def finish(self) -> list[Wait]:
        """Let all jobs be done; how each of them fared."""
        while self._running:
            self.until_next_end()
        assert not self._waiting, "jobs are left waiting beside an idle worker"
        self._scheduler.check_integrity()
        return self.waits

    def _end_next(self) -> None:
        self._now_s, name, epoch = heapq.heappop(self._running)
        self._send(AttemptCompleted(name, epoch))

    def _send(self, event: Event) -> None:
        self._events += 1
        moment = Moment(self._now_s, round(self._now_s * 1000), self._events.to_bytes(10, "big"))
        for effect in self._scheduler.handle(event, moment):
            if isinstance(effect, Dispatch):
                self._begin(effect)

    def _begin(self, effect: Dispatch) -> None:
        job = self._waiting.pop(effect.job_id)
        assert len(self._running) < self._slots
        heapq.heappush(self._running, (self._now_s + job.work * UNIT_S, effect.job_id, effect.epoch))
        for other in self._waiting.values():
            other.before += job.work
        count = len(job.sessions)
        bound = count * job.own_work + 2 * (count - 1) * job.largest
        bound_s = (job.running_s + bound * UNIT_S) / self._slots
        self.waits.append(Wait(job.order, job.before, bound, self._now_s - job.accepted_at_s, bound_s))


def planned(sessions: int, backlog: int, slots: int = 1, priority: Priority = "interactive") -> Siege:
    """The victim's session has just had its turn, and each other is about to have two, when the victim's last job comes."""
    siege, tokens = Siege(slots, priority), 19
    for slot in range(slots):
        siege.accept("before", 1 + 2 * tokens * (slot > 0))
    siege.accept("victim", tokens)
    for number in range(sessions - 1):
        for _ in range(2 * backlog + 4):
            siege.accept(f"flood-{number}", tokens)
    for _ in range(backlog):
        siege.accept("victim", tokens)
    siege.until_next_end()
    siege.accept("victim", tokens)
    return siege


def at_random(seed: int) -> Siege:
    """Some sessions, of which some ask for much and some for little, in bursts."""
    rng = random.Random(seed)
    siege = Siege(rng.choice((1, 1, 2, 4)), rng.choice(("interactive", "batch")))
    sessions = [f"session-{number}" for number in range(rng.randrange(2, 12))]
    greed = {session: rng.choice((1, 1, 4, 12)) for session in sessions}
    for _ in range(rng.randrange(20, 60)):
        for session in rng.sample(sessions, rng.randrange(1, len(sessions) + 1)):
            for _ in range(rng.randrange(greed[session] + 1)):
                siege.accept(session, rng.choice((1, 1, 3, 20, 200)))
        if rng.random() < 0.3:
            siege.until_next_end()
        else:
            siege.advance(rng.expovariate(1 / 5.0))
    return siege
