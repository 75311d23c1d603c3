"""The pool's conversation with its orchestrator, on a clock turned by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from rbees.poold.heartbeat import LONGEST_DELAY_S, Backoff, Member, OrcdLink
from rbees.protocol.codec import encode
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.pools import (
    Device,
    Heartbeat,
    ModelFacts,
    RegisterAnswer,
    RegisterRequest,
    UnusableModel,
    WorkerFacts,
    WorkerFailedReport,
    WorkerReadyReport,
)
from rbees.protocol.workers import WorkerReady
from rbees.service.clock import ManualClock
from tests.support.host_facts import device, model

Call = RegisterRequest | Heartbeat | WorkerReadyReport | WorkerFailedReport


class Orcd:
    """Records every call; refuses those of the types in `refusals` until told otherwise."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.refusals: dict[type[Call], ErrorCode] = {}
        self.details: dict[str, Any] = {}
        self.closed = 0

    async def register(self, request: RegisterRequest) -> RegisterAnswer:
        self._hear(request)
        return RegisterAnswer(heartbeat_interval_ms=2000)

    async def heartbeat(self, pool_id: str, heartbeat: Heartbeat) -> None:
        assert pool_id == "mac"
        self._hear(heartbeat)

    async def worker_ready(self, report: WorkerReadyReport) -> None:
        self._hear(report)

    async def worker_failed(self, report: WorkerFailedReport) -> None:
        self._hear(report)

    async def close(self) -> None:
        self.closed += 1

    def _hear(self, call: Call) -> None:
        self.calls.append(call)
        if type(call) in self.refusals:
            raise RbeesError(self.refusals[type(call)], "No.", **self.details)

    def kinds(self) -> list[type[Call]]:
        kinds, self.calls = [type(call) for call in self.calls], []
        return kinds


class Facts:
    """A host with one device and one model."""

    def devices(self) -> tuple[Device, ...]:
        return (device(),)

    def models(self) -> tuple[ModelFacts, ...]:
        return (model(),)

    def unusable(self) -> tuple[UnusableModel, ...]:
        return (UnusableModel(name="letter", code=ErrorCode.MODEL_INCOMPATIBLE, message="The model file is not GGUF."),)

    def workers(self) -> tuple[WorkerFacts, ...]:
        return ()

    def ready(self) -> tuple[WorkerReady, ...]:
        return (READY,)


READY = WorkerReady(
    worker_id="w",
    nonce="n",
    pid=1,
    model_ref="m",
    model_sha256=None,
    uri="http://mac:9301",
    secret="rbk_secret",
    backend="cpu",
    memory_bytes=0,
    memory_architecture="ram",
    capabilities=(),
    slots=1,
    ctx=64,
    load_ms=1.0,
)


@asynccontextmanager
async def linked(
    orcd: Orcd, clock: ManualClock, url: str | None = "http://orcd:8080", *, callers_are_known: bool = True
) -> AsyncIterator[OrcdLink]:
    member = Member("mac", lambda: "http://mac:9200", "boot", 8192)
    link = OrcdLink(member, Facts(), lambda url: orcd, clock, url, jitter=lambda: 0.0, callers_are_known=callers_are_known)
    task = asyncio.create_task(link.run())
    try:
        yield link
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def failed(worker_id: str = "w") -> WorkerFailedReport:
    return WorkerFailedReport(
        pool_id="mac",
        worker_id=worker_id,
        model_ref="m",
        model_sha256="0",
        while_loading=False,
        code=ErrorCode.WORKER_CRASHED,
        message="It died.",
    )


async def test_register_then_beat_every_two_seconds() -> None:
    orcd, clock = Orcd(), ManualClock()
    async with linked(orcd, clock) as link:
        await clock.advance(0.1)
        assert {call.default_ctx for call in orcd.calls if isinstance(call, RegisterRequest | Heartbeat)} == {8192}
        assert orcd.kinds() == [RegisterRequest, Heartbeat]
        assert link.registered
        for _ in range(5):
            await clock.advance(2)
        assert orcd.kinds() == [Heartbeat] * 5
    assert orcd.closed == 1


async def test_beats_are_numbered_and_carry_the_whole_state() -> None:
    orcd, clock = Orcd(), ManualClock()
    async with linked(orcd, clock):
        await clock.advance(2.1)
    beats = [call for call in orcd.calls if isinstance(call, Heartbeat)]
    assert [beat.seq for beat in beats] == [1, 2]
    assert all(beat.devices and beat.models and beat.boot_id == "boot" for beat in beats)


