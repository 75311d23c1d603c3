"""Downloads that operators ask orcd for: passed on to a pool, with the other pools that hold the model as its sources."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from msgspec.structs import replace

from rbees.orcd.directory import Directory, PoolAddress
from rbees.orcd.supply import destination, leaves_it_open, own_file, reference_for, supply
from rbees.protocol import model_ref
from rbees.protocol.downloads import (
    MAX_SOURCES,
    DownloadEvent,
    DownloadPlanned,
    DownloadRequest,
    PoolChosen,
)
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.pools import ModelFacts, PoolView
from rbees.service import auth, logs
from rbees.service.catalog import load_catalog

Views = Callable[[], tuple[PoolView, ...]]


@dataclass(frozen=True, slots=True)
class _Fetching:
    """A download from pools that goes on: where, and what is fetched."""

    pool_id: str
    model_ref: str


class ModelDownloads:
    """Chooses pools and sources; each download lasts as long as somebody watches it."""

    def __init__(self, directory: Directory, views: Views) -> None:
        self._directory = directory
        self._views = views
        self._catalog: Final = load_catalog()
        self._fetching: list[_Fetching] = []
        self._log = logs.logger()

    def to_pool(self, pool_id: str, request: DownloadRequest) -> AsyncGenerator[DownloadEvent]:
        """Have a pool download a model, and pass on how it goes.

        Raises:
            RbeesError: POOL_NOT_FOUND, INVALID_REQUEST (no reference, or a source that is no pool's), or what the pool answers.
        """
        address = self._directory.pool(pool_id)
        self._check_sources(request.sources)
        sent = request if request.sources else self._with_sources(pool_id, request)
        if sent.sources:
            self._log.info("download from pools", action="model_sources", pool_id=pool_id, sources=len(sent.sources))
        return self._followed(pool_id, address.client.download(sent))

    async def where_it_fits(self, request: DownloadRequest) -> AsyncGenerator[DownloadEvent]:
        """The same with the pool where the model fits best; the first event says which and why.

        A pool that has the model is asked for that very one: it looks whether the file is still there. Raises as `to_pool`.
        """
        chosen = destination(self._views(), request.model_ref, request.quantization, self._meant(request.model_ref))
        events = self.to_pool(chosen.pool_id, request if chosen.held is None else _the_very(chosen.held, request))
        self._log.info("pool chosen for a model", action="model_pool_chosen", pool_id=chosen.pool_id)
        async with aclosing(events):
            yield PoolChosen(pool_id=chosen.pool_id, why=chosen.why)
            async for event in events:
                yield event

    def _meant(self, asked: str) -> str:
        entry = self._catalog.get(asked)
        return str(entry.hub) if entry is not None and entry.hub is not None else asked

    def _with_sources(self, pool_id: str, request: DownloadRequest) -> DownloadRequest:
        asked, quantization = str(model_ref.parse(request.model_ref)), request.quantization
        meant = self._meant(asked)
        own = own_file(self._views(), asked, quantization, pool_id)
        if own is not None and request.sha256 is None:
            # Only the pool can see whether it is still there; if not, nothing else is meant.
            request = replace(request, sha256=own.sha256)
        found = supply(self._views(), asked, quantization, pool_id, meant, request.sha256)
        if found is not None:
            # Under another name than this one, the pool would not find its own file.
            reference = reference_for(found, asked) if own is None else asked
            pinned = reference.startswith("hf:")
            fetching = [one.pool_id for one in self._fetching if one.model_ref == reference]
            return replace(
                request,
                model_ref=reference,
                # A file that is named needs no word about its quantisation.
                quantization=None if pinned else quantization,
                sha256=found.facts.sha256,
                sources=self._urls([*found.pool_ids, *fetching], but=pool_id),
            )
        if leaves_it_open(meant, quantization):
            return request
        named = model_ref.parse(meant)
        coming = [one for one in self._fetching if one.pool_id != pool_id and _is(one.model_ref, named)]
        if not coming:
            return request
        # The first that began has the most to give.
        same = [one.pool_id for one in coming if one.model_ref == coming[0].model_ref]
        return replace(request, model_ref=coming[0].model_ref, quantization=None, sources=self._urls(same, but=pool_id))

    def _urls(self, pool_ids: list[str], but: str) -> tuple[str, ...]:
        found = (self._directory.find_pool(pool_id) for pool_id in dict.fromkeys(pool_ids) if pool_id != but)
        return tuple(dict.fromkeys(_url_for_pools(address) for address in found if address is not None))[:MAX_SOURCES]

    def _check_sources(self, sources: tuple[str, ...]) -> None:
        known = {url for view in self._views() for url in self._urls([view.pool_id], but="")} | {
            view.endpoint for view in self._views()
        }
        strange = next((url for url in sources if url not in known), None)
        if strange is not None:
            message = (
                "`sources` may hold endpoints of registered pools only; leave it out, and orcd names those that hold the model."
            )
            raise RbeesError(ErrorCode.INVALID_REQUEST, message, field="sources")

    async def _followed(self, pool_id: str, events: AsyncGenerator[DownloadEvent]) -> AsyncGenerator[DownloadEvent]:
        """The same events, while others may learn that the pool is fetching the model from pools.

        What a pool fetches from the hub it cannot give before it is whole: nobody is sent there for it.
        """
        noted: _Fetching | None = None
        try:
            async with aclosing(events):
                async for event in events:
                    if isinstance(event, DownloadPlanned):
                        # A second one says that the hub is asked after all.
                        if noted is not None:
                            self._fetching.remove(noted)
                        noted = _Fetching(pool_id, event.model_ref) if event.sources else None
                        if noted is not None:
                            self._fetching.append(noted)
                    yield event
        finally:
            if noted is not None:
                self._fetching.remove(noted)


def _is(reference: str, named: model_ref.ModelRef) -> bool:
    """Whether what is fetched is what was named, which need not name the commit."""
    fetched = model_ref.parse(reference)
    return (
        isinstance(fetched, model_ref.HubRef)
        and isinstance(named, model_ref.HubRef)
        and (fetched.repository, fetched.file) == (named.repository, named.file)
        and named.revision in (None, fetched.revision)
    )


def _url_for_pools(address: PoolAddress) -> str:
    """Where other pools reach a pool: as the operator named it, unless that leads nowhere but to this machine."""
    dialled = address.client.url
    return address.endpoint if auth.is_loopback(urlsplit(dialled).hostname or "") else dialled


def _the_very(held: ModelFacts, request: DownloadRequest) -> DownloadRequest:
    """The same request for what the pool has: no newer one, whatever the name means by now."""
    if not held.ref.startswith("hf:"):
        return replace(request, sha256=held.sha256)
    return replace(request, model_ref=held.ref, quantization=None, sha256=held.sha256)
