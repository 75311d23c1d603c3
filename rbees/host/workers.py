"""All workers of this host: start them after preflight, adopt those of an earlier keeper, stop them, clean up behind them.

A command that comes twice starts nothing twice. A pool daemon keeps a supervisor for as long as it runs; a command without a daemon
keeps one for its own moment, over the same table and under the same rules.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Final

from rbees.host import worker_log
from rbees.host.backends import Installation
from rbees.host.fit import Refusal, Room
from rbees.host.fit_view import Measured, view
from rbees.host.model_store import ModelStore
from rbees.host.process import StrayReaper
from rbees.host.process_table import ProcessRecord
from rbees.host.roster import Roster
from rbees.host.stocktaking import Stocktaking
from rbees.host.worker import Worker, not_the_worker, start
from rbees.host.worker_around import Surroundings
from rbees.host.worker_plan import Policy
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.fits import FitRequest, FitView
from rbees.protocol.ids import WORKER_ID_PATTERN
from rbees.protocol.pools import Device, SpawnCommand, WorkerFacts
from rbees.protocol.workers import WorkerReady
from rbees.service import logs
from rbees.service.clock import Clock

CLEAN_UP_EVERY_S: Final = 2.0
SHORTEN_LOGS_EVERY_S: Final = 10.0
_WORKER_ID = re.compile(WORKER_ID_PATTERN)
_DISK_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class Supervisor:
    """The workers of one host."""

    def __init__(
        self,
        policy: Policy,
        store: ModelStore,
        devices: Callable[[], tuple[Device, ...]],
        installation: Installation,
        new_worker_id: Callable[[], str],
        around: Surroundings,
    ) -> None:
        self._policy = policy
        self._store = store
        self._devices = devices
        self._installation = installation
        self._new_worker_id = new_worker_id
        self._around = around
        self._roster = Roster()
        self._stocktaking = Stocktaking(self._roster, policy.owner, around)
        self._one_spawn = asyncio.Lock()
        self._adopted = asyncio.Event()
        self._draining = False
        self._leaving = False
        self._log = logs.logger()

    @property
    def problem(self) -> str | None:
        """Why no worker can be started now; None if one can."""
        if self._draining:
            return "This pool is shutting down."
        return None if self._adopted.is_set() else "Workers of an earlier daemon are still being looked for."

    def living(self) -> tuple[WorkerFacts, ...]:
        """Workers that have a process."""
        return tuple(worker.facts() for worker in self._roster.living.values())

    def known(self) -> tuple[WorkerFacts, ...]:
        """Those and the ones that ended in the last day, by id."""
        return self._roster.known(self._around.clock.unix_ms())

    def ready(self) -> tuple[WorkerReady, ...]:
        """What each worker that can take work said of itself."""
        return tuple(worker.ready for worker in self._roster.living.values() if worker.ready is not None)

    def get(self, worker_id: str) -> WorkerFacts:
        """One worker, living or lately ended.

        Raises:
            RbeesError: WORKER_NOT_FOUND.
        """
        return self._roster.get(worker_id)

    def is_living(self, worker_id: str) -> bool:
        """True while the worker has a process."""
        return worker_id in self._roster.living

    def log_path(self, worker_id: str) -> Path:
        """The log of a worker, also of one that ended before this daemon started.

        Raises:
            RbeesError: WORKER_NOT_FOUND.
        """
        if _WORKER_ID.fullmatch(worker_id):
            path = self._around.table.log_path(worker_id)
            if worker_id in self._roster.living or path.is_file():
                return path
        raise RbeesError(ErrorCode.WORKER_NOT_FOUND, "This pool has no log of a worker by this id.")

    async def spawn(self, request: SpawnCommand) -> str:
        """Start a worker after preflight; its id. With an id that is known already: nothing but the id.

        Raises:
            RbeesError: what the model store or preflight refuse, DRAINING, STORAGE_FULL, BACKEND_UNAVAILABLE.
        """
        # A caller that hangs up must not leave a process that nobody watches.
        return await asyncio.shield(asyncio.create_task(self._spawn(request)))

    async def fit(self, request: FitRequest) -> FitView:
        """How the model would sit on this host now, beside the workers that run.

        Raises:
            RbeesError: what the model store refuses; INVALID_REQUEST, MODEL_INCOMPATIBLE, BACKEND_UNAVAILABLE.
        """
        model = request.facts or (await asyncio.to_thread(self._store.resolve, request.model_ref)).facts
        await asyncio.to_thread(self._installation.look)
        measured = await self.measured()
        answer = view(
            model,
            self._policy.wish(request, model),
            self.rooms(),
            default_ctx=self._policy.default_ctx,
            problems=self._installation.problems,
            measured=measured,
        )
        if isinstance(answer, Refusal):
            raise answer.error()
        return answer

    async def measured(self) -> list[Measured]:
        """What the workers that run have learned of their speed, of models that the store knows."""
        workers = tuple(self._roster.living.values())
        sizes = {facts.sha256: facts.size_bytes for facts in self._store.models()}
        healths = await asyncio.gather(*(worker.health() for worker in workers))
        return [
            Measured(
                worker_id=spec.worker_id,
                model_ref=spec.model_ref,
                model_sha256=spec.model_sha256,
                size_bytes=sizes.get(spec.model_sha256, 0),
                backend=spec.backend,
                decode=health.decode_tokens_per_second,
                prefill=health.prefill_tokens_per_second,
            )
            for spec, health in zip((worker.record.spec for worker in workers), healths, strict=True)
            if health is not None and health.decode_tokens_per_second
        ]

    def stop(self, worker_id: str, by: str | None) -> WorkerFacts:
        """Have a worker drained and ended; its state after that. `by` says who wants that, and why.

        Raises:
            RbeesError: WORKER_NOT_FOUND.
        """
        if worker_id in self._roster.living:
            self._log.info("stopping worker", action="worker_stop", worker_id=worker_id, by=by)
            self._roster.living[worker_id].stop(by)
        return self.get(worker_id)

    async def caller(self, worker_id: str, authorization: str | None) -> Worker:
        """The worker that calls, if it proves by its secret that it is the one.

        Raises:
            RbeesError: UNAUTHENTICATED, also where there is no such worker: a stranger learns nothing about which there are.
        """
        # The worker ends if it is told that nobody knows it, so its own start or adoption is waited for first; never another
        # worker's start, which may take longer than a worker waits for an answer.
        await self._adopted.wait()
        if worker_id in self._roster.starting:
            await self._roster.starting[worker_id].wait()
        worker = self._roster.living.get(worker_id)
        if worker is None or not await worker.is_proved(authorization):
            raise not_the_worker()
        return worker

    async def adopt(self) -> None:
        """Take over the workers of an earlier keeper of this state folder, and report those that died meanwhile."""
        async with self._around.alone(must_be=False) as is_alone:
            await self._stocktaking.take(is_alone=is_alone)
        for worker_id, worker in self._roster.living.items():
            if worker.is_silent:
                self._log.warning("an adopted worker does not answer", action="worker_silent", worker_id=worker_id)
        await asyncio.to_thread(self._around.table.drop_old_logs)
        self._adopted.set()

    async def take_stock(self) -> None:
        """Look once more what there is. The caller holds the table, so nobody is starting a worker just now."""
        await self._stocktaking.take()

    async def keep_clean(self, clock: Clock) -> None:
        """Every two seconds bring table and processes together and reap what nobody waits for, until cancelled."""
        strays = StrayReaper()
        await self._adopted.wait()
        while True:
            await clock.sleep(CLEAN_UP_EVERY_S)
            strays.look()
            try:
                if not await self._around.table.lock.try_acquire():
                    continue
                try:
                    await self.take_stock()
                finally:
                    self._around.table.lock.release()
            except OSError as error:
                self._log.error("cannot look through the table of workers", action="clean_up_failed", reason=error.strerror)

    async def keep_logs_short(self, clock: Clock) -> None:
        """Bound the log of every living worker, so that one that complains without end does not fill the disk, until cancelled."""
        while True:
            await clock.sleep(SHORTEN_LOGS_EVERY_S)
            await self.shorten_logs()

    async def shorten_logs(self) -> None:
        """Cut the logs of living workers that are too long."""
        for worker_id in tuple(self._roster.living):
            try:
                if await asyncio.to_thread(worker_log.shorten, self._around.table.log_path(worker_id)):
                    self._log.warning("shortened a worker's log", action="worker_log_shortened", worker_id=worker_id)
            except OSError as error:
                self._log.error("cannot shorten a worker's log", action="log_shorten_failed", reason=error.strerror)

    async def stop_all(self) -> None:
        """Refuse new workers, drain and end all there are."""
        self._draining = True
        async with self._one_spawn:
            workers = tuple(self._roster.living.values())
        for worker in workers:
            worker.stop("its pool daemon, which was told to end its workers with itself.")
        await asyncio.gather(*(worker.wait_gone() for worker in workers))

    @property
    def leaving(self) -> bool:
        """True once the daemon ends: whoever follows something here should let go."""
        return self._leaving

    def leave(self) -> None:
        """Refuse new workers and let followers go, so that none of them holds the end of the daemon up."""
        self._draining = self._leaving = True

    async def detach(self) -> int:
        """Leave the processes that still run to a later daemon; how many there are."""
        self.leave()
        return await self._roster.detach()

    async def _spawn(self, request: SpawnCommand) -> str:
        worker_id = _checked_id(request.worker_id) or self._new_worker_id()
        await self._adopted.wait()
        async with self._one_spawn:
            if self._roster.has_been(worker_id):
                return worker_id
            if self._draining:
                raise RbeesError(ErrorCode.DRAINING, "This pool is shutting down and starts no worker.")
            model = await asyncio.to_thread(self._store.resolve, request.model_ref, request.model_sha256)
            await asyncio.to_thread(self._installation.look)
            async with _disk_errors(), self._around.alone(must_be=not self._around.owns_folder):
                await self._around.before_start()
                fit = self._policy.fit(request, model.facts, self.rooms(), self._installation.problems)
                record = self._policy.record(
                    worker_id,
                    model,
                    fit,
                    devices=self._devices(),
                    taken_ports={worker.record.spec.port for worker in self._roster.living.values()},
                    nonce=self._around.new_nonce(),
                    now_ms=self._around.clock.unix_ms(),
                )
                await self._start(record)
        return worker_id

    async def _start(self, record: ProcessRecord) -> None:
        worker_id, secret = record.spec.worker_id, self._around.new_secret()
        started = self._roster.starting[worker_id] = asyncio.Event()
        try:
            record, process = await asyncio.to_thread(start, record, secret, self._around)
            self._roster.supervise(Worker(record, process, secret, self._around))
        finally:
            del self._roster.starting[worker_id]
            started.set()
        self._log.info(
            "worker started",
            action="worker_start",
            worker_id=worker_id,
            model_ref=record.spec.model_ref,
            device=record.spec.device,
            pid=record.pid,
        )

    def rooms(self) -> Sequence[Room]:
        """What each device has to give, and what workers hold of it."""
        return [self._room(device) for device in self._devices()]

    def _room(self, device: Device) -> Room:
        workers = self._roster.living.values()
        return Room(
            device,
            held_bytes=sum(worker.record.held_on(device.device_id) for worker in workers),
            pending_bytes=sum(worker.pending_on(device.device_id) for worker in workers),
            reserve_bytes=self._policy.reserve_bytes,
        )


def _checked_id(worker_id: str | None) -> str | None:
    if worker_id is not None and not _WORKER_ID.fullmatch(worker_id):
        raise RbeesError(
            ErrorCode.INVALID_REQUEST, "`worker_id` must be `worker-` and 26 characters, or absent.", field="worker_id"
        )
    return worker_id


@contextlib.asynccontextmanager
async def _disk_errors() -> AsyncIterator[None]:
    """What the disk or the system refuses, as errors of ours."""
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise RbeesError(ErrorCode.STORAGE_FULL, "The disk under the pool's state folder is full; free some space.") from None
        reason = os.strerror(error.errno or 0)
        raise RbeesError(ErrorCode.BACKEND_UNAVAILABLE, f"The worker process could not be started: {reason}.") from None
