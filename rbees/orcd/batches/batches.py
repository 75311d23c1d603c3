"""All batches: created, looked at, cancelled, and carried on by this process where an earlier one left them."""

from __future__ import annotations

import hashlib
from typing import Final, NoReturn

import msgspec

from rbees.orcd.batches.endpoints import ENDPOINTS
from rbees.orcd.batches.files import Files
from rbees.orcd.batches.objects import (
    WINDOW,
    WINDOW_MS,
    BatchError,
    BatchErrors,
    BatchObject,
    BatchRequest,
    BatchUsage,
    InputDetails,
    OutputDetails,
    RequestCounts,
    check_batch,
)
from rbees.orcd.batches.pace import Pace
from rbees.orcd.batches.progress import Progress, Tools
from rbees.orcd.crew import Crew
from rbees.orcd.door.foreign import refusal
from rbees.orcd.door.runs import Runs
from rbees.orcd.store.batches import BatchRow, BatchStore, NewBatch
from rbees.orcd.store.sqlite import StorageBroken
from rbees.protocol.batches import BatchStatus
from rbees.protocol.codec import encode
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.service import logs
from rbees.service.clock import Clock
from rbees.service.correlation import correlation_id
from rbees.service.identity import Identities

SWEEP_S: Final = 60.0


class Batches:
    """What the routes about batches do. `start` takes up what is unfinished."""

    def __init__(
        self, store: BatchStore, files: Files, runs: Runs, crew: Crew, clock: Clock, *, queue_limit: int, line_limit: int
    ) -> None:
        self._store = store
        self._files = files
        self._crew = crew
        self._clock = clock
        self._identities = Identities(clock)
        self._running: dict[str, Progress] = {}
        self._tools = Tools(store, files, runs, crew, clock, Pace(queue_limit), line_limit, lambda: len(self._running))

    async def start(self) -> int:
        """Go on with every batch that has not ended; how many there are."""
        unended = await self._store.unended()
        for row in unended:
            self._carry(row.batch_id)
        self._crew.start(self._sweep_files(), "files")
        return len(unended)

    async def create(self, request: BatchRequest, key: str | None = None) -> BatchObject:
        """A batch that is durable and will be run, or the one that was created under the same key before.

        Raises RbeesError INVALID_REQUEST, FILE_NOT_FOUND, IDEMPOTENCY_CONFLICT, STORAGE_FULL.
        """
        check_batch(request, tuple(ENDPOINTS))
        wanted = None if key is None else hashlib.sha256(encode(request)).digest()
        before = await self._before(key, wanted)
        if before is not None:
            return batch_object(before)
        file = await self._files.row(request.input_file_id)
        if file.purpose != "batch":
            raise refusal("This file was written by a batch; upload one with the purpose `batch`.", "input_file_id")
        now_ms = self._clock.unix_ms()
        new = NewBatch(
            batch_id=self._identities.batch_id(),
            input_file_id=file.file_id,
            endpoint=request.endpoint,
            metadata=None if request.metadata is None else encode(request.metadata),
            output_expires_after_s=None if request.output_expires_after is None else request.output_expires_after.seconds,
            correlation_id=correlation_id.get(),
            created_at_ms=now_ms,
            expires_at_ms=now_ms + WINDOW_MS,
            output_file_id=self._files.new_id(),
            error_file_id=self._files.new_id(),
            idempotency_key=key,
            request_sha256=wanted,
        )
        # A client that leaves meanwhile must not leave a batch that nobody runs.
        return batch_object(await self._crew.whole(self._created(new), "batch_created"))

    async def _created(self, new: NewBatch) -> BatchRow:
        if not await self._store.create(new):
            before = await self._before(new.idempotency_key, new.request_sha256)
            if before is not None:
                return before
            await self._files.row(new.input_file_id)  # It was deleted just now, and this says so.
        self._carry(new.batch_id)
        return await self._row(new.batch_id)

    async def _before(self, key: str | None, wanted: bytes | None) -> BatchRow | None:
        """What was created under a key before. Raises RbeesError IDEMPOTENCY_CONFLICT."""
        row = None if key is None else await self._store.batch_under(key)
        if row is not None and row.request_sha256 != wanted:
            message = "This Idempotency-Key was used for another batch; send a new key."
            raise RbeesError(ErrorCode.IDEMPOTENCY_CONFLICT, message, batch_id=row.batch_id)
        return row

    async def show(self, batch_id: str) -> BatchObject:
        """A batch. Raises RbeesError BATCH_NOT_FOUND."""
        return batch_object(await self._row(batch_id))

    async def list(self, *, after: str | None, limit: int) -> list[BatchObject]:
        """At most `limit` batches, newest first, behind the one with the id `after`."""
        return [batch_object(row) for row in await self._store.batches(after=after, limit=limit)]

    async def cancel(self, batch_id: str) -> BatchObject:
        """Have a batch end soon, with what has come so far. Raises RbeesError BATCH_NOT_FOUND, BATCH_ENDED, STORAGE_FULL."""
        return batch_object(await self._crew.whole(self._cancelled(batch_id), "batch_cancelled"))

    async def _cancelled(self, batch_id: str) -> BatchRow:
        asked = await self._store.cancel(batch_id, self._clock.unix_ms())
        row = await self._row(batch_id)
        running = self._running.get(batch_id)
        # Also where an earlier call had it cancelled: to be told twice does no harm, and not to be told would run every line.
        if row.status == "cancelling" and running is not None:
            running.give_up("cancelled")
        if not asked and row.status not in {"cancelling", "cancelled"}:
            message = f"This batch is `{row.status}`, so it cannot be cancelled; what came of it is in its files."
            raise RbeesError(ErrorCode.BATCH_ENDED, message, batch_id=batch_id, status=row.status)
        return row

    async def _row(self, batch_id: str) -> BatchRow:
        row = await self._store.batch(batch_id)
        if row is None:
            message = "No batch has this id; list them with `GET /v1/batches`."
            raise RbeesError(ErrorCode.BATCH_NOT_FOUND, message, batch_id=batch_id[:64])
        return row

    def _carry(self, batch_id: str) -> None:
        """Have a batch run, unless it does: one that is created while this process starts is found among the unfinished too."""
        if batch_id not in self._running:
            progress = self._running[batch_id] = Progress(batch_id, self._tools)
            self._crew.start(self._run(batch_id, progress), "batch")

    async def _run(self, batch_id: str, progress: Progress) -> None:
        try:
            await progress.run()
        except Exception as error:  # A batch that meets a defect would meet it at each start; it ends, and everybody else goes on.
            if _is_of_storage(error):
                raise
            log = logs.logger()
            log.critical("a batch failed by a defect", action="batch_defect", batch_id=batch_id, exc_info=error)
            await progress.fail()
        finally:
            del self._running[batch_id]

    async def _sweep_files(self) -> NoReturn:
        while True:
            try:
                await self._files.sweep()
            except RbeesError as error:
                logs.logger().warning("sweep of files put off", action="files_put_off", code=error.code)
            await self._clock.sleep(SWEEP_S)


