"""This host's workers for a command that finds no daemon here: the same table, rules and checks that the daemon keeps.

What is started here lives on by itself: in a session of its own, its output in its log. A daemon that starts later adopts it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Final, Self

from rbees.host import worker_log, workers_here
from rbees.host.backends import Installation, with_backend_problems
from rbees.host.devices import DeviceMonitor, sources_of_this_host
from rbees.host.fit import Room
from rbees.host.fit_view import Measured
from rbees.host.models_here import model_store, named
from rbees.host.table_lock import FolderTaken
from rbees.host.workers import Supervisor
from rbees.pool.state import OwnState
from rbees.protocol import model_ref
from rbees.protocol.device_options import ACCELERATORS
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.pools import Device, SpawnAnswer, SpawnCommand, WorkerFacts, WorkerList
from rbees.protocol.workers import WorkerReady
from rbees.service.clock import SystemClock
from rbees.service.identity import Identities

LOOK_EVERY_S: Final = 0.1
"""A worker that was started here calls nobody back when its model is loaded."""


class DaemonRuns(FolderTaken):
    """A pool daemon has taken over the state folder: it alone starts workers now."""

    def __init__(self) -> None:
        super().__init__(ErrorCode.ALREADY_RUNNING, "A pool daemon has started on this host meanwhile; it starts workers now.")


class LocalWorkers:
    """Answers as `clients.poold.PooldClient` does. Use it as a context manager; what it started outlives it.

    `say` is told what takes long.
    """

    def __init__(self, own: OwnState, say: Callable[[str], None]) -> None:
        self._own = own
        self._say = say
        self._clock = SystemClock()
        self._store = model_store(own.settings, own.folder, os.environ)
        self._installation = Installation()
        self._devices: tuple[Device, ...] = ()
        # Without sources it knows of main memory only, which takes no time to ask.
        self._monitor = DeviceMonitor((), self._clock)
        identities = Identities(self._clock)
        around = workers_here.surroundings(
            own.settings,
            own.folder,
            _Nobody(),
            identities,
            self._clock,
            look_every_s=LOOK_EVERY_S,
            before_start=self._before_start,
            owns_folder=False,
        )
        self._supervisor = Supervisor(
            workers_here.policy(own.settings, own.folder, None),
            self._store,
            lambda: self._devices,
            self._installation,
            identities.worker_id,
            around,
        )

    async def spawn(self, request: SpawnCommand) -> SpawnAnswer:
        """Start a worker after preflight. A checksum that is not known yet is computed first.

        Raises:
            DaemonRuns: nothing was started.
            RbeesError: as `Supervisor.spawn`; ALREADY_RUNNING, where another command does not let go of the table.
        """
        try:
            worker_id = await self._supervisor.spawn(request)
        except RbeesError as error:
            if error.code is not ErrorCode.MODEL_LOADING:
                raise
            await self._sum(request.model_ref)
            worker_id = await self._supervisor.spawn(request)
        return SpawnAnswer(worker_id=worker_id)

    async def rooms(self) -> Sequence[Room]:
        """What each device has to give one more worker now, beside those that run."""
        await self._look_at_devices()
        return self._supervisor.rooms()

    async def measured(self) -> Sequence[Measured]:
        """What the workers that run have learned of their speed."""
        await asyncio.to_thread(self._store.refresh)
        return await self._supervisor.measured()

    async def workers(self) -> WorkerList:
        """The workers, with those that ended lately."""
        known = self._supervisor.known()
        if any(facts.pid is not None and facts.backend in ACCELERATORS for facts in known):
            await self._measure()
        return WorkerList(workers=tuple(map(self._monitor.seen, known)))

    async def worker(self, worker_id: str) -> WorkerFacts:
        """One worker. Raises RbeesError WORKER_NOT_FOUND."""
        return self._monitor.seen(self._supervisor.get(worker_id))

    async def stop_worker(self, worker_id: str, by: str) -> None:
        """Begin to drain and end a worker; it has ended once `worker` says so. Raises RbeesError WORKER_NOT_FOUND."""
        self._supervisor.stop(worker_id, by)

    @asynccontextmanager
    async def logs(self, worker_id: str, follow: bool = False) -> AsyncIterator[AsyncIterator[str]]:
        """The worker's log, line by line; with `follow` until the worker has ended. Raises RbeesError WORKER_NOT_FOUND."""
        path = self._supervisor.log_path(worker_id)
        if follow:
            yield worker_log.lines_of(worker_log.follow(path, lambda: not self._supervisor.is_living(worker_id)))
        else:
            yield worker_log.lines_of(_once(await asyncio.to_thread(worker_log.read_all, path)))

    async def __aenter__(self) -> Self:
        await self._supervisor.adopt()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._store.close()
        await self._supervisor.shorten_logs()
        await self._supervisor.detach()

    async def _before_start(self) -> None:
        """With the table held: is it ours to start a worker, and what is there now?"""
        if self._own.daemon_runs():
            raise DaemonRuns()
        await self._supervisor.take_stock()
        await self._look_at_devices()

    async def _look_at_devices(self) -> None:
        await self._measure()
        self._devices = with_backend_problems(self._monitor.devices(), self._installation.problems, self._installation.of_vendors)

    async def _measure(self) -> None:
        self._monitor = DeviceMonitor(sources_of_this_host(), self._clock)
        self._monitor.start()
        await self._monitor.wait_first()
        self._monitor.stop()

    async def _sum(self, reference: str) -> None:
        candidate = named(str(model_ref.parse(reference)), self._store.places)
        self._say(f"computing the checksum of {candidate.ref}, once")
        for path in candidate.paths:
            await asyncio.to_thread(self._store.checksums.compute, path)
        await asyncio.to_thread(self._store.refresh)


class _Nobody:
    """No orchestrator is told from here; the next daemon tells it."""

    tells = False

    def became_ready(self, facts: WorkerFacts, ready: WorkerReady) -> None:
        """See `Reporter`."""

    def has_failed(self, facts: WorkerFacts, *, while_loading: bool) -> None:
        """See `Reporter`."""


async def _once(content: bytes) -> AsyncIterator[bytes]:
    yield content
