"""Effects carried out on the journal, a fake worker and a fake pool."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec
import pytest

from rbees.orcd.crew import Crew
from rbees.orcd.directory import Directory
from rbees.orcd.executor import LiveExecutor, RecordingExecutor
from rbees.orcd.scheduler.effects import (
    Abandon,
    Attach,
    Dispatch,
    Effect,
    Finish,
    Note,
    Requeue,
    ResolveModel,
    SpawnWorker,
    StopWorker,
)
from rbees.orcd.scheduler.events import AttemptCompleted, AttemptFailed, AttemptStarted, Event, SpawnAccepted, SpawnRefused
from rbees.orcd.scheduler.speeds import Took
from rbees.orcd.stalls import Stalls
from rbees.protocol.chat import ChatMessage
from rbees.protocol.errors import ErrorBody, ErrorCode, RbeesError
from rbees.protocol.events import Token
from rbees.protocol.jobs import JobRequest
from rbees.protocol.pools import SpawnAnswer, SpawnCommand
from rbees.protocol.prefix_chain import chain_of
from rbees.protocol.workers import ExecuteRequest, GivenChoice
from tests.support.orcd_parts import Desk, FakeWorker, StallingClock, end, settle, started, token

DIED = ErrorBody(code=ErrorCode.WORKER_CRASHED, message="The worker died.")


@dataclass
class FakePool:
    """Takes down what it is told, and refuses where asked to."""

    spawned: list[SpawnCommand] = field(default_factory=list)
    stopped: list[tuple[str, str]] = field(default_factory=list)
    refusal: RbeesError | None = None

    @property
    def client(self) -> FakePool:
        return self

    async def spawn(self, request: SpawnCommand) -> SpawnAnswer:
        if self.refusal is not None:
            raise self.refusal
        self.spawned.append(request)
        return SpawnAnswer(worker_id=request.worker_id or "")

    async def stop_worker(self, worker_id: str, by: str) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.stopped.append((worker_id, by))


@dataclass
class FakeAddress:
    """A worker as the directory hands it out."""

    client: FakeWorker

    async def answers(self) -> bool:
        return True


class FakeDirectory:
    """Knows the pool `pool` and the workers that were put in."""

    def __init__(self) -> None:
        self.workers: dict[str, FakeWorker] = {"worker-a": FakeWorker(), "worker-b": FakeWorker()}
        self.the_pool = FakePool()

    def pool(self, pool_id: str) -> FakePool:
        if pool_id != "pool":
            raise RbeesError(ErrorCode.POOL_NOT_FOUND, "No such pool.")
        return self.the_pool

    def worker(self, worker_id: str) -> FakeAddress:
        if worker_id not in self.workers:
            raise RbeesError(ErrorCode.WORKER_NOT_FOUND, "No such worker.")
        return FakeAddress(self.workers[worker_id])


class Stage:
    """An executor with everything around it."""

    def __init__(self, desk: Desk, clock: StallingClock) -> None:
        self.desk = desk
        self.clock = clock
        self.crew = Crew()
        self.directory = FakeDirectory()
        self.reports: list[Event] = []
        self.over: list[str] = []
        directory = cast("Directory", self.directory)
        self.executor = LiveExecutor(
            desk.journal,
            desk.store,
            directory,
            clock,
            self.crew,
            self.reports.append,
            self.over.append,
            Stalls(clock.monotonic),
            hang_after_s=5.0,
        )

    async def perform(self, *effects: Effect) -> None:
        """Carry out and let everything run that can."""
        for effect in effects:
            self.executor.perform(effect)
        await settle()

    def sent(self, worker_id: str = "worker-a") -> ExecuteRequest:
        """What a worker was asked to execute last."""
        request: ExecuteRequest = self.directory.workers[worker_id].named("execute")[-1]
        return request

    def events(self, number: int = 1) -> list[dict[str, Any]]:
        """What is durable of a job's stream."""
        frames = self.desk.bytes_of(number).split(b"\n\n")[:-1]
        return [msgspec.json.decode(frame.split(b"data: ", 1)[1]) for frame in frames]


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    clock = StallingClock()
    async with Desk(clock) as desk:
        stage = Stage(desk, clock)
        yield stage
        await stage.crew.dismiss()
        assert not stage.crew.failed.is_set()


def _dispatch(epoch: int = 1, worker_id: str = "worker-a") -> Dispatch:
    return Dispatch("job-one", epoch, worker_id, "pool")


async def test_the_epoch_is_durable_before_the_worker_hears_of_it(stage: Stage) -> None:
    await stage.desk.job()
    stage.desk.database.gate.clear()
    await stage.perform(_dispatch())
    assert stage.directory.workers["worker-a"].calls == []
    stage.desk.database.gate.set()
    await settle()
    assert stage.desk.database.rows("SELECT epoch, worker_id, outcome FROM attempts") == [(1, "worker-a", "running")]
    assert stage.sent().epoch == 1


