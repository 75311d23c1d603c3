"""Responses that are kept: written, erased and deleted together with their jobs, found again, gone on from, taken up by a process
that knows nothing but the disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from msgspec.structs import replace

from rbees.orcd.crew import Crew
from rbees.orcd.door.foreign import read_foreign
from rbees.orcd.door.runs import Run, Runs
from rbees.orcd.jobs import Jobs
from rbees.orcd.kept_responses import KeptResponses, answered, beside
from rbees.orcd.relay import Relay
from rbees.orcd.responses.course import Frames
from rbees.orcd.responses.items import CallItem, Item, Reference, read_items
from rbees.orcd.responses.names import response_id
from rbees.orcd.responses.requests import Record, ResponseRequest, record_of, response_job
from rbees.orcd.scheduler.core import Scheduler
from rbees.orcd.scheduler.events import CancelAsked, Event
from rbees.orcd.scheduler.policy import Policy
from rbees.orcd.store import queries
from rbees.orcd.store.check import check
from rbees.orcd.store.migrations import packaged
from rbees.orcd.store.responses import ResponseStore
from rbees.orcd.store.sqlite import Database
from rbees.protocol.chat import ChatMessage, ToolCall
from rbees.protocol.codec import decode, encode
from rbees.protocol.errors import ErrorBody, ErrorCode, RbeesError
from rbees.protocol.events import ChoiceEnd
from rbees.protocol.jobs import JobRequest
from rbees.service.clock import ManualClock
from tests.support.orcd_parts import Desk, end, settle, started, token


def asked(**fields: Any) -> tuple[JobRequest, Record]:
    request = read_foreign(encode({"model": "bees", "input": "hum", "background": True, **fields}), ResponseRequest).request
    items = tuple(item for item in read_items(request.input, request.model) if not isinstance(item, Reference))
    job = response_job(request, (), items, None)
    return job, record_of(request, job, items)


class Shelf:
    """Kept responses over a real journal; what a worker would send is taken by hand."""

    def __init__(self, desk: Desk, clock: ManualClock) -> None:
        self.desk = desk
        self.crew = Crew()
        self.posted: list[Event] = []
        relay = Relay(desk.store, desk.figures)
        desk.listeners.append(relay.publish)
        self.jobs = Jobs(desk.journal, desk.store, Scheduler(Policy()), relay, clock, self.crew, self.posted.append, queue_limit=0)
        self.runs = Runs(self.jobs, relay, self.crew)
        self.store = ResponseStore(cast("Database", desk.database), queries.load())
        self.kept = KeptResponses(self.store, desk.store, self.jobs, self.runs)

    async def respond(self, key: str | None = None, **fields: Any) -> str:
        """The job of a response that is kept."""
        job, record = asked(**fields)
        async with self.runs.of([job], key, beside=beside(encode(record), is_kept=record.asked.store)) as [run]:
            return run.row.job_id

    async def answer(self, job_id: str, *events: object) -> None:
        """A worker's attempt at the job, event by event."""
        job = self.desk.journal.live[job_id]
        self.desk.journal.resolve(job, "ab" * 32, "file:/m")
        await self.desk.journal.begin_attempt(job, 1, "worker-a", "pool")
        for seq, event in enumerate(events, 1):
            self.desk.take(job, 1, seq, event)  # type: ignore[arg-type]
        await settle()

    async def answered(self, **fields: Any) -> str:
        """One that has ended well."""
        job_id = await self.respond(**fields)
        await self.answer(job_id, started(), token(0, "la "), token(1, "la"), end(2))
        return job_id

    async def fail(self, job_id: str, code: ErrorCode = ErrorCode.CANCELLED) -> None:
        """End a job without a result."""
        status: Any = "cancelled" if code is ErrorCode.CANCELLED else "failed"
        self.desk.journal.finish(self.desk.journal.live[job_id], status, ErrorBody(code=code, message="no"))
        await settle()

    def troubles(self) -> list[str]:
        """What a check of the database finds."""
        report = check(self.desk.database.connection, packaged(), queries.load(), lambda: None)
        return [trouble.what for trouble in report.troubles]


