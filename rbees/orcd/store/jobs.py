"""Jobs, attempts and journal as typed rows: every read that orcd makes, and the writes that are no part of a job's own course.

What happens to a job is written by the journal alone, as statements that `apply` commits together.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast

from rbees.orcd.requests import Extent
from rbees.orcd.store.check import check
from rbees.orcd.store.copying import Copy, copy_beside
from rbees.orcd.store.migrations import packaged
from rbees.orcd.store.sqlite import Database
from rbees.protocol.database import DatabaseReport
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.jobs import AttemptView, JobStatus, Kind, Priority

T = TypeVar("T")
Row = dict[str, Any]

JOURNAL_BYTES_PER_READ: Final = 128 * 1024
"""How much of a stream is held in memory for one reader at a time, but for the rest of a row."""
JOBS_PER_SWEEP: Final = 200
"""How many jobs one retention transaction touches, so that the journal never waits long behind it."""


@dataclass(frozen=True, slots=True)
class Statement:
    """A named query with the values for one execution."""

    query: str
    values: Row


@dataclass(frozen=True, slots=True)
class JobRow:
    """A job as stored, without its content."""

    number: int
    job_id: str
    kind: Kind
    status: JobStatus
    model: str
    model_sha256: str | None
    priority: Priority
    session_id: str | None
    seed: int
    cancel_on_disconnect: bool
    erased: bool
    created_at_ms: int
    deadline_at_ms: int | None
    dispatched_at_ms: int | None
    started_at_ms: int | None
    ended_at_ms: int | None
    outcome: bytes | None
    """The terminal event as JSON."""
    last_seq: int


@dataclass(frozen=True, slots=True)
class UnendedJob:
    """What a restarted orcd takes up again."""

    number: int
    job_id: str
    kind: Kind
    status: JobStatus
    model: str
    model_sha256: str | None
    model_ref: str | None
    priority: Priority
    session_id: str | None
    timeout_ms: int
    choices: int
    max_tokens: int | None
    extent: Extent
    cancel_on_disconnect: bool
    cancel_asked: bool
    watched: bool
    correlation_id: str | None
    created_at_ms: int
    deadline_at_ms: int | None
    dispatched_at_ms: int | None
    started_at_ms: int | None
    last_seq: int
    epoch: int
    """Of the latest attempt; 0 if there was none."""
    worker_seq: int
    """How far that attempt's worker was journaled."""
    worker_id: str | None
    pool_id: str | None
    failures: int
    deaths: int
    """Of workers, each with an attempt of this job."""


@dataclass(frozen=True, slots=True)
class Submitted:
    """A job found by its Idempotency-Key."""

    number: int
    job_id: str
    request_sha256: bytes
    seed: int
    accepted_position: int
    erased: bool


@dataclass(frozen=True, slots=True)
class JournalRow:
    """The events `first_seq`..`last_seq` of a job as the bytes that clients get."""

    first_seq: int
    last_seq: int
    frames: bytes


@dataclass(frozen=True, slots=True)
class NamedEndpoint:
    """A pool that an operator named."""

    endpoint: str
    pool_id: str


