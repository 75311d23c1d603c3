"""Files and batches as typed rows. What a file holds lies beside the database; `orcd/batches/files.py` has it."""

from __future__ import annotations

import sqlite3
from dataclasses import asdict, dataclass
from typing import Any, Final

from rbees.orcd.store.sqlite import Database
from rbees.protocol.batches import BatchEnd, BatchStatus, FilePurpose

_AFTER_EVERY_KEY: Final = "\x7f"


@dataclass(frozen=True, slots=True)
class FileRow:
    """A file."""

    file_id: str
    name: str
    purpose: FilePurpose
    size_bytes: int
    created_at_ms: int
    expires_at_ms: int | None


@dataclass(frozen=True, slots=True)
class NewBatch:
    """A batch as it is created."""

    batch_id: str
    input_file_id: str
    endpoint: str
    metadata: bytes | None
    output_expires_after_s: int | None
    correlation_id: str | None
    created_at_ms: int
    expires_at_ms: int
    output_file_id: str
    error_file_id: str
    idempotency_key: str | None
    request_sha256: bytes | None


@dataclass(frozen=True, slots=True)
class Recorded:
    """What came of the lines so far: counts, tokens, the sizes of both files, and which lines they hold."""

    completed: int
    failed: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    reasoning_tokens: int
    output_bytes: int
    error_bytes: int
    recorded: bytes | None


@dataclass(frozen=True, slots=True)
class BatchRow:
    """A batch as stored."""

    batch_id: str
    status: BatchStatus
    input_file_id: str
    endpoint: str
    metadata: bytes | None
    output_expires_after_s: int | None
    correlation_id: str | None
    created_at_ms: int
    expires_at_ms: int
    in_progress_at_ms: int | None
    finalizing_at_ms: int | None
    cancelling_at_ms: int | None
    ended_at_ms: int | None
    model: str | None
    total: int
    output_file_id: str
    error_file_id: str
    errors: bytes | None
    idempotency_key: str | None
    request_sha256: bytes | None
    so_far: Recorded


class BatchStore:
    """Queries over an open database. Errors are those of `Database.read` and `Database.write`."""

    def __init__(self, database: Database, queries: dict[str, str]) -> None:
        self._database = database
        self._sql = queries

    # ---- files ---------------------------------------------------------------------------------------------------------

    async def add_file(self, row: FileRow) -> None:
        """A file whose content is on the disk."""
        await self._change("insert_file", **asdict(row))

    async def file(self, file_id: str) -> FileRow | None:
        """The file with this id."""
        rows = await self._select("file_by_id", file_id=file_id)
        return _file(rows[0]) if rows else None

    async def files(self, *, after: str | None, purpose: str | None, limit: int, newest_first: bool) -> list[FileRow]:
        """At most `limit` files behind the one with the id `after`."""
        query = "list_files_newest_first" if newest_first else "list_files_oldest_first"
        return [_file(row) for row in await self._select(query, after=after, purpose=purpose, limit=limit)]

    async def delete_file(self, file_id: str) -> bool:
        """Forget a file; False where there is none, or a batch that has not ended reads it."""
        return await self._change("delete_file", file_id=file_id) > 0

    async def expired_files(self, now_ms: int) -> list[str]:
        """Files that are to be deleted by now and that nobody reads."""
        return [row["file_id"] for row in await self._select("expired_files", now_ms=now_ms)]

    async def names_in_folder(self) -> set[str]:
        """Every name that may lie in the folder of files."""
        return {row["file_id"] for row in await self._select("files_in_folder")}

    # ---- batches -------------------------------------------------------------------------------------------------------

    async def create(self, new: NewBatch) -> bool:
        """A batch that is to be validated; False where its file is gone, or another has its key."""
        return await self._change("insert_batch", **asdict(new)) > 0

    async def batch(self, batch_id: str) -> BatchRow | None:
        """The batch with this id."""
        rows = await self._select("batch_by_id", batch_id=batch_id)
        return _batch(rows[0]) if rows else None

    async def batch_under(self, key: str) -> BatchRow | None:
        """The batch that was created under an idempotency key."""
        rows = await self._select("batch_by_idempotency_key", key=key)
        return _batch(rows[0]) if rows else None

    async def batches(self, *, after: str | None, limit: int) -> list[BatchRow]:
        """At most `limit` batches, newest first, behind the one with the id `after`."""
        return [_batch(row) for row in await self._select("list_batches", after=after, limit=limit)]

    async def unended(self) -> list[BatchRow]:
        """All batches that have not ended, oldest first."""
        return [_batch(row) for row in await self._select("unended_batches")]

    async def begin(self, batch_id: str, at_ms: int, total: int, model: str | None, recorded: bytes) -> bool:
        """The lines are sound and may be run; False where the batch was cancelled before."""
        return await self._change("begin_batch", batch_id=batch_id, at_ms=at_ms, total=total, model=model, recorded=recorded) > 0

    async def record(self, batch_id: str, so_far: Recorded) -> None:
        """What came of lines, which both files hold on the disk."""
        await self._change("record_lines", batch_id=batch_id, **asdict(so_far))

    async def cancel(self, batch_id: str, at_ms: int) -> bool:
        """Have a batch run nothing more; False where there is none, or it is past that."""
        return await self._change("cancel_batch", batch_id=batch_id, at_ms=at_ms) > 0

    async def expire(self, batch_id: str, at_ms: int) -> bool:
        """The same because its time is over."""
        return await self._change("expire_batch", batch_id=batch_id, at_ms=at_ms) > 0

    async def end(self, batch_id: str, status: BatchEnd, at_ms: int, errors: bytes | None, files: list[FileRow]) -> None:
        """A batch is over; from now on there are the files that it wrote."""
        values = {"batch_id": batch_id, "status": status, "at_ms": at_ms, "errors": errors}

        def work(connection: sqlite3.Connection) -> None:
            for row in files:
                connection.execute(self._sql["insert_file"], asdict(row))
            connection.execute(self._sql["end_batch"], values)

        await self._database.write(work)

    async def keys_under(self, prefix: str) -> list[str]:
        """The idempotency keys of jobs that begin with `prefix` and go on in ASCII."""
        rows = await self._select("keys_between", first=prefix, last=prefix + _AFTER_EVERY_KEY)
        return [row["idempotency_key"] for row in rows]

    async def _select(self, query: str, **values: Any) -> list[sqlite3.Row]:
        sql = self._sql[query]
        return await self._database.read(lambda connection: connection.execute(sql, values).fetchall())

    async def _change(self, query: str, **values: Any) -> int:
        sql = self._sql[query]
        return await self._database.write(lambda connection: connection.execute(sql, values).rowcount)


def _file(row: sqlite3.Row) -> FileRow:
    return FileRow(**dict(row))


def _batch(row: sqlite3.Row) -> BatchRow:
    values = dict(row)
    so_far = {name: values.pop(name) for name in Recorded.__dataclass_fields__}
    return BatchRow(**values, so_far=Recorded(**so_far))
