"""No batch job starves: the bound that lane.py states for one session, under arbitrary arrivals, ends, failures and pauses."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from rbees.orcd.scheduler.core import Scheduler
from rbees.orcd.scheduler.effects import Dispatch, Effect, Requeue
from rbees.orcd.scheduler.events import AttemptCompleted, AttemptFailed, Event, JobArrived, JobSpec, Moment, PoolReported, Ticked
from rbees.orcd.scheduler.policy import Policy
from rbees.protocol.errors import ErrorBody, ErrorCode
from rbees.protocol.jobs import Priority
from tests.simulation import facts

MODEL = facts.model("haiku", 1 << 20)
FAILURE = ErrorBody(code=ErrorCode.INTERNAL, message="It failed.")
POLICY = Policy(batch_ages_after_s=10.0)

STEPS = st.lists(
    st.one_of(
        st.sampled_from(("interactive", "interactive", "batch", "interactive 2", "batch 9", "complete", "complete", "fail")),
        st.floats(0.1, 4.0),
    ),
    max_size=120,
)


@dataclass
class Waiting:
    """A job that has not been dispatched yet, and those that may and did come first."""

    priority: Priority
    accepted_at_s: float
    bound: int
    overtaken_by: set[str] = field(default_factory=set)


class Line:
    """One worker, and the jobs in front of it."""

    def __init__(self, slots: int) -> None:
        self.scheduler = Scheduler(POLICY)
        self.now_s = 0.0
        self.worker = facts.worker("w", MODEL, slots=slots)
        self.waiting: dict[str, Waiting] = {}
        self.running: dict[str, int] = {}
        self.unended: set[str] = set()
        self.send(PoolReported("a", "1", True, (facts.device("cpu", 1 << 30, 0),), (MODEL,), (self.worker,)))

    def send(self, event: Event) -> None:
        for effect in self.scheduler.handle(event, Moment(self.now_s, round(self.now_s * 1000), bytes(10))):
            self._follow(effect)

    def _follow(self, effect: Effect) -> None:
        if isinstance(effect, Requeue):
            self.running.pop(effect.job_id, None)
        if not isinstance(effect, Dispatch):
            return
        self.running[effect.job_id] = effect.epoch
        self.waiting.pop(effect.job_id, None)
        for job in self.waiting.values():
            job.overtaken_by.add(effect.job_id)
            assert len(job.overtaken_by) <= job.bound, "more jobs came first than the bound allows"

    def accept(self, priority: Priority, order: int, choices: int = 1) -> None:
        job_id = f"job-{order}"
        for job in self.waiting.values():
            if (
                job.priority == "batch"
                and priority == "interactive"
                and self.now_s <= job.accepted_at_s + POLICY.batch_ages_after_s
            ):
                job.bound += 1
        self.waiting[job_id] = Waiting(priority, self.now_s, len(self.unended))
        self.unended.add(job_id)
        self.send(JobArrived(JobSpec(job_id, MODEL.ref, MODEL.sha256, priority, order, 1_800_000, choices=choices)))

    def end_one(self, *, failing: bool) -> None:
        if self.running:
            job_id = min(self.running)
            epoch = self.running.pop(job_id)
            if failing and epoch <= POLICY.retries:
                self.send(AttemptFailed(job_id, epoch, FAILURE, final=False, worker_suspect=False))
            else:
                self.unended.discard(job_id)
                self.send(AttemptCompleted(job_id, epoch))

    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        self.send(PoolReported("a", "1", False, (facts.device("cpu", 1 << 30, 0),), (MODEL,), (self.worker,)))
        self.send(Ticked())


@settings(max_examples=300, deadline=None, print_blob=True)
@given(steps=STEPS, slots=st.integers(1, 3))
def test_a_job_is_overtaken_by_no_more_than_the_bound(steps: list[str | float], slots: int) -> None:
    line = Line(slots)
    for order, step in enumerate(steps):
        match step:
            case float():
                line.wait(step)
            case "complete" | "fail":
                line.end_one(failing=step == "fail")
            case _:
                priority, _, choices = step.partition(" ")
                line.accept("batch" if priority == "batch" else "interactive", order, int(choices or 1))
    line.scheduler.check_integrity()


def test_the_bound_is_reached() -> None:
    """An adversary who knows the ageing lets as many come first as the bound says, so it is not a loose one."""
    line = Line(1)
    line.accept("interactive", 0)
    line.accept("batch", 1)
    for order in range(2, 12):
        line.wait(0.9)
        line.accept("interactive", order)
    batch = line.waiting["job-1"]
    while "job-1" in line.waiting:
        line.end_one(failing=False)
    assert len(batch.overtaken_by) == batch.bound - 1 == 10, "the one that ran already is in the bound too, in case it comes back"