def _is_of_storage(error: Exception) -> bool:
    """Whether the database is broken, which is no matter of one batch."""
    return bool(error.subgroup(StorageBroken)) if isinstance(error, ExceptionGroup) else isinstance(error, StorageBroken)


def batch_object(row: BatchRow) -> BatchObject:
    """A batch as clients see it."""
    so_far, has_files = row.so_far, row.ended_at_ms is not None

    def ended(status: BatchStatus) -> int | None:
        return _seconds(row.ended_at_ms) if row.status == status else None

    errors = None if row.errors is None else BatchErrors(data=msgspec.json.decode(row.errors, type=tuple[BatchError, ...]))
    return BatchObject(
        id=row.batch_id,
        endpoint=row.endpoint,
        model=row.model,
        errors=errors,
        input_file_id=row.input_file_id,
        completion_window=WINDOW,
        status=row.status,
        output_file_id=row.output_file_id if has_files and so_far.output_bytes else None,
        error_file_id=row.error_file_id if has_files and so_far.error_bytes else None,
        created_at=row.created_at_ms // 1000,
        in_progress_at=_seconds(row.in_progress_at_ms),
        expires_at=row.expires_at_ms // 1000,
        finalizing_at=_seconds(row.finalizing_at_ms),
        completed_at=ended("completed"),
        failed_at=ended("failed"),
        expired_at=ended("expired"),
        cancelling_at=_seconds(row.cancelling_at_ms),
        cancelled_at=ended("cancelled"),
        request_counts=RequestCounts(total=row.total, completed=so_far.completed, failed=so_far.failed),
        usage=BatchUsage(
            input_tokens=so_far.input_tokens,
            input_tokens_details=InputDetails(cached_tokens=so_far.cached_tokens),
            output_tokens=so_far.output_tokens,
            output_tokens_details=OutputDetails(reasoning_tokens=so_far.reasoning_tokens),
            total_tokens=so_far.input_tokens + so_far.output_tokens,
        ),
        metadata=None if row.metadata is None else msgspec.json.decode(row.metadata, type=dict[str, str]),
    )


def _seconds(at_ms: int | None) -> int | None:
    return None if at_ms is None else at_ms // 1000
