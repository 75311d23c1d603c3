"""Which workers a host has: those that live, each under supervision, and those that ended lately."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Final

from rbees.host.worker import Worker
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.pools import WorkerFacts
from rbees.service import logs

REMEMBERED: Final = 100
"""Ended workers that can still be asked about."""
SHOWN_MS: Final = 24 * 3_600_000
"""So long one that ended is listed beside those that live."""


class Roster:
    """The one place that knows which worker ids exist."""

    def __init__(self) -> None:
        self.living: dict[str, Worker] = {}
        """Those that have a process."""
        self.ended: OrderedDict[str, WorkerFacts] = OrderedDict()
        self.starting: dict[str, asyncio.Event] = {}
        """Workers whose process may run already while they are not yet among `living`; set when they are, or failed."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._log = logs.logger()

    def has_been(self, worker_id: str) -> bool:
        """True of an id that no other worker may get."""
        return worker_id in self.living or worker_id in self.ended

    def known(self, now_ms: int) -> tuple[WorkerFacts, ...]:
        """Those that live and the ones that ended in the last day, by id."""
        since_ms = now_ms - SHOWN_MS
        living = (worker.facts() for worker in self.living.values())
        ended = (facts for facts in self.ended.values() if facts.end is None or facts.end.ended_at_ms >= since_ms)
        return tuple(sorted((*living, *ended), key=lambda facts: facts.worker_id))

    def get(self, worker_id: str) -> WorkerFacts:
        """One worker, living or lately ended.

        Raises:
            RbeesError: WORKER_NOT_FOUND.
        """
        if worker_id in self.living:
            return self.living[worker_id].facts()
        if worker_id in self.ended:
            return self.ended[worker_id]
        raise RbeesError(ErrorCode.WORKER_NOT_FOUND, "This pool has no worker by this id; it may have ended long ago.")

    def supervise(self, worker: Worker) -> None:
        """Watch over it until its process is gone for good; then it is among those that ended."""
        worker_id = worker.record.spec.worker_id
        self.living[worker_id] = worker
        self.ended.pop(worker_id, None)
        task = asyncio.create_task(self._run(worker_id, worker))
        self._tasks.add(task)
        task.add_done_callback(self._supervised)

    def _supervised(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (defect := task.exception()) is not None:
            self._log.error("supervision of a worker failed", action="worker_defect", exc_info=defect)

    async def _run(self, worker_id: str, worker: Worker) -> None:
        await worker.run()
        self.remember_ended(self.living.pop(worker_id).facts())

    def remember_ended(self, facts: WorkerFacts) -> None:
        """It can be asked about for as long as no more than so many have ended since."""
        self.ended[facts.worker_id] = facts
        while len(self.ended) > REMEMBERED:
            self.ended.popitem(last=False)

    async def detach(self) -> int:
        """Leave the processes that still run to themselves; how many there are."""
        left = tuple(self.living.values())
        for worker in left:
            await worker.detach()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        return len(left)
