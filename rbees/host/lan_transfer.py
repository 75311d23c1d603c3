"""One file, put together from the pieces that several pools give.

Whose sums are the file's own is not known before the whole is there: what a source says of the pieces is believed if most sources
say the same, and if the whole then has another sum than it should, those who said it have lied, and the others are believed.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, TypeVar

from rbees.host.lan_sources import LOOK_EVERY_S, STALL_S, Source
from rbees.host.piece_sums import add_extent, sum_of_extent
from rbees.host.pieces import PieceTable
from rbees.protocol.downloads import FilePieces, HubFile
from rbees.protocol.errors import ErrorCode, RbeesError

SETTLE_S: Final = 2.0
"""So long after the first source has said what the pieces' sums are, the others are waited for."""
NOTHING_NEW_S: Final = 30.0
"""A source that fetches the file itself and has had nothing new for so long will not have it in time."""
SUM_AT_ONCE_BYTES: Final = 64 << 20

T = TypeVar("T")
Sums = tuple[str, ...]


class WrongPiece(Exception):
    """What a source gave is not what it said itself."""


class Transfer:
    """Fills the file behind `descriptor`; `on_begun` and `on_held` tell which of its pieces are right, `on_progress` the bytes."""

    def __init__(
        self,
        file: HubFile,
        descriptor: int,
        sources: Sequence[Source],
        *,
        on_progress: Callable[[int], None],
        on_begun: Callable[[FilePieces], None],
        on_held: Callable[[Sequence[int]], None],
    ) -> None:
        self._file = file
        self._descriptor = descriptor
        self._sources = [source for source in sources if not source.is_dropped]
        self._on_progress = on_progress
        self._on_begun = on_begun
        self._on_held = on_held
        self._said: dict[Source, FilePieces] = {}
        self._asking: set[asyncio.Task[None]] = set()
        self._working: set[asyncio.Task[None]] = set()
        self._pulse = asyncio.Event()
        self._fetched_bytes = 0

    async def run(self) -> int:
        """Have the whole file, and its sum right; how many bytes were fetched.

        Raises:
            RbeesError: DOWNLOAD_FAILED: no source is left. What came is kept.
            OSError: the file cannot be written.
        """
        self._asking = {asyncio.create_task(self._ask(source)) for source in self._sources}
        try:
            await self._first_answers()
            while (believed := self._believed()) is not None:
                if await self._round(believed):
                    for source, said in self._said.items():
                        if said.pieces != believed.pieces:
                            source.drop("What it has under this sha256 is another file.")
                    return self._fetched_bytes
        finally:
            await _end(self._asking)
        raise RbeesError(
            ErrorCode.DOWNLOAD_FAILED,
            f"None of the pools could give {self._file.path} whole; what came is kept, ask again to go on.",
        )

    # ---- what the pieces' sums are ---------------------------------------------------------------------------------------

    async def _ask(self, source: Source) -> None:
        found = await source.pieces(self._file)
        if found is not None:
            self._said[source] = found

    async def _first_answers(self) -> None:
        while not self._said and (waiting := {task for task in self._asking if not task.done()}):
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if self._asking:
            await asyncio.wait(self._asking, timeout=SETTLE_S)

    def _believed(self) -> FilePieces | None:
        """What most sources say; of two that as many say, what was said first."""
        counted: Counter[Sums] = Counter(said.pieces for source, said in self._said.items() if not source.is_dropped)
        if not counted:
            return None
        pieces = counted.most_common(1)[0][0]
        return next(said for said in self._said.values() if said.pieces == pieces)

    # ---- fetching --------------------------------------------------------------------------------------------------------

    async def _round(self, believed: FilePieces) -> bool:
        """Fetch what is missing from all who say the same; False where they have lied, or none of them is left."""
        table = PieceTable(believed.size_bytes, believed.piece_bytes, believed.pieces)
        self._on_begun(believed)
        await self._take_in(table)
        whole = _Whole()
        summing = asyncio.create_task(self._sum_whole(table, whole))
        begun: set[Source] = set()
        self._working = set()
        try:
            while not table.is_whole:
                for source in self._said.keys() - begun:
                    begun.add(source)
                    if self._said[source].pieces == believed.pieces and not source.is_dropped:
                        self._working.add(asyncio.create_task(self._work(source, table, whole)))
                busy = {task for task in self._working | self._asking | {summing} if not task.done()}
                if busy == {summing}:
                    return False
                done, _ = await asyncio.wait(busy, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()  # A disk that is full ends everything.
            await summing
        finally:
            await _end(self._working | {summing})
        right = whole.sha256 == self._file.sha256
        if not right:
            for source, said in self._said.items():
                if said.pieces == believed.pieces:
                    source.drop("The file that it gives has another sha256 than it says.")
        return right

    async def _take_in(self, table: PieceTable) -> None:
        """Sum what an earlier process left, wherever there is data."""
        if os.fstat(self._descriptor).st_size > table.size_bytes:
            os.ftruncate(self._descriptor, table.size_bytes)
        for number in range(len(table.sums)):
            first, length = table.extent(number)
            try:
                if os.lseek(self._descriptor, first, os.SEEK_DATA) >= first + length:
                    continue
            except OSError:
                break  # There is nothing behind.
            found = await _in_thread(partial(sum_of_extent, self._descriptor, first, length))
            if found == table.sums[number]:
                self._hold(table, number)
        self._on_progress(table.held_bytes)

    def _hold(self, table: PieceTable, number: int) -> bool:
        if not table.hold(number):
            return False
        self._on_held((number,))
        self._on_progress(table.held_bytes)
        self._wake()
        return True

    def _wake(self) -> None:
        """Everybody who waits for a change looks again."""
        self._pulse.set()
        self._pulse.clear()

    async def _work(self, source: Source, table: PieceTable, whole: _Whole) -> None:
        """Have a source give what it can, until all is here or it is dropped."""
        clock = source.clock.monotonic
        new_at = clock()
        while not table.is_whole and not source.is_dropped:
            sources = sum(not task.done() for task in self._working)
            run = table.take(sources, source.held)
            if run is None:
                if await self._wait_for_change(source):
                    new_at = clock()
                elif source.held is not None and clock() - new_at > NOTHING_NEW_S:
                    source.drop(f"It fetches the file itself and has had nothing new for {NOTHING_NEW_S:g} s.")
                continue
            try:
                await self._fetch(source, table, run, whole)
            except WrongPiece:
                source.drop("It gave bytes that are not the file's.")
            except RbeesError as error:
                table.give_back(run)
                run = range(0)
                self._wake()
                await source.failed(error)
            finally:
                table.give_back(run)
                self._wake()
            new_at = clock()

    async def _wait_for_change(self, source: Source) -> bool:
        """Until there may be something to do for this source; True if it has pieces that it did not have."""
        if source.held is None:
            await self._pulse.wait()
            return False
        looking = asyncio.create_task(source.clock.sleep(LOOK_EVERY_S))
        waking = asyncio.create_task(self._pulse.wait())
        try:
            await asyncio.wait({looking, waking}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            looking.cancel()
            waking.cancel()
        before = source.held
        await source.pieces(self._file)
        return source.held != before

    async def _fetch(self, source: Source, table: PieceTable, run: range, whole: _Whole) -> None:
        """Fetch a run; each piece is checked and written while the next one comes."""
        first, length = table.extent_of(run)
        checking: asyncio.Task[None] | None = None
        number, buffer, filled = run.start, _buffer(table, run.start), 0
        try:
            async with source.client.blob(self._file.sha256 or "", first, length, STALL_S) as chunks:
                async for chunk in chunks:
                    rest = memoryview(chunk)
                    while rest:
                        taken = min(len(rest), len(buffer) - filled)
                        buffer[filled : filled + taken] = rest[:taken]
                        filled, rest = filled + taken, rest[taken:]
                        if filled < len(buffer):
                            continue
                        if checking is not None:
                            await checking
                        checking = asyncio.create_task(self._check(source, table, number, buffer, whole))
                        number += 1
                        if all(table.holds(ahead) for ahead in range(number, run.stop)):
                            return  # Others were faster.
                        buffer, filled = _buffer(table, number), 0
            raise RbeesError(ErrorCode.POOL_UNREACHABLE, "It sent less than it was asked for.")
        finally:
            if checking is not None:
                await checking

    async def _check(self, source: Source, table: PieceTable, number: int, content: bytearray, whole: _Whole) -> None:
        """Keep a piece if it is right.

        Raises:
            WrongPiece: it is not.
            OSError: it cannot be written.
        """
        first, length = table.extent(number)
        if table.holds(number):
            return
        if not await _in_thread(partial(self._keep, content, first, number, table.sums[number], whole)):
            raise WrongPiece
        if self._hold(table, number):
            source.has_brought(length)
            self._fetched_bytes += length

    def _keep(self, content: bytearray, first: int, number: int, sha256: str, whole: _Whole) -> bool:
        if hashlib.sha256(content).hexdigest() != sha256:
            return False
        view = memoryview(content)
        while view:
            written = os.pwrite(self._descriptor, view, first)
            first, view = first + written, view[written:]
        whole.add(number, content)
        return True

    # ---- the whole -------------------------------------------------------------------------------------------------------

    async def _sum_whole(self, table: PieceTable, whole: _Whole) -> None:
        """Take into the sum of the whole what did not come in order."""
        while whole.number < len(table.sums):
            end = table.held_from(whole.number, SUM_AT_ONCE_BYTES)
            if end <= whole.number:
                await self._pulse.wait()
            else:
                await _in_thread(partial(whole.catch_up, self._descriptor, table, end))


class _Whole:
    """The sum of the whole, taken in order: a piece that comes as the next one is summed while it is still in memory."""

    def __init__(self) -> None:
        self.number = 0
        """Of the next piece."""
        self._digest = hashlib.sha256()
        self._lock = threading.Lock()

    @property
    def sha256(self) -> str:
        """Of all that was taken in."""
        return self._digest.hexdigest()

    def add(self, number: int, content: bytearray) -> None:
        """Take in a piece if it is the next one."""
        if self._lock.acquire(blocking=False):
            try:
                if number == self.number:
                    self._digest.update(content)
                    self.number += 1
            finally:
                self._lock.release()

    def catch_up(self, descriptor: int, table: PieceTable, end: int) -> None:
        """Take in the pieces before `end` from the file."""
        with self._lock:
            while self.number < end:
                add_extent(self._digest, descriptor, *table.extent(self.number))
                self.number += 1


def _buffer(table: PieceTable, number: int) -> bytearray:
    return bytearray(table.extent(number)[1])


async def _in_thread(act: Callable[[], T]) -> T:
    """As `asyncio.to_thread`, but it returns only once the thread has let go of the file, also when it is cancelled."""
    running = asyncio.get_running_loop().run_in_executor(None, act)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait({running})
        raise


async def _end(tasks: set[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
