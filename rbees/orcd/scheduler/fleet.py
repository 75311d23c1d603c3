"""PURE: what is known of pools and of the worker processes on them."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from rbees.orcd.scheduler.speeds import Place
from rbees.protocol.errors import ErrorBody
from rbees.protocol.pools import Device, ModelFacts, PoolState, UnusableModel, WorkerFacts
from rbees.protocol.workers import Backend, WorkerState

EMPTY: Final = 1 << 30
"""The width of a worker without attempts: whatever finds no slot waits inside it."""


class Stay(NamedTuple):
    """An attempt on a worker, by the monotonic clock."""

    since_s: float
    until_s: float
    """As expected when it was dispatched."""
    choices: int
    streams: int
    """How many answers were written there, its own among them, when it began."""


@dataclass(slots=True)
class Worker:
    """A worker process, from the command that asks for it until its pool says that it is gone."""

    worker_id: str
    pool_id: str
    model_ref: str
    model_sha256: str
    backend: Backend
    devices: tuple[str, ...]
    size_bytes: int
    """Of the model's file."""
    memory_bytes: int
    """Estimated until the worker reports what it takes."""
    is_shared: bool = False
    """Several devices, or one and main memory, hold the model together."""
    expected_bytes: int = 0
    """The estimate by which orcd had it started."""
    state: WorkerState = "starting"
    slots: int = 0
    facts: WorkerFacts | None = None
    """As last reported; None until then."""
    listed: bool = False
    """Its pool has named it in a report, so that a report without it means that it is gone."""
    accepted: bool = False
    measured: bool = False
    """A report has shown it ready: the device's free bytes account for it."""
    asked_at_s: float = 0.0
    asked: bool = False
    """orcd itself had it started, at `asked_at_s`."""
    vouched_at_s: float = 0.0
    """When its pool last spoke of it."""
    ready_since_s: float = 0.0
    idle_since_s: float = 0.0
    attempts: dict[str, int] = field(default_factory=dict)
    """Epoch by job id, of the attempts that run here."""
    stays: dict[str, Stay] = field(default_factory=dict)
    """The same attempts, as far as scheduling goes."""
    taken_slots: int = 0
    """How many slots the attempts here take; may exceed `slots` after old attempts were taken up again."""
    prefixes: set[str] = field(default_factory=set)
    """Beginnings of prompts that it holds: as it told last, and those it was given since."""
    sole_job: str | None = None
    """The job that must be alone here."""
    claim: Claim | None = None
    doubt: str | None = None
    """Why it gets no new work although it looks ready."""
    doubted_at_s: float = 0.0
    hung: bool = False
    strikes: int = 0
    broken: dict[str, None] = field(default_factory=dict)
    """Jobs whose stream broke since its pool last vouched for it: they were on board if it turns out to have died."""
    stop_asked_at_s: float | None = None
    pinned: bool = False
    """The settings name its model as one that is never stopped to make room or for want of work."""

    @property
    def place(self) -> Place:
        """Under what name its speeds are learned."""
        return Place(self.model_sha256, self.size_bytes, self.pool_id, self.backend)

    def count_slots(self) -> None:
        """Its attempts or its slots have changed."""
        self.taken_slots = sum(self.slots_for(stay.choices) for stay in self.stays.values())

    @property
    def free_slots(self) -> int:
        """How many more slots may be given away."""
        return self.slots - self.taken_slots

    @property
    def width(self) -> int:
        """How many answers a job may make at once to find all its slots free here."""
        return self.free_slots if self.taken_slots else EMPTY

    def slots_for(self, choices: int) -> int:
        """How many slots a job with so many answers takes here: those that find none free wait inside the worker."""
        return min(choices, self.slots)

    def has_slots_for(self, choices: int) -> bool:
        """True where all the slots that such a job takes are free."""
        return self.slots_for(choices) <= self.free_slots


@dataclass(frozen=True, slots=True)
class Claim:
    """Why a worker takes no more work: it empties, either for one suspect job or to make room for another model."""

    model_sha256: str
    job_id: str | None


@dataclass(slots=True)
class Pool:
    """A host, as its daemon reported it."""

    pool_id: str
    boot_id: str
    heard_at_s: float
    state: PoolState = "live"
    devices: tuple[Device, ...] = ()
    models: tuple[ModelFacts, ...] = ()
    unusable: tuple[UnusableModel, ...] = ()
    workers: dict[str, Worker] = field(default_factory=dict)
    default_ctx: int = 0
    """The context of a worker for which none is asked, unless its model was trained for less; 0 where the pool does not say."""
    reported: tuple[WorkerFacts, ...] = ()
    freed_bytes: dict[str, int] = field(default_factory=dict)
    """By device: memory of workers that ended since the last measurement."""
    excused: bool = False
    """Its present silence has already been held against orcd itself once."""


@dataclass(slots=True)
class LoadTrouble:
    """Why a model is not started on a pool for a while."""

    error: ErrorBody
    failures: deque[float] = field(default_factory=deque)
    """When loads failed."""
    refusals: int = 0
    """In a row, for want of room."""
    blocked_until_s: float = 0.0
    unusable: dict[Backend, ErrorBody] = field(default_factory=dict)
    """By backend: why another try would end the same way until the pool daemon is started anew."""
    need_bytes: dict[str, int] = field(default_factory=dict)
    """By device: what the pool's preflight said it must have free."""
    unshared: bool = False
    """It did not come up shared by devices, so it is not tried so again until the pool daemon is started anew."""