@pytest.fixture
async def shelf() -> AsyncIterator[Shelf]:
    clock = ManualClock()
    async with Desk(clock) as desk:
        made = Shelf(desk, clock)
        yield made
        assert made.troubles() == []
        await made.crew.dismiss()


async def refusal(asking: Any) -> RbeesError:
    with pytest.raises(RbeesError) as caught:
        await asking
    return caught.value


async def test_a_response_and_its_job_become_durable_in_one_transaction(shelf: Shelf) -> None:
    shelf.desk.database.gate.clear()
    asking = asyncio.create_task(shelf.respond())
    await settle()
    assert shelf.desk.database.rows("SELECT number FROM jobs") == []
    assert shelf.desk.database.rows("SELECT job FROM responses") == []
    shelf.desk.database.gate.set()
    before = shelf.desk.database.commits
    await asking
    assert shelf.desk.database.commits == before + 1
    assert shelf.desk.database.rows("SELECT job FROM responses") == shelf.desk.database.rows("SELECT number FROM jobs") == [(1,)]


async def test_where_there_is_no_room_neither_of_them_is_there(shelf: Shelf) -> None:
    shelf.desk.database.failure = RbeesError(ErrorCode.STORAGE_FULL, "full")
    assert (await refusal(shelf.respond())).code is ErrorCode.STORAGE_FULL
    shelf.desk.database.failure = None
    job_id = await shelf.respond()
    assert [row[0] for row in shelf.desk.database.rows("SELECT job_id FROM jobs")] == [job_id]
    assert len(shelf.desk.database.rows("SELECT job FROM responses")) == 1


async def test_several_in_one_commit_keep_their_own(shelf: Shelf) -> None:
    shelf.desk.database.gate.clear()
    asking = [asyncio.create_task(shelf.respond(metadata={"n": str(number)})) for number in range(5)]
    await settle()
    shelf.desk.database.gate.set()
    for number, job_id in enumerate(await asyncio.gather(*asking)):
        found = await shelf.kept.find(response_id(job_id))
        assert found.asked.metadata == {"n": str(number)}


async def test_it_is_found_as_far_as_it_has_come(shelf: Shelf) -> None:
    job_id = await shelf.respond()
    found = await shelf.kept.find(response_id(job_id))
    assert (await shelf.kept.course(found)).response.status == "queued"
    await shelf.answer(job_id, started(), token(0, "la "))
    under_way = (await shelf.kept.course(found)).response
    assert (under_way.status, under_way.id) == ("in_progress", response_id(job_id))
    assert [item.id for item in found.input] == [f"msg_{job_id}_in0"]


@pytest.mark.parametrize("id_", ["", "resp_", "resp_job-none", "job-none", "msg_1", "resp_\x00", "RESP_x"])
async def test_what_is_not_there_is_not_found(shelf: Shelf, id_: str) -> None:
    assert (await refusal(shelf.kept.find(id_))).code is ErrorCode.JOB_NOT_FOUND


async def test_a_job_of_another_kind_is_no_response(shelf: Shelf) -> None:
    async with shelf.runs.of([JobRequest(model="bees", prompt="hum")]) as [run]:
        job_id = run.row.job_id
    assert (await refusal(shelf.kept.find(response_id(job_id)))).code is ErrorCode.JOB_NOT_FOUND


