"""PURE: the work on one event: the state it meets, the moment it comes at, and the effects it has led to so far."""

from __future__ import annotations

from dataclasses import dataclass, field

from rbees.orcd.scheduler.effects import Effect
from rbees.orcd.scheduler.events import Moment
from rbees.orcd.scheduler.fleet import Pool
from rbees.orcd.scheduler.policy import Policy
from rbees.orcd.scheduler.queue import Queue
from rbees.orcd.scheduler.state import State


@dataclass(slots=True)
class Turn:
    """What every part of the scheduler is handed while one event is dealt with."""

    state: State
    queue: Queue
    policy: Policy
    moment: Moment
    effects: list[Effect] = field(default_factory=list)
    touched: set[str] = field(default_factory=set)
    """Models for which something has changed, so that their queue is worth a look."""

    @property
    def now_s(self) -> float:
        """Monotonic."""
        return self.moment.monotonic_s

    def touch_pool(self, pool: Pool) -> None:
        """Room or workers of the pool have changed: every model it could serve is worth a look."""
        models = {facts.sha256 for facts in pool.models}
        models.update(worker.model_sha256 for worker in pool.workers.values())
        self.touched |= models
        self.state.content -= models
        self.state.look_again(pool)
