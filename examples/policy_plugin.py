"""A policy of one's own: batch jobs leave the graphics card to people, and no more than fifty of them may wait.

Start the orchestrator with it:

    PYTHONPATH=examples rbees orcd serve --policy-plugin policy_plugin:PeopleFirst

In a package of your own, name the class in an entry point instead, and `policy_plugin` by that name:

    [project.entry-points."rbees.policies"]
    people-first = "my_package:PeopleFirst"
"""

from __future__ import annotations

from rbees.orcd.scheduler.events import JobSpec
from rbees.orcd.scheduler.judge import Load, PolicyPlugin, Refused
from rbees.protocol.decisions import Candidate

MOST_WAITING = 50
BATCH_PENALTY_S = 60.0


class PeopleFirst(PolicyPlugin):
    """Everything that it does not say is as the built-in policy has it."""

    def admit(self, job: JobSpec, load: Load) -> Refused | None:
        """Batch jobs come back later while many jobs wait."""
        if job.priority == "batch" and load.waiting >= MOST_WAITING:
            return Refused(f"{load.waiting} jobs wait; batch jobs are taken again below {MOST_WAITING}.", retry_after_s=30.0)
        return None

    def score(self, job: JobSpec, place: Candidate) -> float:
        """A graphics card counts as a minute slower for a batch job."""
        seconds = super().score(job, place)
        return seconds + BATCH_PENALTY_S if job.priority == "batch" and place.backend == "cuda" else seconds