async def test_content_that_was_erased_is_gone_from_the_response_too(shelf: Shelf) -> None:
    job_id = await shelf.answered(instructions="secret")
    found = await shelf.kept.find(response_id(job_id))
    await shelf.desk.store.erase_content(1 << 60)
    assert shelf.desk.database.rows("SELECT record FROM responses") == [(None,)]
    assert (await refusal(shelf.kept.find(response_id(job_id)))).code is ErrorCode.OUTPUT_ERASED
    assert (await refusal(shelf.kept.course(found))).code is ErrorCode.OUTPUT_ERASED
    assert (await refusal(shelf.kept.conversation(response_id(job_id)))).details["field"] == "previous_response_id"
    await shelf.desk.store.delete_ended(1 << 60)
    assert shelf.desk.database.rows("SELECT job FROM responses") == []
    assert (await refusal(shelf.kept.find(response_id(job_id)))).code is ErrorCode.JOB_NOT_FOUND


async def test_a_check_finds_what_outlived_its_prompt(shelf: Shelf) -> None:
    await shelf.answered()
    connection = shelf.desk.database.connection
    connection.execute("UPDATE responses SET record = NULL")
    assert shelf.troubles() == ["what is kept of its response is gone, and the prompt is not"]
    connection.execute("UPDATE responses SET record = x'7b7d'")
    connection.execute("DELETE FROM journal")
    connection.execute("UPDATE jobs SET request = NULL, prefixes = x''")
    assert shelf.troubles() == ["what is kept of its response outlives the prompt"]
    connection.execute("DELETE FROM responses")


@pytest.mark.parametrize("code", [ErrorCode.CANCELLED, ErrorCode.TIMEOUT])
async def test_who_waits_for_it_gets_one_that_was_cancelled_and_the_error_of_one_that_failed(shelf: Shelf, code: ErrorCode) -> None:
    job_id = await shelf.respond(background=False)
    found = await shelf.kept.find(response_id(job_id))
    async with shelf.runs.again(found.row) as run:
        waiting = asyncio.create_task(answered(run, found.begin(), None))
        await shelf.fail(job_id, code)
        if code is ErrorCode.CANCELLED:
            assert (await waiting).status == "cancelled"
        else:
            assert (await refusal(waiting)).code is code


# ---- gone on from --------------------------------------------------------------------------------------------------------


async def test_a_conversation_is_that_of_the_job_and_its_answer(shelf: Shelf) -> None:
    job_id = await shelf.answered(instructions="Be brief.")
    assert await shelf.kept.conversation(response_id(job_id)) == (
        ChatMessage(role="user", content="hum"),
        ChatMessage(role="assistant", content="la la"),
    )


async def test_nothing_follows_what_has_not_ended_or_not_well(shelf: Shelf) -> None:
    job_id = await shelf.respond()
    assert "has not ended yet" in (await refusal(shelf.kept.conversation(response_id(job_id)))).message
    await shelf.fail(job_id, ErrorCode.TIMEOUT)
    error = await refusal(shelf.kept.conversation(response_id(job_id)))
    assert (error.code, "is failed" in error.message) == (ErrorCode.INVALID_REQUEST, True)


async def test_references_are_what_they_refer_to(shelf: Shelf) -> None:
    job_id = await shelf.answered()
    own: Item = read_items("more", "m")[0]  # type: ignore[assignment]
    given, said, kept = await shelf.kept.resolve(
        [Reference(id=f"msg_{job_id}_in0"), Reference(id=f"msg_{job_id}_0"), own],
    )
    assert [item.id for item in (given, said)] == [f"msg_{job_id}_in0", f"msg_{job_id}_0"]
    assert kept is own
    running = await shelf.respond()
    await shelf.answer(running, started(), token(0, "la "))
    for id_ in (f"msg_{running}_0", f"msg_{job_id}_7", "msg_else", f"rs_{job_id}_0"):
        assert (await refusal(shelf.kept.resolve([own, Reference(id=id_)]))).details["field"] == "input[1]"


# ---- cancelled and deleted -----------------------------------------------------------------------------------------------


