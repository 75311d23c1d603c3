"""Sends the journal to clients: the same bytes to everybody, whenever they ask and however fast they read.

Each watched job has one short tail of its latest committed frames, shared by all who watch it. A watcher is nothing but a
position: within the tail it is served from memory, behind it from the disk. So a client that reads slowly costs no memory.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from rbees.orcd.figures import Figures
from rbees.orcd.frames import is_terminal, split
from rbees.orcd.group import Run
from rbees.orcd.store.jobs import JobStore

TAIL_BYTES: Final = 64 * 1024


class Tail:
    """The newest committed frames of one job, and those who wait for more."""

    def __init__(self) -> None:
        self._frames: deque[bytes] = deque()
        self._first_seq = 1
        self._bytes = 0
        self.ended = False
        self.watchers: set[Watcher] = set()

    @property
    def last_seq(self) -> int:
        """The newest event held; meaningless while nothing is held."""
        return self._first_seq + len(self._frames) - 1

    def add(self, run: Run) -> None:
        """Take committed events up and wake all watchers."""
        if not self._frames:
            self._first_seq = run.first_seq
        for frame in run.frames:
            self._frames.append(frame)
            self._bytes += len(frame)
        while self._bytes > TAIL_BYTES and len(self._frames) > 1:
            self._bytes -= len(self._frames.popleft())
            self._first_seq += 1
        self.ended = run.ended
        for watcher in self.watchers:
            watcher.wake()

    def has_news(self, position: int) -> bool:
        """Whether events after `position` are held."""
        return bool(self._frames) and self.last_seq > position

    def after(self, position: int) -> list[bytes] | None:
        """The frames after `position`, or None where some of them are held no more."""
        if position + 1 < self._first_seq:
            return None
        return list(self._frames)[position + 1 - self._first_seq :]


class Watcher:
    """One client's position in one job's stream."""

    def __init__(
        self, store: JobStore, tail: Tail, number: int, after: int, is_live: Callable[[], bool], *, is_newest: bool = False
    ) -> None:
        self._store = store
        self._tail = tail
        self.number = number
        """Of the job."""
        self._is_live = is_live
        self._position = after
        self._news = asyncio.Event()
        self._disk_is_read = is_newest
        self._over = False
        self._closing = False

    def wake(self) -> None:
        """There is more, or nothing will come any more."""
        self._news.set()

    def end(self) -> None:
        """Nothing will come any more: the daemon stops. What has come is still handed over, a terminal event above all."""
        self._closing = True
        self.wake()

    async def pieces(self) -> AsyncIterator[bytes]:
        """Whole frames as they become durable; ends after the terminal event."""
        while not self._over:
            self._news.clear()
            if self._tail.has_news(self._position):
                piece = self._from_tail() or await self._from_disk()
                if not piece:
                    # Older than the tail and gone from the disk: retention erased it while this client was reading.
                    return
            elif not self._disk_is_read:
                piece = await self._from_disk()
            elif self._closing:
                return
            elif self._is_live():
                await self._news.wait()
                continue
            else:
                # All that was ever written has been handed over, or lies before the position that the client asked for.
                return
            if piece:
                yield piece

    def _from_tail(self) -> bytes | None:
        frames = self._tail.after(self._position)
        if frames is None:
            return None
        self._position += len(frames)
        self._over = self._over or self._tail.ended
        return b"".join(frames)

    async def _from_disk(self) -> bytes:
        piece: list[bytes] = []
        rows = await self._store.journal_from(self.number, self._position + 1)
        self._disk_is_read = not rows
        for row in rows:
            frames = split(row.frames)
            piece += frames[max(0, self._position + 1 - row.first_seq) :]
            self._position = row.last_seq
            if is_terminal(frames[-1]):
                self._over = True
        return b"".join(piece)


class Relay:
    """All watchers."""

    def __init__(self, store: JobStore, figures: Figures) -> None:
        self._store = store
        self._figures = figures
        self._tails: dict[int, Tail] = {}
        self._closed = False

    def publish(self, run: Run) -> None:
        """Events of a job are durable."""
        tail = self._tails.get(run.number)
        if tail is not None:
            tail.add(run)

    def is_watched(self, number: int) -> bool:
        """Whether anybody watches the job."""
        return number in self._tails

    def follow(self, number: int, after: int, is_live: Callable[[], bool], *, is_newest: bool = False) -> Watcher:
        """A watcher of the job's frames after event `after`, until `leave`; `is_live` tells whether the job has not ended.

        `is_newest` says that `after` is the last event that is durable at this moment, so that nothing is to be read from the disk.
        """
        tail = self._tails.setdefault(number, Tail())
        watcher = Watcher(self._store, tail, number, after, is_live, is_newest=is_newest)
        tail.watchers.add(watcher)
        self._figures.watchers.inc()
        if self._closed:
            watcher.end()
        return watcher

    def leave(self, watcher: Watcher) -> None:
        """The client of a watcher has gone."""
        self._figures.watchers.dec()
        watchers = self._tails[watcher.number].watchers
        watchers.discard(watcher)
        if not watchers:
            del self._tails[watcher.number]

    @asynccontextmanager
    async def watch(self, number: int, after: int, is_live: Callable[[], bool]) -> AsyncIterator[AsyncIterator[bytes]]:
        """The job's frames after event `after`, as an iterator that ends when the job has; `is_live` tells whether it has."""
        watcher = self.follow(number, after, is_live)
        try:
            yield watcher.pieces()
        finally:
            self.leave(watcher)

    def close(self) -> None:
        """End every stream where it stands; clients resume with `Last-Event-ID`."""
        self._closed = True
        for tail in self._tails.values():
            for watcher in tail.watchers:
                watcher.end()
