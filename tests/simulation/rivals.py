"""Simpler rules, in place of the scheduler's own: which worker takes a job, and where a worker is started.

Each rule replaces the choices of placement.py and growth.py for a while; queues, epochs, failures, eviction and everything below
the scheduler stay the same, and the rule sees the same facts. None of them expects anything: a job goes to a free worker if there
is one, a further worker is started wherever there is free room while jobs wait, and a busy worker gives way after as long as with
rbees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final
from unittest import mock

from rbees.orcd.scheduler import growth, placement, prospects
from rbees.orcd.scheduler.explain import Obstacle
from rbees.orcd.scheduler.fleet import Worker
from rbees.orcd.scheduler.job import Job
from rbees.orcd.scheduler.placement import Choice
from rbees.orcd.scheduler.sites import Site
from rbees.orcd.scheduler.turn import Turn

Rank = tuple[object, ...]


class Rule:
    """By what workers and sites are compared: the smallest is taken."""

    def worker(self, worker: Worker) -> Rank:
        """Of workers with free slots."""
        raise NotImplementedError

    def site(self, site: Site) -> Rank:
        """Of places for a new worker."""
        raise NotImplementedError

    def took(self, pool_id: str, name: str) -> None:
        """It was chosen."""


class LeastBusy(Rule):
    """The worker with the largest part of its slots free; the device with the most free memory."""

    def worker(self, worker: Worker) -> Rank:
        return (worker.taken_slots / max(worker.slots, 1), worker.worker_id)

    def site(self, site: Site) -> Rank:
        return (-site.free_bytes, site.pool.pool_id, site.device_ids)


class RoundRobin(Rule):
    """The worker, or the pool, whose turn was longest ago."""

    def __init__(self) -> None:
        self._turns: dict[str, int] = {}
        self._count = 0

    def worker(self, worker: Worker) -> Rank:
        return (self._turns.get(worker.worker_id, 0), worker.worker_id)

    def site(self, site: Site) -> Rank:
        return (self._turns.get(site.pool.pool_id, 0), site.pool.pool_id, site.device_ids)

    def took(self, pool_id: str, name: str) -> None:
        self._count += 1
        self._turns[pool_id] = self._turns[name] = self._count


class FirstCome(Rule):
    """The first free worker and the first device, in the order in which they came."""

    def worker(self, worker: Worker) -> Rank:
        return (worker.asked_at_s, worker.worker_id)

    def site(self, site: Site) -> Rank:
        return (site.pool.pool_id, site.device_ids)


RIVALS: Final[dict[str, Callable[[], Rule]]] = {"least_busy": LeastBusy, "round_robin": RoundRobin, "first_come": FirstCome}


@contextmanager
def in_force(rule: Rule) -> Iterator[None]:
    """Within this the scheduler chooses by `rule`."""

    def best_open(turn: Turn, job: Job) -> tuple[Choice | None, Choice | None]:
        assert job.model_sha256 is not None
        free = [turn.state.workers[worker_id] for worker_id in turn.state.open_of(job.model_sha256)]
        fitting = [worker for worker in free if worker.has_slots_for(job.spec.choices)]
        best = min(fitting, key=rule.worker, default=None)
        if best is None:
            return None, None
        rule.took(best.pool_id, best.worker_id)
        prospect = prospects.on_worker(turn.state, job, best, turn.now_s)
        return Choice(best, prospect, prospect.done_in_s), None

    def start_if_sooner(turn: Turn, candidates: list[Site], _job: Job, _than_s: float) -> Obstacle | None:
        # They would push replicas to and fro at every burst, which costs them more than it gains.
        best = min((site for site in candidates if site.is_free), key=rule.site, default=None)
        if best is None:
            return None
        rule.took(best.pool.pool_id, best.pool.pool_id)
        return growth.start_or_make_room(turn, best)

    with (
        mock.patch.object(placement, "_best_open", best_open),
        mock.patch.object(placement, "_worth_waiting_for", return_value=None),
        mock.patch.object(growth, "consider_better", return_value=None),
        mock.patch.object(growth, "_start_if_sooner", start_if_sooner),
        mock.patch.object(growth, "_cost", lambda _turn, _job, site: (site.doubtful, *rule.site(site))),
    ):
        yield
