"""One attempt against a worker that is told what to send: breaks, hangs, cancellation, acknowledgements."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from rbees.orcd.attempt import ACK_AFTER_BYTES, ACK_EVERY_S, MOST_UNCOMMITTED, Attempt, Seat
from rbees.orcd.live import LiveJob
from rbees.orcd.scheduler.events import AttemptCancelled, AttemptCompleted, AttemptFailed, AttemptProved, AttemptStarted, Event
from rbees.orcd.scheduler.speeds import Took
from rbees.orcd.stalls import Stalls
from rbees.protocol.errors import ErrorBody, ErrorCode, RbeesError
from rbees.protocol.events import Error
from rbees.protocol.workers import Beat, ExecuteRequest
from rbees.service.clock import ManualClock
from tests.support.orcd_parts import Desk, FakeWorker, end, settle, started, token, unreachable


class Scene:
    """A running attempt, its worker, and what was reported."""

    def __init__(self, desk: Desk, clock: ManualClock, job: LiveJob, proof_tokens: int | None) -> None:
        self.desk = desk
        self.clock = clock
        self.job = job
        self.worker = FakeWorker()
        self.port_is_open = True
        self.reports: list[Event] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.proof_tokens = proof_tokens
        self.stalls = Stalls(clock.monotonic)
        self.attempt = self.make()
        self.stalls.tell(self.attempt.extend)
        self.task = asyncio.create_task(self.attempt.run(ExecuteRequest(job_id=job.job_id, epoch=1, prompt="hum")))

    def make(self) -> Attempt:
        """An attempt at the job's present epoch."""
        return Attempt(
            self.job,
            self.job.stream.epoch,
            Seat("worker-a", "pool", self.worker, self._answers),
            journal=self.desk.journal,
            clock=self.clock,
            report=self.reports.append,
            start=self._start,
            stalls=self.stalls,
            hang_after_s=5.0,
            proof_tokens=self.proof_tokens,
        )

    async def _answers(self) -> bool:
        return self.port_is_open

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        self.tasks.append(asyncio.create_task(work))

    async def pass_time(self, seconds: float) -> None:
        """Let time pass with the regular look at the attempt."""
        for _ in range(round(seconds / 0.5)):
            await self.clock.advance(0.5)
            self.stalls.awake()
            self.attempt.check(self.clock.monotonic())
        await settle()

    async def live_on(self, seconds: float) -> None:
        """The same while the worker shows that it gets on."""
        for step in range(round(seconds)):
            self.worker.send(None, Beat(step=step))
            await self.pass_time(1.0)

    async def stream(self, tokens: int) -> None:
        """The worker starts and sends tokens."""
        self.worker.send(1, started())
        for index in range(tokens):
            self.worker.send(index + 2, token(index))
        await settle()


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    async with set_up() as scene:
        yield scene


@asynccontextmanager
async def set_up(proof_tokens: int | None = None) -> AsyncIterator[Scene]:
    clock = ManualClock()
    async with Desk(clock) as desk:
        scene = Scene(desk, clock, await desk.running(), proof_tokens)
        yield scene
        for task in [scene.task, *scene.tasks]:
            task.cancel()
        await asyncio.gather(scene.task, *scene.tasks, return_exceptions=True)


async def test_it_reports_the_start_and_the_end_once_they_are_durable(scene: Scene) -> None:
    scene.desk.database.gate.clear()
    await scene.stream(2)
    assert scene.reports == []
    scene.desk.database.gate.set()
    await settle()
    assert scene.reports == [AttemptStarted("job-one", 1)]
    scene.worker.send(4, end(2))
    await settle()
    assert scene.reports[1:] == [AttemptCompleted("job-one", 1, Took(3, 0, 2, prefill_s=0.001, decode_s=0.002))]
    assert scene.worker.named("ack")[-1] == ("job-one", 1, 4)
    assert scene.task.done()


async def test_a_proof_that_was_asked_for_is_reported_once_it_is_durable() -> None:
    async with set_up(proof_tokens=2) as scene:
        await scene.stream(1)
        assert scene.reports == [AttemptStarted("job-one", 1)]
        scene.desk.database.gate.clear()
        scene.worker.send(3, token(1))
        await settle()
        assert scene.reports == [AttemptStarted("job-one", 1)]
        scene.desk.database.gate.set()
        scene.worker.send(4, token(2))
        await settle()
        assert scene.reports == [AttemptStarted("job-one", 1), AttemptProved("job-one", 1)]


