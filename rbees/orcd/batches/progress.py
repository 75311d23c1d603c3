"""One batch from its validation to its end.

Lines are begun in the order of the file, as many at a time as `pace` allows, each as the jobs that its route would make of it,
under a key made of the batch and the line's place. What came of one goes to the record, and whatever has not come so far when this
process ends is asked for again by the next one, under the same keys.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Literal

from msgspec.structs import replace

from rbees.orcd.batches.endpoints import ENDPOINTS, Asked
from rbees.orcd.batches.files import Files
from rbees.orcd.batches.lines import BatchLine, answered, not_run, read_line, refused
from rbees.orcd.batches.objects import BatchError
from rbees.orcd.batches.pace import Pace
from rbees.orcd.batches.reading import lines, validate
from rbees.orcd.batches.record import Record, Result, Tokens, bytes_for, retried
from rbees.orcd.crew import Crew
from rbees.orcd.door.collected import Collected
from rbees.orcd.door.runs import Run, Runs
from rbees.orcd.openai.answers import identity
from rbees.orcd.openai.places import as_sent
from rbees.orcd.store.batches import BatchRow, BatchStore, FileRow
from rbees.protocol.batches import BatchEnd, BatchStatus
from rbees.protocol.codec import encode
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.events import Started
from rbees.protocol.jobs import JobRequest
from rbees.service import logs
from rbees.service.clock import Clock
from rbees.service.correlation import correlation_id

Over = Literal["cancelled", "expired"]

MOST_UNFINISHED: Final = 2_048
"""Lines of a batch that are begun and not durable yet, however fast they begin."""
MOST_BYTES: Final = 32 * 1024 * 1024
"""Of the lines that are begun; a single larger one is begun alone."""
LOOK_S: Final = 60.0
"""How often the wall clock is looked at, which may have been set."""
AGAIN_S: Final = 1.0
_OVER: Final[dict[BatchStatus, Over]] = {"cancelling": "cancelled", "finalizing": "expired"}
_GONE: Final = "The batch's files are gone from orcd's state folder; upload its input again."
_CHANGED: Final = "The batch's input file is not as it was uploaded; upload it again."
_DEFECT: Final = "orcd met a defect with this batch, of which its log tells; report that, and send the lines again."
_LATER: Final = frozenset({ErrorCode.QUEUE_FULL, ErrorCode.QUOTA_EXCEEDED, ErrorCode.STORAGE_FULL})
"""What a job may be refused for that is no fault of its line."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What every batch works with. `batches` tells how many there are."""

    store: BatchStore
    files: Files
    runs: Runs
    crew: Crew
    clock: Clock
    pace: Pace
    line_limit: int
    batches: Callable[[], int]


