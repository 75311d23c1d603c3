"""Jobs that other APIs follow: accepted and watched in this process, and given up when their client leaves, at whatever moment."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncIterator

import pytest
from msgspec.structs import replace

from rbees.orcd.crew import Crew
from rbees.orcd.door.collected import Collected
from rbees.orcd.door.runs import PORTION_BYTES, Runs
from rbees.orcd.door.streams import whole
from rbees.orcd.jobs import GONE_AFTER_S, Jobs
from rbees.orcd.live import LiveJob
from rbees.orcd.relay import Relay
from rbees.orcd.scheduler.core import Scheduler
from rbees.orcd.scheduler.events import CancelAsked, Event, JobArrived
from rbees.orcd.scheduler.policy import Policy
from rbees.protocol.chat import MAX_TOOL_CALLS, ChatMessage, ToolCall
from rbees.protocol.errors import ErrorBody, ErrorCode, RbeesError
from rbees.protocol.events import Embedding, Result, Started
from rbees.protocol.jobs import JobRequest
from rbees.protocol.vectors import EmbedRequest
from rbees.service.clock import ManualClock
from tests.support.orcd_parts import Desk, end, settle, started, token

HUM = JobRequest(model="bees", prompt="hum", cancel_on_disconnect=True)


class Reception:
    """Runs over a real journal; what a worker would send is taken by hand."""

    def __init__(self, desk: Desk, clock: ManualClock) -> None:
        self.desk = desk
        self.clock = clock
        self.crew = Crew()
        self.posted: list[Event] = []
        self.relay = Relay(desk.store, desk.figures)
        desk.listeners.append(self.relay.publish)
        self.jobs = Jobs(
            desk.journal, desk.store, Scheduler(Policy()), self.relay, clock, self.crew, self.posted.append, queue_limit=3
        )
        self.runs = Runs(self.jobs, self.relay, self.crew)

    def live(self, job_id: str) -> LiveJob:
        return self.desk.journal.live[job_id]

    async def answer(self, job_id: str, *events: object) -> None:
        """A worker's attempt at the job, event by event."""
        job = self.live(job_id)
        await self.desk.journal.begin_attempt(job, 1, "worker-a", "pool")
        for seq, event in enumerate(events, 1):
            self.desk.take(job, 1, seq, event)  # type: ignore[arg-type]
        await settle()

    def cancelled(self) -> list[str]:
        return [event.job_id for event in self.posted if isinstance(event, CancelAsked)]

    async def wait_gone(self) -> None:
        await settle()
        await self.clock.advance(GONE_AFTER_S + 0.1)
        await settle()


@pytest.fixture
async def reception() -> AsyncIterator[Reception]:
    clock = ManualClock()
    async with Desk(clock) as desk:
        made = Reception(desk, clock)
        yield made
        await made.crew.dismiss()


async def test_a_whole_answer_is_put_together_from_the_events(reception: Reception) -> None:
    async with reception.runs.of([HUM]) as [run]:
        collecting = asyncio.create_task(whole(run))
        await reception.answer(run.row.job_id, started(), token(0, "hum "), token(1, "di"), end(2))
        collected = await collecting
    assert collected.choices[0].text == "hum di"
    assert collected.usage is not None
    assert collected.usage.completion_tokens == 2


async def test_a_new_job_is_followed_without_a_look_at_the_disk(reception: Reception) -> None:
    reads = reception.desk.database.reads
    async with reception.runs.of([HUM]) as [run]:
        collecting = asyncio.create_task(whole(run))
        await settle()
        assert reception.desk.database.reads == reads
        assert run.row == await reception.jobs.row(run.row.job_id)
        await reception.answer(run.row.job_id, started(), token(0, "hum"), end(1))
        assert (await collecting).choices[0].text == "hum"
    assert not reception.relay.is_watched(run.row.number)


async def test_a_job_that_fails_raises_its_error(reception: Reception) -> None:
    async with reception.runs.of([HUM]) as [run]:
        error = ErrorBody(code=ErrorCode.CONTEXT_EXCEEDED, message="too long")
        reception.desk.journal.finish(reception.live(run.row.job_id), "failed", error)
        with pytest.raises(RbeesError) as caught:
            await whole(run)
    assert caught.value.code is ErrorCode.CONTEXT_EXCEEDED


async def test_a_wish_for_the_model_travels_with_the_job(reception: Reception) -> None:
    for keep_s, key in ((60.0, None), (math.inf, "key"), (None, None)):
        async with reception.runs.of([HUM], key, keep_s):
            arrived = reception.posted[-1]
            assert isinstance(arrived, JobArrived)
            assert arrived.job.keep_s == keep_s


