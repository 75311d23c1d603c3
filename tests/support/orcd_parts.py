"""Parts of orcd for unit and property tests: a store in memory whose commits can be held up or fail, and a worker that is told
what to send.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast

from rbees.orcd.figures import Figures
from rbees.orcd.group import Run
from rbees.orcd.journal import Journal, NewJob
from rbees.orcd.live import LiveJob
from rbees.orcd.requests import extent_of
from rbees.orcd.store import queries
from rbees.orcd.store.jobs import JobStore
from rbees.orcd.store.migrations import migrate, packaged
from rbees.orcd.store.sqlite import Database
from rbees.protocol.codec import encode
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.events import ChoiceEnd, End, Event, Started, Timings, Token, Usage
from rbees.protocol.jobs import JobRequest
from rbees.protocol.workers import Beat, ExecuteRequest
from rbees.service.clock import Clock, ManualClock
from rbees.service.correlation import correlation_id
from rbees.service.metrics import Metrics

T = TypeVar("T")


class MemoryDatabase:
    """What `Database` does, at once and in memory. `gate` holds commits up, `failure` makes them fail."""

    def __init__(self) -> None:
        self.connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self.connection.row_factory = sqlite3.Row
        self.connection.execute("PRAGMA foreign_keys = ON")
        migrate(self.connection, packaged())
        self.gate = asyncio.Event()
        self.gate.set()
        self.failure: RbeesError | None = None
        self.commits = 0
        self.reads = 0

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """See `Database`."""
        await asyncio.sleep(0)
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        self.connection.execute("BEGIN")
        try:
            result = work(self.connection)
        except BaseException:
            self.connection.execute("ROLLBACK")
            raise
        self.connection.execute("COMMIT")
        self.commits += 1
        return result

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """See `Database`."""
        self.reads += 1
        await asyncio.sleep(0)
        return work(self.connection)

    async def checkpoint(self) -> None:
        """See `Database`."""

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """What is durable."""
        return [tuple(row) for row in self.connection.execute(sql)]


class Desk:
    """A journal on a memory database, what it published, and its running writer."""

    def __init__(self, clock: Clock) -> None:
        self.database = MemoryDatabase()
        self.store = JobStore(cast("Database", self.database), queries.load())
        self.figures = Figures(Metrics("orcd"))
        self.published: list[Run] = []
        self.listeners: list[Callable[[Run], None]] = []
        """Who hears of it too, such as a relay."""
        self.journal = Journal(self.store, clock, self.figures, self._publish)
        self._writer: asyncio.Task[Any] | None = None

    async def __aenter__(self) -> Desk:
        self._writer = asyncio.create_task(self.journal.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._writer is not None
        self._writer.cancel()
        await asyncio.gather(self._writer, return_exceptions=True)
        self.database.connection.close()

    def _publish(self, run: Run) -> None:
        self.published.append(run)
        for listener in self.listeners:
            listener(run)

    async def job(self, name: str = "one", request: JobRequest | None = None, **fields: Any) -> LiveJob:
        """A durable job."""
        return await self.journal.accept(new_job(name, request, **fields), lambda _: None)

    async def running(self, name: str = "one", epoch: int = 1) -> LiveJob:
        """A durable job with an attempt on `worker-a`."""
        job = await self.job(name)
        await self.journal.begin_attempt(job, epoch, "worker-a", "pool")
        return job

    def take(self, job: LiveJob, epoch: int, seq: int, event: Event, then: Callable[[], None] = lambda: None) -> Any:
        """An event of `worker-a`."""
        return self.journal.take(job, epoch, seq, event, "worker-a", "pool", then)

    def bytes_of(self, number: int) -> bytes:
        """The stored stream of a job."""
        rows = self.database.rows(f"SELECT frames FROM journal WHERE job = {number} ORDER BY first_seq")
        return b"".join(row[0] for row in rows)


def new_job(name: str = "one", request: JobRequest | None = None, **fields: Any) -> NewJob:
    """A job that may be accepted."""
    request = request or JobRequest(model="bees", prompt="hum", seed=1)
    values: dict[str, Any] = {
        "job_id": f"job-{name}",
        "kind": request.kind,
        "model": request.model,
        "model_sha256": None,
        "model_ref": None,
        "priority": request.priority,
        "session_id": None,
        "seed": 1,
        "timeout_ms": 1000,
        "choices": request.n,
        "extent": extent_of(request),
        "cancel_on_disconnect": False,
        "request": encode(request),
        "request_sha256": b"digest",
        "idempotency_key": None,
        "queue_position": 1,
        "created_at_ms": 1,
        **fields,
    }
    return NewJob(**values)


def started(epoch: int = 1) -> Started:
    """As a worker sends it."""
    return Started(epoch=epoch, worker_id="worker-a", model="file:/m", prompt_tokens=3)


def token(index: int, text: str = "hum ") -> Token:
    """One token of the answer."""
    return Token(text=text, index=index, token_ids=(1000 + index,))


def end(tokens: int = 1) -> End:
    """As a worker sends it."""
    return End(
        choices=(ChoiceEnd(finish_reason="stop"),),
        usage=Usage(prompt_tokens=3, cached_tokens=0, completion_tokens=tokens),
        timings=Timings(prefill_ms=1.0, decode_ms=2.0),
    )


class StallingClock(ManualClock):
    """Wakes those who go to sleep from now on late by `late_s`, as a process does that is stopped."""

    late_s = 0.0

    async def sleep(self, seconds: float) -> None:
        """See `Clock`."""
        await super().sleep(seconds + self.late_s)


class FakeWorker:
    """A worker that sends what is put into it. `break_off` ends a stream as a lost connection does."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.correlation_ids: list[str | None] = []
        """Under which each call was made."""
        self._items: asyncio.Queue[tuple[int | None, Event | Beat] | RbeesError] = asyncio.Queue()
        self.refusals: list[RbeesError] = []
        """Raised by the next connections, first one first."""

    def send(self, seq: int | None, event: Event | Beat) -> None:
        """Have the open stream, or the next, yield an event."""
        self._items.put_nowait((seq, event))

    def break_off(self) -> None:
        """Break the open stream, or the next one."""
        self._items.put_nowait(unreachable("the connection broke off"))

    @asynccontextmanager
    async def execute(self, request: ExecuteRequest) -> AsyncIterator[AsyncIterator[tuple[int | None, Event | Beat]]]:
        """See `WorkerPort`."""
        self._called("execute", request)
        self._maybe_refuse()
        yield self._stream()

    @asynccontextmanager
    async def attach(self, job_id: str, epoch: int, after: int) -> AsyncIterator[AsyncIterator[tuple[int | None, Event | Beat]]]:
        """See `WorkerPort`."""
        self._called("attach", (job_id, epoch, after))
        self._maybe_refuse()
        yield self._stream()

    async def ack(self, job_id: str, epoch: int, seq: int) -> None:
        """See `WorkerPort`."""
        self._called("ack", (job_id, epoch, seq))

    async def cancel(self, job_id: str, epoch: int | None = None) -> None:
        """See `WorkerPort`."""
        self._called("cancel", (job_id, epoch))

    def named(self, name: str) -> list[Any]:
        """What was said with one kind of call."""
        return [said for called, said in self.calls if called == name]

    def _called(self, name: str, said: Any) -> None:
        self.calls.append((name, said))
        self.correlation_ids.append(correlation_id.get())

    def _maybe_refuse(self) -> None:
        if self.refusals:
            raise self.refusals.pop(0)

    async def _stream(self) -> AsyncIterator[tuple[int | None, Event | Beat]]:
        while True:
            item = await self._items.get()
            if isinstance(item, RbeesError):
                raise item
            yield item


def unreachable(reason: str) -> RbeesError:
    """As the client reports a worker that cannot be reached."""
    return RbeesError(ErrorCode.WORKER_UNREACHABLE, f"The worker does not answer: {reason}.", reason=reason)


async def settle(rounds: int = 50) -> None:
    """Let every task run that can."""
    for _ in range(rounds):
        await asyncio.sleep(0)