class Progress:
    """Of a batch that has not ended. `run` carries it to its end, `give_up` has that come soon."""

    _row: BatchRow
    """As it was when this process took it up, or when its lines began."""

    def __init__(self, batch_id: str, tools: Tools) -> None:
        self._id = batch_id
        self._tools = tools
        self._log = logs.logger()
        self._over: Over | None = None
        self._stopped = False
        """orcd is shutting down; the rest is for the next process."""
        self._changed = asyncio.Event()
        self._waiting = 0
        """Lines that are begun and of which no worker has begun anything."""
        self._open: dict[int, Sequence[Run]] = {}
        """Accepted jobs of lines that nothing has come of yet, by place."""
        self._lost: str | None = None
        """Why its files are not what they should be."""
        self._unwritable = False
        """Nothing that still comes can be recorded."""
        self._begun = 0
        self._begun_bytes = 0

    async def run(self) -> None:
        """Carry the batch to its end, or until orcd shuts down."""
        # Read only now that `give_up` finds it: whoever cancelled it is seen here, and whoever will calls that.
        row = await self._tools.store.batch(self._id)
        if row is None or row.ended_at_ms is not None:
            return
        self._row = row
        correlation_id.set(self._row.correlation_id)
        self._over = _OVER.get(self._row.status, self._over)
        self._lost = await self._input_lost()
        is_new = self._row.in_progress_at_ms is None
        if is_new and not await self._validated():
            return
        record = self._record()
        if self._lost is None and await record.is_lost():
            self._lost = _GONE
        if self._lost is None:
            accepted = set() if is_new else await self._accepted_before(record)
            await self._run_lines(record, accepted)
        if not self._stopped:
            await self._end(record)

    async def fail(self) -> None:
        """End the batch because of a defect, which every later process would meet again."""
        await self._lose("server_error", _DEFECT)

    def give_up(self, over: Over) -> None:
        """Begin no further line, and cancel the jobs of those that are begun; the database says so already."""
        self._over = self._over or over
        for runs in self._open.values():
            self._cancel(runs)
        self._changed.set()

    # ---- before and after ----------------------------------------------------------------------------------------------

    async def _input_lost(self) -> str | None:
        """Why the input is not what was uploaded, where that is so."""
        file = await self._tools.store.file(self._row.input_file_id)
        try:
            size = (await asyncio.to_thread(self._path.stat)).st_size
        except OSError as error:
            return _unusable(error)
        return None if file is not None and size == file.size_bytes else _CHANGED

    async def _validated(self) -> bool:
        """Whether the lines may be run; if not, the batch has ended."""
        tools, row = self._tools, self._row
        if self._lost is not None:
            await self._fail((BatchError(code="files_lost", message=self._lost),))
            return False
        try:
            validation = await validate(self._path, row.endpoint, tools.line_limit)
        except OSError as error:
            await self._fail((BatchError(code="files_lost", message=_unusable(error)),))
            return False
        errors = validation.errors
        if errors:
            await self._fail(errors)
            return False
        total, nothing = validation.total, bytes(bytes_for(validation.total))
        now_ms = tools.clock.unix_ms()
        if not await retried(lambda: tools.store.begin(self._id, now_ms, total, validation.model, nothing), tools.clock):
            await self._told_end("cancelled", None, [])
            return False
        begun = await tools.store.batch(self._id)
        assert begun is not None, "nobody deletes a batch"
        self._row = begun
        self._log.info("batch begins", action="batch_begun", batch_id=self._id, lines=total)
        return True

    async def _accepted_before(self, record: Record) -> set[int]:
        """The places of lines that an earlier process had jobs accepted for and that the record does not hold yet."""
        keys = await self._tools.store.keys_under(self._keys)
        places = {int(key.removeprefix(self._keys).partition("#")[0]) for key in keys}
        return {place for place in places if not record.holds(place)}

    async def _fail(self, errors: Sequence[BatchError]) -> None:
        """End a batch of which nothing can be run."""
        if self._over == "cancelled":
            await self._told_end("cancelled", None, [])
        else:
            await self._told_end("failed", encode(errors), [])

    async def _lose(self, code: str, why: str) -> None:
        """End a batch that cannot go on, with what came of it so far and counts of the rest, whose lines can be named by none."""
        row = await self._tools.store.batch(self._id)
        assert row is not None, "nobody deletes a batch"
        if row.ended_at_ms is not None:
            return
        self._row = row
        files, told = await self._record().saved(self._id)
        if row.total:
            why = f"{why} What became of {row.total - told} of its {row.total} lines stands in no file."
        await self._told_end("failed", encode((BatchError(code=code, message=why),)), files)

    async def _end(self, record: Record) -> None:
        files: list[FileRow] = []
        if self._lost is None:
            try:
                files = await record.finish(self._id)
            except OSError as error:
                self._lost = _unusable(error)
        if self._lost is None:
            await self._told_end(self._over or "completed", None, files)
        else:
            await self._lose("files_lost", self._lost)

    async def _told_end(self, status: BatchEnd, errors: bytes | None, files: list[FileRow]) -> None:
        tools, batch_id = self._tools, self._id
        now_ms = tools.clock.unix_ms()
        await retried(lambda: tools.store.end(batch_id, status, now_ms, errors, files), tools.clock)
        self._log.info("batch ended", action="batch_ended", batch_id=batch_id, status=status)

    async def _watch_the_clock(self) -> None:
        """Have the batch be over when its time is."""
        tools, row = self._tools, self._row
        while (left_ms := row.expires_at_ms - tools.clock.unix_ms()) > 0:
            await tools.clock.sleep(min(left_ms / 1000, LOOK_S))
        if await retried(lambda: tools.store.expire(self._id, tools.clock.unix_ms()), tools.clock):
            self.give_up("expired")

    # ---- lines ---------------------------------------------------------------------------------------------------------

    async def _run_lines(self, record: Record, accepted: set[int]) -> None:
        """All that the record does not hold, until it does or orcd shuts down."""
        async with asyncio.TaskGroup() as tasks:
            beside = [tasks.create_task(self._write(record)), tasks.create_task(self._watch_the_clock())]
            await self._begin_lines(record, accepted, tasks)
            await self._until(lambda: not self._begun)
            record.hurry()
            await self._until(lambda: self._unwritable or not record.unwritten)
            for task in beside:
                task.cancel()

    async def _write(self, record: Record) -> None:
        try:
            await record.run()
        except OSError as error:
            self._lost, self._unwritable = _unusable(error), True
            self.give_up("cancelled")  # Nothing can be done with what comes of them.

    async def _begin_lines(self, record: Record, accepted: set[int], tasks: asyncio.TaskGroup) -> None:
        """All of them; where the file is another than the one that was looked through, those before the place where that shows."""
        try:
            await self._begin_each(record, accepted, tasks)
        except OSError as error:
            self._lost = _unusable(error)
        except _ChangedError:
            self._lost = _CHANGED

    async def _begin_each(self, record: Record, accepted: set[int], tasks: asyncio.TaskGroup) -> None:
        place = -1
        async for line in lines(self._path, self._tools.line_limit):
            place += 1
            if place >= self._row.total:
                raise _ChangedError
            if record.holds(place):
                continue
            read = _read(line)
            await self._until(partial(self._has_room, record, len(line)))
            if self._stopped or self._unwritable:
                return
            if self._over is not None and place not in accepted:
                record.add(Result(place, not_run(self._line_id(place), read.custom_id, self._over), is_answer=False))
                await asyncio.sleep(0)
                continue
            self._begun += 1
            self._begun_bytes += len(line)
            tasks.create_task(self._carry(record, place, read, len(line), _Wait(self)))
        if place + 1 < self._row.total:
            raise _ChangedError

    def _has_room(self, record: Record, size: int) -> bool:
        """Whether a further line may be begun, or told to be over."""
        if self._unwritable:
            return True
        if self._begun + record.unwritten >= MOST_UNFINISHED:
            return self._stopped
        if self._stopped or self._over is not None:
            return True
        if self._begun and self._begun_bytes + size > MOST_BYTES:
            return False
        return self._waiting < self._tools.pace.may_wait(self._tools.clock.monotonic(), self._tools.batches())

    async def _carry(self, record: Record, place: int, read: BatchLine, size: int, wait: _Wait) -> None:
        try:
            result = await self._result(place, read, wait)
            if result is not None:
                record.add(result)
        finally:
            wait.end(runs=False)
            self._begun -= 1
            self._begun_bytes -= size
            self._changed.set()

    async def _result(self, place: int, read: BatchLine, wait: _Wait) -> Result | None:
        """What came of a line; None where orcd shuts down before anything has."""
        id_ = self._line_id(place)
        try:
            asked = ENDPOINTS[self._row.endpoint](bytes(read.body))
        except RbeesError as error:
            return Result(place, refused(id_, read.custom_id, None, error), is_answer=False)
        again = 0
        while True:
            async with AsyncExitStack() as stack:
                runs: list[Run] = []
                try:
                    for number, job in enumerate(asked.jobs):
                        runs.append(await self._accepted(stack, self._job(job), self._key(place, number, again)))
                    return await self._answer(place, id_, read.custom_id, asked, runs, wait)
                except RbeesError as error:
                    if error.code is ErrorCode.OUTPUT_ERASED and self._over is None:
                        # It ended while nobody looked, and what came of it is gone: the line is run once more.
                        await _give_up(runs)
                        again += 1
                        continue
                    if error.code is not ErrorCode.DRAINING:
                        return await self._failure(place, id_, read.custom_id, runs, as_sent(error, asked.sent))
                    if self._tools.runs.is_draining:
                        self._stopped = True
                        return None
            # A stream that ended without an end was erased while it was read; under the same key, OUTPUT_ERASED is what is said.
            await self._tools.clock.sleep(AGAIN_S)

    async def _accepted(self, stack: AsyncExitStack, job: JobRequest, key: str) -> Run:
        """The job of that key, once there is room for it. Raises RbeesError: it is refused."""
        while True:
            try:
                (run,) = await stack.enter_async_context(self._tools.runs.of([job], key))
                return run
            except RbeesError as error:
                if error.code not in _LATER or self._over is not None:
                    raise
            await self._tools.clock.sleep(AGAIN_S)

    async def _failure(self, place: int, id_: str, custom_id: str, runs: Sequence[Run], error: RbeesError) -> Result:
        if len(runs) > 1:
            await _give_up(runs)  # What goes on of them would do so for nobody.
        if self._over is not None and error.code in {ErrorCode.CANCELLED, *_LATER}:
            return Result(place, not_run(id_, custom_id, self._over), is_answer=False)
        request_id = runs[0].row.job_id if runs else None
        return Result(place, refused(id_, custom_id, request_id, error), is_answer=False)

    async def _answer(self, place: int, id_: str, custom_id: str, asked: Asked, runs: Sequence[Run], wait: _Wait) -> Result:
        self._open[place] = runs
        if self._over is not None:
            self._cancel(runs)
        try:
            collected = [await _collect(run, asked.choices, wait) for run in runs]
        finally:
            del self._open[place]
        row = runs[0].row
        told = identity(asked.prefix, row.job_id, row.created_at_ms, asked.model, row.model_sha256)
        content = answered(id_, custom_id, row.job_id, asked.answer(told, collected), asked.passed_over)
        return Result(place, content, is_answer=True, tokens=_tokens(collected))

    def _job(self, job: JobRequest) -> JobRequest:
        """As part of a batch, which nobody has to stay for, and which is one session: batches take turns."""
        return replace(job, priority="batch", session_id=self._id, cancel_on_disconnect=False)

    @property
    def _path(self) -> Path:
        return self._tools.files.path(self._row.input_file_id)

    def _record(self) -> Record:
        return Record(self._row, self._tools.store, self._tools.files, self._tools.clock, self._changed.set)

    @property
    def _keys(self) -> str:
        """What the keys of all its jobs begin with. A header holds no line break, so no client's own key is one of these."""
        return f"{self._id}\n"

    def _key(self, place: int, number: int, again: int) -> str:
        """Of one of a line's jobs; `again` counts how often what came of them was erased before it was recorded."""
        return f"{self._keys}{place}#{number}{f'#{again}' if again else ''}"

    def _line_id(self, place: int) -> str:
        return f"batch_req_{self._id.removeprefix('batch_')}_{place + 1}"

    def _cancel(self, runs: Sequence[Run]) -> None:
        self._tools.crew.start(_give_up(runs), "batch_given_up")

    async def _until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            self._changed.clear()
            await self._changed.wait()

    def waits(self) -> None:
        """A line more waits for a worker."""
        self._waiting += 1

    def waits_no_more(self, *, runs: bool) -> None:
        """One less: a worker runs it, or it needs none any more."""
        self._waiting -= 1
        if runs:
            self._tools.pace.begun(self._tools.clock.monotonic())
        self._changed.set()


