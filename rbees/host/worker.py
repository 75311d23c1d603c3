"""One worker process under supervision: its life in the table of `host/lifecycle.py`, carried out.

Owns the process from its start or adoption to its end, for a pool daemon or for a command that works without one. Knows no
other worker and no orchestrator: what is to be reported goes to the `Reporter`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import signal
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import msgspec

from rbees.clients.control import read_control
from rbees.host import lifecycle, worker_log
from rbees.host.lifecycle import Life
from rbees.host.process import Exit, Identity, WorkerProcess, is_running, launch
from rbees.host.process_table import EndedWorker, ProcessRecord
from rbees.host.table_lock import FolderTaken
from rbees.host.worker_around import Surroundings
from rbees.host.worker_facts import end_of, ended_as, facts_of, socket_of
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.pools import WorkerEnd, WorkerFacts
from rbees.protocol.workers import ControlInfo, WorkerHealth, WorkerReady
from rbees.service import logs

if TYPE_CHECKING:
    from rbees.clients.workerd import WorkerClient

CONTROL_LIMIT_S: Final = 2.0
TERM_GRACE_S: Final = 5.0
"""Between SIGTERM and SIGKILL."""


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
        self._told: WorkerFacts | None = None
        """What another keeper has written down of its end."""
        self._settled = asyncio.Event()
        """Not set while one process has ended and the next, in safe mode, is not known yet."""
        self._settled.set()
        self._writing = asyncio.Lock()
        self._ready: WorkerReady | None = None
        self._uri: str | None = None
        self._called_at: str | None = None
        self._progress = 0.0
        self._while_loading = False
        self._is_over = False
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

    @property
    def is_running(self) -> bool:
        """True while its process lives; of one that has ended the consequence may still have to be drawn."""
        return is_running(self._process.identity)

    def pending_on(self, device_id: str) -> int:
        """Bytes that are reserved on a device and not yet visible in its free memory."""
        return self._record.held_on(device_id) if self._life.is_loading else 0

    def facts(self) -> WorkerFacts:
        """The worker as it is reported."""
        return self._told or facts_of(
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
        # A process that was just started again may call before its start was written down.
        await self._settled.wait()
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

    def stop(self, by: str | None = None) -> None:
        """Have it drained and ended; harmless if that is under way. `by`: who wants that, and why; the first who says it counts."""
        if self._life.state != "draining" and self._record.stopped_by is None:
            self._record = msgspec.structs.replace(self._record, stopped_by=by)
        self._advance(lifecycle.StopAsked())

    async def write_again(self) -> None:
        """Its record was lost or damaged."""
        if self._end is None and self._settled.is_set():
            await self._remember()

    async def wait_gone(self) -> None:
        """Until `run` has finished with the process."""
        await self._gone.wait()

    async def detach(self) -> None:
        """Leave the process to itself. Of one that has ended, what is to be written down comes first."""
        if self._is_over:
            await self._gone.wait()
        if self._ending is not None:
            # Of one that has ended it may just write the record again, and then takes that away itself.
            if not self._is_over:
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
        if not await self._follows_another():
            actions = self._advance(ended_as(exit_, tail), tail)
            if not any(isinstance(action, lifecycle.StartInSafeMode) for action in actions) or not await self._start_again(tail):
                self._is_over = True
                await self._forget()
                self._gone.set()
                return False
        if self._life.state == "draining":
            # A stop that came in between found no process to end.
            self._ending = asyncio.create_task(self._end_process())
        return True

    async def _forget(self) -> None:
        """Write down how it ended, delete the record, and logs of ended workers beyond those that are kept."""
        if self._told is not None or await asyncio.to_thread(self._of_another) is not None:
            return  # Another keeper has written down what holds now.
        with contextlib.suppress(OSError):
            await asyncio.to_thread(socket_of(self._record).unlink, missing_ok=True)
        try:
            await asyncio.to_thread(self._write_end)
            await asyncio.to_thread(self._around.table.remove, self._record.spec.worker_id)
            await asyncio.to_thread(self._around.table.drop_old_logs)
        except OSError as error:
            # The next look at the table finds that the process is gone and tries again.
            self._log.error("cannot remove the worker's record", action="record_remove_failed", reason=error.strerror)

    def _write_end(self) -> None:
        assert self._end is not None, "only what has ended is forgotten"
        known = self._around.table.ended_of(self._record.spec.worker_id)
        told = self._around.reporter.tells or self._life.state == "stopped" or (known is not None and known.told)
        ended = EndedWorker(facts=self.facts(), while_loading=self._while_loading, told=told)
        if known is not None and self._adopted and self._end.exit_code is None and self._end.signal is None:
            # Whoever started it watched as well, and has its status.
            ended = msgspec.structs.replace(known, told=told)
        self._around.table.write_ended(ended)

    async def _start_again(self, tail: tuple[str, ...]) -> bool:
        """Have it started in safe mode, by us or by whoever has taken the folder; False where it is over."""
        self._log.warning("starting once more in safe mode", action="worker_safe_mode")
        self._settled.clear()
        is_taken = False
        try:
            while (told := await asyncio.to_thread(self._told_over, is_taken)) is None:
                if await self._start_alone():
                    return True
                # The daemon that has come draws the consequence: a process in safe mode or an end, and either is to be seen.
                is_taken = True
                await self._around.clock.sleep(self._around.limits.look_every_s)
        except (OSError, RbeesError):
            self._advance(lifecycle.Ended(message="The worker could not be started again in safe mode."), tail)
        else:
            self._life, self._end, self._told = replace(self._life, state=told.state), told.end, told
        finally:
            self._settled.set()
        return False

    async def _start_alone(self) -> bool:
        """Start it in safe mode unless another keeper has done so; False where that is another's business."""
        spec = msgspec.structs.replace(self._record.spec, safe_mode=True, nonce=self._around.new_nonce())
        record, secret = msgspec.structs.replace(self._record, spec=spec, pid=None, started=None), self._around.new_secret()
        try:
            async with self._around.alone(must_be=not self._around.owns_folder):
                if await self._follows_another():
                    return True
                await self._around.before_start()
                if await asyncio.to_thread(self._told_over, False) is not None:
                    return False
                if await asyncio.to_thread(self._of_another) is not None:
                    raise RbeesError(ErrorCode.WORKER_CRASHED, "Another keeper's try in safe mode has ended too.")
                await asyncio.to_thread(self._around.table.remove_ended, spec.worker_id)
                started = await asyncio.to_thread(start, record, secret, self._around)
        except FolderTaken:
            return False
        self._go_on_with(*started, secret)
        return True

    async def _follows_another(self) -> bool:
        """Go on with the process that another keeper has started in its place, if one has and it runs."""
        record = await asyncio.to_thread(self._of_another)
        if record is None or record.pid is None or record.started is None:
            return False
        identity = Identity(record.pid, record.started)
        try:
            runs = is_running(identity)
        except OSError:
            runs = True  # What cannot be seen is not gone.
        if runs:
            self._go_on_with(record, WorkerProcess(identity), None)
        return runs

    def _go_on_with(self, record: ProcessRecord, process: WorkerProcess, secret: str | None) -> None:
        stopped_by = record.stopped_by or self._record.stopped_by
        self._record = msgspec.structs.replace(record, stopped_by=stopped_by)
        self._process, self._secret, self._adopted = process, secret, process.adopted
        self._ready, self._uri, self._called_at, self._progress = None, None, None, 0.0
        if self._life.state != "draining":
            self._life = Life(safe_mode=record.spec.safe_mode, was_ready=record.was_ready)

    def _of_another(self) -> ProcessRecord | None:
        """The record of a later process of this worker, which another keeper has started. Blocks."""
        record = self._around.table.record_of(self._record.spec.worker_id)
        return record if record is not None and record.spec.nonce != self._record.spec.nonce else None

    def _told_over(self, is_taken: bool) -> WorkerFacts | None:
        """The account of another keeper who has drawn the consequence that it is over; then that holds. Blocks.

        One that no daemon has passed on counts only where the folder is taken: who wrote it may have known less than we do.
        """
        worker_id = self._record.spec.worker_id
        ended = self._around.table.ended_of(worker_id)
        is_over = ended is not None and (ended.told or is_taken) and self._around.table.record_of(worker_id) is None
        return ended.facts if ended is not None and is_over else None

    async def _remember(self, **changes: Any) -> None:
        self._record = msgspec.structs.replace(self._record, **changes)
        try:
            async with self._writing:
                await asyncio.to_thread(self._around.table.write, self._record)
        except OSError as error:
            # The record on disk is older but true enough to adopt the process.
            self._log.error("cannot write the worker's record", action="record_write_failed", reason=error.strerror)
        if self._is_over:
            # It was deleted before, or is about to be.
            await self._forget()

    def _advance(self, event: lifecycle.Event, tail: tuple[str, ...] = ()) -> tuple[lifecycle.Action, ...]:
        self._life, actions = lifecycle.advance(self._life, event)
        for action in actions:
            self._end = self._end or end_of(action, event, tail, self._around.clock, self._record.stopped_by)
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
        if not self._settled.is_set():
            return
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
