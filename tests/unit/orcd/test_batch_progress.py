"""Batches over a real journal: how many lines are begun, what stands in the files after any break, and how one ends early."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, Final, cast

import pytest
from msgspec.structs import replace

from rbees.orcd.batches import files as files_module
from rbees.orcd.batches import reading
from rbees.orcd.batches.batches import Batches
from rbees.orcd.batches.endpoints import ENDPOINTS
from rbees.orcd.batches.files import Files, append
from rbees.orcd.batches.objects import BatchObject, BatchRequest, ExpiresAfter
from rbees.orcd.batches.pace import LEAST
from rbees.orcd.batches.record import Record, Result, Tokens
from rbees.orcd.crew import Crew
from rbees.orcd.door.runs import Runs
from rbees.orcd.jobs import Jobs
from rbees.orcd.live import LiveJob
from rbees.orcd.relay import Relay
from rbees.orcd.scheduler.core import Scheduler
from rbees.orcd.scheduler.events import CancelAsked, Event, JobArrived
from rbees.orcd.scheduler.policy import Policy
from rbees.orcd.store import queries
from rbees.orcd.store.batches import BatchRow, BatchStore, FileRow
from rbees.orcd.store.sqlite import Database
from rbees.protocol.errors import ErrorBody, ErrorCode, RbeesError
from rbees.protocol.events import Event as WorkerEvent
from rbees.service.clock import ManualClock
from tests.support.orcd_parts import Desk, end, settle, started, token

CHATS: Final = "/v1/chat/completions"
DAY_S: Final = 24 * 3_600
PATIENCE_S: Final = 20.0


class Hive:
    """Batches of one process after the other over the same disk. Workers do nothing by themselves: a test has them answer."""

    def __init__(self, desk: Desk, clock: ManualClock, folder: Path) -> None:
        self.desk = desk
        self.clock = clock
        self.store = BatchStore(cast("Database", desk.database), queries.load())
        self.files = Files(folder, self.store, clock, max_file_bytes=1 << 20)
        self.relay = Relay(desk.store, desk.figures)
        desk.listeners.append(self.relay.publish)
        self.arrived: list[str] = []
        """Jobs, in the order in which they were accepted."""
        self.queue_limit = 0
        self.crew = Crew()
        self.batches = self._batches()

    def _batches(self) -> Batches:
        self.crew = Crew()
        self.jobs = Jobs(
            self.desk.journal,
            self.desk.store,
            Scheduler(Policy()),
            self.relay,
            self.clock,
            self.crew,
            self._heard,
            self.queue_limit,
        )
        runs = Runs(self.jobs, self.relay, self.crew)
        return Batches(self.store, self.files, runs, self.crew, self.clock, queue_limit=self.queue_limit, line_limit=100_000)

    def _heard(self, event: Event) -> None:
        if isinstance(event, JobArrived):
            self.arrived.append(event.job.job_id)
        elif isinstance(event, CancelAsked) and event.job_id in self.desk.journal.live:
            error = ErrorBody(code=ErrorCode.CANCELLED, message="It was cancelled.")
            self.desk.journal.finish(self.live(event.job_id), "cancelled", error)

    async def restart(self) -> None:
        """The process is killed and the next one begins; jobs that it accepted go on, as recovery has them."""
        await self.crew.dismiss()
        self.batches = self._batches()
        await self.files.clean()
        await self.batches.start()

    async def upload(self, *contents: bytes) -> str:
        with self.files.upload() as upload:
            await upload.write(b"\n".join(contents))
            return (await upload.keep("in", "batch", None)).file_id

    async def begin(self, lines: int, name: str = "line", **fields: Any) -> BatchObject:
        file_id = await self.upload(*[chat(f"{name}-{number}") for number in range(lines)])
        return await self.batches.create(BatchRequest(input_file_id=file_id, endpoint=CHATS, completion_window="24h", **fields))

    def live(self, job_id: str) -> LiveJob:
        return self.desk.journal.live[job_id]

    async def answer(self, *job_ids: str) -> None:
        """A worker makes a whole answer of two tokens."""
        for job_id in job_ids:
            job = self.live(job_id)
            await self.desk.journal.begin_attempt(job, 1, "worker-a", "pool")
            events: tuple[WorkerEvent, ...] = (started(), token(0, "hum "), token(1, "di"), end(2))
            for seq, event in enumerate(events, 1):
                self.desk.take(job, 1, seq, event)
        await settle()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Threads work in between, and so does whoever sleeps."""
        async with asyncio.timeout(PATIENCE_S):
            while not holds():
                await asyncio.sleep(0.001)
                await self.clock.advance(0.05)

    async def until_waiting(self, count: int) -> list[str]:
        """The jobs that wait, once there are so many."""
        await self.until(lambda: len(self.desk.journal.live) >= count)
        await asyncio.sleep(0.01)
        await settle()
        assert len(self.desk.journal.live) == count, "more are begun than may wait"
        return [job_id for job_id in self.arrived if job_id in self.desk.journal.live]

    async def until_ended(self, batch: BatchObject, *, answering: bool = True) -> BatchObject:
        async def look() -> bool:
            if answering:
                await self.answer(*[job_id for job_id in self.arrived if job_id in self.desk.journal.live])
            return (await self.batches.show(batch.id)).status in {"completed", "failed", "expired", "cancelled"}

        async with asyncio.timeout(PATIENCE_S):
            while not await look():
                await asyncio.sleep(0.001)
                await self.clock.advance(0.05)
        return await self.batches.show(batch.id)

    async def until_counted(self, batch: BatchObject, count: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while (await self.batches.show(batch.id)).request_counts.completed < count:
                await asyncio.sleep(0.001)
                await self.clock.advance(0.05)

    def written(self, file_id: str | None) -> list[str]:
        """The `custom_id` of each line of a file."""
        if file_id is None:
            return []
        return [json.loads(line)["custom_id"] for line in self.files.path(file_id).read_bytes().splitlines()]


def chat(custom_id: str, **body: Any) -> bytes:
    asked = {"model": "bees", "messages": [{"role": "user", "content": custom_id}], **body}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": CHATS, "body": asked}).encode()


def names(count: int, name: str = "line") -> list[str]:
    return [f"{name}-{number}" for number in range(count)]


@pytest.fixture
async def hive(tmp_path: Path) -> AsyncIterator[Hive]:
    clock = ManualClock()
    async with Desk(clock) as desk:
        made = Hive(desk, clock, tmp_path)
        await made.batches.start()
        yield made
        assert not made.crew.failed.is_set()
        await made.crew.dismiss()


# ---- how many at a time --------------------------------------------------------------------------------------------------


async def test_few_lines_wait_until_it_is_known_how_fast_they_go(hive: Hive) -> None:
    batch = await hive.begin(40)
    waiting = await hive.until_waiting(LEAST)
    await hive.answer(*waiting)
    waiting = await hive.until_waiting(LEAST)
    await hive.answer(*waiting)
    await hive.until_waiting(2 * LEAST)
    over = await hive.until_ended(batch)
    assert over.status == "completed"
    assert sorted(hive.written(over.output_file_id)) == sorted(names(40))
    assert (over.usage.input_tokens, over.usage.output_tokens) == (40 * 3, 40 * 2)


async def test_several_batches_share_what_may_wait(hive: Hive) -> None:
    first = await hive.begin(30, "a")
    await hive.until_waiting(LEAST)
    second = await hive.begin(30, "b")
    await hive.until(lambda: len(hive.arrived) > LEAST)
    # The first waits for its turn to come down to its share.
    await hive.answer(*hive.arrived[:LEAST])
    await hive.until(lambda: len(hive.arrived) >= 2 * LEAST)
    sessions = {hive.desk.database.rows(f"SELECT session_id FROM jobs WHERE job_id = '{job}'")[0][0] for job in hive.arrived}
    assert sessions == {first.id, second.id}
    for batch, name in ((first, "a"), (second, "b")):
        assert sorted(hive.written((await hive.until_ended(batch)).output_file_id)) == sorted(names(30, name))


async def test_a_full_queue_makes_a_batch_wait(hive: Hive) -> None:
    hive.queue_limit = 1
    await hive.restart()
    other = await hive.desk.job("other")
    batch = await hive.begin(3)
    await hive.until(lambda: bool(hive.batches) and hive.clock.monotonic() > 5)
    assert hive.arrived == []
    await hive.answer(other.job_id)
    over = await hive.until_ended(batch)
    assert (over.status, over.request_counts.completed) == ("completed", 3)


async def test_a_line_of_several_prompts_waits_for_room_for_each(hive: Hive) -> None:
    hive.queue_limit = 1
    await hive.restart()
    body = {"model": "bees", "prompt": ["a", "b", "c"]}
    line = {"custom_id": "many", "method": "POST", "url": "/v1/completions", "body": body}
    file_id = await hive.upload(json.dumps(line).encode())
    batch = await hive.batches.create(BatchRequest(input_file_id=file_id, endpoint="/v1/completions", completion_window="24h"))
    await hive.until_waiting(1)
    over = await hive.until_ended(batch)
    assert (over.status, over.request_counts.completed, len(hive.arrived)) == ("completed", 1, 3)
    assert over.usage.output_tokens == 6


async def test_jobs_of_a_batch_are_for_those_who_do_not_wait(hive: Hive) -> None:
    file_id = await hive.upload(chat("a"), chat("b", user="bee", service_tier="default", cancel_on_disconnect=True))
    batch = await hive.batches.create(BatchRequest(input_file_id=file_id, endpoint=CHATS, completion_window="24h"))
    await hive.until_waiting(2)
    rows = hive.desk.database.rows("SELECT priority, session_id, cancel_on_disconnect FROM jobs ORDER BY number")
    assert rows == [("batch", batch.id, 0)] * 2


# ---- under a key ---------------------------------------------------------------------------------------------------------


async def test_a_key_gives_the_same_batch_again_and_no_second_one(hive: Hive) -> None:
    file_id = await hive.upload(chat("a"))
    request = BatchRequest(input_file_id=file_id, endpoint=CHATS, completion_window="24h", metadata={"a": "b"})
    at_once = await asyncio.gather(*[hive.batches.create(request, "key") for _ in range(5)])
    assert len({batch.id for batch in at_once}) == 1
    over = await hive.until_ended(at_once[0])
    await hive.files.delete(file_id)
    assert await hive.batches.create(request, "key") == over
    with pytest.raises(RbeesError) as refused:
        await hive.batches.create(replace(request, metadata={"a": "c"}), "key")
    assert refused.value.code is ErrorCode.IDEMPOTENCY_CONFLICT
    with pytest.raises(RbeesError) as missing:
        await hive.batches.create(request, "another key")
    assert missing.value.code is ErrorCode.FILE_NOT_FOUND
    assert len(await hive.batches.list(after=None, limit=9)) == 1


# ---- a client that leaves ------------------------------------------------------------------------------------------------


async def leave_behind_the_commit(hive: Hive, monkeypatch: pytest.MonkeyPatch, name: str, asking: Coroutine[Any, Any, Any]) -> None:
    """Ask for something and be gone as soon as the database has it."""
    change, committed, is_gone = getattr(hive.store, name), asyncio.Event(), asyncio.Event()

    async def slowly(*values: Any) -> Any:
        changed = await change(*values)
        committed.set()
        await is_gone.wait()
        return changed

    with monkeypatch.context() as patch:
        patch.setattr(hive.store, name, slowly)
        client = asyncio.create_task(asking)
        await committed.wait()
        client.cancel()
        await asyncio.gather(client, return_exceptions=True)
        assert client.cancelled()
        is_gone.set()
        await settle()


async def test_a_batch_whose_client_left_while_it_was_created_is_run(hive: Hive, monkeypatch: pytest.MonkeyPatch) -> None:
    file_id = await hive.upload(chat("a"))
    request = BatchRequest(input_file_id=file_id, endpoint=CHATS, completion_window="24h")
    await leave_behind_the_commit(hive, monkeypatch, "create", hive.batches.create(request))
    (batch,) = await hive.batches.list(after=None, limit=2)
    assert (await hive.until_ended(batch)).status == "completed"


async def test_a_batch_whose_client_left_while_it_was_cancelled_is_cancelled(hive: Hive, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = await hive.begin(20)
    await hive.until_waiting(LEAST)
    await leave_behind_the_commit(hive, monkeypatch, "cancel", hive.batches.cancel(batch.id))
    assert (await hive.until_ended(batch, answering=False)).status == "cancelled"


async def test_a_batch_that_did_not_hear_of_its_cancelling_hears_of_the_next(hive: Hive) -> None:
    batch = await hive.begin(20)
    await hive.until_waiting(LEAST)
    await hive.store.cancel(batch.id, hive.clock.unix_ms())
    assert (await hive.batches.cancel(batch.id)).status == "cancelling"
    assert (await hive.until_ended(batch, answering=False)).status == "cancelled"


async def test_one_who_leaves_hears_of_no_refusal_and_ends_nothing(hive: Hive, monkeypatch: pytest.MonkeyPatch) -> None:
    await leave_behind_the_commit(hive, monkeypatch, "cancel", hive.batches.cancel("batch_none"))
    assert not hive.crew.failed.is_set()


# ---- while a process starts ----------------------------------------------------------------------------------------------


async def test_a_batch_that_comes_while_orcd_starts_is_run_once(hive: Hive) -> None:
    batch = await hive.begin(6)
    await hive.batches.start()  # It finds the batch among the unfinished too.
    over = await hive.until_ended(batch)
    assert (over.status, sorted(hive.written(over.output_file_id))) == ("completed", names(6))


async def test_a_batch_that_is_cancelled_while_orcd_starts_hears_of_it(hive: Hive, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = await hive.begin(20)
    await hive.until_waiting(LEAST)
    await hive.crew.dismiss()
    unended = hive.store.unended

    async def before_it_is_cancelled() -> list[BatchRow]:
        rows = await unended()
        await hive.batches.cancel(batch.id)
        return rows

    monkeypatch.setattr(hive.store, "unended", before_it_is_cancelled)
    await hive.restart()
    assert (await hive.until_ended(batch, answering=False)).status == "cancelled"


# ---- killed --------------------------------------------------------------------------------------------------------------


async def test_a_process_that_is_killed_leaves_no_line_out_and_runs_none_twice(hive: Hive) -> None:
    batch = await hive.begin(25)
    first, second, *_ = await hive.until_waiting(LEAST)
    # One ends and is recorded, one ends only while nobody looks, and others are under way.
    await hive.answer(first)
    await hive.until_counted(batch, 1)
    await hive.crew.dismiss()
    await hive.answer(second)
    await hive.restart()
    await hive.until_counted(batch, 2)
    over = await hive.until_ended(batch)
    assert sorted(hive.written(over.output_file_id)) == sorted(names(25))
    assert len(hive.arrived) == len(set(hive.arrived)) == 25


async def test_what_was_written_and_not_recorded_is_written_again(hive: Hive) -> None:
    batch = await hive.begin(6)
    await hive.answer(*await hive.until_waiting(LEAST))
    await hive.until_counted(batch, LEAST)
    await hive.crew.dismiss()
    row = await hive.store.batch(batch.id)
    assert row is not None
    # As if killed after the writing and before the commit.
    append(hive.files.path(row.output_file_id), row.so_far.output_bytes, b'{"custom_id": "half", "resp')
    append(hive.files.path(row.error_file_id), 0, b"of something\n")
    await hive.restart()
    over = await hive.until_ended(batch)
    assert sorted(hive.written(over.output_file_id)) == sorted(names(6))
    assert over.error_file_id is None
    assert {path.name for path in hive.files.path("x").parent.iterdir()} == {over.input_file_id, over.output_file_id}


async def test_a_batch_that_was_killed_while_it_was_looked_through_begins_again(hive: Hive) -> None:
    batch = await hive.begin(3)
    await hive.restart()
    over = await hive.until_ended(batch)
    assert (over.status, sorted(hive.written(over.output_file_id))) == ("completed", names(3))


async def test_a_batch_without_its_files_fails_and_says_so(hive: Hive) -> None:
    batch = await hive.begin(6)
    await hive.answer(*await hive.until_waiting(LEAST))
    await hive.until_counted(batch, LEAST)
    await hive.crew.dismiss()
    row = await hive.store.batch(batch.id)
    assert row is not None
    hive.files.path(row.output_file_id).unlink()
    await hive.restart()
    over = await hive.until_ended(batch)
    assert over.status == "failed"
    assert over.errors is not None
    assert over.errors.data[0].code == "files_lost"
    assert over.output_file_id is None


async def test_a_file_that_somebody_removes_meanwhile_fails_its_batch(hive: Hive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "CHUNK_BYTES", 1)
    batch = await hive.begin(20)
    waiting = await hive.until_waiting(LEAST)
    hive.files.path(batch.input_file_id).unlink()
    await hive.answer(*waiting)
    over = await hive.until_ended(batch)
    assert over.status == "failed"
    assert over.errors is not None
    assert over.errors.data[0].code == "files_lost"


async def killed(hive: Hive, lines: int) -> BatchRow:
    """A batch of which some lines were answered when its process died."""
    batch = await hive.begin(lines)
    await hive.answer(*await hive.until_waiting(LEAST))
    await hive.until_counted(batch, LEAST)
    await hive.crew.dismiss()
    row = await hive.store.batch(batch.id)
    assert row is not None
    return row


def lost(over: BatchObject) -> str:
    """What a batch says that lost its input and kept its answers."""
    assert over.status == "failed"
    assert over.errors is not None
    (error,) = over.errors.data
    assert error.code == "files_lost"
    return error.message


@pytest.mark.parametrize("part", ["in a line", "at the end of a line", "nothing", "more"])
async def test_an_input_file_of_another_size_fails_its_batch_and_nothing_else(hive: Hive, part: str) -> None:
    row = await killed(hive, 12)
    path = hive.files.path(row.input_file_id)
    content = path.read_bytes()
    end = content.index(b"\n", len(content) // 2)
    left = {"in a line": content[: end - 9], "at the end of a line": content[: end + 1], "nothing": b"", "more": content + b"\n{}"}
    path.write_bytes(left[part])
    await hive.restart()
    over = await hive.until_ended(await hive.batches.show(row.batch_id))
    assert f"of {12 - LEAST} of its 12 lines" in lost(over)
    assert sorted(hive.written(over.output_file_id)) == names(LEAST)
    assert over.output_file_id is not None
    assert (await hive.files.row(over.output_file_id)).size_bytes == row.so_far.output_bytes
    assert not hive.crew.failed.is_set()


@pytest.mark.parametrize("change", ["cut", "longer", "spoilt"])
async def test_an_input_file_that_changes_while_it_is_read_fails_its_batch(
    hive: Hive, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    monkeypatch.setattr(reading, "CHUNK_BYTES", 1)
    batch = await hive.begin(20)
    await hive.until_waiting(LEAST)
    path = hive.files.path(batch.input_file_id)
    content = path.read_bytes().splitlines(keepends=True)
    changed = {"cut": content[:10], "longer": [*content, b"\n", *content], "spoilt": [*content[:10], b"x" * 300, *content[10:]]}
    path.write_bytes(b"".join(changed[change]))
    over = await hive.until_ended(batch)
    assert "not as it was uploaded" in lost(over)
    assert len(hive.written(over.output_file_id)) == (20 if change == "longer" else 10)


async def test_an_input_file_that_cannot_be_read_fails_its_batch(hive: Hive, monkeypatch: pytest.MonkeyPatch) -> None:
    row = await killed(hive, 12)

    def unreadable(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(reading, "_raw_lines", unreadable)
    await hive.restart()
    over = await hive.until_ended(await hive.batches.show(row.batch_id))
    assert "Input/output error" in lost(over)
    fresh = await hive.until_ended(await hive.begin(2))
    assert "Input/output error" in lost(fresh)


async def test_answers_that_cannot_be_written_fail_their_batch(hive: Hive, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = await hive.begin(12)
    waiting = await hive.until_waiting(LEAST)

    def broken(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(files_module, "write_all", broken)
        await hive.answer(waiting[0])
        over = await hive.until_ended(batch, answering=False)
    assert "of 12 of its 12 lines" in lost(over)
    assert over.output_file_id is None
    await hive.until(lambda: not hive.desk.journal.live)


async def test_a_defect_with_one_batch_ends_that_and_no_other(hive: Hive, monkeypatch: pytest.MonkeyPatch) -> None:
    other = await hive.begin(2, "other")
    await hive.until_waiting(2)

    def defect(_: bytes) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setitem(ENDPOINTS, CHATS, defect)
        over = await hive.until_ended(await hive.begin(2), answering=False)
    assert over.status == "failed"
    assert over.errors is not None
    assert over.errors.data[0].code == "server_error"
    assert (await hive.until_ended(other)).status == "completed"


async def test_a_line_whose_answer_was_erased_while_nobody_looked_is_run_again(hive: Hive) -> None:
    batch = await hive.begin(2)
    waiting = await hive.until_waiting(2)
    await hive.crew.dismiss()
    await hive.answer(*waiting)
    await hive.desk.store.erase_content(hive.clock.unix_ms() + 1)
    await hive.restart()
    again = await hive.until_waiting(2)
    assert not set(again) & set(waiting)
    await hive.restart()  # The next process follows the same ones.
    over = await hive.until_ended(batch)
    assert (over.status, over.error_file_id) == ("completed", None)
    assert sorted(hive.written(over.output_file_id)) == names(2)
    assert len(hive.arrived) == 4


async def test_a_line_whose_answer_was_erased_is_not_run_again_for_a_cancelled_batch(hive: Hive) -> None:
    batch = await hive.begin(2)
    waiting = await hive.until_waiting(2)
    await hive.crew.dismiss()
    await hive.answer(*waiting)
    await hive.desk.store.erase_content(hive.clock.unix_ms() + 1)
    await hive.store.cancel(batch.id, hive.clock.unix_ms())
    await hive.restart()
    over = await hive.until_ended(batch)
    assert (over.status, over.output_file_id) == ("cancelled", None)
    assert sorted(hive.written(over.error_file_id)) == names(2)
    assert len(hive.arrived) == 2


async def test_a_shutdown_leaves_the_rest_to_the_next_process(hive: Hive) -> None:
    batch = await hive.begin(12)
    waiting = await hive.until_waiting(LEAST)
    hive.jobs.draining = True
    await hive.answer(*waiting[:2])
    await hive.until_counted(batch, 2)
    hive.relay.close()
    await settle()
    assert (await hive.batches.show(batch.id)).status == "in_progress"
    assert len(hive.arrived) == LEAST
    hive.relay = Relay(hive.desk.store, hive.desk.figures)
    hive.desk.listeners.append(hive.relay.publish)
    await hive.restart()
    over = await hive.until_ended(batch)
    assert (over.status, over.request_counts.completed) == ("completed", 12)
    assert len(set(hive.arrived)) == len(hive.arrived) == 12


# ---- over before the end -------------------------------------------------------------------------------------------------


async def test_a_cancelled_batch_keeps_its_answers_and_names_the_rest(hive: Hive) -> None:
    batch = await hive.begin(20)
    waiting = await hive.until_waiting(LEAST)
    await hive.answer(waiting[0])
    await hive.until_counted(batch, 1)
    assert (await hive.batches.cancel(batch.id)).status == "cancelling"
    over = await hive.until_ended(batch, answering=False)
    assert over.status == "cancelled"
    assert hive.written(over.output_file_id) == ["line-0"]
    assert sorted(hive.written(over.error_file_id)) == sorted(names(20)[1:])
    assert (over.request_counts.completed, over.request_counts.failed) == (1, 19)
    assert len(hive.arrived) < 10
    assert not hive.desk.journal.live
    assert (await hive.batches.cancel(batch.id)).status == "cancelled"


@pytest.mark.parametrize("expired", [False, True])
async def test_a_batch_that_is_over_when_its_process_dies_ends_in_the_next(hive: Hive, expired: bool) -> None:
    batch = await hive.begin(20)
    waiting = await hive.until_waiting(LEAST)
    await hive.crew.dismiss()
    if expired:
        await hive.clock.advance(DAY_S)
    else:
        await hive.store.cancel(batch.id, hive.clock.unix_ms())
    await hive.answer(waiting[1])  # Of that nobody has heard.
    await hive.restart()
    over = await hive.until_ended(batch, answering=False)
    assert over.status == ("expired" if expired else "cancelled")
    assert hive.written(over.output_file_id) == ["line-1"]
    assert sorted(hive.written(over.error_file_id)) == sorted(set(names(20)) - {"line-1"})
    assert not hive.desk.journal.live
    assert len(hive.arrived) <= LEAST + (LEAST if expired else 0)


async def test_a_batch_expires_after_a_day(hive: Hive) -> None:
    batch = await hive.begin(12, output_expires_after=ExpiresAfter(anchor="created_at", seconds=3600))
    waiting = await hive.until_waiting(LEAST)
    await hive.answer(waiting[0])
    await hive.until_counted(batch, 1)
    await hive.clock.advance(DAY_S)
    over = await hive.until_ended(batch, answering=False)
    assert (over.status, over.expires_at) == ("expired", over.created_at + DAY_S)
    assert over.finalizing_at is not None
    assert over.output_file_id is not None
    assert (await hive.files.row(over.output_file_id)).expires_at_ms is not None
    with pytest.raises(RbeesError) as refused:
        await hive.batches.cancel(batch.id)
    assert refused.value.code is ErrorCode.BATCH_ENDED


async def test_a_batch_that_is_cancelled_before_its_lines_were_read_runs_none(hive: Hive) -> None:
    batch = await hive.begin(5)
    await hive.batches.cancel(batch.id)
    over = await hive.until_ended(batch, answering=False)
    assert over.status == "cancelled"
    assert hive.arrived == []


# ---- files ---------------------------------------------------------------------------------------------------------------


async def test_a_file_goes_when_its_time_is_over_unless_a_batch_reads_it(hive: Hive) -> None:
    kept, gone = await hive.begin(1), await hive.upload(b"x")
    await hive.until_waiting(1)
    for row in (kept.input_file_id, gone):
        hive.desk.database.connection.execute(f"UPDATE files SET expires_at_ms = 1 WHERE file_id = '{row}'")
    with pytest.raises(RbeesError) as missing:
        await hive.files.row(gone)
    assert missing.value.code is ErrorCode.FILE_NOT_FOUND
    await hive.files.sweep()
    assert not hive.files.path(gone).exists()
    assert hive.files.path(kept.input_file_id).exists()
    await hive.until_ended(kept)
    await hive.files.sweep()
    assert not hive.files.path(kept.input_file_id).exists()


async def test_a_file_that_a_batch_reads_is_not_deleted(hive: Hive) -> None:
    batch = await hive.begin(1)
    with pytest.raises(RbeesError) as refused:
        await hive.files.delete(batch.input_file_id)
    assert refused.value.code is ErrorCode.FILE_IN_USE
    await hive.until_ended(batch)
    await hive.files.delete(batch.input_file_id)
    with pytest.raises(RbeesError) as missing:
        await hive.files.delete(batch.input_file_id)
    assert missing.value.code is ErrorCode.FILE_NOT_FOUND


async def test_a_file_whose_client_left_while_it_was_deleted_is_gone(hive: Hive, monkeypatch: pytest.MonkeyPatch) -> None:
    file_id = await hive.upload(b"x")
    change, committed, is_gone = hive.store.delete_file, asyncio.Event(), asyncio.Event()

    async def slowly(name: str) -> bool:
        changed = await change(name)
        committed.set()
        await is_gone.wait()
        return changed

    monkeypatch.setattr(hive.store, "delete_file", slowly)
    client = asyncio.create_task(hive.files.delete(file_id))
    await committed.wait()
    client.cancel()
    await settle()
    is_gone.set()
    await asyncio.gather(client, return_exceptions=True)
    assert client.cancelled()
    assert not hive.files.path(file_id).exists()


async def test_what_a_killed_process_had_half_received_is_removed_and_nothing_else(hive: Hive) -> None:
    batch = await hive.begin(3)
    await hive.answer((await hive.until_waiting(3))[0])
    await hive.until_counted(batch, 1)
    before = {path.name for path in hive.files.path("x").parent.iterdir()}
    assert len(before) == 2, "the input, and the output so far"
    hive.files.path(hive.files.new_id()).write_bytes(b"half of an upl")
    await hive.restart()
    assert {path.name for path in hive.files.path("x").parent.iterdir()} == before
    assert hive.written((await hive.until_ended(batch)).output_file_id) == names(3)


async def test_what_a_batch_wrote_is_no_input(hive: Hive) -> None:
    over = await hive.until_ended(await hive.begin(1))
    assert over.output_file_id is not None
    with pytest.raises(RbeesError, match="purpose"):
        await hive.batches.create(BatchRequest(input_file_id=over.output_file_id, endpoint=CHATS, completion_window="24h"))


@pytest.mark.parametrize("during", ["the content", "the row"])
async def test_an_upload_to_a_full_disk_leaves_nothing(hive: Hive, monkeypatch: pytest.MonkeyPatch, during: str) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    if during == "the content":
        monkeypatch.setattr(files_module, "write_all", full)
    else:
        hive.desk.database.failure = RbeesError(ErrorCode.STORAGE_FULL, "The disk is full.")
    with pytest.raises(RbeesError) as refused:
        await hive.upload(b"x")
    assert refused.value.code is ErrorCode.STORAGE_FULL
    assert not list(hive.files.path("x").parent.iterdir())
    hive.desk.database.failure = None


async def test_a_full_disk_makes_a_batch_wait_and_loses_nothing(hive: Hive, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = await hive.begin(LEAST)
    waiting = await hive.until_waiting(LEAST)
    whole, tries = files_module.write_all, 0

    def full_at_first(descriptor: int, content: bytes) -> None:
        nonlocal tries
        tries += 1
        whole(descriptor, content[: len(content) // 2] if tries < 3 else content)
        if tries < 3:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(files_module, "write_all", full_at_first)
    await hive.answer(*waiting)
    over = await hive.until_ended(batch)
    assert sorted(hive.written(over.output_file_id)) == names(LEAST)
    assert tries >= 3


async def test_a_record_knows_each_line_that_it_holds(hive: Hive) -> None:
    batch = await hive.begin(LEAST)
    await hive.until_waiting(LEAST)
    await hive.crew.dismiss()
    row = await hive.store.batch(batch.id)
    assert row is not None
    record = Record(row, hive.store, hive.files, hive.clock, lambda: None)
    writing = asyncio.create_task(record.run())
    record.add(Result(2, b"b\n", is_answer=True, tokens=Tokens(input=3)))
    record.add(Result(0, b"a\n", is_answer=False))
    await hive.until(lambda: not record.unwritten)
    assert [record.holds(place) for place in range(LEAST)] == [True, False, True, False]
    later = await hive.store.batch(batch.id)
    assert later is not None
    assert Record(later, hive.store, hive.files, hive.clock, lambda: None).holds(2)
    assert (later.so_far.completed, later.so_far.failed, later.so_far.input_tokens) == (1, 1, 3)
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)


async def test_files_are_listed_from_either_end(hive: Hive) -> None:
    for number in range(4):
        await hive.store.add_file(FileRow(f"file-{number}", "n", "batch" if number % 2 else "batch_output", 1, number, None))

    async def listed(after: str | None = None, purpose: str | None = None, limit: int = 10, newest_first: bool = True) -> list[str]:
        rows = await hive.files.list(after=after, purpose=purpose, limit=limit, newest_first=newest_first)
        return [row.file_id for row in rows]

    assert await listed() == ["file-3", "file-2", "file-1", "file-0"]
    assert await listed(after="file-2", limit=1) == ["file-1"]
    assert await listed(after="file-1", newest_first=False) == ["file-2", "file-3"]
    assert await listed(purpose="batch") == ["file-3", "file-1"]
