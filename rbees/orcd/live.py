"""PURE: a job that has not ended, as orcd holds it in memory: where its stream of events stands and which attempt may write to it.

`Stream` is the fence. Every event of a worker passes `admit`, every event at all passes `number`; both are plain functions
of what was admitted before, so what the journal holds is legal whatever workers send and in whatever order things fail.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from msgspec.structs import replace

from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.events import LEGAL_ORDER, End, Error, Event, Metrics, Queued, Result, Started, StreamState, Token, advance
from rbees.protocol.jobs import JobStatus, Kind


class Verdict(Enum):
    """What to do with an event of a worker."""

    TAKE = "take"
    STALE = "stale"
    """Of an attempt that counts no more, or of a job that has ended: drop it."""
    REPEATED = "repeated"
    """Taken before, or of an earlier attempt: skip it."""


@dataclass(slots=True)
class Stream:
    """Where the events of one job stand."""

    state: StreamState = StreamState.NEW
    last_seq: int = 0
    epoch: int = 0
    """Of the attempt whose results count; 0 before the first."""
    worker_seq: int = 0
    """The last event of that attempt that was taken, in its worker's numbering."""
    listening: bool = False
    """Whether that attempt may still write."""
    choices: int = 1
    """Answers that were asked for; a worker may name no other."""
    taken: dict[int, int] = field(default_factory=dict)
    """How many tokens of each answer were taken; after a restart, set from the journal before any event is admitted."""
    kind: Kind = "generate"
    results: int = 0
    """How much of a result was taken, where the job makes no text; after a restart set as `taken`."""

    def begin(self, epoch: int) -> None:
        """From now on only the attempt `epoch` counts."""
        assert epoch > self.epoch, "epochs grow"
        self.epoch = epoch
        self.worker_seq = 0
        self.listening = True

    @property
    def tokens(self) -> int:
        """How many tokens of all answers were taken."""
        return sum(self.taken.values())

    @property
    def ended(self) -> bool:
        """The terminal event was taken."""
        return self.state is StreamState.ENDED

    def admit(self, epoch: int, worker_seq: int, event: Event) -> Verdict:
        """Whether an event that a worker sent is the next one of the attempt that counts.

        Raises:
            RbeesError: INTERNAL where the worker's stream has a gap or an event out of order: the attempt cannot be trusted.
        """
        if self.ended or not self.listening or epoch != self.epoch:
            return Verdict.STALE
        if worker_seq <= self.worker_seq:
            return Verdict.REPEATED
        if worker_seq != self.worker_seq + 1:
            raise _defect(f"has a gap between {self.worker_seq} and {worker_seq}")
        if isinstance(event, Queued) or (self.state, type(_shape(self, event))) not in LEGAL_ORDER:
            raise _defect(f"holds an event `{type(event).__name__}` that may not come in state {self.state.value}")
        if isinstance(event, Token | Result) and isinstance(event, Token) != (self.kind == "generate"):
            raise _defect(f"holds an event `{type(event).__name__}` that a job of kind {self.kind} does not ask for")
        if isinstance(event, Result) and event.index > self.results:
            raise _defect(f"goes on at result {event.index} instead of {self.results}")
        if isinstance(event, Token) and not 0 <= event.choice < self.choices:
            raise _defect(f"names answer {event.choice} of {self.choices}")
        if isinstance(event, Token) and event.index != (taken := self.taken.get(event.choice, 0)):
            raise _defect(f"goes on at token {event.index} instead of {taken}")
        self.worker_seq = worker_seq
        if isinstance(event, Result) and event.index + event.size <= self.results:
            # An attempt that was lost in the middle of its result is made again from the beginning.
            return Verdict.REPEATED
        return Verdict.TAKE

    def number(self, event: Event) -> int:
        """Take `event` as the next of the job and return its number."""
        self.state = advance(self.state, event)
        self.last_seq += 1
        if isinstance(event, Token):
            self.taken[event.choice] = self.taken.get(event.choice, 0) + len(event.token_ids)
        elif isinstance(event, Result):
            self.results += event.size
        return self.last_seq


@dataclass(slots=True)
class LiveJob:
    """A job that has not ended."""

    number: int
    job_id: str
    created_at_ms: int
    cancel_on_disconnect: bool
    stream: Stream
    status: JobStatus = "queued"
    dispatched_at_ms: int | None = None
    started_at_ms: int | None = None
    cancel_asked: bool = False
    correlation_id: str | None = None
    watched: bool = False
    """Somebody watched it at some time; kept only where that matters, for `cancel_on_disconnect`."""
    written_bytes: int = 0
    """Size of its events that this process has taken."""
    left_at_s: float | None = None
    """When a watcher last left, by the monotonic clock."""


def _shape(stream: Stream, event: Event) -> Event:
    """The event as clients will see it: a job starts once, later attempts show as metrics."""
    if isinstance(event, Started) and stream.state is StreamState.RUNNING:
        return Metrics(stage="attempt_started", epoch=event.epoch, worker_id=event.worker_id)
    return event


def public_event(job: LiveJob, event: Event, *, worker_id: str, pool_id: str, now_ms: int) -> Event:
    """An admitted event of a worker as clients see it, with what only orcd knows filled in."""
    match _shape(job.stream, event):
        case Started() as started:
            return replace(started, epoch=job.stream.epoch, worker_id=worker_id, pool_id=pool_id)
        case Metrics() as metrics:
            return replace(metrics, epoch=job.stream.epoch, worker_id=worker_id, pool_id=pool_id)
        case End() as end:
            dispatched_at_ms = job.dispatched_at_ms or job.created_at_ms
            timings = replace(
                end.timings,
                queued_ms=float(dispatched_at_ms - job.created_at_ms),
                total_ms=float(now_ms - job.created_at_ms),
            )
            return replace(end, timings=timings)
        case Token() as token:
            return token
        case Result() as result:
            return _untaken(job.stream, result)
        case Queued() | Error() as other:
            raise AssertionError(f"{type(other).__name__} is not taken over from a worker")


def _untaken(stream: Stream, result: Result) -> Result:
    """What of a result an earlier attempt did not bring yet."""
    known = stream.results - result.index
    return replace(result, index=stream.results, embeddings=result.embeddings[known:], ranking=result.ranking[known:])


def _defect(what: str) -> RbeesError:
    return RbeesError(ErrorCode.INTERNAL, f"The worker's stream of events {what}.")