class JobStore:
    """Queries over an open database. Errors are those of `Database.read` and `Database.write`."""

    def __init__(self, database: Database, queries: dict[str, str]) -> None:
        self._database = database
        self._sql = queries

    async def apply(self, statements: Sequence[Statement]) -> None:
        """Execute everything in the order given, in one transaction."""
        runs = _runs_of_one_query(statements)

        def work(connection: sqlite3.Connection) -> None:
            for query, values in runs:
                connection.executemany(self._sql[query], values)

        await self._database.write(work)

    async def has_room(self) -> bool:
        """Whether the disk takes a commit, found out by one that changes nothing. Raises StorageBroken."""
        try:
            # Written and taken back in one transaction: the page goes to the disk, which a transaction without a change spares.
            await self.apply(
                [
                    Statement("name_endpoint", {"endpoint": "", "pool_id": "", "at_ms": 0}),
                    Statement("forget_endpoints", {"pool_id": ""}),
                ]
            )
        except RbeesError as error:
            if error.code is not ErrorCode.STORAGE_FULL:
                raise
            return False
        return True

    async def next_number(self) -> int:
        """The number that the next accepted job gets."""
        rows = await self._select("next_number")
        return int(rows[0]["number"])

    async def job(self, job_id: str) -> JobRow | None:
        """The job with this id."""
        rows = await self._select("job_by_id", job_id=job_id)
        return _job(rows[0]) if rows else None

    async def jobs(self, *, below: int, status: str | None, model: str | None, limit: int) -> list[JobRow]:
        """At most `limit` jobs with numbers under `below`, newest first; a filter that is None lets everything pass."""
        match status, model:
            case None, None:
                query = "list_jobs"
            case None, _:
                query = "list_jobs_of_model"
            case "unfinished", _:
                query = "list_jobs_unended"
            case _:
                query = "list_jobs_of_status"
        return [_job(row) for row in await self._select(query, below=below, status=status, model=model, limit=limit)]

    async def submitted(self, idempotency_key: str) -> Submitted | None:
        """The job that was submitted under this key."""
        rows = await self._select("job_by_idempotency_key", key=idempotency_key)
        if not rows:
            return None
        row = rows[0]
        return Submitted(
            number=row["number"],
            job_id=row["job_id"],
            request_sha256=row["request_sha256"],
            seed=row["seed"],
            accepted_position=row["accepted_position"],
            erased=bool(row["erased"]),
        )

    async def request(self, number: int) -> bytes | None:
        """The job's request as JSON; None once erased or deleted."""
        rows = await self._select("request_of", job=number)
        return cast("bytes | None", rows[0]["request"]) if rows else None

    async def attempts(self, number: int) -> list[AttemptView]:
        """The job's attempts in order."""
        return [_attempt(row) for row in await self._select("attempts_of", job=number)]

    async def unended(self) -> list[UnendedJob]:
        """All jobs that have not ended, oldest first."""
        return [_unended(row) for row in await self._select("unended_jobs")]

    async def journal_from(self, number: int, seq: int) -> list[JournalRow]:
        """Rows from the one that holds event `seq` on, about `JOURNAL_BYTES_PER_READ` of them; the first may begin before it."""

        def work(connection: sqlite3.Connection) -> list[JournalRow]:
            taken, size = [], 0
            for row in connection.execute(self._sql["journal_from"], {"job": number, "seq": seq}):
                taken.append(JournalRow(row["first_seq"], row["last_seq"], row["frames"]))
                size += len(row["frames"])
                if size >= JOURNAL_BYTES_PER_READ:
                    break
            return taken

        return await self._database.read(work)

    async def delete_ended(self, before_ms: int) -> int:
        """Delete some of the jobs that ended before `before_ms` with all that belongs to them; 0 when none is left."""
        return await self._change("delete_ended", before_ms=before_ms, limit=JOBS_PER_SWEEP)

    async def erase_content(self, before_ms: int) -> int:
        """Erase prompts and events of some of the jobs that ended before `before_ms`; 0 when none is left."""
        values = {"before_ms": before_ms, "limit": JOBS_PER_SWEEP}

        def work(connection: sqlite3.Connection) -> int:
            connection.execute(self._sql["erase_journal"], values)
            connection.execute(self._sql["erase_responses"], values)
            return connection.execute(self._sql["erase_requests"], values).rowcount

        return await self._database.write(work)

    async def fold(self) -> None:
        """Have erased content leave the write-ahead log too."""
        await self._database.checkpoint()

    async def learned(self) -> bytes | None:
        """What the scheduler had learned when it was last saved."""
        rows = await self._select("learned")
        return cast("bytes", rows[0]["value"]) if rows else None

    async def keep_learned(self, value: bytes, at_ms: int) -> None:
        """Save what the scheduler has learned."""
        await self._change("keep_learned", value=value, at_ms=at_ms)

    async def check(self) -> DatabaseReport:
        """Look through everything, beside all else that goes on. Raises RbeesError INTERNAL."""
        return await self._database.aside(lambda connection, pause: check(connection, packaged(), self._sql, pause))

    async def copy(self) -> Copy:
        """A consistent copy, made beside all else that goes on; close its file. Raises RbeesError STORAGE_FULL, INTERNAL."""
        path = self._database.path
        return await self._database.aside(lambda connection, pause: copy_beside(connection, path, pause))

    async def name_endpoint(self, endpoint: NamedEndpoint, at_ms: int) -> None:
        """Remember a pool that an operator named."""
        await self._change("name_endpoint", endpoint=endpoint.endpoint, pool_id=endpoint.pool_id, at_ms=at_ms)

    async def forget_endpoints(self, pool_id: str) -> None:
        """Forget every endpoint of a pool."""
        await self._change("forget_endpoints", pool_id=pool_id)

    async def named_endpoints(self) -> list[NamedEndpoint]:
        """The pools that operators named."""
        return [NamedEndpoint(row["endpoint"], row["pool_id"]) for row in await self._select("named_endpoints")]

    async def drain_pool(self, pool_id: str, at_ms: int) -> None:
        """Remember that an operator wants no new work on a pool."""
        await self._change("drain_pool", pool_id=pool_id, at_ms=at_ms)

    async def resume_pool(self, pool_id: str) -> None:
        """Forget that."""
        await self._change("resume_pool", pool_id=pool_id)

    async def drained_pools(self) -> list[str]:
        """The pools that operators want no new work on."""
        return [row["pool_id"] for row in await self._select("drained_pools")]

    async def _select(self, query: str, **values: Any) -> list[sqlite3.Row]:
        sql = self._sql[query]
        return await self._database.read(lambda connection: connection.execute(sql, values).fetchall())

    async def _change(self, query: str, **values: Any) -> int:
        sql = self._sql[query]
        return await self._database.write(lambda connection: connection.execute(sql, values).rowcount)


