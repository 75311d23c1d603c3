"""What came of a batch's lines, made durable: first as lines at the end of its two files, then as one row of the database.

The row says how much of each file counts and which lines they hold, in one commit. So a process killed in between has written what
does not count; the next one writes the same place again, and every line stands there once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Final, NoReturn, TypeVar

from rbees.orcd.batches.files import Files, append, size_of
from rbees.orcd.store.batches import BatchRow, BatchStore, FileRow, Recorded
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.service import logs
from rbees.service.clock import Clock

T = TypeVar("T")

GROUP_S: Final = 0.25
"""Between two commits, at least ..."""
SHARE: Final = 4
"""... and so many times as long as the one before took, for the jobs need the disk too, and nothing is lost by waiting."""
FULL_RETRY_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a line took."""

    input: int = 0
    cached: int = 0
    output: int = 0
    reasoning: int = 0


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a line."""

    place: int
    """Of the line among those that are not blank, from 0."""
    content: bytes
    is_answer: bool
    """It belongs in the output file, not in that of errors."""
    tokens: Tokens = Tokens()


class Record:
    """Of one batch whose lines are run. `run` does the writing; `recorded` is called after each commit."""

    def __init__(self, row: BatchRow, store: BatchStore, files: Files, clock: Clock, recorded: Callable[[], None]) -> None:
        self._row = row
        self._store = store
        self._files = files
        self._clock = clock
        self._recorded = recorded
        self._so_far = row.so_far
        self._held = bytearray(row.so_far.recorded or bytes(bytes_for(row.total)))
        self._pending: list[Result] = []
        self._arrived = asyncio.Event()
        self._no_pause = asyncio.Event()
        self.unwritten = 0
        """Results that are not durable yet."""

    def holds(self, place: int) -> bool:
        """Whether what came of a line is durable."""
        return bool(self._held[place >> 3] >> (place & 7) & 1)

    async def is_lost(self) -> bool:
        """Whether the files hold less than the database says, such as after a return to a backup without them."""
        try:
            sizes = await asyncio.gather(*(asyncio.to_thread(size_of, self._files.path(name)) for name, _ in self._parts()))
        except OSError:
            return True
        return any(size < counted for size, (_, counted) in zip(sizes, self._parts(), strict=True))

    def add(self, result: Result) -> None:
        """Have a result written."""
        self._pending.append(result)
        self.unwritten += 1
        self._arrived.set()

    async def run(self) -> NoReturn:
        """Write for ever."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            group, self._pending = self._pending, []
            begun_s = self._clock.monotonic()
            await self._write(group)
            self.unwritten -= len(group)
            self._recorded()
            await self._pause(SHARE * (self._clock.monotonic() - begun_s))

    def hurry(self) -> None:
        """Nothing more will come: write what has come without a pause."""
        self._no_pause.set()

    async def _pause(self, seconds: float) -> None:
        waits = [asyncio.ensure_future(wait) for wait in (self._clock.sleep(max(GROUP_S, seconds)), self._no_pause.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def finish(self, name: str) -> list[FileRow]:
        """The files as clients will see them, without what does not count; one that would be empty is none."""
        return [row for part in range(2) if (row := await self._finished(name, part)) is not None]

    async def saved(self, name: str) -> tuple[list[FileRow], int]:
        """As `finish`, where something is wrong with the files: those that are whole, and how many lines these tell of."""
        made, told = [], 0
        for part, (file_id, counted) in enumerate(self._parts()):
            try:
                if await asyncio.to_thread(size_of, self._files.path(file_id)) < counted:
                    await self._files.remove(file_id)
                elif (row := await self._finished(name, part)) is not None:
                    made.append(row)
                    told += (self._so_far.completed, self._so_far.failed)[part]
            except OSError as error:
                logs.logger().warning("a batch's file is of no use", action="batch_file_lost", batch_id=name, exc_info=error)
        return made, told

    async def _finished(self, name: str, part: int) -> FileRow | None:
        file_id, size = tuple(self._parts())[part]
        if not size:
            await self._files.remove(file_id)
            return None
        await self._append(file_id, size, b"")
        now_ms, after_s = self._clock.unix_ms(), self._row.output_expires_after_s
        expires_at_ms = None if after_s is None else now_ms + after_s * 1000
        return FileRow(file_id, f"{name}_{('output', 'error')[part]}.jsonl", "batch_output", size, now_ms, expires_at_ms)

    def _parts(self) -> Iterator[tuple[str, int]]:
        yield self._row.output_file_id, self._so_far.output_bytes
        yield self._row.error_file_id, self._so_far.error_bytes

    async def _write(self, group: list[Result]) -> None:
        answers = b"".join(result.content for result in group if result.is_answer)
        failures = b"".join(result.content for result in group if not result.is_answer)
        for (file_id, size), content in zip(self._parts(), (answers, failures), strict=True):
            if content:
                await self._append(file_id, size, content)
        for result in group:
            self._held[result.place >> 3] |= 1 << (result.place & 7)
        completed = sum(result.is_answer for result in group)
        before = self._so_far
        self._so_far = Recorded(
            completed=before.completed + completed,
            failed=before.failed + len(group) - completed,
            input_tokens=before.input_tokens + sum(result.tokens.input for result in group),
            cached_tokens=before.cached_tokens + sum(result.tokens.cached for result in group),
            output_tokens=before.output_tokens + sum(result.tokens.output for result in group),
            reasoning_tokens=before.reasoning_tokens + sum(result.tokens.reasoning for result in group),
            output_bytes=before.output_bytes + len(answers),
            error_bytes=before.error_bytes + len(failures),
            recorded=bytes(self._held),
        )
        await retried(lambda: self._store.record(self._row.batch_id, self._so_far), self._clock)

    async def _append(self, file_id: str, at: int, content: bytes) -> None:
        path = self._files.path(file_id)
        await retried(lambda: asyncio.to_thread(append, path, at, content), self._clock)


def bytes_for(total: int) -> int:
    """Of a bit for each of so many lines."""
    return (total + 7) // 8


async def retried(work: Callable[[], Awaitable[T]], clock: Clock) -> T:
    """Do `work` again until the disk has room for it."""
    while True:
        try:
            return await work()
        except RbeesError as error:
            if error.code is not ErrorCode.STORAGE_FULL:
                raise
        await clock.sleep(FULL_RETRY_S)