async def test_a_worker_gets_what_the_client_sent_and_the_recorded_seed(stage: Stage) -> None:
    request = JobRequest(
        model="bees", prompt="hum", seed=77, max_tokens=9, temperature=0.25, top_k=3, stop=("x",), deterministic=True
    )
    await stage.desk.job(request=request)
    await stage.perform(_dispatch())
    sent = stage.sent()
    assert (sent.prompt, sent.max_tokens, sent.deterministic, sent.generated_token_ids) == ("hum", 9, True, ())
    assert (sent.sampling.seed, sent.sampling.temperature, sent.sampling.top_k, sent.sampling.stop) == (77, 0.25, 3, ("x",))


async def test_a_worker_is_told_the_names_of_the_prompts_beginnings(stage: Stage) -> None:
    messages = (ChatMessage(role="system", content="You are a bee. " * 100), ChatMessage(role="user", content="hum"))
    await stage.desk.job(request=JobRequest(model="bees", messages=messages, seed=1))
    await stage.perform(_dispatch())
    longer = (*messages, ChatMessage(role="assistant", content="hum, hum"), ChatMessage(role="user", content="and more " * 200))
    following = chain_of(ExecuteRequest(job_id="next", epoch=1, messages=longer))
    names = [link.hash for link in stage.sent().prefix_chain]
    assert names == [link.hash for link in following[: len(names)]]
    assert len(names) == 3, "1 500 bytes of text and what stands around them"


async def test_each_of_several_answers_goes_on_from_its_own_tokens(stage: Stage) -> None:
    await stage.desk.job(request=JobRequest(model="bees", prompt="hum", seed=1, n=3))
    await stage.perform(_dispatch())
    assert stage.sent().choices == (GivenChoice(),) * 3
    first = stage.directory.workers["worker-a"]
    events = [
        Token(choice=choice, text="x", index=index, token_ids=(token,))
        for choice, index, token in ((2, 0, 7), (0, 0, 8), (2, 1, 9))
    ]
    first.send(1, started())
    for seq, event in enumerate(events, 2):
        first.send(seq, event)
    await settle()
    await stage.perform(
        Abandon("job-one", 1, "worker-a"), Requeue("job-one", 1, "worker-a", "lost", DIED), _dispatch(2, "worker-b")
    )
    sent = stage.sent("worker-b")
    assert [choice.generated_token_ids for choice in sent.choices] == [(8,), (), (7, 9)]
    assert sent.generated_token_ids == ()


async def test_calls_about_a_job_carry_the_id_of_its_submission(stage: Stage) -> None:
    await stage.desk.job(correlation_id="trace-me")
    await stage.perform(_dispatch())
    worker = stage.directory.workers["worker-a"]
    worker.send(1, started())
    worker.send(2, end(0))
    await settle()
    assert [name for name, _ in worker.calls] == ["execute", "ack"]
    assert worker.correlation_ids == ["trace-me", "trace-me"]


async def test_the_next_attempt_gets_the_tokens_of_the_one_before(stage: Stage) -> None:
    await stage.desk.job()
    await stage.perform(_dispatch())
    first, second = stage.directory.workers["worker-a"], stage.directory.workers["worker-b"]
    first.send(1, started())
    for index in range(3):
        first.send(index + 2, token(index))
    await settle()
    await stage.perform(
        Abandon("job-one", 1, "worker-a"), Requeue("job-one", 1, "worker-a", "lost", DIED), _dispatch(2, "worker-b")
    )
    assert stage.sent("worker-b").generated_token_ids == (1000, 1001, 1002)
    assert first.named("cancel") == [("job-one", 1)]
    first.send(5, token(3, "late"))
    second.send(1, started(2))
    second.send(2, token(3))
    second.send(3, end(4))
    await settle()
    shown = stage.events()
    assert [event["type"] for event in shown] == ["queued", "started", *["token"] * 3, "metrics", "metrics", "token", "end"]
    assert [event["index"] for event in shown if event["type"] == "token"] == [0, 1, 2, 3]
    assert [event["stage"] for event in shown if event["type"] == "metrics"] == ["attempt_failed", "attempt_started"]
    # Of the four tokens the worker before made three.
    assert AttemptCompleted("job-one", 2, Took(3, 0, 1, prefill_s=0.001, decode_s=0.002)) in stage.reports
    assert stage.over == ["worker-b"], "the other is still expected to say that it has stopped"


async def test_effects_of_one_decision_keep_their_order(stage: Stage) -> None:
    await stage.desk.job()
    await stage.perform(
        ResolveModel("job-one", "ab" * 32, "file:/m"),
        Note("job-one", "loading", "It loads.", "worker-a", "pool", 0.5),
        _dispatch(),
        Requeue("job-one", 1, "worker-a", "failed", DIED, counted=False),
        Finish("job-one", "failed", DIED),
    )
    assert [event["type"] for event in stage.events()] == ["queued", "metrics", "metrics", "error"]
    assert stage.desk.database.rows("SELECT status, model_sha256 FROM jobs") == [("failed", "ab" * 32)]
    assert stage.desk.database.rows("SELECT outcome, counted FROM attempts") == [("failed", 0)]
    assert stage.directory.workers["worker-a"].named("execute") == [], "an attempt that was over before it began is not sent"


