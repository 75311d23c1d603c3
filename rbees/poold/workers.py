"""All workers of this host: start them after preflight, adopt those of an earlier daemon, stop them.

The one place that knows which worker ids exist. A command that comes twice starts nothing twice.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from rbees.host import lifecycle, worker_log
from rbees.host.backends import Installation
from rbees.host.fit import Fit, Refusal, Room, usable_for
from rbees.host.fit_view import Measured, view
from rbees.host.model_store import ModelStore, StoredModel
from rbees.host.ports import choose_port
from rbees.host.preflight import Wish, preflight
from rbees.host.process import Identity, WorkerProcess, find_workers, is_running
from rbees.host.process_table import ProcessRecord
from rbees.host.worker_spec import WorkerSpec
from rbees.poold.worker import Surroundings, Worker, not_the_worker, start
from rbees.protocol.device_options import NOTHING_ASKED, DeviceOptions, options_of, with_defaults
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.fits import FitRequest, FitView
from rbees.protocol.ids import WORKER_ID_PATTERN
from rbees.protocol.pools import Device, ModelFacts, SpawnCommand, WorkerFacts
from rbees.protocol.workers import WorkerReady
from rbees.service import logs
from rbees.service.clock import Clock

REMEMBERED: Final = 100
"""Ended workers that can still be asked about."""
FIRST_LOOK_S: Final = 2.0
MAX_THREADS: Final = 1024
"""The most that a worker takes for `--threads`."""
SHORTEN_LOGS_EVERY_S: Final = 10.0
_WORKER_ID = re.compile(WORKER_ID_PATTERN)
_DISK_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Policy:
    """How this pool starts workers; `owner` marks them as its own."""

    owner: str
    default_slots: int
    default_ctx: int
    reserve_bytes: int
    bind: str
    port_first: int
    port_last: int
    runtime_dir: Path
    own_url: Callable[[], str]
    """Where workers call back."""
    default_options: DeviceOptions = NOTHING_ASKED
    insecure_lan: bool = False
    tls_cert_file: str | None = None
    tls_key_file: str | None = None
    tls_ca_file: str | None = None


class Supervisor:
    """The workers of one pool."""

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
        """Those and the ones that ended lately, by id."""
        return tuple(sorted((*self.living(), *self._ended.values()), key=lambda facts: facts.worker_id))

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
        measured = await self._measured()
        answer = view(
            model,
            self._wish(request, model),
            self.rooms(),
            default_ctx=self._policy.default_ctx,
            problems=self._installation.problems,
            measured=measured,
        )
        if isinstance(answer, Refusal):
            raise answer.error()
        return answer

    async def _measured(self) -> list[Measured]:
        """What the workers that run have learned of their speed."""
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

    def stop(self, worker_id: str) -> WorkerFacts:
        """Have a worker drained and ended; its state after that.

        Raises:
            RbeesError: WORKER_NOT_FOUND.
        """
        if worker_id in self._workers:
            self._log.info("stopping worker", action="worker_stop", worker_id=worker_id)
            self._workers[worker_id].stop()
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
        """Take over the workers of an earlier daemon on this state folder, and report those that died meanwhile."""
        table = self._around.table
        records = await asyncio.to_thread(table.load)
        running = dict(await asyncio.to_thread(lambda: [(spec.worker_id, (who, spec)) for who, spec in self._find()]))
        for record in records:
            self._adopt_recorded(record, running.pop(record.spec.worker_id, None))
        for identity, spec in running.values():
            self._adopt_found(identity, spec)
        # Who was ready before must be so again in the first registration.
        looks = [asyncio.create_task(worker.look()) for worker in self._workers.values()]
        if looks:
            await asyncio.wait(looks, timeout=FIRST_LOOK_S)
        for worker_id, worker in self._workers.items():
            if worker.is_silent:
                self._log.warning("an adopted worker does not answer", action="worker_silent", worker_id=worker_id)
        await asyncio.to_thread(table.drop_old_logs)
        self._adopted.set()

    async def keep_logs_short(self, clock: Clock) -> None:
        """Bound the log of every living worker, so that one that complains without end does not fill the disk, until cancelled."""
        while True:
            await clock.sleep(SHORTEN_LOGS_EVERY_S)
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
            worker.stop()
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
            fit = self._preflight(request, model)
            record = ProcessRecord(
                spec=self._spec(worker_id, model, fit),
                reserved_bytes=fit.demand.total_bytes,
                reserved=fit.reserved,
                started_at_ms=self._around.clock.unix_ms(),
            )
            await self._start(record)
        return worker_id

    async def _start(self, record: ProcessRecord) -> None:
        worker_id, secret = record.spec.worker_id, self._around.new_secret()
        started = self._starting[worker_id] = asyncio.Event()
        try:
            record, process = await _disk(asyncio.to_thread(start, record, secret, self._around))
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

    def _preflight(self, request: SpawnCommand, model: StoredModel) -> Fit:
        wish = self._wish(request, model.facts)
        problems = self._installation.problems
        answer = preflight(model.facts, wish, self.rooms(), default_ctx=self._policy.default_ctx, problems=problems)
        if isinstance(answer, Refusal):
            raise answer.error()
        return answer

    def _wish(self, request: SpawnCommand | FitRequest, model: ModelFacts) -> Wish:
        options = with_defaults(options_of(request), usable_for(model, self._policy.default_options))
        return Wish(request.backend, request.devices, request.ctx, request.slots or self._policy.default_slots, options)

    def rooms(self) -> Sequence[Room]:
        """What each device has to give, and what workers hold of it."""
        return [self._room(device) for device in self._devices()]

    def _room(self, device: Device) -> Room:
        workers = self._workers.values()
        return Room(
            device,
            held_bytes=sum(worker.record.reserved_on(device.device_id) for worker in workers),
            pending_bytes=sum(worker.pending_on(device.device_id) for worker in workers),
            reserve_bytes=self._policy.reserve_bytes,
        )

    def _spec(self, worker_id: str, model: StoredModel, fit: Fit) -> WorkerSpec:
        policy = self._policy
        taken = {worker.record.spec.port for worker in self._workers.values()}
        return WorkerSpec(
            worker_id=worker_id,
            nonce=self._around.new_nonce(),
            model_path=_path_to_open(model),
            model_ref=model.facts.ref,
            model_sha256=model.facts.sha256,
            backend=fit.backend,
            device=",".join(device.device_id for device in fit.devices),
            slots=fit.slots,
            ctx=fit.ctx,
            threads=self._threads(fit.device),
            pooling=model.facts.pooling,
            bind=policy.bind,
            port=choose_port(policy.bind, policy.port_first, policy.port_last, taken),
            callback_url=f"{policy.own_url()}/internal/workers/{worker_id}/ready",
            runtime_dir=str(policy.runtime_dir),
            insecure_lan=policy.insecure_lan,
            allowed_host=self._around.public_host,
            tls_cert_file=policy.tls_cert_file,
            tls_key_file=policy.tls_key_file,
            tls_ca_file=policy.tls_ca_file,
            **msgspec.structs.asdict(fit.options),
        )

    def _threads(self, device: Device) -> int | None:
        """The cores that a worker may use; an accelerator has none of its own and leaves part of the work to the host's."""
        cores = [found.physical_cores for found in (device, *self._devices()) if found.physical_cores]
        return min(cores[0], MAX_THREADS) if cores else None

    def _supervise(self, worker: Worker) -> None:
        worker_id = worker.record.spec.worker_id
        self._workers[worker_id] = worker
        task = asyncio.create_task(self._run(worker_id, worker))
        self._tasks.add(task)
        task.add_done_callback(self._supervised)

    def _supervised(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (defect := task.exception()) is not None:
            self._log.error("supervision of a worker failed", action="worker_defect", exc_info=defect)

    async def _run(self, worker_id: str, worker: Worker) -> None:
        await worker.run()
        self._ended[worker_id] = self._workers.pop(worker_id).facts()
        while len(self._ended) > REMEMBERED:
            self._ended.popitem(last=False)

    def _find(self) -> Sequence[tuple[Identity, WorkerSpec]]:
        return list(find_workers(self._policy.owner))

    def _adopt_recorded(self, record: ProcessRecord, found: tuple[Identity, WorkerSpec] | None) -> None:
        if record.pid is not None and record.started is not None:
            identity = Identity(record.pid, record.started)
            if is_running(identity):
                self._take_over(record, identity)
                return
        if found is not None:
            # Started just before the earlier daemon died, or in safe mode since: the command line is newer than the record.
            self._adopt_found(*found)
            return
        self._bury(record)

    def _adopt_found(self, identity: Identity, spec: WorkerSpec) -> None:
        """A process that is marked as ours and has no record: the state folder was lost, or never written."""
        reserved_bytes = Path(spec.model_path).stat().st_size if Path(spec.model_path).is_file() else 0
        now_ms = self._around.clock.unix_ms()
        record = ProcessRecord(
            spec=spec, reserved_bytes=reserved_bytes, started_at_ms=now_ms, pid=identity.pid, started=identity.started
        )
        try:
            self._around.table.write(record)
        except OSError as error:
            self._log.error("cannot write the worker's record", action="record_write_failed", reason=error.strerror)
        self._take_over(record, identity)

    def _take_over(self, record: ProcessRecord, identity: Identity) -> None:
        self._log.info("adopted worker", action="worker_adopt", worker_id=record.spec.worker_id, pid=identity.pid)
        self._supervise(Worker(record, WorkerProcess(identity), None, self._around))

    def _bury(self, record: ProcessRecord) -> None:
        """The process died while no daemon ran: nobody knows how."""
        tail = worker_log.tail(self._around.table.log_path(record.spec.worker_id))
        named = worker_log.last_error(tail)
        state = lifecycle.Life("loading", safe_mode=record.spec.safe_mode, was_ready=record.was_ready)
        ended = lifecycle.Ended(code=named.code if named else None, message=named.message if named else None)
        _, actions = lifecycle.advance(state, ended)
        for action in actions:
            if isinstance(action, lifecycle.ReportFailed):
                self._around.reporter.has_failed(record.spec, action, tail)
        try:
            self._around.table.remove(record.spec.worker_id)
            Path(record.spec.runtime_dir, "workers", f"{record.spec.worker_id}.sock").unlink(missing_ok=True)
        except OSError as error:
            self._log.error("cannot remove the worker's record", action="record_remove_failed", reason=error.strerror)


def _path_to_open(model: StoredModel) -> str:
    """Where the file really is. The further parts of a model are found by the first one's name, which a link gives it."""
    if len(model.paths) == 1:
        return os.path.realpath(model.path)
    return str(Path(os.path.realpath(model.path.parent), model.path.name))


def _checked_id(worker_id: str | None) -> str | None:
    if worker_id is not None and not _WORKER_ID.fullmatch(worker_id):
        raise RbeesError(
            ErrorCode.INVALID_REQUEST, "`worker_id` must be `worker-` and 26 characters, or absent.", field="worker_id"
        )
    return worker_id


async def _disk(work: Awaitable[T]) -> T:
    try:
        return await work
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise RbeesError(ErrorCode.STORAGE_FULL, "The disk under the pool's state folder is full; free some space.") from None
        reason = os.strerror(error.errno or 0)
        raise RbeesError(ErrorCode.BACKEND_UNAVAILABLE, f"The worker process could not be started: {reason}.") from None