async def test_it_acknowledges_only_what_is_durable(scene: Scene) -> None:
    await scene.stream(3)
    assert scene.worker.named("ack") == []
    scene.desk.database.gate.clear()
    scene.worker.send(5, token(3))
    await scene.live_on(1.5 * ACK_EVERY_S)
    assert scene.worker.named("ack") == [("job-one", 1, 4)]
    scene.desk.database.gate.set()
    await scene.live_on(ACK_EVERY_S)
    assert scene.worker.named("ack")[-1] == ("job-one", 1, 5)


async def test_much_that_is_durable_is_acknowledged_at_once(scene: Scene) -> None:
    await scene.stream(3)
    scene.worker.send(5, token(3, "z" * ACK_AFTER_BYTES))
    await settle()
    assert scene.worker.named("ack") == [("job-one", 1, 5)]
    scene.worker.send(6, token(4))
    await settle()
    assert scene.worker.named("ack") == [("job-one", 1, 5)]


async def test_a_broken_connection_is_taken_up_again_after_the_last_event(scene: Scene) -> None:
    await scene.stream(3)
    scene.worker.break_off()
    await scene.pass_time(1.0)
    assert scene.worker.named("attach") == [("job-one", 1, 4)]
    scene.worker.send(4, token(2))
    scene.worker.send(5, token(3))
    scene.worker.send(6, end(4))
    await settle()
    assert scene.reports[-1] == AttemptCompleted("job-one", 1, Took(3, 0, 4, prefill_s=0.001, decode_s=0.002))
    assert scene.desk.bytes_of(1).count(b"event: token") == 4, "what was sent again was taken once"


async def test_an_attempt_that_was_never_heard_of_is_sent_again(scene: Scene) -> None:
    scene.worker.break_off()
    await scene.pass_time(1.0)
    assert len(scene.worker.named("execute")) == 2
    assert scene.worker.named("attach") == []


async def test_a_port_that_refuses_twice_is_given_up_at_once(scene: Scene) -> None:
    await scene.stream(3)
    scene.worker.refusals = [unreachable("connection refused"), unreachable("connection refused")]
    scene.worker.break_off()
    await scene.pass_time(1.5)
    (failure,) = scene.reports[1:]
    assert isinstance(failure, AttemptFailed)
    assert (failure.error.code, failure.worker_suspect, failure.worker_hung, failure.final) == (
        ErrorCode.WORKER_UNREACHABLE,
        True,
        False,
        False,
    )


async def test_a_host_that_is_cut_off_is_tried_for_as_long_as_a_hang_is_borne(scene: Scene) -> None:
    await scene.stream(1)
    scene.worker.refusals = [unreachable("the host cannot be reached") for _ in range(100)]
    scene.worker.break_off()
    await scene.pass_time(3.0)
    assert len(scene.reports) == 1
    await scene.pass_time(4.0)
    assert isinstance(scene.reports[-1], AttemptFailed)


@pytest.mark.parametrize("beating", [True, False], ids=["step counter stands", "no sign of life"])
async def test_a_hang_is_noticed(scene: Scene, beating: bool) -> None:
    await scene.stream(2)
    scene.worker.send(None, Beat(step=7))
    for _ in range(9):
        await scene.pass_time(0.5)
        assert len(scene.reports) == 1
        if beating:
            scene.worker.send(None, Beat(step=7))
    await scene.pass_time(1.5)
    (failure,) = scene.reports[1:]
    assert isinstance(failure, AttemptFailed)
    assert (failure.worker_suspect, failure.worker_hung) == (True, True)
    assert ("step counter" in failure.error.message) is beating


async def test_a_silent_worker_whose_port_is_out_of_reach_has_not_hung(scene: Scene) -> None:
    scene.port_is_open = False
    await scene.stream(2)
    await scene.pass_time(6.0)
    failure = scene.reports[-1]
    assert isinstance(failure, AttemptFailed)
    assert (failure.worker_suspect, failure.worker_hung) == (True, False)


async def test_a_step_counter_that_moves_is_progress(scene: Scene) -> None:
    await scene.stream(1)
    for step in range(30):
        scene.worker.send(None, Beat(step=step))
        await scene.pass_time(1.0)
    assert len(scene.reports) == 1


