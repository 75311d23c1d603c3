"""One worker process under supervision: its life in the table of `host/lifecycle.py`, carried out.

Owns the process from its start or adoption to its end, for a pool daemon or for a command that works without one. Knows no
other worker and no orchestrator: what is to be reported goes to the `Reporter`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import signal
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urlsplit

import msgspec

from rbees.clients.control import read_control
from rbees.host import lifecycle, worker_log
from rbees.host.lifecycle import Life
from rbees.host.process import Exit, WorkerProcess, launch
from rbees.host.process_table import EndedWorker, ProcessRecord, ProcessTable
from rbees.host.table_lock import PATIENCE_S, SHORT_PATIENCE_S
from rbees.host.worker_facts import end_of, ended_as, facts_of, socket_of
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.pools import WorkerEnd, WorkerFacts
from rbees.protocol.workers import ControlInfo, WorkerHealth, WorkerReady
from rbees.service import logs
from rbees.service.clock import Clock

if TYPE_CHECKING:
    from rbees.clients.workerd import WorkerClient

LOOK_EVERY_S: Final = 0.25
CONTROL_LIMIT_S: Final = 2.0
TERM_GRACE_S: Final = 5.0
"""Between SIGTERM and SIGKILL."""


class Reporter(Protocol):
    """Who is told about the two facts that cannot wait for a heartbeat."""

    tells: bool
    """Whether what it is told reaches an orchestrator, now or later."""

    def became_ready(self, facts: WorkerFacts, ready: WorkerReady) -> None:
        """The worker can take work."""
        ...

    def has_failed(self, facts: WorkerFacts, *, while_loading: bool) -> None:
        """The worker ended without being asked to; `facts.end` says how."""
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """How long things may take, in seconds."""

    load_s: float
    drain_s: float
    look_every_s: float = LOOK_EVERY_S
    """How often a worker that loads is asked how far it is. One that calls back says by itself when it is done."""


async def nobody_else() -> None:
    """The answer of `Surroundings.before_start` where nobody else could start workers."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every worker of a host needs."""

    table: ProcessTable
    reporter: Reporter
    clock: Clock
    limits: Limits
    environ: Mapping[str, str]
    new_nonce: Callable[[], str]
    new_secret: Callable[[], str]
    public_host: str | None = None
    """Name under which other hosts reach the workers; None where they listen on loopback."""
    tls: ssl.SSLContext | None = None
    """Trust for workers that serve with the pool's certificate."""
    before_start: Callable[[], Awaitable[None]] = nobody_else
    """Called with the table locked before a process is started. Raises `RbeesError` where that is somebody else's business."""
    owns_folder: bool = True
    """True of a daemon. Commands leave starting to it, so it need not wait for one that holds the table and stands still."""

    @contextlib.asynccontextmanager
    async def alone(self, *, must_be: bool) -> AsyncIterator[bool]:
        """With the table locked; without, and False, where that cannot be had and need not be.

        Raises:
            RbeesError: ALREADY_RUNNING. OSError: the disk fails.
        """
        try:
            await self.table.lock.acquire(PATIENCE_S if must_be else SHORT_PATIENCE_S)
        except (OSError, RbeesError) as error:
            if must_be:
                raise
            # Whoever holds it may stand still for ever. What it has begun is found by a later look.
            logs.logger().warning("the table of workers is not to be had", action="table_held", reason=str(error))
            yield False
        else:
            try:
                yield True
            finally:
                self.table.lock.release()


