"""Forgetting: ended jobs are deleted after the retention time, their content is erased before that where the setting says so."""

from __future__ import annotations

from typing import Final, NoReturn

from rbees.orcd.store.jobs import JobStore
from rbees.protocol.errors import RbeesError
from rbees.service import logs
from rbees.service.clock import Clock

SWEEP_S: Final = 60.0
DAY_MS: Final = 86_400_000


class Retention:
    """`run` sweeps now and again; `sweep` does it once."""

    def __init__(self, store: JobStore, clock: Clock, *, retention_days: float, erase_content_after_s: float | None) -> None:
        self._store = store
        self._clock = clock
        self._keep_ms = retention_days * DAY_MS
        self._erase_after_s = erase_content_after_s
        self._log = logs.logger()

    async def run(self) -> NoReturn:
        """Sweep for ever; often enough that content outlives its time by a quarter of it at most."""
        pause_s = SWEEP_S if self._erase_after_s is None else min(SWEEP_S, max(1.0, self._erase_after_s / 4))
        while True:
            try:
                await self.sweep()
            except RbeesError as error:
                self._log.warning("sweep put off", action="retention_put_off", code=error.code)
            await self._clock.sleep(pause_s)

    async def sweep(self) -> None:
        """Delete and erase what is due. Raises RbeesError STORAGE_FULL, StorageBroken."""
        now_ms = self._clock.unix_ms()
        deleted = erased = 0
        while count := await self._store.delete_ended(int(now_ms - self._keep_ms)):
            deleted += count
        if self._erase_after_s is not None:
            while count := await self._store.erase_content(int(now_ms - self._erase_after_s * 1000)):
                erased += count
        if deleted or erased:
            await self._store.fold()
            self._log.info("retention", action="retention", deleted=deleted, erased=erased)
