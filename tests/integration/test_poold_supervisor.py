"""The supervisor of a pool's workers within the test's own process, where its store and its disk can be made slow."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

from rbees.host.backends import Installation, library_folder
from rbees.host.checksums import Checksums
from rbees.host.model_candidates import Places
from rbees.host.model_files import ModelFolders
from rbees.host.model_store import ModelStore, StoredModel
from rbees.host.process_table import EndedWorker, ProcessRecord, ProcessTable
from rbees.host.worker_around import Limits, Surroundings
from rbees.host.worker_plan import Policy
from rbees.host.workers import Supervisor
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.pools import SpawnCommand, WorkerEnd, WorkerFacts
from rbees.protocol.workers import WorkerReady
from rbees.service.clock import SystemClock
from tests.support.host_facts import device
from tests.support.scripted_models import write_script
from tests.support.tiny_gguf import write_tiny_gguf

FIRST = "worker-01m85v0jsd2kta03kbjw9kfphe"
SECOND = "worker-01m85v0jsd2kta03kbjw9kfphf"
NOBODY = "worker-01m85v0jsd2kta03kbjw9kfphg"
SECRET = "rbk_" + "s" * 43
NONCE = "owner-n1"


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short, because the path of a worker's control socket lies below it and the system bounds that."""
    with tempfile.TemporaryDirectory(prefix="rb-", dir="/tmp") as made:
        yield Path(made)


class SlowStore(ModelStore):
    """Its second and later lookups take until `go_on`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(Places({}, ModelFolders((folder,))), Checksums(folder / "checksums.json"))
        self.lookups = 0
        self.go_on = threading.Event()

    def resolve(self, text: str, sha256: str | None = None) -> StoredModel:
        self.lookups += 1
        if self.lookups > 1:
            self.go_on.wait(30)
        return super().resolve(text, sha256)


class SlowTable(ProcessTable):
    """Writing down which process was started takes until `go_on`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.started = threading.Event()
        self.go_on = threading.Event()

    def write(self, record: ProcessRecord) -> None:
        if record.pid is not None:
            self.started.set()
            self.go_on.wait(30)
        super().write(record)


class Nobody:
    """A reporter that nobody listens to."""

    tells = True

    def __init__(self) -> None:
        self.failures: list[WorkerFacts] = []

    def became_ready(self, facts: WorkerFacts, ready: WorkerReady) -> None: ...

    def has_failed(self, facts: WorkerFacts, *, while_loading: bool) -> None:
        self.failures.append(facts)


@contextlib.asynccontextmanager
async def supervised(
    folder: Path, table: ProcessTable, find_libraries: Callable[[], Path | None] = library_folder
) -> AsyncIterator[tuple[Supervisor, SlowStore]]:
    """A supervisor whose workers are killed at the end."""
    write_script(folder, load_seconds=20)
    store = SlowStore(folder)
    store.refresh()
    around = Surroundings(table, Nobody(), SystemClock(), Limits(load_s=60, drain_s=1), os.environ, lambda: NONCE, lambda: SECRET)
    policy = Policy("owner", 1, 64, 0, "127.0.0.1", 0, 0, folder / "run", lambda: "http://127.0.0.1:9")
    supervisor = Supervisor(
        policy,
        store,
        lambda: (device("cuda:0", total=0, free=0), device(physical_cores=3)),
        Installation(find_libraries),
        lambda: FIRST,
        around,
    )
    await supervisor.adopt()
    try:
        yield supervisor, store
    finally:
        for facts in supervisor.living():
            if facts.pid is not None:
                psutil.Process(facts.pid).send_signal(signal.SIGKILL)
        await until(lambda: not supervisor.living())
        await supervisor.detach()


def records(folder: Path) -> Path:
    """A folder of its own, because a table takes every file in its folder for a record."""
    made = folder / "workers"
    made.mkdir()
    return made


def ready(worker_id: str) -> WorkerReady:
    return WorkerReady(
        worker_id=worker_id,
        nonce=NONCE,
        pid=1,
        model_ref="bees",
        model_sha256=None,
        uri="http://127.0.0.1:9",
        secret=SECRET,
        backend="scripted",
        memory_bytes=0,
        memory_architecture="ram",
        capabilities=(),
        slots=1,
        ctx=64,
        load_ms=1.0,
    )


async def report(supervisor: Supervisor, worker_id: str) -> None:
    """A worker's ready call, as the route passes it on."""
    worker = await supervisor.caller(worker_id, f"Bearer {SECRET}")
    await worker.call_back(ready(worker_id))


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110 - a state of other threads
            await asyncio.sleep(0.01)


async def test_a_slow_start_of_one_worker_does_not_keep_another_from_reporting(folder: Path) -> None:
    async with supervised(folder, ProcessTable(records(folder))) as (supervisor, store):
        await supervisor.spawn(SpawnCommand(model_ref="bees", worker_id=FIRST))
        slow = asyncio.create_task(supervisor.spawn(SpawnCommand(model_ref="bees", worker_id=SECOND)))
        await until(lambda: store.lookups == 2)
        async with asyncio.timeout(20):
            await report(supervisor, FIRST)
            with pytest.raises(RbeesError) as caught:
                await report(supervisor, NOBODY)
        assert caught.value.code is ErrorCode.UNAUTHENTICATED
        assert supervisor.get(FIRST).state == "ready"
        store.go_on.set()
        assert await slow == SECOND


