"""Which beginnings of prompts each worker holds: asked of it after attempts there, or the scheduler could only guess."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from rbees.orcd.crew import Crew
from rbees.orcd.directory import Directory
from rbees.orcd.scheduler.events import Event, PrefixesCached
from rbees.protocol.errors import RbeesError
from rbees.service.clock import Clock

PAUSE_S: Final = 1.0
"""Between an attempt's end and the question, and so between two questions to one worker."""


class PrefixWatch:
    """Asks each worker at most once a `PAUSE_S`, and only those that have done something."""

    def __init__(self, directory: Directory, clock: Clock, crew: Crew, report: Callable[[Event], None]) -> None:
        self._directory = directory
        self._clock = clock
        self._crew = crew
        self._report = report
        self._asking: set[str] = set()

    def attempt_ended(self, worker_id: str) -> None:
        """An attempt on the worker is over, so it may hold more, or less, than before."""
        if worker_id not in self._asking:
            self._asking.add(worker_id)
            self._crew.start(self._ask(worker_id), "prefixes")

    async def _ask(self, worker_id: str) -> None:
        await self._clock.sleep(PAUSE_S)
        # What ends from now on may be missing in the answer, so it asks again.
        self._asking.discard(worker_id)
        try:
            health = await self._directory.worker(worker_id).client.health()
        except RbeesError:
            # It is gone or busy; affinity is worth no retry.
            return
        self._report(PrefixesCached(worker_id, health.cached_prefixes))
