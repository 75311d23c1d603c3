"""Ctrl-C while an answer comes: the job ends, however soon the second one follows, and nothing more is shown or heard."""

from __future__ import annotations

import asyncio
import io
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from rbees.clients.orcd import OrcdClient
from rbees.ctl.heard import Heard
from rbees.ctl.screen import JsonScreen, PeopleScreen, Screen
from rbees.ctl.submit import build_job, carry_out
from rbees.ctl.target import Target
from rbees.protocol.errors import ErrorBody, ErrorCode, RbeesError
from rbees.protocol.events import Error, Event, Token
from rbees.protocol.jobs import CancelAnswer, JobAccepted
from rbees.service.clock import ManualClock
from rbees.terminal.answer import AnswerWriter
from rbees.terminal.notes import PlainNotes

JOB = build_job("talk", raw=True, model="m")
CANCELLED = Error(error=ErrorBody(code=ErrorCode.CANCELLED, message="It was cancelled."))


class Orcd:
    """Tells a word, `interrupts`, and goes on until the `cancels`-th order to cancel has come."""

    def __init__(self, interrupts: Callable[[], None], *, cancels: int, on_cancel: Callable[[], None] = lambda: None) -> None:
        self._interrupts = interrupts
        self._cancels = cancels
        self._on_cancel = on_cancel
        self._cancelled = asyncio.Event()
        self.orders = 0

    async def submit(self, job: object, key: str) -> JobAccepted:
        assert job is JOB
        assert key
        return JobAccepted(job_id="job-1", status="queued", queue_position=1, events_url="/", seed=1)

    @asynccontextmanager
    async def events(self, job_id: str, after: int = 0) -> AsyncIterator[AsyncIterator[tuple[int, Event]]]:
        assert (job_id, after) == ("job-1", 0)
        yield self._told()

    async def _told(self) -> AsyncIterator[tuple[int, Event]]:
        yield 1, Token(text="said, ", index=0)
        self._interrupts()
        await self._cancelled.wait()
        yield 2, Token(text="too late", index=1)
        yield 3, CANCELLED

    async def cancel(self, job_id: str) -> CancelAnswer:
        self.orders += 1
        self._on_cancel()
        if self.orders < self._cancels:
            await asyncio.Event().wait()
        self._cancelled.set()
        return CancelAnswer(job_id=job_id, status="cancelled")


class Place:
    """A target that is this orchestrator."""

    is_home = False

    def __init__(self, orcd: Orcd) -> None:
        self._orcd = orcd

    @asynccontextmanager
    async def client(self) -> AsyncIterator[OrcdClient]:
        yield cast(OrcdClient, self._orcd)


async def carried_out(orcd: Orcd, shown: Screen) -> int | None:
    return await carry_out(cast(Target, Place(orcd)), JOB, shown, is_for_its_reader=True)


def press() -> None:
    signal.raise_signal(signal.SIGINT)


def press_twice() -> None:
    press()
    press()


async def test_what_comes_after_ctrl_c_is_neither_shown_nor_heard() -> None:
    answer, said = io.StringIO(), io.StringIO()
    heard = Heard(PeopleScreen(AnswerWriter(answer), PlainNotes(said), shares_terminal=False), ManualClock(), wordy=False)
    assert await carried_out(Orcd(press, cancels=1), heard) == 130
    assert (answer.getvalue(), heard.text) == ("said, \n", "said, ")
    assert said.getvalue() == "cancelling job-1\n"


async def test_programs_get_every_event_of_a_job_that_ctrl_c_ended(capsys: pytest.CaptureFixture[str]) -> None:
    assert await carried_out(Orcd(press, cancels=1), JsonScreen()) == 130
    out = capsys.readouterr().out
    assert [f'"seq":{seq}' in line for seq, line in enumerate(out.splitlines())] == [False, True, True, True]


@pytest.mark.parametrize(
    "pressed",
    [{"interrupts": press_twice, "cancels": 1}, {"interrupts": press, "on_cancel": press, "cancels": 2}],
    ids=["at once", "while the first is sent"],
)
async def test_a_second_ctrl_c_leaves_at_once_and_the_job_ends_all_the_same(pressed: dict[str, Any]) -> None:
    answer, said = io.StringIO(), io.StringIO()
    orcd = Orcd(**pressed)
    with pytest.raises(asyncio.CancelledError):
        await carried_out(orcd, PeopleScreen(AnswerWriter(answer), PlainNotes(said), shares_terminal=False))
    assert orcd.orders == pressed["cancels"]
    assert "may still run" not in said.getvalue()


async def test_a_job_that_may_go_on_is_named() -> None:
    def refuse() -> None:
        raise RbeesError(ErrorCode.ORCD_UNREACHABLE, "Gone.")

    said = io.StringIO()
    shown = PeopleScreen(AnswerWriter(io.StringIO()), PlainNotes(said), shares_terminal=False)
    with pytest.raises(asyncio.CancelledError):
        await carried_out(Orcd(press_twice, cancels=1, on_cancel=refuse), shown)
    assert said.getvalue().endswith("job-1 may still run; end it with `llorch jobs cancel job-1`\n")
