"""The single writer: takes events in the order they came, has the scheduler decide, has the executor carry it out.

Nothing else calls the scheduler's `handle`. Nothing here waits for I/O, so a decision always meets the newest state.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable
from typing import Final, NoReturn, Protocol

from rbees.orcd.event_log import EventLog
from rbees.orcd.executor import Executor
from rbees.orcd.figures import Figures
from rbees.orcd.scheduler.effects import Effect
from rbees.orcd.scheduler.events import Event, LoopStalled, Moment, Ticked
from rbees.orcd.stalls import LOOK_S, Stalls
from rbees.protocol.ids import ENTROPY_BYTES
from rbees.service import logs
from rbees.service.clock import Clock

TICK_S: Final = LOOK_S
EVENTS_IN_A_ROW: Final = 64


class Decider(Protocol):
    """The part of the scheduler that the loop drives."""

    def handle(self, event: Event, moment: Moment) -> list[Effect]:
        """What follows from `event`."""
        ...


class SchedulerLoop:
    """The inbox and the two tasks that serve it, `run` and `tick`."""

    def __init__(
        self,
        scheduler: Decider,
        executor: Executor,
        clock: Clock,
        figures: Figures,
        stalls: Stalls,
        entropy: Callable[[int], bytes] = os.urandom,
        event_log: EventLog | None = None,
    ) -> None:
        self._scheduler = scheduler
        self._executor = executor
        self._clock = clock
        self._figures = figures
        self._stalls = stalls
        self._entropy = entropy
        self._event_log = event_log
        self._log = logs.logger()
        self._inbox: deque[Event] = deque()
        self._arrived = asyncio.Event()
        stalls.tell(self._stalled)

    def post(self, event: Event) -> None:
        """Have `event` dealt with after all that came before it."""
        self._inbox.append(event)
        self._arrived.set()

    @property
    def has_work(self) -> bool:
        """Whether an event waits to be dealt with."""
        return bool(self._inbox)

    def take_turn(self) -> bool:
        """Deal with the oldest event; False if there is none."""
        if not self._inbox:
            return False
        self._stalls.look()
        event = self._inbox.popleft()
        begun = self._clock.monotonic()
        moment = Moment(begun, self._clock.unix_ms(), self._entropy(ENTROPY_BYTES))
        effects = self._scheduler.handle(event, moment)
        if self._event_log is not None:
            self._event_log.record(event, moment, effects)
        for effect in effects:
            self._executor.perform(effect)
        self._figures.decision_seconds.observe(self._clock.monotonic() - begun)
        return True

    async def run(self) -> NoReturn:
        """Deal with events for ever, letting others run now and then."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            handled = 0
            while self.take_turn():
                handled += 1
                if handled % EVENTS_IN_A_ROW == 0:
                    await asyncio.sleep(0)

    async def tick(self) -> NoReturn:
        """Tell the scheduler that time passes."""
        while True:
            await self._clock.sleep(TICK_S)
            self._stalls.awake()
            self.post(Ticked())

    def _stalled(self, seconds: float) -> None:
        """Nothing that came in meanwhile may be judged before the scheduler knows whose silence it was."""
        self._log.warning("the event loop stood still", action="loop_stall", seconds=round(seconds, 3))
        self._figures.stalls.inc(seconds)
        self._inbox.appendleft(LoopStalled(seconds))
        self._arrived.set()