async def test_a_job_whose_end_came_first_is_reported_as_complete(stage: Stage) -> None:
    job = await stage.desk.running()
    stage.desk.take(job, 1, 1, started())
    stage.desk.take(job, 1, 2, end(0))
    await stage.perform(Requeue("job-one", 1, "worker-a", "lost", DIED), _dispatch(2, "worker-b"))
    assert stage.reports == [AttemptCompleted("job-one", 2)]
    assert stage.directory.workers["worker-b"].calls == []
    assert stage.events()[-1]["type"] == "end"


async def test_attaching_goes_on_after_the_last_journaled_event(stage: Stage) -> None:
    job = await stage.desk.running()
    stage.desk.take(job, 1, 1, started())
    stage.desk.take(job, 1, 2, token(0))
    await settle()
    job.stream.taken, job.stream.listening = {}, False  # As after a restart.
    await stage.perform(Attach("job-one", 1, "worker-a", "pool"), Attach("job-one", 1, "worker-a", "pool"))
    worker = stage.directory.workers["worker-a"]
    assert worker.named("attach") == [("job-one", 1, 2)]
    worker.send(3, token(1))
    worker.send(4, end(2))
    await settle()
    assert stage.reports[-1] == AttemptCompleted("job-one", 1)
    assert [event["index"] for event in stage.events() if event["type"] == "token"] == [0, 1]


async def test_attaching_to_what_never_arrived_sends_it_under_the_same_epoch(stage: Stage) -> None:
    await stage.desk.running()
    await stage.perform(Attach("job-one", 1, "worker-a", "pool"))
    assert stage.sent().epoch == 1


async def test_a_worker_nobody_introduced_fails_the_attempt(stage: Stage) -> None:
    await stage.desk.job()
    await stage.perform(_dispatch(1, "worker-x"))
    (failure,) = stage.reports
    assert isinstance(failure, AttemptFailed)
    assert (failure.error.code, failure.worker_suspect) == (ErrorCode.WORKER_NOT_FOUND, False)


async def test_workers_are_started_and_stopped_by_their_pool(stage: Stage) -> None:
    spawn = SpawnWorker("pool", "worker-n", "file:/m", "ab" * 32, "cpu", ("cpu",))
    await stage.perform(spawn, StopWorker("pool", "worker-a", "It is idle."))
    (request,) = stage.directory.the_pool.spawned
    assert (request.worker_id, request.model_ref, request.backend, request.devices) == ("worker-n", "file:/m", "cpu", ("cpu",))
    assert stage.directory.the_pool.stopped == [("worker-a", "the orchestrator: It is idle.")]
    assert stage.reports == [SpawnAccepted("worker-n")]


async def test_a_pool_that_refuses_is_reported(stage: Stage) -> None:
    stage.directory.the_pool.refusal = RbeesError(ErrorCode.INSUFFICIENT_VRAM, "Too large.", needed_bytes=2, free_bytes=1)
    await stage.perform(
        SpawnWorker("pool", "worker-n", "file:/m", "ab" * 32, "cpu", ("cpu",)),
        SpawnWorker("elsewhere", "worker-o", "file:/m", "ab" * 32, "cpu", ("cpu",)),
        StopWorker("pool", "worker-a", "idle"),
    )
    codes = {report.worker_id: report.error.code for report in stage.reports if isinstance(report, SpawnRefused)}
    assert codes == {"worker-n": ErrorCode.INSUFFICIENT_VRAM, "worker-o": ErrorCode.POOL_NOT_FOUND}


async def test_an_attempt_that_is_not_followed_is_cancelled_at_its_worker(stage: Stage) -> None:
    await stage.desk.running()
    await stage.perform(Abandon("job-one", 1, "worker-a"), Abandon("job-one", 1, "worker-x"))
    assert stage.directory.workers["worker-a"].named("cancel") == [("job-one", 1)]


def test_the_recording_executor_does_nothing_else() -> None:
    recording = RecordingExecutor()
    recording.perform(_dispatch())
    assert recording.take() == [_dispatch()]
    assert recording.take() == []


async def test_the_watch_knows_of_a_stall_before_it_looks_for_hangs(stage: Stage) -> None:
    await stage.desk.job()
    await stage.perform(_dispatch())
    stage.directory.workers["worker-a"].send(1, started())
    stage.crew.start(stage.executor.watch(), "watch")
    await stage.clock.advance(1.0)
    stage.clock.late_s = 12.0
    await stage.clock.advance(0.2)
    stage.clock.late_s = 0.0
    await stage.clock.advance(12.0)
    assert stage.reports == [AttemptStarted("job-one", 1)], "only this watch was there to notice it"
    await stage.clock.advance(6.0)
    assert isinstance(stage.reports[-1], AttemptFailed), "the worker is silent indeed"
