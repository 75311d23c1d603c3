"""The downloads that a pool carries out for its callers, and the removal of what was downloaded.

Each lasts as long as somebody watches it; what came is kept. Two for the same files become one in `host/model_download.py`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Final

from rbees.host.hub_cache import HubCache, cache_folder
from rbees.host.lan_access import Access
from rbees.host.lan_copy import Here, bring
from rbees.host.lending import Lending
from rbees.host.model_download import Capacity
from rbees.host.model_removal import remove, remove_leftover
from rbees.host.model_store import ModelStore
from rbees.host.models_here import named
from rbees.protocol.downloads import DownloadDone, DownloadEvent, DownloadPlanned, DownloadRequest, ModelRemoved, SourceDropped
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.pools import WorkerFacts
from rbees.service import logs
from rbees.service.clock import Clock

AT_ONCE: Final = 8
"""Each is a process; more of them wait."""


class Downloads:
    """What the routes about a pool's model files do."""

    def __init__(
        self,
        store: ModelStore,
        lending: Lending,
        capacity: Callable[[], Capacity],
        access: Callable[[], Access],
        workers: Callable[[], Sequence[WorkerFacts]],
        tell: Callable[[], Awaitable[None]],
        clock: Clock,
    ) -> None:
        """`tell` returns when the orchestrator knows which models are here, or will not for now."""
        self._store = store
        self._lending = lending
        self._capacity = capacity
        self._access = access
        self._workers = workers
        self._tell = tell
        self._clock = clock
        self._free = asyncio.Semaphore(AT_ONCE)
        self._leaving = asyncio.Event()
        self._log = logs.logger()

    async def run(self, request: DownloadRequest) -> AsyncGenerator[DownloadEvent]:
        """Fetch a model and tell how it goes; closing the iterator ends it.

        Raises:
            RbeesError: as `lan_copy.bring`; DRAINING, when the daemon ends meanwhile.
        """
        here = Here(self._store, HubCache(cache_folder(os.environ)), self._lending, os.environ, self._clock)
        async with self._free:
            events = bring(request, here, self._capacity(), self._access())
            async with aclosing(self._until_leaving(events)) as following:
                async for event in following:
                    self._note(request.model_ref, event)
                    if isinstance(event, DownloadDone):
                        # Whoever sees the end may name the model to the orchestrator next.
                        await self._tell()
                    yield event

    async def search(self) -> None:
        """Look for new and changed model files now, and return once the orchestrator knows of them."""
        await asyncio.to_thread(self._store.refresh)
        await self._tell()

    async def remove(self, name: str) -> ModelRemoved:
        """Remove a model's files, or what an interrupted transfer left at the path `name`.

        Raises:
            RbeesError: MODEL_NOT_FOUND, FORBIDDEN (not to be removed from here), DEVICE_BUSY (a worker serves it), CONFIGURATION.
        """
        places = self._store.places
        freed_bytes = await asyncio.to_thread(remove_leftover, name, places)
        if freed_bytes is not None:
            self._log.info("leftover removed", action="model_leftover_remove", path=name, freed_bytes=freed_bytes)
            return ModelRemoved(model_ref=name, freed_bytes=freed_bytes)
        found = await asyncio.to_thread(named, name, places)
        serving = next((worker for worker in self._workers() if worker.model_ref == found.ref), None)
        if serving is not None:
            message = f"{serving.worker_id} serves {found.ref}; stop it first."
            raise RbeesError(ErrorCode.DEVICE_BUSY, message, worker_id=serving.worker_id)
        removed = await asyncio.to_thread(remove, found, places)
        await asyncio.to_thread(self._store.refresh)
        await self._tell()
        self._log.info("model removed", action="model_remove", model_ref=found.ref, freed_bytes=removed.freed_bytes)
        return ModelRemoved(model_ref=found.ref, freed_bytes=removed.freed_bytes)

    def leave(self) -> None:
        """End all downloads, because the daemon ends."""
        self._leaving.set()

    def _note(self, asked: str, event: DownloadEvent) -> None:
        if isinstance(event, DownloadPlanned):
            self._log.info(
                "download begins", action="model_download", model=asked, model_ref=event.model_ref, sources=list(event.sources)
            )
        elif isinstance(event, SourceDropped):
            self._log.warning("source dropped", action="model_source_dropped", model=asked, source=event.source, why=event.why)
        elif isinstance(event, DownloadDone):
            self._log.info(
                "download ended",
                action="model_downloaded",
                model_ref=event.model_ref,
                bytes=event.fetched_bytes,
                by_source=event.by_source,
            )

    async def _until_leaving(self, events: AsyncGenerator[DownloadEvent]) -> AsyncGenerator[DownloadEvent]:
        leaving = asyncio.create_task(self._leaving.wait())
        try:
            async with aclosing(events):
                while True:
                    step = asyncio.ensure_future(anext(events, None))
                    try:
                        await asyncio.wait({step, leaving}, return_when=asyncio.FIRST_COMPLETED)
                    finally:
                        if not step.done():
                            step.cancel()
                            await asyncio.wait({step})
                    if step.cancelled():
                        raise RbeesError(ErrorCode.DRAINING, "The pool daemon ends; what came is kept, ask again to go on.")
                    event = step.result()
                    if event is None:
                        return
                    yield event
        finally:
            leaving.cancel()