async def test_a_stall_of_this_process_is_no_hang(scene: Scene) -> None:
    await scene.stream(1)
    await scene.pass_time(0.5)
    await scene.clock.advance(9.0)
    await scene.pass_time(0.5)
    assert len(scene.reports) == 1


async def test_a_stream_that_is_read_before_the_stall_is_known_gains_no_time_by_it(scene: Scene) -> None:
    await scene.stream(1)
    await scene.pass_time(0.5)
    await scene.clock.advance(9.0)
    scene.worker.send(None, Beat(step=7))
    await settle()
    await scene.pass_time(4.5)
    assert len(scene.reports) == 1
    await scene.pass_time(1.0)
    assert isinstance(scene.reports[-1], AttemptFailed), "it has been silent for as long as any other"


async def test_a_stream_that_breaks_before_the_stall_is_known_is_taken_up_again(scene: Scene) -> None:
    await scene.stream(3)
    await scene.pass_time(0.5)
    await scene.clock.advance(9.0)
    scene.worker.break_off()
    await scene.pass_time(1.0)
    assert scene.worker.named("attach") == [("job-one", 1, 4)]
    assert not any(isinstance(report, AttemptFailed) for report in scene.reports)


async def test_a_slow_commit_is_no_hang(scene: Scene) -> None:
    await scene.stream(1)
    scene.desk.database.gate.clear()
    for index in range(1, MOST_UNCOMMITTED + 2):
        scene.worker.send(index + 2, token(index))
    await scene.pass_time(20.0)
    assert len(scene.reports) == 1, "the events wait for the disk, and beats behind them are not read"
    scene.desk.database.gate.set()
    await scene.pass_time(4.5)
    assert len(scene.reports) == 1, "what the worker is borne begins anew"
    await scene.pass_time(1.0)
    assert isinstance(scene.reports[-1], AttemptFailed), "and from then on a hang is seen"


async def test_a_gap_in_the_workers_numbers_ends_the_attempt(scene: Scene) -> None:
    await scene.stream(2)
    scene.worker.send(5, token(2))
    await settle()
    failure = scene.reports[-1]
    assert isinstance(failure, AttemptFailed)
    assert (failure.error.code, failure.worker_suspect) == (ErrorCode.INTERNAL, True)


@pytest.mark.parametrize(("code", "final"), [(ErrorCode.CONTEXT_EXCEEDED, True), (ErrorCode.DRAINING, False)])
async def test_a_workers_own_error_is_reported(scene: Scene, code: ErrorCode, final: bool) -> None:
    scene.worker.send(1, Error(error=ErrorBody(code=code, message="No.")))
    await settle()
    (failure,) = scene.reports
    assert isinstance(failure, AttemptFailed)
    assert (failure.error.code, failure.final, failure.worker_suspect) == (code, final, False)
    assert scene.worker.named("ack") == [("job-one", 1, 1)]


async def test_a_refusal_to_take_the_job_is_reported(scene: Scene) -> None:
    scene.task.cancel()
    scene.worker.refusals = [RbeesError(ErrorCode.MODEL_LOADING, "Still loading.")]
    await scene.make().run(ExecuteRequest(job_id="job-one", epoch=1, prompt="hum"))
    (failure,) = scene.reports
    assert isinstance(failure, AttemptFailed)
    assert failure.error.code is ErrorCode.MODEL_LOADING


async def test_an_abandoned_attempt_is_cancelled_and_heard_out(scene: Scene) -> None:
    await scene.stream(2)
    scene.job.stream.listening = False
    scene.attempt.abandon()
    scene.worker.send(4, token(2))
    await settle()
    assert scene.worker.named("cancel") == [("job-one", 1)]
    scene.worker.send(5, Error(error=ErrorBody(code=ErrorCode.CANCELLED, message="Stopped.")))
    await settle()
    assert scene.reports[1:] == [AttemptCancelled("job-one", 1)]
    assert scene.desk.bytes_of(1).count(b"event: token") == 2, "what came after that does not count"


async def test_a_worker_that_does_not_confirm_is_left_after_five_seconds(scene: Scene) -> None:
    await scene.stream(2)
    scene.attempt.abandon()
    await scene.clock.advance(4.9)
    assert not scene.task.done()
    await scene.clock.advance(0.2)
    assert scene.task.done()
    assert len(scene.reports) == 1