async def test_a_job_whose_client_left_is_cancelled(reception: Reception) -> None:
    async with reception.runs.of([HUM]) as [run]:
        await reception.wait_gone()
        assert reception.cancelled() == []
    await reception.wait_gone()
    assert reception.cancelled() == [run.row.job_id]


async def test_a_job_that_may_go_on_alone_does(reception: Reception) -> None:
    async with reception.runs.of([JobRequest(model="bees", prompt="hum")]):
        pass
    await reception.wait_gone()
    assert reception.cancelled() == []


async def test_a_client_that_leaves_while_its_job_is_accepted_leaves_none_behind(reception: Reception) -> None:
    reception.desk.database.gate.clear()

    async def ask() -> None:
        async with reception.runs.of([HUM]):
            raise AssertionError("it was not accepted yet")

    asking = asyncio.create_task(ask())
    await settle()
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    reception.desk.database.gate.set()
    await settle()
    (job_id,) = reception.desk.journal.live
    await reception.wait_gone()
    assert reception.cancelled() == [job_id]


async def test_a_job_whose_record_could_not_be_read_is_refused(reception: Reception) -> None:
    calls = tuple(ToolCall(id=f"c{number}", name="count", arguments={}) for number in range(MAX_TOOL_CALLS + 1))
    messages = (ChatMessage(role="user", content="hum"), ChatMessage(role="assistant", tool_calls=calls))
    with pytest.raises(RbeesError, match=re.escape("`$.messages[1].tool_calls`")) as caught:
        async with reception.runs.of([JobRequest(model="bees", messages=messages)]):
            pass
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    assert not reception.desk.journal.live


async def test_where_one_of_several_is_refused_none_goes_on(reception: Reception) -> None:
    with pytest.raises(RbeesError) as caught:
        async with reception.runs.of([JobRequest(model="bees", prompt="hum"), JobRequest(model="bees", prompt="")]):
            pass
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    assert reception.cancelled() == list(reception.desk.journal.live)


@pytest.mark.parametrize(
    ("second", "code", "is_cancelled"),
    [
        (HUM, ErrorCode.CONTEXT_EXCEEDED, True),
        (replace(HUM, cancel_on_disconnect=False), ErrorCode.CONTEXT_EXCEEDED, False),
        (HUM, ErrorCode.DRAINING, False),
    ],
)
async def test_where_one_of_several_fails_the_others_are_nobodys(
    reception: Reception, second: JobRequest, code: ErrorCode, is_cancelled: bool
) -> None:
    async def answer() -> None:
        async with reception.runs.of([HUM, second]) as runs:
            reception.desk.journal.finish(reception.live(runs[0].row.job_id), "failed", ErrorBody(code=code, message="no"))
            await whole(runs[0])

    with pytest.raises(RbeesError) as caught:
        await answer()
    _, other = caught.value.job_ids
    assert (other in reception.cancelled()) is is_cancelled


async def test_several_jobs_under_one_key_are_found_again_each(reception: Reception) -> None:
    two = [HUM, JobRequest(model="bees", prompt="buzz")]
    async with reception.runs.of(two, "k") as first:
        pass
    async with reception.runs.of(two, "k") as second:
        pass
    assert [run.row.job_id for run in first] == [run.row.job_id for run in second]
    assert len({run.row.job_id for run in first}) == 2


async def test_a_stop_of_the_orchestrator_is_told(reception: Reception) -> None:
    async with reception.runs.of([HUM]) as [run]:
        reception.relay.close()
        with pytest.raises(RbeesError) as caught:
            await whole(run)
    assert caught.value.code is ErrorCode.DRAINING


async def test_large_results_are_read_in_portions(reception: Reception) -> None:
    embed = JobRequest(model="bees", kind="embed", embed=EmbedRequest(input=("a", "b")))
    vector = tuple(0.5 for _ in range(PORTION_BYTES // 2))
    async with reception.runs.of([embed]) as [run]:
        results = (Result(index=n, embeddings=(Embedding(index=n, embedding=vector, tokens=1),)) for n in (0, 1))
        await reception.answer(run.row.job_id, started(), *results, replace(end(0), choices=()))
        collected = Collected(1)
        sizes = []
        async for events in run.events():
            sizes.append(len([event for event in events if not isinstance(event, Started)]))
            for event in events:
                collected.take(event)
    assert [one.index for one in collected.embeddings] == [0, 1]
    assert max(sizes) <= 2
