"""PURE: what a user's own policy may decide: which jobs are taken, and how good a place is for one.

`PolicyPlugin` is the base class of such policies. The scheduler asks whatever `Judge` it was given; without one, the expected time
decides. A judge is asked about places that could take the job, never about more: fairness, retries, fences and limits are not its
business, so no policy can lose a job or let one starve longer than `lane.py` says that its turn may take.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from rbees.orcd.scheduler.events import JobSpec
from rbees.protocol.decisions import Candidate


@dataclass(frozen=True, slots=True)
class Load:
    """What orcd has at the moment."""

    waiting: int
    running: int


@dataclass(frozen=True, slots=True)
class Refused:
    """A job that is not taken."""

    reason: str
    """One sentence for its client."""
    retry_after_s: float = 10.0


class Judge(Protocol):
    """What the scheduler asks."""

    def score(self, job: JobSpec, place: Candidate) -> float:
        """How good a place is: the lowest number wins, and infinity means never."""
        ...


class PolicyPlugin:
    """Subclass it, override what should be different, and name the class in an entry point of the group `rbees.policies`.

    Methods are called in orcd's own loop: they must return at once and must not wait for anything. One that raises, or takes longer
    than `policy_limit_ms`, is overruled by the built-in policy with a warning in the log.
    """

    def admit(self, job: JobSpec, load: Load) -> Refused | None:  # noqa: ARG002
        """None to take the job, else why its client is answered QUOTA_EXCEEDED."""
        return None

    def score(self, job: JobSpec, place: Candidate) -> float:  # noqa: ARG002
        """How good a place is for a job: the lowest number wins, infinity means never. Built in: the seconds until it is done."""
        return float("inf") if place.done_in_s is None else place.done_in_s
