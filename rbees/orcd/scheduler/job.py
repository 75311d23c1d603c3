"""PURE: jobs that have not ended, and what may become of them.

A job's life is a table. Every change of phase goes through `Job.move`, so a transition that is not in the table cannot
happen:

            +----------------------- RETURN ------------------------+
            v                                                       |
    --> QUEUED --DISPATCH--> DISPATCHED --START--> RUNNING ---------+
            |                 ^   |   |              |  |           |
            |              ATTACH |   +--------------|--------------+
            |                 |  HOLD                | HOLD         |
            +----- HOLD ----> HELD <-----------------+              |
                               +------------------------------------+
    END leads from every phase to ENDED, and nothing leads out of it.

QUEUED jobs wait for a worker. HELD ones have an attempt that may still run on a worker which cannot be asked at present
(orcd has restarted, or the worker's pool is silent): neither given up nor taken up until the pool reports or its lease ends.
The protocol's `queued`, `dispatched` and `running` are QUEUED, HELD or DISPATCHED, and RUNNING; an ended job is forgotten
here, the store has it. Each attempt has an epoch above all earlier ones, and facts about any other epoch are dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from rbees.orcd.scheduler.events import JobSpec
from rbees.protocol.errors import ErrorBody


class Phase(Enum):
    """Where a job stands."""

    QUEUED = "queued"
    HELD = "held"
    DISPATCHED = "dispatched"
    RUNNING = "running"
    ENDED = "ended"


class Move(Enum):
    """What moves a job on."""

    DISPATCH = "dispatch"
    HOLD = "hold"
    ATTACH = "attach"
    START = "start"
    RETURN = "return"
    END = "end"


TRANSITIONS: Final[dict[tuple[Phase, Move], Phase]] = {
    (Phase.QUEUED, Move.DISPATCH): Phase.DISPATCHED,
    (Phase.QUEUED, Move.HOLD): Phase.HELD,
    (Phase.QUEUED, Move.END): Phase.ENDED,
    (Phase.HELD, Move.ATTACH): Phase.DISPATCHED,
    (Phase.HELD, Move.RETURN): Phase.QUEUED,
    (Phase.HELD, Move.END): Phase.ENDED,
    (Phase.DISPATCHED, Move.START): Phase.RUNNING,
    (Phase.DISPATCHED, Move.HOLD): Phase.HELD,
    (Phase.DISPATCHED, Move.RETURN): Phase.QUEUED,
    (Phase.DISPATCHED, Move.END): Phase.ENDED,
    (Phase.RUNNING, Move.START): Phase.RUNNING,
    (Phase.RUNNING, Move.HOLD): Phase.HELD,
    (Phase.RUNNING, Move.RETURN): Phase.QUEUED,
    (Phase.RUNNING, Move.END): Phase.ENDED,
}


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try of a job on one worker."""

    epoch: int
    worker_id: str
    pool_id: str
    alone: bool = False
    """Nothing else may be dispatched to the worker meanwhile."""


@dataclass(slots=True)
class Job:
    """A job that has not ended."""

    spec: JobSpec
    rank_s: float
    """Its place in the queue, see queue.py."""
    model_sha256: str | None
    work: float = 1.0
    """How much of a worker it is expected to take, see `prospects.work`; known with its model."""
    phase: Phase = Phase.QUEUED
    epoch: int = 0
    """Of the latest attempt."""
    attempt: Attempt | None = None
    failures: int = 0
    refusals: int = 0
    """In a row: attempts that no worker took up."""
    queued_at_s: float = 0.0
    """When it last began to wait."""
    timeout_s: float | None = None
    """When its `timeout_ms` are over; set by the first dispatch that this process knows of."""
    deadline_s: float | None = None
    """When its `deadline_at_ms` has come, by the monotonic clock."""
    suspect: bool = False
    """It was on workers that died: it runs alone from now on."""
    deaths_in_company: int = 0
    deaths_alone: int = 0
    patient_until_s: float | None = None
    """Set when it first waited although a worker was free: after that it takes any."""
    avoid: str | None = None
    """The worker of the last failed attempt: others are preferred."""
    needs_ctx: int = 0
    """How many tokens of context it takes at least, as far as refusals told; see contexts.py."""
    too_small: frozenset[str] = frozenset()
    """Workers and devices whose context turned out to be too small for it."""
    outgrown: ErrorBody | None = None
    """The last such refusal."""
    noted: tuple[object, ...] | None = None
    """What its watchers were told last."""

    def move(self, move: Move) -> None:
        """Move on by the table; a move that the table lacks is a defect."""
        following = TRANSITIONS.get((self.phase, move))
        assert following is not None, f"{move.name} may not follow in phase {self.phase.name}"
        self.phase = following
