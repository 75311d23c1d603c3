"""The relay: the same bytes to everybody, however late and however slow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from rbees.orcd.group import ROW_BYTES
from rbees.orcd.live import LiveJob
from rbees.orcd.relay import TAIL_BYTES, Relay, Tail
from rbees.orcd.store.jobs import JOURNAL_BYTES_PER_READ
from rbees.protocol.events import Event
from rbees.service.clock import ManualClock
from tests.support.orcd_parts import Desk, end, settle, started, token


class Theatre:
    """A job that runs, and its relay."""

    def __init__(self, desk: Desk, job: LiveJob) -> None:
        self.desk = desk
        self.job = job
        self.relay = Relay(desk.store, desk.figures)
        self.seq = 0
        self.index = 0
        desk.journal._publish = self.relay.publish  # The desk only lists what is published.

    async def play(self, tokens: int = 0, *, start: bool = False, finish: bool = False, text: str = "hum ") -> None:
        """Have the worker send, one commit for each event."""
        events: list[Event] = [started()] if start else []
        events += [token(self.index + n, text) for n in range(tokens)]
        events += [end()] if finish else []
        for event in events:
            self.seq += 1
            self.desk.take(self.job, 1, self.seq, event)
            await self.desk.journal.settled()
        self.index += tokens

    def watch(self, after: int = 0) -> asyncio.Task[bytes]:
        """A client that reads to the end."""
        return asyncio.create_task(self._read(after))

    async def _read(self, after: int) -> bytes:
        async with self.relay.watch(self.job.number, after, lambda: self.job.job_id in self.desk.journal.live) as pieces:
            return b"".join([piece async for piece in pieces])

    @property
    def stored(self) -> bytes:
        return self.desk.bytes_of(self.job.number)


@pytest.fixture
async def theatre() -> AsyncIterator[Theatre]:
    async with Desk(ManualClock()) as desk:
        yield Theatre(desk, await desk.running())


async def test_every_reader_gets_the_stored_bytes(theatre: Theatre) -> None:
    early = theatre.watch()
    await settle()
    await theatre.play(3, start=True)
    middle = theatre.watch()
    await theatre.play(3, finish=True)
    late = theatre.watch()
    assert await early == await middle == await late == theatre.stored


async def test_a_resumed_stream_is_the_tail_of_the_whole(theatre: Theatre) -> None:
    await theatre.play(10, start=True, finish=True)
    whole = await theatre.watch()
    frames = [frame + b"\n\n" for frame in whole.split(b"\n\n")[:-1]]
    for after in range(len(frames) + 2):
        assert await theatre.watch(after) == b"".join(frames[after:])


async def test_a_row_of_several_events_is_cut_where_the_reader_left_off(theatre: Theatre) -> None:
    theatre.desk.database.gate.clear()
    theatre.desk.take(theatre.job, 1, 1, started())
    for index in range(8):
        theatre.desk.take(theatre.job, 1, index + 2, token(index))
    theatre.desk.take(theatre.job, 1, 10, end())
    theatre.desk.database.gate.set()
    await settle()
    whole = theatre.stored
    for after in range(12):
        assert await theatre.watch(after) == b"".join(frame + b"\n\n" for frame in whole.split(b"\n\n")[after:-1])


async def test_a_slow_reader_falls_back_to_the_disk(theatre: Theatre) -> None:
    await theatre.play(start=True)
    async with theatre.relay.watch(theatre.job.number, 0, lambda: True) as pieces:
        seen = [await anext(pieces)]
        await theatre.play(50, text="hum " * 1000)
        tail = theatre.relay._tails[theatre.job.number]
        assert tail._bytes < TAIL_BYTES + 5000, "what a slow client has not read does not stay in memory"
        await theatre.play(finish=True)
        seen += [piece async for piece in pieces]
    assert b"".join(seen) == theatre.stored


async def test_a_reader_beyond_the_end_of_an_ended_job_gets_nothing(theatre: Theatre) -> None:
    await theatre.play(1, start=True, finish=True)
    assert await theatre.watch(99) == b""


async def test_closing_ends_every_stream(theatre: Theatre) -> None:
    await theatre.play(2, start=True)
    reading = theatre.watch()
    await settle()
    theatre.relay.close()
    assert theatre.stored.startswith(await reading)
    assert not theatre.relay.is_watched(theatre.job.number)


async def test_closing_hands_over_what_has_come_before(theatre: Theatre) -> None:
    await theatre.play(start=True)
    async with theatre.relay.watch(theatre.job.number, 0, lambda: True) as pieces:
        read = await anext(pieces)
        await theatre.play(tokens=2, finish=True)
        theatre.relay.close()
        read += b"".join([piece async for piece in pieces])
    assert read == theatre.stored
    assert read.count(b"event: end") == 1


async def test_nothing_is_kept_for_jobs_that_nobody_watches(theatre: Theatre) -> None:
    await theatre.play(5, start=True)
    assert theatre.relay._tails == {}
    reading = theatre.watch()
    await settle()
    assert theatre.relay.is_watched(theatre.job.number)
    await theatre.play(finish=True)
    await reading
    assert theatre.relay._tails == {}


def test_a_tail_knows_what_it_no_longer_has() -> None:
    tail = Tail()
    assert tail.after(0) == []
    assert not tail.has_news(0)


async def test_a_reader_beyond_the_end_of_a_running_job_is_let_go_when_that_ends(theatre: Theatre) -> None:
    await theatre.play(1, start=True)
    reading = theatre.watch(99)
    await settle()
    await theatre.play(2, finish=True)
    async with asyncio.timeout(30):
        assert await reading == b""


async def test_a_slow_reader_whose_job_is_erased_meanwhile_is_let_go(theatre: Theatre) -> None:
    await theatre.play(start=True)
    async with theatre.relay.watch(theatre.job.number, 0, lambda: False) as pieces:
        await anext(pieces)
        await theatre.play(5, finish=True, text="hum " * TAIL_BYTES)
        theatre.desk.database.connection.execute("DELETE FROM journal")
        async with asyncio.timeout(30):
            assert [piece async for piece in pieces] == []


async def test_a_long_stream_is_read_from_the_disk_in_bounded_pieces(theatre: Theatre) -> None:
    await theatre.play(50, start=True, finish=True, text="hum " * 4000)
    async with theatre.relay.watch(theatre.job.number, 0, lambda: False) as pieces:
        seen = [piece async for piece in pieces]
    assert len(theatre.stored) > 2 * JOURNAL_BYTES_PER_READ
    assert max(map(len, seen)) < JOURNAL_BYTES_PER_READ + 20_000
    assert b"".join(seen) == theatre.stored


async def test_what_one_commit_brought_after_a_long_wait_is_read_in_bounded_pieces_too(theatre: Theatre) -> None:
    desk, job = theatre.desk, theatre.job
    await theatre.play(start=True)
    desk.database.gate.clear()
    for index in range(200):
        desk.take(job, 1, index + 2, token(index, "hum " * 500))
    commits = desk.database.commits
    desk.database.gate.set()
    await desk.journal.settled()
    assert desk.database.commits - commits <= 2
    theatre.seq += 200
    await theatre.play(finish=True)
    async with theatre.relay.watch(job.number, 0, lambda: False) as pieces:
        seen = [piece async for piece in pieces]
    assert len(theatre.stored) > 200 * 2000
    assert max(map(len, seen)) < JOURNAL_BYTES_PER_READ + ROW_BYTES + 4000
    assert b"".join(seen) == theatre.stored
