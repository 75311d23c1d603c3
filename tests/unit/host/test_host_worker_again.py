"""A worker that crashed while it loaded, watched by several keepers of one table: it is started again once, and all agree."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

import msgspec
import pytest

from rbees.host.lifecycle import Life
from rbees.host.process import WorkerProcess, identify
from rbees.host.process_table import EndedWorker, ProcessRecord, ProcessTable
from rbees.host.table_lock import FolderTaken
from rbees.host.worker import Worker
from rbees.host.worker_around import Limits, Surroundings, nobody_else
from rbees.host.worker_facts import facts_of
from rbees.host.worker_spec import WorkerSpec
from rbees.protocol.errors import ErrorCode
from rbees.protocol.pools import WorkerEnd, WorkerFacts
from rbees.protocol.workers import WorkerReady
from rbees.service.clock import SystemClock
from tests.unit.host.test_host_worker_spec import SPEC

ID = SPEC.worker_id


class Recorder:
    """Keeps what it is told of failures."""

    def __init__(self, *, tells: bool) -> None:
        self.tells = tells
        self.failures: list[WorkerFacts] = []

    def became_ready(self, facts: WorkerFacts, ready: WorkerReady) -> None: ...

    def has_failed(self, facts: WorkerFacts, *, while_loading: bool) -> None:
        self.failures.append(facts)


class Host:
    """A table in a folder, with processes that do nothing in the place of workers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.table = ProcessTable(folder)
        self.daemon_runs = False
        self.asked = asyncio.Event()
        """Set when a command asked whether it is its business to start a worker."""
        self.launched: list[WorkerProcess] = []
        self._children: list[subprocess.Popen[bytes]] = []
        self._nonces = itertools.count()

    def process(self) -> WorkerProcess:
        """One that runs."""
        child = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE)
        self._children.append(child)
        identity = identify(child.pid)
        assert identity is not None
        return WorkerProcess(identity, child)

    def launch(self, spec: WorkerSpec, secret: str, log: Path, environ: Mapping[str, str]) -> WorkerProcess:
        """In the place of `process.launch`."""
        self.launched.append(self.process())
        return self.launched[-1]

    def record(self, process: WorkerProcess, **spec: object) -> ProcessRecord:
        """Written down, as whoever started the process would."""
        record = ProcessRecord(
            spec=msgspec.structs.replace(SPEC, runtime_dir=str(self.folder), **spec),
            reserved_bytes=1,
            started_at_ms=2,
            pid=process.identity.pid,
            started=process.identity.started,
        )
        self.table.write(record)
        return record

    def around(self, *, is_daemon: bool) -> Surroundings:
        """Of a daemon, or of a command, which has a daemon start workers where one runs."""
        return Surroundings(
            ProcessTable(self.folder),
            Recorder(tells=is_daemon),
            SystemClock(),
            Limits(load_s=60, drain_s=1, look_every_s=0.01),
            {},
            lambda: f"owner-{next(self._nonces)}",
            lambda: "secret",
            before_start=nobody_else if is_daemon else self._leave_it_to_a_daemon,
            owns_folder=is_daemon,
        )

    async def _leave_it_to_a_daemon(self) -> None:
        self.asked.set()
        if self.daemon_runs:
            raise FolderTaken(ErrorCode.ALREADY_RUNNING, "A daemon runs.")

    def close(self) -> None:
        """End what still runs."""
        for child in self._children:
            child.kill()
            child.communicate()


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    with contextlib.closing(Host(tmp_path)) as host:
        monkeypatch.setattr("rbees.host.worker.launch", host.launch)
        yield host


@contextlib.asynccontextmanager
async def watched(worker: Worker) -> AsyncIterator[asyncio.Task[None]]:
    running = asyncio.create_task(worker.run())
    try:
        yield running
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110 - a state of other processes
            await asyncio.sleep(0.01)


def told(record: ProcessRecord, *, told: bool, signal_: str | None = None) -> EndedWorker:
    """What a keeper writes of a worker that failed."""
    end = WorkerEnd(code=ErrorCode.WORKER_CRASHED, message="Said by another keeper.", signal=signal_, ended_at_ms=5)
    return EndedWorker(facts=facts_of(record, Life("failed"), end=end), while_loading=True, told=told)


