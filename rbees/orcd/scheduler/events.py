"""Everything that can happen to the scheduler, as a closed set of values.

An event is a fact (a pool reported, a worker ended) or a wish (a job was accepted, a cancellation was asked for). It is
already durable where durability matters: the loop commits an accepted job before the scheduler hears of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from rbees.orcd.scheduler.speeds import Took
from rbees.protocol.errors import ErrorBody
from rbees.protocol.jobs import Priority
from rbees.protocol.pools import Device, ModelFacts, UnusableModel, WorkerFacts


@dataclass(frozen=True, slots=True)
class Moment:
    """The clock readings and randomness that come with every event."""

    monotonic_s: float
    unix_ms: int
    entropy: bytes
    """10 random bytes: new worker ids and jitter are derived from them."""


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What the scheduler needs to know of a job; never its content."""

    job_id: str
    model: str
    """As the client wrote it."""
    model_sha256: str | None
    """Set once the reference was resolved; all attempts share it."""
    priority: Priority
    order: int
    """Position of acceptance: smaller is older."""
    timeout_ms: int
    """From first dispatch."""
    choices: int = 1
    """Answers to make at once; each takes a slot of the worker, as far as it has so many."""
    deadline_at_ms: int | None = None
    """When it must have ended, as Unix time; it counts from the moment at which the scheduler hears of the job."""
    prompt_bytes: int = 0
    max_tokens: int | None = None
    """None where the job sets no limit; 0 for a job that makes no text."""
    session_id: str = ""
    """Sessions take turns; jobs without one are one session together."""
    prefixes: tuple[str, ...] = ()
    """Names of the prompt's beginnings, the shortest first, see `protocol/prefix_chain.py`."""
    keep_s: float | None = None
    """For how long its client wants the model kept without work after it, see `eviction.keep`; None where it does not say."""


@dataclass(frozen=True, slots=True)
class JobArrived:
    """A job is durable and wants a worker."""

    job: JobSpec


@dataclass(frozen=True, slots=True)
class JobRecovered:
    """After a restart: a job that had not ended. With `worker_id`, an attempt of `epoch` may still be running there.

    How long it has run is not told: nobody knows for how much of that time it could get anywhere, and from one process to the next
    only the wall clock goes on, by which no job may be timed out. Its turn may go by that: a wrong one costs nobody the job.
    """

    job: JobSpec
    epoch: int
    failures: int
    """Attempts that have already failed."""
    worker_id: str | None
    pool_id: str | None
    accepted_at_ms: int
    """Unix time, and never later than that of a job accepted after it."""
    deaths: int = 0
    """Attempts that ended with their worker. Whether the job was alone there is forgotten."""


@dataclass(frozen=True, slots=True)
class CancelAsked:
    """A client wants the job ended."""

    job_id: str


@dataclass(frozen=True, slots=True)
class LetGoAsked:
    """A client wants the model unloaded as soon as it has nothing to do."""

    model_sha256: str


@dataclass(frozen=True, slots=True)
class PoolReported:
    """A registration or a heartbeat: the pool's whole state as of now."""

    pool_id: str
    boot_id: str
    registration: bool
    devices: tuple[Device, ...]
    models: tuple[ModelFacts, ...]
    workers: tuple[WorkerFacts, ...]
    unusable: tuple[UnusableModel, ...] = ()
    """Files that it cannot serve, so that whoever asks for one is told why."""
    default_ctx: int = 0
    """The context of a worker for which none is asked, unless its model was trained for less; 0 where the pool does not say."""


@dataclass(frozen=True, slots=True)
class PoolForgotten:
    """The operator removed the pool."""

    pool_id: str


@dataclass(frozen=True, slots=True)
class PoolDrainChanged:
    """The operator wants no new work on the pool, or wants it again. The pool need not be known yet."""

    pool_id: str
    drains: bool


@dataclass(frozen=True, slots=True)
class WorkerBecameReady:
    """A worker has loaded its model and can be reached."""

    pool_id: str
    facts: WorkerFacts


@dataclass(frozen=True, slots=True)
class WorkerEnded:
    """A worker process is gone, or never came up."""

    pool_id: str
    worker_id: str
    error: ErrorBody
    while_loading: bool


@dataclass(frozen=True, slots=True)
class SpawnAccepted:
    """The pool's preflight passed and the process was started."""

    worker_id: str


@dataclass(frozen=True, slots=True)
class SpawnRefused:
    """The pool refused to start the worker, or did not answer (`POOL_UNREACHABLE`)."""

    worker_id: str
    error: ErrorBody


@dataclass(frozen=True, slots=True)
class AttemptStarted:
    """The worker's `started` event is journaled."""

    job_id: str
    epoch: int


@dataclass(frozen=True, slots=True)
class AttemptProved:
    """Of an attempt for which `proof_tokens` were asked: so many are journaled that it has made."""

    job_id: str
    epoch: int


@dataclass(frozen=True, slots=True)
class AttemptCompleted:
    """The worker's `end` event is journaled; the job is complete."""

    job_id: str
    epoch: int
    took: Took | None = None
    """None where that is not known, as after a restart."""


@dataclass(frozen=True, slots=True)
class PrefixesCached:
    """A worker has told which beginnings of prompts it holds at present."""

    worker_id: str
    prefixes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AttemptFailed:
    """The attempt ended without a result: the worker's own `error`, a broken connection, a hang, or a refusal.

    `final` is True where another attempt would end the same way (INVALID_REQUEST, MODEL_INCOMPATIBLE, and CONTEXT_EXCEEDED unless
    a larger context is to be had somewhere, which is for the scheduler to know).
    `worker_suspect` is True where the worker itself is in doubt and must get no further work until its pool reports on it.
    """

    job_id: str
    epoch: int
    error: ErrorBody
    final: bool
    worker_suspect: bool
    worker_hung: bool = False
    """With `worker_suspect`: the worker is connected but makes no progress, so its pool is told to stop it. A broken connection
    alone is not a hang."""


@dataclass(frozen=True, slots=True)
class AttemptCancelled:
    """The worker confirmed that the attempt has stopped."""

    job_id: str
    epoch: int


@dataclass(frozen=True, slots=True)
class LoopStalled:
    """orcd's own loop stood still for `seconds`; every lease is extended by as much."""

    seconds: float


@dataclass(frozen=True, slots=True)
class DrainBegan:
    """orcd is about to end: what runs may finish, and what waits is durable and waits for the next process."""


@dataclass(frozen=True, slots=True)
class Ticked:
    """Time has passed: leases, retries, deadlines and idle workers are looked at."""


Event = (
    JobArrived
    | JobRecovered
    | CancelAsked
    | LetGoAsked
    | PoolReported
    | PoolForgotten
    | PoolDrainChanged
    | WorkerBecameReady
    | WorkerEnded
    | SpawnAccepted
    | SpawnRefused
    | AttemptStarted
    | AttemptProved
    | AttemptCompleted
    | PrefixesCached
    | AttemptFailed
    | AttemptCancelled
    | LoopStalled
    | DrainBegan
    | Ticked
)