async def test_a_forgotten_pool_registers_again() -> None:
    orcd, clock = Orcd(), ManualClock()
    async with linked(orcd, clock) as link:
        await clock.advance(0.1)
        orcd.kinds()
        orcd.refusals[Heartbeat] = ErrorCode.POOL_NOT_FOUND
        await clock.advance(2)
        assert not link.registered
        orcd.refusals.clear()
        await clock.advance(1)
        assert orcd.kinds() == [Heartbeat, RegisterRequest, Heartbeat]
        assert link.registered


async def test_an_orchestrator_that_is_away_is_tried_ever_more_slowly() -> None:
    orcd, clock = Orcd(), ManualClock()
    orcd.refusals[RegisterRequest] = ErrorCode.ORCD_UNREACHABLE
    async with linked(orcd, clock) as link:
        await clock.advance(60)
        assert link.problem == "No."
        assert 10 < len(orcd.kinds()) < 20
        orcd.refusals.clear()
        await clock.advance(LONGEST_DELAY_S)
        assert link.registered
        assert link.problem is None


async def test_a_pool_comes_back_when_its_turn_is() -> None:
    orcd, clock = Orcd(), ManualClock()
    orcd.refusals[RegisterRequest] = ErrorCode.QUEUE_FULL
    orcd.details = {"retry_after_s": 7.5}
    async with linked(orcd, clock) as link:
        await clock.advance(7.4)
        assert orcd.kinds() == [RegisterRequest]
        orcd.refusals.clear()
        await clock.advance(0.2)
        assert link.registered


async def test_an_orchestrator_that_wants_a_pool_back_next_year_is_asked_again_soon() -> None:
    orcd, clock = Orcd(), ManualClock()
    orcd.refusals[RegisterRequest] = ErrorCode.QUEUE_FULL
    orcd.details = {"retry_after_s": 3e7}
    async with linked(orcd, clock):
        await clock.advance(10)
        assert len(orcd.kinds()) > 3


async def test_one_lost_beat_changes_nothing() -> None:
    orcd, clock = Orcd(), ManualClock()
    async with linked(orcd, clock) as link:
        await clock.advance(0.1)
        orcd.refusals[Heartbeat] = ErrorCode.ORCD_UNREACHABLE
        await clock.advance(2)
        orcd.refusals.clear()
        orcd.kinds()
        assert link.registered
        await clock.advance(0.3)
        assert orcd.kinds() == [Heartbeat]


async def test_news_are_told_before_the_next_beat_is_due() -> None:
    orcd, clock = Orcd(), ManualClock()
    async with linked(orcd, clock) as link:
        await clock.advance(0.1)
        orcd.kinds()
        link.hurry()
        await clock.advance(0)
        assert orcd.kinds() == [Heartbeat]
        await clock.advance(1.9)
        assert orcd.kinds() == []
        telling = asyncio.create_task(link.told())
        await clock.advance(0)
        assert (telling.done(), orcd.kinds()) == (True, [Heartbeat])


async def test_nobody_waits_for_an_orchestrator_that_does_not_answer() -> None:
    orcd, clock = Orcd(), ManualClock()
    async with linked(orcd, clock) as link:
        await clock.advance(0.1)
        orcd.refusals[Heartbeat] = ErrorCode.ORCD_UNREACHABLE
        telling = asyncio.create_task(link.told())
        await clock.advance(0)
        assert telling.done(), "it has just been seen not to answer"
        orcd.kinds()
        link.hurry()
        await asyncio.wait_for(link.told(), 30)
        await clock.advance(0)
        assert orcd.kinds() == []
    async with linked(orcd, clock, url=None) as link:
        await asyncio.wait_for(link.told(), 30)


async def test_who_waits_for_a_silent_orchestrator_waits_two_seconds() -> None:
    class Silent(Orcd):
        async def heartbeat(self, pool_id: str, heartbeat: Heartbeat) -> None:
            await asyncio.Event().wait()

    clock = ManualClock()
    async with linked(Silent(), clock) as link:
        await clock.advance(0.1)
        telling = asyncio.create_task(link.told())
        await clock.advance(1.9)
        assert not telling.done()
        await clock.advance(0.2)
        assert telling.done()


