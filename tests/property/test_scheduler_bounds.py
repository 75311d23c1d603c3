"""Nobody waits longer for his turn than `explain` says that he will at most, through the whole scheduler.

Attempts take just as long as is expected of them, what gave way goes on where it was, and workers stay. Whatever the bound excepts
(`WaitBound`) makes it void here: a newcomer of another session, larger than those that wait, or of the other priority in time.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rbees.orcd.scheduler.core import Scheduler
from rbees.orcd.scheduler.effects import Dispatch, Effect, Requeue
from rbees.orcd.scheduler.estimates import Estimates
from rbees.orcd.scheduler.events import AttemptCompleted, Event, JobArrived, JobSpec, Moment, PoolReported, Ticked
from rbees.orcd.scheduler.learned import Learned
from rbees.orcd.scheduler.policy import Policy
from rbees.orcd.scheduler.speeds import Place, Speeds, Took
from rbees.protocol.jobs import Priority
from tests.simulation import facts

MODEL = facts.model("haiku", 1 << 30)
POLICY = Policy(batch_ages_after_s=10.0)
BEAT_S = 2.0
ROUNDING_S = 0.02

Shape = tuple[int, int, int]
"""Of a job: bytes of its prompt, the longest answer, how many answers."""
SHAPES: tuple[Shape, ...] = (
    (0, 20, 1),
    (0, 100, 1),
    (0, 400, 1),
    (4_000, 50, 1),
    (20_000, 1, 1),
    (0, 100, 2),
    (400, 30, 3),
    (0, 50, 6),
)
WORKERS = st.lists(
    st.tuples(st.integers(1, 4), st.sampled_from((0.01, 0.02, 0.02, 0.05)), st.sampled_from((200.0, 2_000.0))),
    min_size=1,
    max_size=3,
)
"""Slots, seconds for a token, prompt tokens a second."""
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from("abc"), st.sampled_from(("interactive", "interactive", "batch")), st.sampled_from(SHAPES)),
        st.floats(0.05, 8.0),
    ),
    max_size=60,
)


@dataclass
class Claim:
    """What was said of a job's wait, and what makes it void."""

    said_at_s: float
    until_s: float
    said: object
    priority: Priority
    rank_s: float
    sessions: frozenset[str]
    shapes: frozenset[Shape]

    def bears(self, spec: JobSpec, shape: Shape, now_s: float) -> bool:
        """Whether it still holds when this job comes."""
        if spec.priority == self.priority:
            return spec.session_id in self.sessions and shape in self.shapes
        if self.priority == "batch":
            return now_s > self.rank_s
        return now_s + POLICY.batch_ages_after_s > self.until_s


@dataclass
class Attempt:
    epoch: int
    begun_s: float
    ends_s: float