def _runs_of_one_query(statements: Sequence[Statement]) -> list[tuple[str, list[Row]]]:
    runs: list[tuple[str, list[Row]]] = []
    for statement in statements:
        if not runs or runs[-1][0] != statement.query:
            runs.append((statement.query, []))
        runs[-1][1].append(statement.values)
    return runs


def _job(row: sqlite3.Row) -> JobRow:
    return JobRow(
        number=row["number"],
        job_id=row["job_id"],
        kind=row["kind"],
        status=row["status"],
        model=row["model"],
        model_sha256=row["model_sha256"],
        priority=row["priority"],
        session_id=row["session_id"],
        seed=row["seed"],
        cancel_on_disconnect=bool(row["cancel_on_disconnect"]),
        erased=bool(row["erased"]),
        created_at_ms=row["created_at_ms"],
        deadline_at_ms=row["deadline_at_ms"],
        dispatched_at_ms=row["dispatched_at_ms"],
        started_at_ms=row["started_at_ms"],
        ended_at_ms=row["ended_at_ms"],
        outcome=row["outcome"],
        last_seq=row["last_seq"] or 0,
    )


def _unended(row: sqlite3.Row) -> UnendedJob:
    epoch = row["epoch"] or 0
    return UnendedJob(
        number=row["number"],
        job_id=row["job_id"],
        kind=row["kind"],
        status=row["status"],
        model=row["model"],
        model_sha256=row["model_sha256"],
        model_ref=row["model_ref"],
        priority=row["priority"],
        session_id=row["session_id"],
        timeout_ms=row["timeout_ms"],
        choices=row["choices"],
        max_tokens=row["max_tokens"] if row["kind"] == "generate" else 0,
        extent=Extent(row["prompt_bytes"], row["prefixes"]),
        cancel_on_disconnect=bool(row["cancel_on_disconnect"]),
        cancel_asked=bool(row["cancel_asked"]),
        watched=bool(row["watched"]),
        correlation_id=row["correlation_id"],
        created_at_ms=row["created_at_ms"],
        deadline_at_ms=row["deadline_at_ms"],
        dispatched_at_ms=row["dispatched_at_ms"],
        started_at_ms=row["started_at_ms"],
        last_seq=row["last_seq"],
        epoch=epoch,
        # Rows of an earlier attempt say nothing about the numbering of this one.
        worker_seq=row["worker_seq"] if row["journal_epoch"] == epoch else 0,
        worker_id=row["worker_id"],
        pool_id=row["pool_id"],
        failures=row["failures"],
        deaths=row["deaths"],
    )


def _attempt(row: sqlite3.Row) -> AttemptView:
    return AttemptView(
        epoch=row["epoch"],
        worker_id=row["worker_id"],
        pool_id=row["pool_id"],
        started_at_ms=row["started_at_ms"],
        ended_at_ms=row["ended_at_ms"],
        outcome=row["outcome"],
        reason=row["reason"],
        why=row["why"],
    )