async def test_reports_go_out_at_once() -> None:
    orcd, clock = Orcd(), ManualClock()
    async with linked(orcd, clock) as link:
        await clock.advance(0.1)
        orcd.kinds()
        link.report(failed())
        await clock.advance(0)
        assert orcd.kinds() == [WorkerFailedReport]


async def test_reports_are_repeated_until_delivered_and_keep_their_order() -> None:
    orcd, clock = Orcd(), ManualClock()
    async with linked(orcd, clock) as link:
        await clock.advance(0.1)
        orcd.refusals[WorkerFailedReport] = ErrorCode.ORCD_UNREACHABLE
        link.report(failed("first"))
        link.report(failed("second"))
        await clock.advance(3)
        tried = [call.worker_id for call in orcd.calls if isinstance(call, WorkerFailedReport)]
        assert len(tried) > 2
        assert set(tried) == {"first"}
        orcd.refusals.clear()
        orcd.kinds()
        await clock.advance(5)
        assert [call.worker_id for call in orcd.calls if isinstance(call, WorkerFailedReport)] == ["first", "second"]
        orcd.kinds()
        await clock.advance(20)
        assert WorkerFailedReport not in orcd.kinds()


async def test_reports_wait_for_the_registration() -> None:
    orcd, clock = Orcd(), ManualClock()
    orcd.refusals[RegisterRequest] = ErrorCode.ORCD_UNREACHABLE
    async with linked(orcd, clock) as link:
        link.report(failed())
        await clock.advance(3)
        assert WorkerFailedReport not in orcd.kinds()
        orcd.refusals.clear()
        await clock.advance(LONGEST_DELAY_S)
        assert WorkerFailedReport in orcd.kinds()


async def test_a_report_that_is_refused_for_good_is_dropped() -> None:
    orcd, clock = Orcd(), ManualClock()
    async with linked(orcd, clock) as link:
        await clock.advance(0.1)
        orcd.refusals[WorkerFailedReport] = ErrorCode.INVALID_REQUEST
        link.report(failed())
        await clock.advance(10)
        assert orcd.kinds().count(WorkerFailedReport) == 1


async def test_without_an_orchestrator_it_waits_to_be_called() -> None:
    orcd, clock = Orcd(), ManualClock()
    async with linked(orcd, clock, url=None) as link:
        await clock.advance(60)
        assert orcd.kinds() == []
        registration = await link.announce("http://orcd:8080")
        assert (registration.pool_id, registration.endpoint, registration.ready) == ("mac", "http://mac:9200", (READY,))
        assert link.registered
        await clock.advance(0.1)
        assert orcd.kinds() == [Heartbeat]
        assert link.orcd_url == "http://orcd:8080"


async def test_a_forgotten_pool_belongs_to_nobody_until_one_calls() -> None:
    orcd, clock = Orcd(), ManualClock()
    async with linked(orcd, clock) as link:
        await clock.advance(0.1)
        await link.dismiss()
        orcd.kinds()
        await clock.advance(60)
        assert orcd.kinds() == []
        assert (link.orcd_url, link.registered, link.problem) == (None, False, None)
        await link.announce("http://other:8080")
        await clock.advance(0.1)
        assert orcd.kinds() == [Heartbeat]


async def test_another_orchestrator_takes_over() -> None:
    orcd, clock = Orcd(), ManualClock()
    async with linked(orcd, clock) as link:
        await clock.advance(0.1)
        await link.announce("http://other:8080")
        assert orcd.closed == 1
        orcd.kinds()
        await clock.advance(0.1)
        assert orcd.kinds() == [Heartbeat]


@pytest.mark.parametrize("url", [None, "http://orcd:8080"])
async def test_secrets_go_to_the_orchestrators_address_and_not_to_a_caller_who_needs_no_token(url: str | None) -> None:
    orcd, clock = Orcd(), ManualClock()
    async with linked(orcd, clock, url, callers_are_known=False) as link:
        await clock.advance(0.1)
        orcd.kinds()
        registration = await link.announce("http://orcd:8080")
        assert registration.ready == ()
        assert "rbk_secret" not in str(encode(registration))
        await clock.advance(0)
        assert [call.ready for call in orcd.calls if isinstance(call, RegisterRequest)] == [(READY,)]
        assert link.registered


def test_delays_double_up_to_a_limit_and_are_cut_at_random() -> None:
    delays = Backoff(lambda: 0.0)
    assert [delays.next() for _ in range(7)] == [0.25, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0]
    delays.reset()
    assert delays.next() == 0.25
    assert Backoff(lambda: 1.0).next() == 0.125
