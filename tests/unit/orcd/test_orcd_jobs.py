"""Submitting, looking, cancelling, forgetting and recovering, on a memory store and a real scheduler."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
from msgspec.structs import replace

from rbees.orcd.crew import Crew
from rbees.orcd.jobs import Aside, Jobs
from rbees.orcd.recovery import recover
from rbees.orcd.relay import Relay
from rbees.orcd.retention import DAY_MS, Retention
from rbees.orcd.scheduler.core import Scheduler
from rbees.orcd.scheduler.effects import Note
from rbees.orcd.scheduler.events import CancelAsked, Event, JobArrived, JobRecovered, Moment, PoolReported
from rbees.orcd.scheduler.policy import Policy
from rbees.protocol.chat import ChatMessage
from rbees.protocol.errors import ErrorBody, ErrorCode, RbeesError
from rbees.protocol.events import ChoiceEnd, Embedding, End, Result, Started, StreamState, Token
from rbees.protocol.jobs import JobRequest
from rbees.protocol.pools import ModelFacts
from rbees.protocol.vectors import Embeddings, EmbedRequest
from rbees.service.clock import ManualClock
from tests.support.host_facts import model
from tests.support.orcd_parts import Desk, end, settle, started, token

REQUEST = JobRequest(model="bees", prompt="hum")
BEES = model("bees")


class Office:
    """Jobs with everything around them but workers."""

    def __init__(self, desk: Desk, clock: ManualClock, queue_limit: int = 3) -> None:
        self.desk = desk
        self.clock = clock
        self.crew = Crew()
        self.posted: list[Event] = []
        self.relay = Relay(desk.store, desk.figures)
        self.scheduler = Scheduler(Policy())
        self.jobs = Jobs(desk.journal, desk.store, self.scheduler, self.relay, clock, self.crew, self.posted.append, queue_limit)

    def hear_of_pool(self, name: str = "attic", *models: ModelFacts) -> None:
        """A pool reports to the scheduler."""
        report = PoolReported(name, "boot", registration=True, devices=(), models=models, workers=())
        self.scheduler.handle(report, Moment(self.clock.monotonic(), 0, b"e" * 10))


@pytest.fixture
async def office() -> AsyncIterator[Office]:
    clock = ManualClock()
    async with Desk(clock) as desk:
        office = Office(desk, clock)
        yield office
        await office.crew.dismiss()


async def _refused(office: Office, request: JobRequest = REQUEST, key: str | None = None) -> RbeesError:
    with pytest.raises(RbeesError) as caught:
        await office.jobs.submit(request, key)
    return caught.value


async def test_an_accepted_job_is_durable_and_the_scheduler_hears_of_it(office: Office) -> None:
    accepted = await office.jobs.submit(REQUEST)
    (stored,) = office.desk.database.rows("SELECT job_id, seed, accepted_position FROM jobs")
    assert stored == (accepted.job_id, accepted.seed, 1)
    (arrived,) = office.posted
    assert isinstance(arrived, JobArrived)
    assert (arrived.job.job_id, arrived.job.order, arrived.job.model) == (accepted.job_id, 1, "bees")


async def test_the_scheduler_hears_of_nothing_that_is_not_durable(office: Office) -> None:
    office.desk.database.gate.clear()
    submission = asyncio.create_task(office.jobs.submit(REQUEST))
    await settle()
    assert office.posted == []
    office.desk.database.gate.set()
    await submission
    assert len(office.posted) == 1


async def test_a_full_queue_says_when_to_come_back(office: Office) -> None:
    for _ in range(3):
        await office.jobs.submit(REQUEST)
    error = await _refused(office)
    assert error.code is ErrorCode.QUEUE_FULL
    assert 1 <= error.details["retry_after_s"] <= 60


async def test_requests_that_make_no_sense_are_refused(office: Office) -> None:
    for request in (JobRequest(model="bees"), JobRequest(model="bees", prompt=""), JobRequest(model="../etc", prompt="x")):
        assert (await _refused(office, request)).code is ErrorCode.INVALID_REQUEST
    office.jobs.draining = True
    assert (await _refused(office)).code is ErrorCode.DRAINING
    assert office.posted == []


async def test_a_chat_with_a_model_that_has_no_template_is_refused_at_once(office: Office) -> None:
    office.hear_of_pool("attic", model("bees", capabilities=("generate",)))
    chat = JobRequest(model="bees", messages=(ChatMessage(role="user", content="hum"),))
    error = await _refused(office, chat)
    assert (error.code, "--raw" in error.message) == (ErrorCode.MODEL_INCOMPATIBLE, True)
    assert (await office.jobs.submit(REQUEST)).status == "queued"


async def test_an_idempotency_key_gives_the_same_job(office: Office) -> None:
    first, second = await asyncio.gather(office.jobs.submit(REQUEST, "k"), office.jobs.submit(REQUEST, "k"))
    assert first == second
    assert len(office.posted) == 1
    other = msgspec.structs.replace(REQUEST, prompt="else")
    assert (await _refused(office, other, "k")).code is ErrorCode.IDEMPOTENCY_CONFLICT
    assert office.jobs._submitting == {}


async def test_a_key_that_an_earlier_version_took_still_gives_its_job(office: Office) -> None:
    first = await office.jobs.submit(REQUEST, "k")
    connection = office.desk.database.connection
    # That version knew fewer fields, so neither its digest nor what it stored holds them.
    connection.execute("UPDATE jobs SET request_sha256 = x'00', request = CAST(json_remove(request, '$.deadline_ms') AS BLOB)")
    assert await office.jobs.submit(REQUEST, "k") == first
    other = msgspec.structs.replace(REQUEST, prompt="else")
    assert (await _refused(office, other, "k")).code is ErrorCode.IDEMPOTENCY_CONFLICT
    limited = msgspec.structs.replace(REQUEST, deadline_ms=1000)
    assert (await _refused(office, limited, "k")).code is ErrorCode.IDEMPOTENCY_CONFLICT


async def test_a_client_that_leaves_and_sends_again_gets_the_job_that_it_left(office: Office) -> None:
    office.desk.database.gate.clear()
    first = asyncio.create_task(office.jobs.submit(REQUEST, "k"))
    await settle()
    first.cancel()
    await settle()
    again = [asyncio.create_task(office.jobs.submit(REQUEST, "k")) for _ in range(3)]
    await settle()
    office.desk.database.gate.set()
    answers = await asyncio.gather(*again)
    assert office.desk.database.rows("SELECT job_id FROM jobs") == [(answers[0].job_id,)]
    assert len(set(map(str, answers))) == 1
    assert len(office.posted) == 1


async def test_a_submission_that_found_no_room_leaves_its_key_to_the_next_one_alone(office: Office) -> None:
    office.desk.database.failure = RbeesError(ErrorCode.STORAGE_FULL, "full")
    tries = [asyncio.create_task(office.jobs.submit(REQUEST, "k")) for _ in range(4)]
    await asyncio.wait(tries, return_when=asyncio.FIRST_COMPLETED)
    office.desk.database.failure = None
    answers = await asyncio.gather(*tries, return_exceptions=True)
    assert isinstance(answers[0], RbeesError)
    assert office.desk.database.rows("SELECT count(*) FROM jobs") == [(1,)]


async def test_a_model_that_nobody_has_is_waited_for_while_pools_may_still_come_back(office: Office) -> None:
    office.hear_of_pool()
    assert (await _refused(office)).code is ErrorCode.MODEL_NOT_FOUND, "orcd runs for long"
    office.jobs.settled_at_s = office.clock.monotonic() + 10.0
    waiting = [
        asyncio.create_task(office.jobs.submit(msgspec.structs.replace(REQUEST, model=model))) for model in ("bees", "wasps")
    ]
    await office.clock.advance(5.0)
    assert not any(task.done() for task in waiting)
    office.hear_of_pool("cellar", BEES)
    await office.clock.advance(1.0)
    assert (await waiting[0]).status == "queued"
    await office.clock.advance(5.0)
    with pytest.raises(RbeesError) as caught:
        await waiting[1]
    assert caught.value.code is ErrorCode.MODEL_NOT_FOUND


async def test_under_a_key_a_name_counts_as_it_was_written_whatever_it_means_by_now(office: Office) -> None:
    tagged = msgspec.structs.replace(REQUEST, model="bees:Q4_K_M")
    meaning: list[str | None] = ["bees"]
    aside = Aside(reference_of=lambda _: meaning[0])
    office.hear_of_pool("attic", BEES)
    first = await office.jobs.submit(tagged, "k", aside)
    assert office.desk.database.rows("SELECT model FROM jobs") == [("bees",)]
    for meaning[0] in ("wasps", None):
        assert await office.jobs.submit(tagged, "k", aside) == first
    assert (await _refused(office, msgspec.structs.replace(tagged, model="bees:Q8_0"), "k")).code is ErrorCode.IDEMPOTENCY_CONFLICT


async def test_a_name_whose_meaning_no_pool_can_tell_yet_is_waited_for(office: Office) -> None:
    office.jobs.settled_at_s = office.clock.monotonic() + 10.0
    meaning: list[str | None] = [None]
    tagged = msgspec.structs.replace(REQUEST, model="bees:Q4_K_M")
    waiting = asyncio.create_task(office.jobs.submit(tagged, None, Aside(reference_of=lambda _: meaning[0])))
    await office.clock.advance(5.0)
    assert not waiting.done()
    office.hear_of_pool("attic", BEES)
    meaning[0] = "bees"
    await office.clock.advance(1.0)
    assert (await waiting).status == "queued"
    assert office.desk.database.rows("SELECT model FROM jobs") == [("bees",)]
    late = asyncio.create_task(
        office.jobs.submit(msgspec.structs.replace(REQUEST, model="gnats:Q8_0"), None, Aside(reference_of=lambda _: None))
    )
    await office.clock.advance(5.0)
    with pytest.raises(RbeesError) as caught:
        await late
    assert caught.value.code is ErrorCode.MODEL_NOT_FOUND


async def _ended(office: Office) -> str:
    accepted = await office.jobs.submit(REQUEST, "k")
    job = office.desk.journal.live[accepted.job_id]
    await office.desk.journal.begin_attempt(job, 1, "worker-a", "pool")
    office.desk.take(job, 1, 1, started())
    office.desk.take(job, 1, 2, token(0, "honey "))
    office.desk.take(job, 1, 3, token(1, "bee"))
    office.desk.take(job, 1, 4, end(2))
    await settle()
    return accepted.job_id


async def test_an_ended_job_is_shown_with_its_output(office: Office) -> None:
    shown = await office.jobs.view(await _ended(office))
    assert shown.status == "completed"
    assert isinstance(shown.output, tuple)
    assert [(choice.text, choice.finish_reason) for choice in shown.output] == [("honey bee", "stop")]
    assert shown.usage is not None
    assert shown.usage.completion_tokens == 2
    assert "honey" not in repr(shown)


async def test_events_behind_more_than_an_ended_job_had_are_refused_with_the_range(office: Office) -> None:
    job_id = await _ended(office)
    last_seq = (await office.jobs.row(job_id)).last_seq
    assert (await office.jobs.row_for_events(job_id, last_seq)).job_id == job_id
    with pytest.raises(RbeesError, match=f"between 0 and {last_seq}") as caught:
        await office.jobs.row_for_events(job_id, last_seq + 1)
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    waiting = await office.jobs.submit(REQUEST)
    assert (await office.jobs.row_for_events(waiting.job_id, 99)).ended_at_ms is None, "it may still come to have so many"


async def test_each_answer_of_a_job_is_shown_by_itself_and_thoughts_apart(office: Office) -> None:
    accepted = await office.jobs.submit(msgspec.structs.replace(REQUEST, n=2), "k")
    job = office.desk.journal.live[accepted.job_id]
    await office.desk.journal.begin_attempt(job, 1, "worker-a", "pool")
    events: list[Started | Token | End] = [started(), replace(token(0, "hm"), choice=1, part="reasoning"), token(0, "honey")]
    events += [replace(token(1, "bee"), choice=1)]
    ends = (ChoiceEnd(choice=0, finish_reason="length"), ChoiceEnd(choice=1, finish_reason="stop"))
    for seq, event in enumerate([*events, replace(end(3), choices=ends)], 1):
        office.desk.take(job, 1, seq, event)
    await settle()
    output = (await office.jobs.view(accepted.job_id)).output
    assert isinstance(output, tuple)
    shown = [(each.choice, each.reasoning, each.text, each.finish_reason) for each in output]
    assert shown == [(0, "", "honey", "length"), (1, "hm", "bee", "stop")]


async def test_erased_content_is_gone_everywhere(office: Office) -> None:
    job_id = await _ended(office)
    retention = Retention(office.desk.store, office.clock, retention_days=1, erase_content_after_s=10)
    await retention.sweep()
    assert (await office.jobs.view(job_id)).output is not None
    office.clock.jump_wall_clock(10_000)
    await retention.sweep()
    assert (await office.jobs.view(job_id)).output is None
    with pytest.raises(RbeesError) as caught:
        await office.jobs.row_for_events(job_id)
    assert caught.value.code is ErrorCode.OUTPUT_ERASED
    assert (await _refused(office, REQUEST, "k")).code is ErrorCode.OUTPUT_ERASED
    stored = office.desk.database.rows("SELECT * FROM jobs") + office.desk.database.rows("SELECT * FROM journal")
    assert "hum" not in str(stored)
    assert "honey" not in str(stored)


async def test_old_jobs_are_deleted_and_young_or_unended_ones_stay(office: Office) -> None:
    old = await _ended(office)
    waiting = await office.jobs.submit(REQUEST)
    office.clock.jump_wall_clock(DAY_MS)
    await Retention(office.desk.store, office.clock, retention_days=1, erase_content_after_s=None).sweep()
    with pytest.raises(RbeesError) as caught:
        await office.jobs.row(old)
    assert caught.value.code is ErrorCode.JOB_NOT_FOUND
    assert (await office.jobs.view(waiting.job_id)).status == "queued"
    assert office.desk.database.rows("SELECT count(*) FROM attempts") == [(0,)]


async def test_a_cancellation_is_durable_before_it_is_answered(office: Office) -> None:
    accepted = await office.jobs.submit(REQUEST)
    office.desk.database.gate.clear()
    cancelling = asyncio.create_task(office.jobs.cancel(accepted.job_id))
    await settle()
    assert not cancelling.done()
    office.desk.database.gate.set()
    assert (await cancelling).status == "queued"
    assert office.posted[-1] == CancelAsked(accepted.job_id)
    assert office.desk.database.rows("SELECT cancel_asked FROM jobs") == [(1,)]


async def test_a_second_cancellation_is_no_sooner_answered_than_the_first(office: Office) -> None:
    accepted = await office.jobs.submit(REQUEST)
    office.desk.database.gate.clear()
    cancelling = [asyncio.create_task(office.jobs.cancel(accepted.job_id)) for _ in range(2)]
    await settle()
    assert not any(task.done() for task in cancelling)
    office.desk.database.gate.set()
    assert [answer.status for answer in await asyncio.gather(*cancelling)] == ["queued", "queued"]


async def test_a_cancellation_takes_effect_though_its_client_leaves_before_the_commit(office: Office) -> None:
    accepted = await office.jobs.submit(REQUEST)
    office.desk.database.gate.clear()
    cancelling = asyncio.create_task(office.jobs.cancel(accepted.job_id))
    await settle()
    cancelling.cancel()
    await settle()
    assert office.posted[-1] == CancelAsked(accepted.job_id)
    office.desk.database.gate.set()


async def test_cancelling_an_ended_job_tells_how_it_ended(office: Office) -> None:
    assert (await office.jobs.cancel(await _ended(office))).status == "completed"


async def test_a_job_without_watchers_is_cancelled_after_five_seconds(office: Office) -> None:
    accepted = await office.jobs.submit(msgspec.structs.replace(REQUEST, cancel_on_disconnect=True))
    row = await office.jobs.row(accepted.job_id)
    async with office.relay.watch(row.number, 0, lambda: True):
        office.jobs.left(row)
        await office.clock.advance(6.0)
        assert len(office.posted) == 1, "another one still watches"
    office.jobs.left(row)
    await office.clock.advance(4.9)
    assert len(office.posted) == 1
    await office.clock.advance(0.2)
    assert office.posted[1:] == [CancelAsked(accepted.job_id)]


async def test_the_five_seconds_begin_anew_with_each_watcher_that_leaves(office: Office) -> None:
    accepted = await office.jobs.submit(msgspec.structs.replace(REQUEST, cancel_on_disconnect=True))
    row = await office.jobs.row(accepted.job_id)
    office.jobs.left(row)
    await office.clock.advance(4.0)
    async with office.relay.watch(row.number, 0, lambda: True):
        await office.clock.advance(0.5)
    office.jobs.left(row)
    await office.clock.advance(4.0)
    assert len(office.posted) == 1, "gone for 4 s only"
    await office.clock.advance(1.1)
    assert office.posted[1:] == [CancelAsked(accepted.job_id)]


async def test_after_a_restart_watchers_have_a_while_to_come_back(office: Office) -> None:
    asking = msgspec.structs.replace(REQUEST, cancel_on_disconnect=True)
    back, gone, never = [(await office.jobs.submit(asking)).job_id for _ in range(3)]
    for job_id in (back, gone):
        office.jobs.joined(await office.jobs.row(job_id))
    await settle()
    office.desk.journal.live.clear()
    office.posted.clear()
    await recover(office.desk.store, office.desk.journal, office.posted.append)
    office.posted.clear()
    office.jobs.expect_watchers()
    await office.clock.advance(5.1)
    async with office.relay.watch((await office.jobs.row(back)).number, 0, lambda: True):
        await office.clock.advance(10.0)
    assert office.posted == [CancelAsked(gone)]
    assert not office.desk.journal.live[never].watched


async def test_a_restart_with_many_waiting_jobs_tells_only_the_first_of_them_again(office: Office) -> None:
    for number in range(200):
        await office.desk.job(f"n{number}", model_sha256=BEES.sha256 if number % 2 else None)
    office.desk.journal.live.clear()
    office.posted.clear()
    await recover(office.desk.store, office.desk.journal, office.posted.append)
    moment = Moment(0.0, 0, b"e" * 10)
    notes = [effect for event in office.posted for effect in office.scheduler.handle(event, moment) if isinstance(effect, Note)]
    assert 0 < len(notes) <= 2 * Policy().noted_jobs, "of each of the two models"


async def test_a_restart_remembers_how_many_answers_a_job_makes(office: Office) -> None:
    for request in (REQUEST, msgspec.structs.replace(REQUEST, n=7)):
        await office.jobs.submit(request)
    before = [event.job for event in office.posted if isinstance(event, JobArrived)]
    office.desk.journal.live.clear()
    office.posted.clear()
    await recover(office.desk.store, office.desk.journal, office.posted.append)
    after = [event.job for event in office.posted if isinstance(event, JobRecovered)]
    assert [job.choices for job in before] == [job.choices for job in after] == [1, 7]


async def test_a_restart_takes_up_what_has_not_ended() -> None:
    clock = ManualClock(unix_ms=1_000_000)
    async with Desk(clock) as desk:
        await desk.job("waits", created_at_ms=1_000_000)
        runs = await desk.running("runs")
        desk.take(runs, 1, 1, started())
        desk.take(runs, 1, 2, token(0))
        desk.take(runs, 1, 3, token(1))
        retried = await desk.running("retried")
        desk.take(retried, 1, 1, started())
        desk.journal.requeue(
            retried, 1, "worker-a", "failed", ErrorBody(code=ErrorCode.WORKER_CRASHED, message="It died."), counted=True
        )
        await desk.journal.begin_attempt(retried, 2, "worker-b", "pool")
        over = await desk.running("over")
        desk.journal.finish(over, "cancelled", ErrorBody(code=ErrorCode.CANCELLED, message="On request."))
        await settle()
        desk.journal.live.clear()
        desk.journal.counts.clear()
        posted: list[Event] = []
        assert await recover(desk.store, desk.journal, posted.append) == 3
        recovered = [event for event in posted if isinstance(event, JobRecovered)]
        assert [(event.job.job_id, event.epoch, event.failures, event.deaths, event.worker_id) for event in recovered] == [
            ("job-waits", 0, 0, 0, None),
            ("job-runs", 1, 0, 0, "worker-a"),
            ("job-retried", 2, 1, 1, "worker-b"),
        ]
        stream = desk.journal.live["job-runs"].stream
        assert (stream.state, stream.last_seq, stream.worker_seq, stream.listening) == (StreamState.RUNNING, 4, 3, False)
        assert desk.journal.live["job-retried"].stream.worker_seq == 0
        assert desk.journal.counts["queued"] == 1
        assert await desk.store.next_number() == 5


async def test_a_wall_clock_that_was_set_back_between_two_jobs_makes_the_older_one_no_younger() -> None:
    clock = ManualClock()
    async with Desk(clock) as desk:
        for name, created_at_ms in (("first", 5_000_000), ("second", 1_400_000), ("third", 1_500_000)):
            await desk.job(name, created_at_ms=created_at_ms)
        desk.journal.live.clear()
        desk.journal.counts.clear()
        posted: list[Event] = []
        await recover(desk.store, desk.journal, posted.append)
        recovered = [event for event in posted if isinstance(event, JobRecovered)]
        assert [event.accepted_at_ms for event in recovered] == [1_400_000, 1_400_000, 1_500_000]


EMBED = JobRequest(model="bees", kind="embed", embed=EmbedRequest(input=("honey", "bee", "moth")))


def _vectors(*indices: int) -> Result:
    made = tuple(Embedding(index=index, embedding=(0.5,), tokens=1) for index in indices)
    return Result(index=indices[0], embeddings=made)


async def test_what_a_model_cannot_do_by_its_header_is_refused_at_submission(office: Office) -> None:
    office.hear_of_pool("attic", replace(BEES, capabilities=("generate", "chat")))
    error = await _refused(office, EMBED)
    assert error.code is ErrorCode.MODEL_INCOMPATIBLE
    assert error.details["capabilities"] == ["generate", "chat"]
    await office.jobs.submit(REQUEST)
    office.hear_of_pool("attic", replace(BEES, capabilities=("embed",)))
    assert (await _refused(office)).code is ErrorCode.MODEL_INCOMPATIBLE
    await office.jobs.submit(EMBED)
    office.hear_of_pool("attic", BEES)
    await office.jobs.submit(EMBED)


async def test_a_job_of_vectors_is_shown_with_them_until_they_are_erased(office: Office) -> None:
    accepted = await office.jobs.submit(EMBED)
    job = office.desk.journal.live[accepted.job_id]
    await office.desk.journal.begin_attempt(job, 1, "worker-a", "pool")
    events: list[Started | Result | End] = [started(), _vectors(0, 1), _vectors(2), replace(end(0), choices=())]
    for seq, event in enumerate(events, 1):
        office.desk.take(job, 1, seq, event)
    await settle()
    shown = await office.jobs.view(accepted.job_id)
    assert (shown.kind, shown.status, shown.last_seq) == ("embed", "completed", 5)
    assert isinstance(shown.output, Embeddings)
    assert [one.index for one in shown.output.embeddings] == [0, 1, 2]
    assert [listed.kind for listed in (await office.jobs.list(status=None, model=None, limit=9, below=99)).jobs] == ["embed"]
    retention = Retention(office.desk.store, office.clock, retention_days=7, erase_content_after_s=1.0)
    await office.clock.advance(5)
    await retention.sweep()
    shown = await office.jobs.view(accepted.job_id)
    assert (shown.kind, shown.output) == ("embed", None)


async def test_after_a_restart_a_job_of_vectors_is_still_one(office: Office) -> None:
    accepted = await office.jobs.submit(EMBED)
    job = office.desk.journal.live[accepted.job_id]
    await office.desk.journal.begin_attempt(job, 1, "worker-a", "pool")
    office.desk.take(job, 1, 1, started())
    office.desk.take(job, 1, 2, _vectors(0, 1))
    await settle()
    office.desk.journal.live.clear()
    office.desk.journal.counts.clear()
    await recover(office.desk.store, office.desk.journal, office.posted.append)
    assert office.desk.journal.live[accepted.job_id].stream.kind == "embed"