@dataclass
class Cluster:
    """Workers as fast as they are known to be."""

    workers: list[tuple[int, float, float]]
    now_s: float = 0.0
    order: int = 0
    claims: dict[str, list[Claim]] = field(default_factory=dict)
    """Of each job that waits for its first attempt."""
    running: dict[str, Attempt] = field(default_factory=dict)
    left: dict[str, float] = field(default_factory=dict)
    """The part of each job that is still to be done."""
    shapes: dict[str, Shape] = field(default_factory=dict)
    kept: int = 0
    closest: float = 0.0
    """The largest part of what was said that somebody who waited for a while did wait."""

    def __post_init__(self) -> None:
        speeds = Speeds()
        for index, (_, step_s, read_per_s) in enumerate(self.workers):
            place = Place(MODEL.sha256, MODEL.size_bytes, f"pool-{index}", "cpu")
            speeds.attempt_took(
                place, Took(1_000, 0, 1_000, 1_000 / read_per_s, 1_000 * step_s), streams=1, choices=1, prompt_bytes=4_000
            )
        self.scheduler = Scheduler(POLICY, learned=Learned(speeds=speeds, estimates=Estimates()))
        self.beat()

    def beat(self) -> None:
        for index, (slots, _, _) in enumerate(self.workers):
            device, worker = facts.device("cpu", 2 << 30, 0), facts.worker(f"w-{index}", MODEL, slots=slots)
            self.send(PoolReported(f"pool-{index}", "1", False, (device,), (MODEL,), (worker,)))

    def send(self, event: Event) -> None:
        self.order += 1
        for effect in self.scheduler.handle(event, Moment(self.now_s, round(self.now_s * 1000), self.order.to_bytes(10, "big"))):
            self._follow(effect)

    def _follow(self, effect: Effect) -> None:
        if isinstance(effect, Requeue):
            attempt = self.running.pop(effect.job_id)
            self.left[effect.job_id] *= (attempt.ends_s - self.now_s) / (attempt.ends_s - attempt.begun_s)
        elif isinstance(effect, Dispatch):
            stay = self.scheduler._state.workers[effect.worker_id].stays.get(effect.job_id)
            # It may have to give way in the same turn.
            takes_s = 1.0 if stay is None else stay.until_s - self.now_s
            ends_s = self.now_s + takes_s * self.left[effect.job_id]
            self.running[effect.job_id] = Attempt(effect.epoch, self.now_s, ends_s)
            self._check(effect.job_id)
            self.claims.pop(effect.job_id, None)

    def _check(self, job_id: str) -> None:
        for claim in self.claims.get(job_id, ()):
            self.kept += 1
            if claim.until_s - claim.said_at_s > 1.0:
                self.closest = max(self.closest, (self.now_s - claim.said_at_s) / (claim.until_s - claim.said_at_s))
            assert self.now_s <= claim.until_s + ROUNDING_S, f"{job_id} waits until {self.now_s}, not {claim.until_s}: {claim.said}"

    def accept(self, session: str, priority: Priority, shape: Shape) -> None:
        self.order += 1
        prompt_bytes, max_tokens, choices = shape
        job_id = f"job-{self.order}"
        spec = JobSpec(
            job_id,
            MODEL.ref,
            MODEL.sha256,
            priority,
            self.order,
            3_600_000,
            choices=choices,
            prompt_bytes=prompt_bytes,
            max_tokens=max_tokens,
            session_id=session,
        )
        for other, claims in self.claims.items():
            self.claims[other] = [claim for claim in claims if claim.bears(spec, shape, self.now_s)]
        self.left[job_id], self.shapes[job_id], self.claims[job_id] = 1.0, shape, []
        self.send(JobArrived(spec))
        self.ask()

    def ask(self) -> None:
        """What is said of everybody who waits for a first attempt."""
        jobs = self.scheduler._state.jobs
        waiting = [jobs[job_id] for job_id in self.claims]
        for job in waiting:
            found = self.scheduler.explain(job.spec.job_id, self.now_s)
            assert found is not None
            if found.bound is None:
                assert len(set(self.workers)) > 1, "where all workers are alike something can be said"
                continue
            like_it = [one.spec for one in waiting if one.spec.priority == job.spec.priority]
            claim = Claim(
                self.now_s,
                self.now_s + found.bound.waits_at_most_s,
                found.bound,
                job.spec.priority,
                job.rank_s,
                frozenset(one.session_id for one in like_it),
                frozenset(self.shapes[one.job_id] for one in like_it),
            )
            self.claims[job.spec.job_id].append(claim)

    def end(self) -> None:
        """Until nobody waits for a first attempt."""
        while self.claims:
            self.pass_until(self.now_s + BEAT_S)

    def pass_until(self, end_s: float) -> None:
        """Attempts end when they should; pools report and time is noticed in between."""
        while True:
            first = min(self.running, key=lambda job_id: (self.running[job_id].ends_s, job_id), default=None)
            ends_s = self.running[first].ends_s if first is not None else end_s
            beat_s = (self.now_s // BEAT_S + 1) * BEAT_S
            if min(ends_s, beat_s) >= end_s:
                self.now_s = end_s
                return
            if first is not None and ends_s <= beat_s:
                self.now_s = ends_s
                self.send(AttemptCompleted(first, self.running.pop(first).epoch))
            else:
                self.now_s = beat_s
                self.beat()
                self.send(Ticked())


def busy_day(seed: int) -> Cluster:
    """More jobs of fewer kinds than hypothesis finds; half of the clusters have workers that are all alike."""
    rng = random.Random(seed)
    workers = [(rng.randint(1, 4), rng.choice((0.01, 0.02, 0.02, 0.05)), rng.choice((200.0, 2_000.0))) for _ in range(3)]
    workers = workers[: rng.randint(1, 3)]
    cluster = Cluster([workers[0]] * len(workers) if seed % 2 else workers)
    shapes, load = rng.sample(SHAPES, rng.randint(1, 4)), rng.choice((0.5, 1.0, 2.0, 4.0))
    priorities: tuple[Priority, ...] = ("interactive", "interactive", "batch")
    for _ in range(rng.randint(10, 80)):
        if rng.random() < 0.35:
            cluster.pass_until(cluster.now_s + rng.uniform(0.05, 8.0) / load)
            cluster.ask()
        else:
            cluster.accept(rng.choice("abc"), rng.choice(priorities), rng.choice(shapes))
    cluster.end()
    return cluster


def test_nobody_waits_longer_on_busy_days() -> None:
    days = [busy_day(seed) for seed in range(60)]
    assert sum(day.kept for day in days) > 1_000
    assert max(day.closest for day in days) > 0.95, "it is not a loose bound either"


@settings(
    max_examples=300, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(WORKERS, STEPS)
def test_nobody_waits_longer_than_was_said(
    workers: list[tuple[int, float, float]], steps: list[float | tuple[str, Priority, Shape]]
) -> None:
    cluster = Cluster(workers)
    for step in steps:
        if isinstance(step, float):
            cluster.pass_until(cluster.now_s + step)
            cluster.ask()
        else:
            cluster.accept(*step)
    cluster.end()