class _ChangedError(Exception):
    """The input file is another than the one that was looked through."""


class _Wait:
    """Of one line for a worker."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._is_over = False
        progress.waits()

    def end(self, *, runs: bool) -> None:
        """It is over, where it was not before."""
        if not self._is_over:
            self._is_over = True
            self._progress.waits_no_more(runs=runs)


def _read(line: bytes) -> BatchLine:
    try:
        return read_line(line)
    except RbeesError:
        raise _ChangedError from None


def _unusable(error: OSError) -> str:
    """What is wrong with the files of a batch."""
    if isinstance(error, FileNotFoundError):
        return _GONE
    return f"The batch's files in orcd's state folder cannot be used ({error.strerror}); mend that and upload its input again."


async def _collect(run: Run, choices: int, wait: _Wait) -> Collected:
    """What came of a job. Raises RbeesError: it failed, or orcd shuts down."""
    collected = Collected(choices)
    async for events in run.events():
        for event in events:
            if isinstance(event, Started):
                wait.end(runs=True)
            collected.take(event)
    return collected


async def _give_up(runs: Sequence[Run]) -> None:
    for run in runs:
        # One that was deleted meanwhile needs no cancelling.
        with suppress(RbeesError):
            await run.give_up()


def _tokens(collected: Sequence[Collected]) -> Tokens:
    usages = [one.usage for one in collected if one.usage is not None]
    return Tokens(
        input=sum(usage.prompt_tokens for usage in usages),
        cached=sum(usage.cached_tokens for usage in usages),
        output=sum(usage.completion_tokens for usage in usages),
        reasoning=sum(one.thought_tokens for one in collected),
    )
