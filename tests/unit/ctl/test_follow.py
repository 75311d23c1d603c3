"""Following a job: every event once and in order, whatever the connection does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from rbees.ctl.follow import follow
from rbees.protocol.errors import ErrorBody, ErrorCode, RbeesError
from rbees.protocol.events import ChoiceEnd, End, Error, Event, Queued, Started, Timings, Token, Usage
from rbees.protocol.jobs import JobStatus, JobView


class InstantClock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def unix_ms(self) -> int:
        return 0

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


class Script:
    """An orcd that holds `events` and hands them out over connections that each break after so many (None: never)."""

    def __init__(self, events: Sequence[Event], breaks: Sequence[int | RbeesError | None], *, quietly: bool = False) -> None:
        self.events_held = events
        self.breaks = list(breaks)
        self.quietly = quietly
        self.asked_after: list[int] = []

    @asynccontextmanager
    async def events(self, job_id: str, after: int = 0) -> AsyncIterator[AsyncIterator[tuple[int, Event]]]:
        assert job_id == "job-1"
        self.asked_after.append(after)
        limit = self.breaks.pop(0) if len(self.breaks) > 1 else self.breaks[0]
        if isinstance(limit, RbeesError):
            raise limit
        yield self._stream(after, limit)

    async def _stream(self, after: int, limit: int | None) -> AsyncIterator[tuple[int, Event]]:
        for sent, (seq, event) in enumerate(list(enumerate(self.events_held, 1))[after:]):
            if sent == limit:
                if self.quietly:
                    return
                raise GONE
            yield seq, event

    async def job(self, job_id: str) -> JobView:
        assert job_id == "job-1"
        last = self.events_held[-1]
        status: JobStatus = "completed" if isinstance(last, End) else "failed" if isinstance(last, Error) else "running"
        return JobView(
            job_id=job_id,
            status=status,
            model="m",
            priority="interactive",
            seed=1,
            created_at_ms=1,
            last_seq=len(self.events_held),
            error=last.error if isinstance(last, Error) else None,
        )


GONE = RbeesError(ErrorCode.ORCD_UNREACHABLE, "Nobody answers.", url="http://x")
JOB: list[Event] = [
    Queued(queue_position=1, created_at_ms=1),
    Started(epoch=1, worker_id="w", model="m", prompt_tokens=3),
    *(Token(text=f"t{index}", index=index) for index in range(5)),
    End(
        choices=(ChoiceEnd(finish_reason="stop"),),
        usage=Usage(prompt_tokens=3, cached_tokens=0, completion_tokens=5),
        timings=Timings(prefill_ms=1, decode_ms=1),
    ),
]


async def collect(script: Script, clock: InstantClock, **options: float) -> list[tuple[int, Event]]:
    return [item async for item in follow(script, "job-1", clock, **options)]  # type: ignore[arg-type]


@pytest.mark.parametrize("quietly", [False, True])
@pytest.mark.parametrize("breaks", [[None], [0, None], [3, None], [1, 1, 1, None], [0, 0, 0, 2, 0, None], [7, None]])
async def test_every_event_comes_once_and_in_order(breaks: list[int | RbeesError | None], quietly: bool) -> None:
    script = Script(JOB, breaks, quietly=quietly)
    assert await collect(script, InstantClock()) == list(enumerate(JOB, 1))


async def test_it_asks_for_what_comes_behind_the_last_event_seen() -> None:
    script = Script(JOB, [3, 2, None])
    await collect(script, InstantClock(), after=1)
    assert script.asked_after == [1, 4, 6]


async def test_a_job_whose_last_event_was_seen_before_is_not_waited_for() -> None:
    clock = InstantClock()
    assert await collect(Script(JOB, [None]), clock, after=len(JOB)) == []
    assert clock.slept == []


async def test_to_go_on_behind_more_than_a_job_had_is_refused_with_the_range() -> None:
    with pytest.raises(RbeesError, match=f"between 0 and {len(JOB)}") as raised:
        await collect(Script(JOB, [None]), InstantClock(), after=len(JOB) + 1)
    assert raised.value.code is ErrorCode.INVALID_REQUEST


async def test_a_failed_job_whose_last_event_was_seen_before_fails_again() -> None:
    failed = [*JOB[:-1], Error(error=ErrorBody(code=ErrorCode.TIMEOUT, message="Too long."))]
    with pytest.raises(RbeesError, match="Too long") as raised:
        await collect(Script(failed, [None]), InstantClock(), after=len(failed))
    assert raised.value.code is ErrorCode.TIMEOUT


async def test_a_job_that_has_not_ended_is_followed_on_when_its_stream_ends_empty() -> None:
    script = Script(JOB, [0, 0, None], quietly=True)
    assert await collect(script, InstantClock(), after=len(JOB) - 1) == [(len(JOB), JOB[-1])]
    assert script.asked_after == [len(JOB) - 1] * 3


async def test_a_draining_orcd_is_waited_for() -> None:
    draining = RbeesError(ErrorCode.DRAINING, "Back soon.")
    assert len(await collect(Script(JOB, [2, draining, draining, None]), InstantClock())) == len(JOB)


async def test_delays_grow_and_start_anew_after_news() -> None:
    clock = InstantClock()
    await collect(Script(JOB, [1, 0, 0, 0, 1, None]), clock)
    assert clock.slept == pytest.approx([0.1, 0.2, 0.4, 0.8, 0.1])


async def test_patience_ends_with_the_command_to_go_on_with() -> None:
    clock = InstantClock()
    with pytest.raises(RbeesError) as raised:
        await collect(Script(JOB, [2, GONE]), clock, patience_s=20.0)
    assert raised.value.code is ErrorCode.ORCD_UNREACHABLE
    assert "llorch jobs watch job-1" in raised.value.message
    assert 20 <= clock.now < 30


async def test_who_never_answered_is_not_waited_for_where_nothing_was_accepted() -> None:
    clock = InstantClock()
    with pytest.raises(RbeesError) as raised:
        await collect(Script(JOB, [GONE]), clock, first_patience_s=0.0)
    assert raised.value is GONE
    assert clock.slept == []


async def test_what_orcd_refuses_is_final() -> None:
    clock = InstantClock()
    with pytest.raises(RbeesError, match="JOB_NOT_FOUND"):
        await collect(Script(JOB, [RbeesError(ErrorCode.JOB_NOT_FOUND, "No such job.")]), clock)
    assert clock.slept == []