async def test_a_cancelled_response_is_answered_once_it_has_ended(shelf: Shelf) -> None:
    job_id = await shelf.respond()
    found = await shelf.kept.find(response_id(job_id))
    cancelling = asyncio.create_task(shelf.kept.cancel(found))
    await settle()
    assert not cancelling.done()
    assert CancelAsked(job_id) in shelf.posted
    await shelf.fail(job_id)
    assert (await cancelling).response.status == "cancelled"
    assert (await shelf.kept.cancel(found)).response.status == "cancelled"


async def test_what_is_forgotten_was_cancelled_first_and_leaves_a_job_without_content(shelf: Shelf) -> None:
    job_id = await shelf.respond(user="somebody")
    forgetting = asyncio.create_task(shelf.kept.forget(response_id(job_id)))
    await settle()
    assert shelf.desk.database.rows("SELECT job FROM responses") == [(1,)], "until it has ended nothing of it is gone"
    await shelf.fail(job_id)
    await forgetting
    assert shelf.desk.database.rows("SELECT job FROM responses") == shelf.desk.database.rows("SELECT job FROM journal") == []
    rows = shelf.desk.database.rows("SELECT status, request, prefixes, session_id FROM jobs")
    assert rows == [("cancelled", None, b"", None)]


async def test_what_was_erased_can_be_deleted_once(shelf: Shelf) -> None:
    job_id = await shelf.answered(user="somebody")
    await shelf.desk.store.erase_content(1 << 60)
    await shelf.kept.forget(response_id(job_id))
    assert shelf.desk.database.rows("SELECT session_id FROM jobs") == [(None,)]
    assert (await refusal(shelf.kept.forget(response_id(job_id)))).code is ErrorCode.JOB_NOT_FOUND


async def test_the_key_of_what_was_deleted_does_not_blame_the_retention_alone(shelf: Shelf) -> None:
    job_id = await shelf.respond("key")
    await shelf.answer(job_id, started(), end(1))
    await shelf.kept.forget(response_id(job_id))
    error = await refusal(shelf.respond("key"))
    assert error.code is ErrorCode.OUTPUT_ERASED
    assert "it was deleted" in error.message


# ---- taken up ------------------------------------------------------------------------------------------------------------


async def frames_of(run: Run, frames: Frames) -> bytes:
    data = b""
    async for events in run.events():
        data += b"".join(frames.take(0, event) for event in events)
    return data


async def test_a_stream_is_taken_up_while_it_goes_on_and_after_a_restart(shelf: Shelf) -> None:
    job_id = await shelf.respond()
    found = await shelf.kept.find(response_id(job_id))
    await shelf.answer(job_id, started(), token(0, "la "))
    async with shelf.runs.again(found.row) as run:
        reading = asyncio.create_task(frames_of(run, Frames(found.begin())))
        await settle()
        live = shelf.desk.journal.live[job_id]
        for seq, event in ((3, token(1, "la")), (4, end(2))):
            shelf.desk.take(live, 1, seq, event)
        await settle()
        whole = await reading
    frames = [frame + b"\n\n" for frame in whole.split(b"\n\n")[:-1]]
    # As another process has it: from the disk alone.
    later = Shelf(shelf.desk, ManualClock())
    for after in (-1, 3, len(frames) - 1):
        again = await later.kept.find(response_id(job_id))
        async with later.runs.again(again.row) as run:
            assert await frames_of(run, Frames(again.begin(), after)) == b"".join(frames[after + 1 :])


async def test_under_one_key_there_is_one_response(shelf: Shelf) -> None:
    first = await shelf.respond("key")
    assert await shelf.respond("key") == first
    error = await refusal(shelf.respond("key", metadata={"hive": "b"}))
    assert error.code is ErrorCode.IDEMPOTENCY_CONFLICT
    assert len(shelf.desk.database.rows("SELECT job FROM responses")) == 1


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({}, {"store": False}),
        ({"store": False}, {}),
        ({"store": False}, {"store": False, "metadata": {"hive": "b"}}),
    ],
)
async def test_one_that_is_not_kept_has_its_key_for_itself(shelf: Shelf, first: dict[str, Any], then: dict[str, Any]) -> None:
    fields: dict[str, Any] = {"background": False}
    job_id = await shelf.respond("key", **fields, **first)
    assert await shelf.respond("key", **fields, **first) == job_id
    assert (await refusal(shelf.respond("key", **fields, **then))).code is ErrorCode.IDEMPOTENCY_CONFLICT
    kept = shelf.desk.database.rows("SELECT job FROM responses")
    assert len(kept) == (0 if "store" in first else 1)


