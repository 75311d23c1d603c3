"""All workers of this host: start them after preflight, adopt those of an earlier keeper, stop them, clean up behind them.

The one place that knows which worker ids exist. A command that comes twice starts nothing twice. A pool daemon keeps one for
as long as it runs; a command without a daemon keeps one for its own moment, over the same table and under the same rules.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import signal
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from rbees.host import lifecycle, worker_log
from rbees.host.backends import Installation
from rbees.host.fit import Refusal, Room
from rbees.host.fit_view import Measured, view
from rbees.host.model_store import ModelStore
from rbees.host.process import Exit, Identity, StrayReaper, WorkerFinder, WorkerProcess, is_running, send_signal
from rbees.host.process_table import EndedWorker, ProcessRecord
from rbees.host.worker import Worker, not_the_worker, start
from rbees.host.worker_around import Surroundings
from rbees.host.worker_facts import end_of, ended_as, facts_of, socket_of
from rbees.host.worker_plan import Policy
from rbees.host.worker_spec import WorkerSpec
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.fits import FitRequest, FitView
from rbees.protocol.ids import WORKER_ID_PATTERN
from rbees.protocol.pools import Device, SpawnCommand, WorkerFacts
from rbees.protocol.workers import WorkerReady
from rbees.service import logs
from rbees.service.clock import Clock

REMEMBERED: Final = 100
"""Ended workers that can still be asked about."""
SHOWN_MS: Final = 24 * 3_600_000
"""So long one that ended is listed beside those that live."""
FIRST_LOOK_S: Final = 2.0
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
        self._finder = WorkerFinder(policy.owner)
        self._workers: dict[str, Worker] = {}
        self._ended: OrderedDict[str, WorkerFacts] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._one_spawn = asyncio.Lock()
        self._starting: dict[str, asyncio.Event] = {}
        """Workers whose process may run already while they are not yet among `_workers`; set when they are, or failed."""
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
        return tuple(worker.facts() for worker in self._workers.values())

    def known(self) -> tuple[WorkerFacts, ...]:
        """Those and the ones that ended in the last day, by id."""
        since_ms = self._around.clock.unix_ms() - SHOWN_MS
        ended = (facts for facts in self._ended.values() if facts.end is None or facts.end.ended_at_ms >= since_ms)
        return tuple(sorted((*self.living(), *ended), key=lambda facts: facts.worker_id))

    def ready(self) -> tuple[WorkerReady, ...]:
        """What each worker that can take work said of itself."""
        return tuple(worker.ready for worker in self._workers.values() if worker.ready is not None)

    def get(self, worker_id: str) -> WorkerFacts:
        """One worker, living or lately ended.

        Raises:
            RbeesError: WORKER_NOT_FOUND.
        """
        if worker_id in self._workers:
            return self._workers[worker_id].facts()
        if worker_id in self._ended:
            return self._ended[worker_id]
        raise RbeesError(ErrorCode.WORKER_NOT_FOUND, "This pool has no worker by this id; it may have ended long ago.")

    def is_living(self, worker_id: str) -> bool:
        """True while the worker has a process."""
        return worker_id in self._workers

    def log_path(self, worker_id: str) -> Path:
        """The log of a worker, also of one that ended before this daemon started.

        Raises:
            RbeesError: WORKER_NOT_FOUND.
        """
        if _WORKER_ID.fullmatch(worker_id):
            path = self._around.table.log_path(worker_id)
            if worker_id in self._workers or path.is_file():
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
        workers = tuple(self._workers.values())
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
        if worker_id in self._workers:
            self._log.info("stopping worker", action="worker_stop", worker_id=worker_id, by=by)
            self._workers[worker_id].stop(by)
        return self.get(worker_id)

    async def caller(self, worker_id: str, authorization: str | None) -> Worker:
        """The worker that calls, if it proves by its secret that it is the one.

        Raises:
            RbeesError: UNAUTHENTICATED, also where there is no such worker: a stranger learns nothing about which there are.
        """
        # The worker ends if it is told that nobody knows it, so its own start or adoption is waited for first; never another
        # worker's start, which may take longer than a worker waits for an answer.
        await self._adopted.wait()
        if worker_id in self._starting:
            await self._starting[worker_id].wait()
        worker = self._workers.get(worker_id)
        if worker is None or not await worker.is_proved(authorization):
            raise not_the_worker()
        return worker

    async def adopt(self) -> None:
        """Take over the workers of an earlier keeper of this state folder, and report those that died meanwhile."""
        async with self._around.alone(must_be=False) as is_alone:
            await self.take_stock(is_alone=is_alone)
        for worker_id, worker in self._workers.items():
            if worker.is_silent:
                self._log.warning("an adopted worker does not answer", action="worker_silent", worker_id=worker_id)
        await asyncio.to_thread(self._around.table.drop_old_logs)
        self._adopted.set()

    async def take_stock(self, *, is_alone: bool = True) -> None:
        """Know every worker that the table or a command line tells of. With `is_alone` nobody is starting one just now."""
        table = self._around.table
        # Read before those that run: an end that was written down before the worker was seen to live was none.
        ends = await asyncio.to_thread(table.load_ended, frozenset(self._ended))
        records = await asyncio.to_thread(table.load)
        running = dict(await asyncio.to_thread(lambda: [(spec.worker_id, (who, spec)) for who, spec in self._finder.look()]))
        for ended in ends:
            await self._recall(ended, records, running)
        known = frozenset(self._workers)
        for record in records:
            if record.spec.worker_id not in known and record.spec.worker_id not in self._starting:
                await self._adopt_recorded(record, running.pop(record.spec.worker_id, None), is_alone=is_alone)
        for identity, spec in running.values():
            if spec.worker_id not in self._workers and spec.worker_id not in self._starting:
                await self._adopt_found(identity, spec)
        await self._meet([worker for worker_id, worker in self._workers.items() if worker_id not in known])
        for worker_id in known - {record.spec.worker_id for record in records}:
            if worker_id in self._workers:
                self._log.warning("a worker's record was lost", action="record_lost", worker_id=worker_id)
                await self._workers[worker_id].write_again()

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
        for worker_id in tuple(self._workers):
            try:
                if await asyncio.to_thread(worker_log.shorten, self._around.table.log_path(worker_id)):
                    self._log.warning("shortened a worker's log", action="worker_log_shortened", worker_id=worker_id)
            except OSError as error:
                self._log.error("cannot shorten a worker's log", action="log_shorten_failed", reason=error.strerror)

    async def stop_all(self) -> None:
        """Refuse new workers, drain and end all there are."""
        self._draining = True
        async with self._one_spawn:
            workers = tuple(self._workers.values())
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
        left = tuple(self._workers.values())
        for worker in left:
            await worker.detach()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        return len(left)

    async def _spawn(self, request: SpawnCommand) -> str:
        worker_id = _checked_id(request.worker_id) or self._new_worker_id()
        await self._adopted.wait()
        async with self._one_spawn:
            if worker_id in self._workers or worker_id in self._ended:
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
                    taken_ports={worker.record.spec.port for worker in self._workers.values()},
                    nonce=self._around.new_nonce(),
                    now_ms=self._around.clock.unix_ms(),
                )
                await self._start(record)
        return worker_id

    async def _start(self, record: ProcessRecord) -> None:
        worker_id, secret = record.spec.worker_id, self._around.new_secret()
        started = self._starting[worker_id] = asyncio.Event()
        try:
            record, process = await asyncio.to_thread(start, record, secret, self._around)
            self._supervise(Worker(record, process, secret, self._around))
        finally:
            del self._starting[worker_id]
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
        workers = self._workers.values()
        return Room(
            device,
            held_bytes=sum(worker.record.held_on(device.device_id) for worker in workers),
            pending_bytes=sum(worker.pending_on(device.device_id) for worker in workers),
            reserve_bytes=self._policy.reserve_bytes,
        )

    def _supervise(self, worker: Worker) -> None:
        worker_id = worker.record.spec.worker_id
        self._workers[worker_id] = worker
        self._ended.pop(worker_id, None)
        task = asyncio.create_task(self._run(worker_id, worker))
        self._tasks.add(task)
        task.add_done_callback(self._supervised)

    def _supervised(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (defect := task.exception()) is not None:
            self._log.error("supervision of a worker failed", action="worker_defect", exc_info=defect)

    async def _run(self, worker_id: str, worker: Worker) -> None:
        await worker.run()
        self._remember_ended(self._workers.pop(worker_id).facts())

    def _remember_ended(self, facts: WorkerFacts) -> None:
        self._ended[facts.worker_id] = facts
        while len(self._ended) > REMEMBERED:
            self._ended.popitem(last=False)

    async def _recall(
        self, ended: EndedWorker, records: Sequence[ProcessRecord], running: Mapping[str, tuple[Identity, WorkerSpec]]
    ) -> None:
        """One that ended under an earlier keeper. What nobody could pass on then is passed on now."""
        facts = ended.facts
        if worker := self._workers.get(facts.worker_id):
            if worker.is_running:
                await self._forget_end(facts.worker_id)
            return  # If it has just ended, the consequence is drawn where it is watched.
        record = next((record for record in records if record.spec.worker_id == facts.worker_id), None)
        if record is not None and _lives(record, running.get(facts.worker_id)):
            await self._forget_end(facts.worker_id)
            return
        self._remember_ended(facts)
        if not ended.told and self._around.reporter.tells:
            self._around.reporter.has_failed(facts, while_loading=ended.while_loading)
            await self._note_end(msgspec.structs.replace(ended, told=True))

    async def _forget_end(self, worker_id: str) -> None:
        """Somebody took it for ended who did not know that it was started again."""
        self._log.warning("an end was noted of a worker that lives", action="end_taken_back", worker_id=worker_id)
        try:
            await asyncio.to_thread(self._around.table.remove_ended, worker_id)
        except OSError as error:
            self._log.error("cannot delete the note of an end", action="end_remove_failed", reason=error.strerror)

    async def _adopt_recorded(self, record: ProcessRecord, found: tuple[Identity, WorkerSpec] | None, *, is_alone: bool) -> None:
        if record.pid is not None and record.started is not None:
            identity = Identity(record.pid, record.started)
            if is_running(identity):
                self._take_over(record, identity)
                return
        if found is not None:
            # Started just before the earlier keeper died, or in safe mode since: the command line is newer than the record.
            await self._adopt_found(*found)
        elif is_alone or record.pid is not None:
            await self._bury(record)

    async def _adopt_found(self, identity: Identity, spec: WorkerSpec) -> None:
        """A process that is marked as ours and has no record: the state folder was lost, or never written."""
        if spec.worker_id in self._ended:
            if await asyncio.to_thread(send_signal, identity, signal.SIGTERM):
                self._log.warning("a process of an ended worker is told to end", action="stray_worker", pid=identity.pid)
            return
        reserved_bytes = await asyncio.to_thread(_size_of, Path(spec.model_path))
        now_ms = self._around.clock.unix_ms()
        record = ProcessRecord(
            spec=spec, reserved_bytes=reserved_bytes, started_at_ms=now_ms, pid=identity.pid, started=identity.started
        )
        try:
            await asyncio.to_thread(self._around.table.write, record)
        except OSError as error:
            self._log.error("cannot write the worker's record", action="record_write_failed", reason=error.strerror)
        self._take_over(record, identity)

    def _take_over(self, record: ProcessRecord, identity: Identity) -> None:
        self._log.info("adopted worker", action="worker_adopt", worker_id=record.spec.worker_id, pid=identity.pid)
        self._supervise(Worker(record, WorkerProcess(identity), None, self._around))

    async def _meet(self, adopted: Sequence[Worker]) -> None:
        """Ask those that were taken over how they are: who was ready before must be so again in the first registration."""
        looks = [asyncio.create_task(worker.look()) for worker in adopted]
        if looks:
            await asyncio.wait(looks, timeout=FIRST_LOOK_S)
        for worker in adopted:
            if worker.record.stop_asked:
                worker.stop()

    async def _bury(self, record: ProcessRecord) -> None:
        """The process died while nobody watched: what its log says of the reason is all that can be known."""
        worker_id, log = record.spec.worker_id, self._around.table.log_path(record.spec.worker_id)
        if worker_id not in self._ended:
            tail = await asyncio.to_thread(worker_log.tail, log)
            life = lifecycle.Life(
                "draining" if record.stop_asked else "loading", safe_mode=record.spec.safe_mode, was_ready=record.was_ready
            )
            event = ended_as(Exit(signal=await asyncio.to_thread(worker_log.last_signal, log)), tail)
            life, actions = lifecycle.advance(life, event)
            if life.state not in lifecycle.ENDED:
                # It deserved a second try, in safe mode, when it ended; now nobody waits for it any more.
                event = lifecycle.Ended(
                    signal=event.signal, message=f"The worker was killed by {event.signal} while it loaded its model."
                )
                life, actions = lifecycle.advance(life, event)
            end = end_of(actions[0], event, tail, self._around.clock, record.stopped_by)
            assert end is not None, "whatever ends from these states is over"
            last_sign_at_ms = await asyncio.to_thread(worker_log.last_written_ms, log)
            facts = facts_of(record, life, adopted=True, end=msgspec.structs.replace(end, last_sign_at_ms=last_sign_at_ms))
            failure = next((action for action in actions if isinstance(action, lifecycle.ReportFailed)), None)
            tells = self._around.reporter.tells
            if failure is not None:
                self._around.reporter.has_failed(facts, while_loading=failure.while_loading)
            while_loading = failure is not None and failure.while_loading
            self._remember_ended(facts)
            await self._note_end(EndedWorker(facts=facts, while_loading=while_loading, told=tells or failure is None))
        try:
            await asyncio.to_thread(self._around.table.remove, worker_id)
            await asyncio.to_thread(socket_of(record).unlink, missing_ok=True)
        except OSError as error:
            self._log.error("cannot remove the worker's record", action="record_remove_failed", reason=error.strerror)

    async def _note_end(self, ended: EndedWorker) -> None:
        try:
            await asyncio.to_thread(self._around.table.write_ended, ended)
        except OSError as error:
            self._log.error("cannot write down how a worker ended", action="end_write_failed", reason=error.strerror)


def _lives(record: ProcessRecord, found: tuple[Identity, WorkerSpec] | None) -> bool:
    """Whether the process of a record runs: the one that it names, or one with its mark where it names none yet."""
    if found is not None and found[1].nonce == record.spec.nonce:
        return is_running(found[0])
    return record.pid is not None and record.started is not None and is_running(Identity(record.pid, record.started))


def _size_of(model: Path) -> int:
    return model.stat().st_size if model.is_file() else 0


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