async def test_a_worker_that_reports_before_its_start_is_written_down_is_no_stranger(folder: Path) -> None:
    table = SlowTable(records(folder))
    async with supervised(folder, table) as (supervisor, store):
        starting = asyncio.create_task(supervisor.spawn(SpawnCommand(model_ref="bees", worker_id=FIRST)))
        await until(table.started.is_set)
        waiting = asyncio.create_task(supervisor.spawn(SpawnCommand(model_ref="bees", worker_id=SECOND)))
        await asyncio.sleep(0.05)  # So that it stands in the queue before the call does.
        calling = asyncio.create_task(report(supervisor, FIRST))
        await asyncio.sleep(0.1)
        assert not calling.done()
        table.go_on.set()
        async with asyncio.timeout(20):
            await calling
        assert supervisor.get(FIRST).state == "ready"
        store.go_on.set()
        assert (await starting, await waiting) == (FIRST, SECOND)


async def test_a_worker_computes_with_the_cores_that_its_pool_measured(folder: Path) -> None:
    table = ProcessTable(records(folder))
    async with supervised(folder, table) as (supervisor, _):
        await supervisor.spawn(SpawnCommand(model_ref="bees", worker_id=FIRST))
        (record,) = table.load()
        assert record.spec.threads == 3
        assert record.pid is not None
        assert "--threads=3" in psutil.Process(record.pid).cmdline()


async def test_what_another_keeper_has_started_counts_as_held(folder: Path) -> None:
    """Two commands without a daemon: the second had looked around before the first one started its worker."""
    made = records(folder)
    async with supervised(folder, ProcessTable(made)) as (first, store):
        store.go_on.set()
        size = 1 << 40

        async def look_again() -> None:
            await second.take_stock()

        around = Surroundings(
            ProcessTable(made),
            Nobody(),
            SystemClock(),
            Limits(load_s=60, drain_s=1),
            os.environ,
            lambda: NONCE,
            lambda: SECRET,
            before_start=look_again,
            owns_folder=False,
        )
        policy = Policy("owner", 1, 64, 0, "127.0.0.1", 0, 0, folder / "run", None)
        second = Supervisor(policy, store, lambda: (device(total=size, free=size),), Installation(), lambda: SECOND, around)
        await second.adopt()
        await first.spawn(SpawnCommand(model_ref="bees"))
        (held,) = ProcessTable(made).load()
        size = held.reserved_bytes * 3 // 2
        with pytest.raises(RbeesError) as caught:
            await second.spawn(SpawnCommand(model_ref="bees"))
        assert (caught.value.code, caught.value.details["held_by_workers_bytes"]) == (ErrorCode.DEVICE_BUSY, held.reserved_bytes)
        assert len(ProcessTable(made).load()) == 1
        await second.detach()


@pytest.mark.parametrize("knows_it", [True, False])
async def test_an_end_that_is_noted_of_a_living_worker_is_taken_back(folder: Path, knows_it: bool) -> None:
    """By the keeper that watches it, and by one that comes later and finds both the note and the record."""
    table = ProcessTable(records(folder))
    async with supervised(folder, table) as (first, store):
        await first.spawn(SpawnCommand(model_ref="bees", worker_id=FIRST))
        end = WorkerEnd(code=ErrorCode.WORKER_CRASHED, message="A keeper erred.", ended_at_ms=SystemClock().unix_ms())
        facts = msgspec.structs.replace(first.get(FIRST), state="failed", pid=None, end=end)
        table.write_ended(EndedWorker(facts=facts, while_loading=True, told=False))
        reporter = Nobody()
        around = Surroundings(
            ProcessTable(folder / "workers"),
            reporter,
            SystemClock(),
            Limits(load_s=60, drain_s=1),
            os.environ,
            lambda: NONCE,
            lambda: SECRET,
        )
        policy = Policy("owner", 1, 64, 0, "127.0.0.1", 0, 0, folder / "run", None)
        second = Supervisor(policy, store, lambda: (), Installation(), lambda: SECOND, around)
        keeper = first if knows_it else second
        await (first.take_stock() if knows_it else second.adopt())
        assert [(known.worker_id, known.end) for known in keeper.known()] == [(FIRST, None)]
        assert (table.ended_of(FIRST), reporter.failures) == (None, [])
        assert keeper.get(FIRST).pid is not None
        await second.detach()


async def test_what_was_installed_after_a_refusal_counts_at_the_next_spawn(folder: Path) -> None:
    write_tiny_gguf(folder / "tiny.gguf", context_length=2_048)
    installed: list[Path] = []
    async with supervised(folder, ProcessTable(records(folder)), lambda: installed[0] if installed else None) as (
        supervisor,
        store,
    ):
        store.go_on.set()
        codes = []
        for _ in range(2):
            with pytest.raises(RbeesError) as caught:
                # More than the model was trained for, so that nothing is started once the backend is there.
                await supervisor.spawn(SpawnCommand(model_ref="tiny", ctx=4_096))
            codes.append(caught.value.code)
            installed.append(folder)
        assert codes == [ErrorCode.BACKEND_UNAVAILABLE, ErrorCode.MODEL_INCOMPATIBLE]
