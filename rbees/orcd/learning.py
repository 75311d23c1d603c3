"""Keeps what the scheduler has learned over restarts. It is worth little, so its loss is worth a line in the log."""

from __future__ import annotations

from typing import Final, NoReturn

import msgspec

from rbees.orcd.scheduler.core import Scheduler
from rbees.orcd.scheduler.learned import Learned, decode, encode
from rbees.orcd.store.jobs import JobStore
from rbees.protocol.errors import RbeesError
from rbees.service import logs
from rbees.service.clock import Clock

SAVE_EVERY_S: Final = 60.0


async def recall(store: JobStore) -> Learned:
    """What an earlier process learned; nothing where none did, or where it cannot be read."""
    stored = await store.learned()
    if stored is None:
        return Learned()
    try:
        return decode(stored)
    except msgspec.MsgspecError as error:
        logs.logger().warning("what was learned before cannot be read", action="learned_unreadable", error=str(error))
        return Learned()


class Keeper:
    """Writes down what the scheduler has learned, now and then and at the end."""

    def __init__(self, scheduler: Scheduler, store: JobStore, clock: Clock) -> None:
        self._scheduler = scheduler
        self._store = store
        self._clock = clock
        self._saved = b""
        self._log = logs.logger()

    async def run(self) -> NoReturn:
        """Save for ever."""
        while True:
            await self._clock.sleep(SAVE_EVERY_S)
            await self.save()

    async def save(self) -> None:
        """Write it down if it has changed."""
        learned = encode(self._scheduler.learned())
        if learned == self._saved:
            return
        try:
            await self._store.keep_learned(learned, self._clock.unix_ms())
        except RbeesError as error:
            self._log.info("what was learned could not be saved", action="learned_unsaved", code=error.code)
            return
        self._saved = learned