class Worker:
    """Supervises one worker. `run` it as a task until it returns, which is when the process is gone for good."""

    def __init__(self, record: ProcessRecord, process: WorkerProcess, secret: str | None, around: Surroundings) -> None:
        self._record = record
        self._process = process
        self._secret = secret
        self._around = around
        self._adopted = process.adopted
        self._life = Life(safe_mode=record.spec.safe_mode, was_ready=record.was_ready)
        self._end: WorkerEnd | None = None
        self._writing = asyncio.Lock()
        self._ready: WorkerReady | None = None
        self._uri: str | None = None
        self._called_at: str | None = None
        self._progress = 0.0
        self._while_loading = False
        self._gone = asyncio.Event()
        self._ending: asyncio.Task[None] | None = None
        self._log = logs.logger().bind(worker_id=record.spec.worker_id)

    @property
    def record(self) -> ProcessRecord:
        """How it was started."""
        return self._record

    @property
    def ready(self) -> WorkerReady | None:
        """What it said when its model was loaded; None unless it can take work now."""
        return self._ready if self._life.state == "ready" else None

    @property
    def is_silent(self) -> bool:
        """True of an adopted process that was ready and has not answered yet: it lives, but nobody can call it."""
        return self._life.was_ready and self._life.state in lifecycle.LOADING

    def pending_on(self, device_id: str) -> int:
        """Bytes that are reserved on a device and not yet visible in its free memory."""
        return self._record.held_on(device_id) if self._life.is_loading else 0

    def facts(self) -> WorkerFacts:
        """The worker as it is reported."""
        return facts_of(
            self._record,
            self._life,
            pid=None if self._end is not None else self._process.identity.pid,
            uri=self._uri,
            load_progress=self._progress,
            adopted=self._adopted,
            end=self._end,
        )

    async def run(self) -> None:
        """Until the process has ended and is not to be started again."""
        while True:
            watch = asyncio.create_task(self._watch_loading())
            try:
                exit_ = await self._process.wait()
            finally:
                watch.cancel()
                await asyncio.gather(watch, return_exceptions=True)
            tail = await asyncio.to_thread(worker_log.tail, self._log_path)
            if exit_ == Exit():
                exit_ = Exit(signal=await asyncio.to_thread(worker_log.last_signal, self._log_path))
            with contextlib.suppress(OSError):
                await asyncio.to_thread(socket_of(self._record).unlink, missing_ok=True)
            if not await self._account_for(exit_, tail):
                return

    async def look(self) -> None:
        """Ask the process by its control socket where it is and what its secret is; silence changes nothing."""
        try:
            info = await read_control(socket_of(self._record), CONTROL_LIMIT_S)
        except RbeesError:
            return
        if info.nonce != self._record.spec.nonce or info.pid != self._process.identity.pid:
            return
        self._uri, self._called_at, self._secret = self._reachable(info.uri), self._dialled(info.uri), info.secret
        await self._take(info)

    async def health(self) -> WorkerHealth | None:
        """What it says of itself; None of one that cannot take work or does not answer in time."""
        if self.ready is None or self._called_at is None:
            return None
        try:
            async with self._client() as client:
                return await client.health(CONTROL_LIMIT_S)
        except RbeesError:
            return None

    async def is_proved(self, authorization: str | None) -> bool:
        """True where `authorization` brings this worker's secret."""
        if self._secret is None:
            await self.look()
        proof = f"Bearer {self._secret}".encode()
        return self._secret is not None and hmac.compare_digest(proof, (authorization or "").encode(errors="replace"))

    async def call_back(self, ready: WorkerReady) -> None:
        """The worker's own ready call, which its secret has proved.

        Raises:
            RbeesError: UNAUTHENTICATED, where it speaks for another process than the one that was started.
        """
        spec = self._record.spec
        if (ready.worker_id, ready.nonce) != (spec.worker_id, spec.nonce):
            raise not_the_worker()
        await self._accept(ready)

    def stop(self) -> None:
        """Have it drained and ended; harmless if that is under way."""
        self._advance(lifecycle.StopAsked())

    async def write_again(self) -> None:
        """Its record was lost or damaged."""
        if self._end is None:
            await self._remember()

    async def wait_gone(self) -> None:
        """Until `run` has finished with the process."""
        await self._gone.wait()

    async def detach(self) -> None:
        """Leave the process to itself."""
        if self._ending is not None:
            self._ending.cancel()
            await asyncio.gather(self._ending, return_exceptions=True)

    @property
    def _log_path(self) -> Path:
        return self._around.table.log_path(self._record.spec.worker_id)

    async def _watch_loading(self) -> None:
        """Look until it is ready. One that was ready before may be silent for ever: its socket is lost, its work is not."""
        deadline_s = self._around.clock.monotonic() + self._around.limits.load_s
        while True:
            await self.look()
            if self._life.state not in lifecycle.LOADING:
                return
            if self._around.clock.monotonic() > deadline_s:
                self._advance(lifecycle.LoadTimedOut(self._around.limits.load_s))
            await self._around.clock.sleep(self._around.limits.look_every_s)

    async def _take(self, info: ControlInfo) -> None:
        if info.ready is not None:
            await self._accept(info.ready)
        if info.state == "draining":
            self.stop()
        if info.state == "loading":
            self._advance(lifecycle.LoadBegan())
            await self._ask_progress()

    async def _ask_progress(self) -> None:
        try:
            async with self._client() as client:
                self._progress = (await client.health(CONTROL_LIMIT_S)).load_progress
        except RbeesError:
            # Its port may not be open yet; the next look comes soon.
            return

    async def _accept(self, ready: WorkerReady) -> None:
        if self._ready is None:
            self._ready = msgspec.structs.replace(ready, uri=self._reachable(ready.uri))
            self._uri, self._called_at, self._progress = self._ready.uri, self._dialled(ready.uri), 1.0
            await self._remember(was_ready=True, measured_bytes=ready.memory_bytes)
        self._advance(lifecycle.BecameReady())

    async def _account_for(self, exit_: Exit, tail: tuple[str, ...]) -> bool:
        """Draw the consequence of the end of the process; True if it was started again."""
        self._log.info("worker process ended", action="worker_end", exit_code=exit_.exit_code, signal=exit_.signal)
        actions = self._advance(ended_as(exit_, tail), tail)
        if any(isinstance(action, lifecycle.StartInSafeMode) for action in actions) and await self._start_again(tail):
            return True
        await self._forget()
        self._gone.set()
        return False

    async def _forget(self) -> None:
        """Write down how it ended, delete the record, and logs of ended workers beyond those that are kept."""
        try:
            await asyncio.to_thread(self._write_end)
            await asyncio.to_thread(self._around.table.remove, self._record.spec.worker_id)
            await asyncio.to_thread(self._around.table.drop_old_logs)
        except OSError as error:
            # The next look at the table finds that the process is gone and tries again.
            self._log.error("cannot remove the worker's record", action="record_remove_failed", reason=error.strerror)

    def _write_end(self) -> None:
        assert self._end is not None, "only what has ended is forgotten"
        knows_less = self._adopted and self._end.exit_code is None and self._end.signal is None
        if knows_less and self._around.table.has_ended(self._record.spec.worker_id):
            return  # Whoever started it watched as well, and has its status.
        told = self._around.reporter.tells or self._life.state == "stopped"
        self._around.table.write_ended(EndedWorker(facts=self.facts(), while_loading=self._while_loading, told=told))

    async def _start_again(self, tail: tuple[str, ...]) -> bool:
        spec = msgspec.structs.replace(self._record.spec, safe_mode=True, nonce=self._around.new_nonce())
        self._log.warning("starting once more in safe mode", action="worker_safe_mode")
        secret = self._around.new_secret()
        self._secret, self._uri, self._called_at, self._progress, self._adopted = secret, None, None, 0.0, False
        try:
            record = msgspec.structs.replace(self._record, spec=spec, pid=None, started=None)
            async with self._around.alone(must_be=not self._around.owns_folder):
                await self._around.before_start()
                self._record, self._process = await asyncio.to_thread(start, record, secret, self._around)
        except (OSError, RbeesError):
            self._advance(lifecycle.Ended(message="The worker could not be started again in safe mode."), tail)
            return False
        if self._life.state == "draining":
            # A stop that came in between found no process to end.
            self._ending = asyncio.create_task(self._end_process())
        return True

    async def _remember(self, **changes: Any) -> None:
        self._record = msgspec.structs.replace(self._record, **changes)
        try:
            async with self._writing:
                await asyncio.to_thread(self._around.table.write, self._record)
        except OSError as error:
            # The record on disk is older but true enough to adopt the process.
            self._log.error("cannot write the worker's record", action="record_write_failed", reason=error.strerror)
        if self._gone.is_set():
            await self._forget()

    def _advance(self, event: lifecycle.Event, tail: tuple[str, ...] = ()) -> tuple[lifecycle.Action, ...]:
        self._life, actions = lifecycle.advance(self._life, event)
        for action in actions:
            self._end = self._end or end_of(action, event, tail, self._around.clock)
            match action:
                case lifecycle.ReportReady():
                    assert self._ready is not None
                    self._around.reporter.became_ready(self.facts(), self._ready)
                case lifecycle.ReportFailed():
                    self._while_loading = action.while_loading
                    self._around.reporter.has_failed(self.facts(), while_loading=action.while_loading)
                case lifecycle.StopProcess():
                    if self._ending is None or self._ending.done():
                        self._ending = asyncio.create_task(self._end_process())
                case lifecycle.StartInSafeMode() | lifecycle.Forget():
                    pass  # Done in `_account_for`, which knows that the process is gone.
        return actions

    async def _end_process(self) -> None:
        """Ask, then SIGTERM, then SIGKILL. That it was wanted is written down first: whoever finds it later goes on with it."""
        if self._life.state == "draining" and not self._record.stop_asked:
            await self._remember(stop_asked=True)
        if await self._ask_to_shut_down() and await self._gone_within(self._around.limits.drain_s):
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            if not await asyncio.to_thread(self._process.signal, number) or await self._gone_within(TERM_GRACE_S):
                return

    async def _ask_to_shut_down(self) -> bool:
        if self._called_at is None or self._life.timed_out_s is not None:
            return False
        try:
            async with self._client() as client:
                await client.shutdown()
        except RbeesError:
            return False
        return True

    async def _gone_within(self, limit_s: float) -> bool:
        try:
            await asyncio.wait_for(self._gone.wait(), limit_s)
        except TimeoutError:
            return False
        return True

    def _client(self) -> WorkerClient:
        # A command that only lists workers calls none, and must not pay for this import.
        from rbees.clients.workerd import WorkerClient

        assert self._called_at is not None
        return WorkerClient(self._called_at, token=self._secret, ssl=self._around.tls)

    def _dialled(self, uri: str) -> str:
        """Where this daemon itself calls the worker: this host may not know the name that others know it by."""
        return self._reachable(uri) if uri.startswith("https:") else uri

    def _reachable(self, uri: str) -> str:
        """The worker's address as the orchestrator can use it: it knows its port, the pool knows the host's name."""
        host = self._around.public_host
        if host is None:
            return uri
        parts = urlsplit(uri)
        return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{parts.port}"


def not_the_worker() -> RbeesError:
    """The refusal of a call whose proof is not that of the worker it speaks for."""
    return RbeesError(ErrorCode.UNAUTHENTICATED, "This is not the worker's secret.")


def start(record: ProcessRecord, secret: str, around: Surroundings) -> tuple[ProcessRecord, WorkerProcess]:
    """Write the record, start the process, write down which it is. Blocks.

    Raises:
        OSError: the disk is full, or the process cannot be started; then nothing is left of it.
    """
    table, spec = around.table, record.spec
    table.write(record)
    try:
        process = launch(spec, secret, table.log_path(spec.worker_id), around.environ)
    except OSError:
        table.remove(spec.worker_id)
        raise
    identity = process.identity
    complete = msgspec.structs.replace(record, pid=identity.pid, started=identity.started)
    # If this fails, the first record and the command line are enough to find the process again.
    with contextlib.suppress(OSError):
        table.write(complete)
    return complete, process