async def test_where_a_daemon_has_come_it_starts_the_worker_again_and_the_command_goes_on_with_that(host: Host) -> None:
    process = host.process()
    record = host.record(process)
    worker = Worker(record, process, "secret", host.around(is_daemon=False))
    host.daemon_runs = True
    async with watched(worker) as running:
        process.signal(signal.SIGSEGV)
        async with asyncio.timeout(60):
            await host.asked.wait()
        assert worker.facts().state == "starting"
        assert (host.table.record_of(ID), host.table.ended_of(ID), host.launched) == (record, None, [])
        again = host.process()
        host.record(again, nonce="owner-of-the-daemon", safe_mode=True)
        await until(lambda: worker.facts().pid == again.identity.pid)
        facts = worker.facts()
        assert (facts.state, facts.safe_mode, facts.adopted, running.done()) == ("starting", True, True, False)
    assert (host.table.ended_of(ID), host.launched) == (None, [])


async def test_an_end_that_the_daemon_has_told_is_the_commands_too(host: Host) -> None:
    process = host.process()
    record = host.record(process)
    worker = Worker(record, process, "secret", host.around(is_daemon=False))
    host.daemon_runs = True
    async with watched(worker) as running:
        process.signal(signal.SIGSEGV)
        ended = told(record, told=True)
        host.table.write_ended(ended)
        host.table.remove(ID)
        async with asyncio.timeout(60):
            await running
    assert worker.facts() == ended.facts
    assert host.table.ended_of(ID) == ended


@pytest.mark.parametrize("is_told", [True, False])
async def test_without_a_daemon_an_id_is_spent_only_by_an_end_that_was_told(host: Host, is_told: bool) -> None:
    process = host.process()
    record = host.record(process)
    ended = told(record, told=is_told)
    host.table.write_ended(ended)
    host.table.remove(ID)
    worker = Worker(record, process, "secret", host.around(is_daemon=False))
    async with watched(worker) as running:
        process.signal(signal.SIGSEGV)
        await until(lambda: running.done() or bool(host.launched))
        if is_told:
            assert (worker.facts(), host.launched) == (ended.facts, [])
        else:
            await until(lambda: worker.facts().pid == host.launched[0].identity.pid)
            assert host.table.ended_of(ID) is None, "a worker that lives has no end"


async def test_of_two_keepers_one_starts_it_again_and_the_other_follows(host: Host) -> None:
    process = host.process()
    record = host.record(process)
    first, second = (Worker(record, WorkerProcess(process.identity), None, host.around(is_daemon=False)) for _ in range(2))
    host.table.log_path(ID).write_text("Fatal Python error: Segmentation fault\n")
    async with watched(first), watched(second):
        process.signal(signal.SIGSEGV)
        await process.wait()
        await until(lambda: first.facts().pid == second.facts().pid != process.identity.pid)
    assert [one.identity.pid for one in host.launched] == [first.facts().pid]
    assert host.table.ended_of(ID) is None


async def test_who_saw_less_leaves_the_account_of_who_saw_more_and_notes_that_it_was_told(host: Host) -> None:
    process = host.process()
    record = host.record(process)
    host.table.write_ended(told(record, told=False, signal_="SIGKILL"))
    daemon = Worker(record, WorkerProcess(process.identity), None, host.around(is_daemon=True))
    async with watched(daemon) as running:
        process.signal(signal.SIGKILL)
        await process.wait()
        async with asyncio.timeout(60):
            await running
    assert host.table.ended_of(ID) == told(record, told=True, signal_="SIGKILL")


async def test_what_was_told_stays_told_when_the_one_who_started_it_writes_later(host: Host) -> None:
    process = host.process()
    record = host.record(process)
    host.table.write_ended(told(record, told=True))
    command = Worker(record, process, None, host.around(is_daemon=False))
    async with watched(command) as running:
        process.signal(signal.SIGKILL)
        async with asyncio.timeout(60):
            await running
    ended = host.table.ended_of(ID)
    assert ended is not None
    assert ended.facts.end is not None
    assert (ended.told, ended.facts.end.signal) == (True, "SIGKILL")


async def test_a_keeper_that_leaves_writes_down_an_end_that_it_has_seen(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    process = host.process()
    record = host.record(process)
    around = host.around(is_daemon=False)
    worker = Worker(record, process, None, around)
    may_write, write = threading.Event(), around.table.write_ended

    def write_late(ended: EndedWorker) -> None:
        may_write.wait(60)
        write(ended)

    monkeypatch.setattr(around.table, "write_ended", write_late)
    async with watched(worker):
        worker.stop()
        process.signal(signal.SIGKILL)
        await until(lambda: worker.facts().state == "stopped")
        leaving = asyncio.create_task(worker.detach())
        await asyncio.sleep(0)
        may_write.set()
        await leaving
    assert host.table.record_of(ID) is None
    assert host.table.ended_of(ID) is not None
