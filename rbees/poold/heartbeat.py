"""The pool's side of its conversation with the orchestrator: register, heartbeat, and reports that are sent until delivered.

Nothing here waits for devices or disks: what is sent is what was last measured. A pool without an orchestrator waits until
one calls (`announce`).
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec

from rbees import __version__
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
from rbees.service import logs
from rbees.service.clock import Clock

DEFAULT_INTERVAL_S: Final = 2.0
CALL_LIMIT_S: Final = 3.0
"""A heartbeat that takes longer is given up, so that the next one is not late as well."""
TOLD_WITHIN_S: Final = 2.0
"""So long somebody waits at most for the orchestrator to know what has changed."""
FIRST_DELAY_S: Final = 0.25
LONGEST_DELAY_S: Final = 5.0
LONGEST_TURN_S: Final = 60.0
"""An orchestrator that wants a pool to come back later than that is not waited for."""
MAX_REPORTS: Final = 1_000
_AGAIN: Final = frozenset(
    {
        ErrorCode.ORCD_UNREACHABLE,
        ErrorCode.POOL_NOT_FOUND,
        ErrorCode.DRAINING,
        ErrorCode.STORAGE_FULL,
        ErrorCode.INTERNAL,
        ErrorCode.UNAUTHENTICATED,
    }
)
"""Refusals of a report after which it is sent again; after any other it would be refused for ever."""

Report = WorkerReadyReport | WorkerFailedReport


class Orchestrator(Protocol):
    """What the pool asks of `clients.orcd.OrcdClient`."""

    async def register(self, request: RegisterRequest) -> RegisterAnswer:
        """`POST /v2/pools/register`."""
        ...

    async def heartbeat(self, pool_id: str, heartbeat: Heartbeat) -> None:
        """`POST /v2/pools/{id}/heartbeat`."""
        ...

    async def worker_ready(self, report: WorkerReadyReport) -> None:
        """`POST /v2/internal/workers/ready`."""
        ...

    async def worker_failed(self, report: WorkerFailedReport) -> None:
        """`POST /v2/internal/workers/failed`."""
        ...

    async def close(self) -> None:
        """End the connections."""
        ...


class PoolFacts(Protocol):
    """The state of this host as last known; every method answers at once."""

    def devices(self) -> tuple[Device, ...]:
        """As last measured."""
        ...

    def models(self) -> tuple[ModelFacts, ...]:
        """Those that can be served."""
        ...

    def unusable(self) -> tuple[UnusableModel, ...]:
        """Files that look like models and cannot be served."""
        ...

    def workers(self) -> tuple[WorkerFacts, ...]:
        """Those that live."""
        ...

    def ready(self) -> tuple[WorkerReady, ...]:
        """One for each worker that can take work, with its secret."""
        ...


@dataclass(frozen=True, slots=True)
class Member:
    """Who this pool is."""

    pool_id: str
    endpoint: Callable[[], str]
    """Where the orchestrator reaches it; known once the daemon listens."""
    boot_id: str
    default_ctx: int = 0
    """See `RegisterRequest`."""


class OrcdLink:
    """Keeps one orchestrator informed. `run` it as a task; all else may be called at any time."""

    def __init__(
        self,
        member: Member,
        facts: PoolFacts,
        connect: Callable[[str], Orchestrator],
        clock: Clock,
        orcd_url: str | None = None,
        jitter: Callable[[], float] = random.random,
        *,
        callers_are_known: bool,
    ) -> None:
        self._member = member
        self._callers_are_known = callers_are_known
        self._facts = facts
        self._connect = connect
        self._clock = clock
        self._jitter = jitter
        self._log = logs.logger()
        self._url = orcd_url
        self._orcd: Orchestrator | None = None
        self._interval_s = DEFAULT_INTERVAL_S
        self._seq = 0
        self._reports: deque[Report] = deque(maxlen=MAX_REPORTS)
        self._wake = asyncio.Event()
        self._called = asyncio.Event()
        """An orchestrator called and the loop that beats has not seen it yet."""
        self._news = asyncio.Event()
        """What the last beat told is no longer so."""
        self._listeners: list[asyncio.Event] = []
        """Of those who wait until the next beat has been heard, or not."""
        self._registered = asyncio.Event()
        self._problem: str | None = None
        self._turn_in_s: float | None = None
        """When to come back, where the last call was told so."""

    @property
    def orcd_url(self) -> str | None:
        """The orchestrator this pool belongs to, if it knows one."""
        return self._url

    @property
    def registered(self) -> bool:
        """True while the orchestrator knows this pool."""
        return self._registered.is_set()

    @property
    def problem(self) -> str | None:
        """Why the last call failed, in one sentence; None after a success."""
        return self._problem

    def registration(self) -> RegisterRequest:
        """What this pool says when it registers."""
        return RegisterRequest(
            pool_id=self._member.pool_id,
            endpoint=self._member.endpoint(),
            version=__version__,
            boot_id=self._member.boot_id,
            devices=self._facts.devices(),
            models=self._facts.models(),
            workers=self._facts.workers(),
            ready=self._facts.ready(),
            unusable=self._facts.unusable(),
            default_ctx=self._member.default_ctx,
        )

    async def announce(self, orcd_url: str) -> RegisterRequest:
        """The orchestrator at `orcd_url` called: belong to it, and hand over the registration as the answer.

        Where callers need no token it could be anyone who calls, so the answer leaves out `ready` with its secrets; those go
        in a registration of the pool's own to the url itself, at once.

        Raises:
            RbeesError: CONFIGURATION: no call can go to such a url; then everything stays as it was.
        """
        if orcd_url != self._url:
            orcd = self._connect(orcd_url)
            await self._disconnect()
            self._url, self._orcd = orcd_url, orcd
        if self._callers_are_known:
            self._registered.set()
        else:
            self._registered.clear()
        self._wake.set()
        self._called.set()
        registration = self.registration()
        return registration if self._callers_are_known else msgspec.structs.replace(registration, ready=())

    async def dismiss(self) -> None:
        """The orchestrator has forgotten this pool: belong to nobody until one calls."""
        await self._disconnect()
        self._url, self._problem = None, None

    def report(self, report: Report) -> None:
        """Pass on a report at once, and again until it is delivered."""
        self._reports.append(report)
        self._wake.set()

    def hurry(self) -> None:
        """What a beat tells has changed: do not wait for the next one's time."""
        self._news.set()

    async def told(self) -> None:
        """Beat at once and return when that was heard: at once where no orchestrator answers, and within `TOLD_WITHIN_S` anyway."""
        if self._url is None or self._problem is not None:
            return
        heard = asyncio.Event()
        self._listeners.append(heard)
        self._news.set()
        await _first(self._clock.sleep(TOLD_WITHIN_S), heard.wait())

    async def run(self) -> None:
        """Register, beat and report until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._keep_beating())
                group.create_task(self._keep_reporting())
        finally:
            await self._disconnect()

    async def _keep_beating(self) -> None:
        delays = Backoff(self._jitter)
        while True:
            begun_s = self._clock.monotonic()
            self._called.clear()
            self._news.clear()
            if self._url is None:
                await self._called.wait()
            elif not self.registered and not await self._tell(self._register):
                await self._pause(delays.next() if self._turn_in_s is None else self._turn_in_s)
            elif await self._tell(self._beat):
                delays.reset()
                await self._pause(begun_s + self._interval_s - self._clock.monotonic(), self._news)
            else:
                # One that does not answer is not asked more often because there is more to tell.
                await self._pause(min(delays.next(), self._interval_s))

    async def _tell(self, call: Callable[[Orchestrator], object]) -> bool:
        """Tell the whole state as it is now. Whoever waits for that waits no longer, heard or not."""
        listeners, self._listeners = self._listeners, []
        try:
            return await self._try(call)
        finally:
            for listener in listeners:
                listener.set()

    async def _pause(self, duration_s: float, *events: asyncio.Event) -> None:
        """Sleep, but no longer than until one of `events`, or an orchestrator calls that is still to be told everything."""
        await _first(self._clock.sleep(duration_s), *(event.wait() for event in (self._called, *events)))

    async def _keep_reporting(self) -> None:
        delays = Backoff(self._jitter)
        while True:
            await self._wake.wait()
            await self._registered.wait()
            self._wake.clear()
            while self._reports and self.registered:
                if await self._try(self._deliver_first):
                    delays.reset()
                else:
                    await self._clock.sleep(delays.next())
            if self._reports:
                self._wake.set()

    async def _register(self, orcd: Orchestrator) -> None:
        answer = await orcd.register(self.registration())
        self._interval_s = max(0.1, answer.heartbeat_interval_ms / 1000)
        if orcd is not self._orcd:
            return  # Meanwhile it was forgotten there, or another one called.
        self._registered.set()
        self._log.info("registered", action="pool_register", orcd_url=self._url)

    async def _beat(self, orcd: Orchestrator) -> None:
        self._seq += 1
        beat = Heartbeat(
            sent_at_ms=self._clock.unix_ms(),
            boot_id=self._member.boot_id,
            seq=self._seq,
            devices=self._facts.devices(),
            models=self._facts.models(),
            workers=self._facts.workers(),
            unusable=self._facts.unusable(),
            default_ctx=self._member.default_ctx,
        )
        await orcd.heartbeat(self._member.pool_id, beat)

    async def _deliver_first(self, orcd: Orchestrator) -> None:
        report = self._reports[0]
        try:
            if isinstance(report, WorkerReadyReport):
                await orcd.worker_ready(report)
            else:
                await orcd.worker_failed(report)
        except RbeesError as error:
            if error.code in _AGAIN:
                raise
            self._log.error("report refused", action="report_refused", code=error.code, reason=error.message)
        if self._reports and self._reports[0] is report:
            self._reports.popleft()

    async def _try(self, call: Callable[[Orchestrator], object]) -> bool:
        """Make one call within its time; False if it failed, in which case `problem` says why."""
        if self._url is None:
            return False  # It was forgotten while the call before was on its way.
        orcd = self._orcd = self._orcd or self._connect(self._url)
        try:
            async with asyncio.timeout(CALL_LIMIT_S):
                await call(orcd)  # type: ignore[misc]
        except (TimeoutError, UnicodeError, RbeesError) as error:
            # The resolver raises the second for a name with a part of more than 63 letters: nobody answers there either.
            if orcd is self._orcd:
                silent = RbeesError(ErrorCode.ORCD_UNREACHABLE, f"The orchestrator at {self._url} did not answer in time.")
                self._failed(error if isinstance(error, RbeesError) else silent)
            return False
        self._problem, self._turn_in_s = None, None
        return True

    def _failed(self, error: RbeesError) -> None:
        turn_in_s = error.details.get("retry_after_s") if error.code is ErrorCode.QUEUE_FULL else None
        self._turn_in_s = turn_in_s if isinstance(turn_in_s, int | float) and 0 <= turn_in_s <= LONGEST_TURN_S else None
        if error.code is ErrorCode.POOL_NOT_FOUND:
            self._registered.clear()
        if self._problem != error.message:
            self._log.warning("orchestrator call failed", action="orcd_call_failed", code=error.code, reason=error.message)
        self._problem = error.message

    async def _disconnect(self) -> None:
        orcd, self._orcd = self._orcd, None
        self._registered.clear()
        if orcd is not None:
            await orcd.close()


async def _first(*waits: Awaitable[object]) -> None:
    """Until one of them has come."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


class Backoff:
    """Delays in seconds that double up to a limit, each cut by up to half at random so that pools do not march in step."""

    def __init__(self, jitter: Callable[[], float]) -> None:
        self._jitter = jitter
        self._next_s = FIRST_DELAY_S

    def next(self) -> float:
        """The next delay."""
        delay_s, self._next_s = self._next_s, min(self._next_s * 2, LONGEST_DELAY_S)
        return delay_s * (1 - self._jitter() / 2)

    def reset(self) -> None:
        """Begin anew after a success."""
        self._next_s = FIRST_DELAY_S
