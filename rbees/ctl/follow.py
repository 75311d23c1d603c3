"""Following a job to its end: one unbroken run of numbered events, whatever happens to the connection or to orcd.

orcd numbers the events and replays them, so going on means asking for what comes behind the last one seen. A connection that
breaks, a stream that ends without a last event, an orcd that drains or is gone: each is tried again with growing delay. A
stream in which nothing came at all may be that of a job whose last event was seen before; orcd is asked whether it is.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.events import Event, is_terminal
from rbees.protocol.jobs import TERMINAL_STATUSES, JobView, check_after
from rbees.service.clock import Clock

FIRST_DELAY_S: Final = 0.1
LONGEST_DELAY_S: Final = 5.0
PATIENCE_S: Final = 45.0
"""How long nothing at all may be heard before following gives up. The job is not lost by that; it can be watched again."""

_WORTH_ANOTHER_TRY: Final = frozenset({ErrorCode.ORCD_UNREACHABLE, ErrorCode.DRAINING})


class EventSource(Protocol):
    """The methods of `OrcdClient` that following needs."""

    def events(self, job_id: str, after: int = 0) -> AbstractAsyncContextManager[AsyncIterator[tuple[int, Event]]]:
        """The job's events behind `after`."""
        ...

    async def job(self, job_id: str) -> JobView:
        """How far the job is."""
        ...


async def follow(
    orcd: EventSource,
    job_id: str,
    clock: Clock,
    *,
    after: int = 0,
    patience_s: float = PATIENCE_S,
    first_patience_s: float = PATIENCE_S,
    on_break: Callable[[float], None] | None = None,
) -> AsyncIterator[tuple[int, Event]]:
    """Yield every event behind `after` once, in order, and end with the terminal one.

    `first_patience_s` holds until anything was heard: where nobody ever answered, the address is probably wrong. `on_break`
    hears the delay before each further try.

    Raises:
        RbeesError: what orcd answers (such as JOB_NOT_FOUND), ORCD_UNREACHABLE after so much silence, the error in which the job
            ended where `after` is its last event, or INVALID_REQUEST where it ended before it had so many.
    """
    delay_s, heard_at, allowed_s = FIRST_DELAY_S, clock.monotonic(), first_patience_s
    while True:
        before = after
        try:
            async with orcd.events(job_id, after) as events:
                async for seq, event in events:
                    if seq <= after:
                        continue
                    after, delay_s, heard_at, allowed_s = seq, FIRST_DELAY_S, clock.monotonic(), patience_s
                    yield seq, event
                    if is_terminal(event):
                        return
            if after == before and _has_nothing_left(await orcd.job(job_id), after):
                return
        except RbeesError as error:
            if error.code not in _WORTH_ANOTHER_TRY:
                raise
            if clock.monotonic() - heard_at >= allowed_s:
                raise _given_up(error, job_id) if allowed_s else error from None
        if on_break is not None:
            on_break(delay_s)
        await clock.sleep(delay_s)
        delay_s = min(delay_s * 2, LONGEST_DELAY_S)


def _has_nothing_left(job: JobView, after: int) -> bool:
    """True where the job has ended and all its events were seen. Raises the error in which it ended, as its last event would.

    A job may have ended before it came to `after`; that is refused as orcd refuses it of a job that ended earlier.
    """
    if job.status not in TERMINAL_STATUSES or job.last_seq > after:
        return False
    check_after(after, job.last_seq)
    if job.error is not None:
        raise RbeesError.from_body(job.error)
    return True


def _given_up(error: RbeesError, job_id: str) -> RbeesError:
    message = f"The orchestrator has been away for too long; the job is kept. Go on with `llorch jobs watch {job_id}`."
    return RbeesError(ErrorCode.ORCD_UNREACHABLE, message, **{**error.details, "job_id": job_id})