async def test_a_record_is_read_as_it_was_written(shelf: Shelf) -> None:
    tools = [{"type": "function", "name": "f", "parameters": {"type": "object"}}]
    _, record = asked(instructions="é", tools=tools, metadata={"a": "b"}, text={"format": {"type": "json_object"}})
    job_id = await shelf.respond(instructions="é", tools=tools, metadata={"a": "b"}, text={"format": {"type": "json_object"}})
    found = await shelf.kept.find(response_id(job_id))
    assert decode(found.record, Record) == record
    assert replace(found.begin().response, id="", created_at=0) == record.asked


BEFORE_NAMESPACES = (
    b'{"asked":{"id":"","object":"response","created_at":0,"completed_at":null,"status":"queued",'
    b'"background":true,"error":null,"incomplete_details":null,"instructions":null,'
    b'"max_output_tokens":null,"max_tool_calls":null,"metadata":{},"model":"bees","output":[],'
    b'"parallel_tool_calls":true,"previous_response_id":null,"prompt_cache_key":null,'
    b'"reasoning":{"effort":null,"summary":null},"safety_identifier":null,"service_tier":"default",'
    b'"store":true,"temperature":0.7,"text":{"format":{"type":"text"}},"tool_choice":{"type":"function",'
    b'"name":"f"},"tools":[{"type":"function","name":"f","description":null,'
    b'"parameters":{"type":"object"},"strict":null}],"top_logprobs":0,"top_p":0.95,'
    b'"truncation":"disabled","usage":null,"user":null},"input":[{"type":"message","id":"","role":"user",'
    b'"status":"completed","content":[{"type":"input_text","text":"hum"}]},{"type":"function_call",'
    b'"id":"","call_id":"c","name":"f","arguments":"{}","status":"completed"},'
    b'{"type":"function_call_output","id":"","call_id":"c","output":"3","status":"completed"}]}'
)


async def test_a_record_from_before_there_were_namespaces_is_read_and_answered_in_the_same_bytes(shelf: Shelf) -> None:
    assert encode(decode(BEFORE_NAMESPACES, Record)) == BEFORE_NAMESPACES
    job_id = await shelf.answered()
    shelf.desk.database.connection.execute("UPDATE responses SET record = ?", (BEFORE_NAMESPACES,))
    found = await shelf.kept.find(response_id(job_id))
    assert [item.id for item in found.input] == [f"{kind}_{job_id}_in{n}" for n, kind in enumerate(("msg", "fc", "fco"))]
    assert (await shelf.kept.course(found)).response.status == "completed"


async def test_a_call_of_a_namespace_goes_on_behind_its_response_and_by_reference(shelf: Shelf) -> None:
    group = {"type": "namespace", "name": "crm", "description": "d", "tools": [{"type": "function", "name": "find"}]}
    job_id = await shelf.respond(tools=[group])
    call = ToolCall(id="c", name="crm__find", arguments={})
    await shelf.answer(job_id, started(), replace(end(1), choices=(ChoiceEnd(finish_reason="tool_calls", tool_calls=(call,)),)))
    _, turn = await shelf.kept.conversation(response_id(job_id))
    assert turn.tool_calls == (call,)
    (item,) = await shelf.kept.resolve([Reference(id=f"fc_{job_id}_0")])
    assert isinstance(item, CallItem)
    assert (item.name, item.namespace) == ("find", "crm")
