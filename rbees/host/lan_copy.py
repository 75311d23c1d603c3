"""Bringing a model here from other pools: who has it, where it goes, and the process that fetches it.

Where no pool is left that can give it and the name is that of a hub's model, the hub is asked instead; it goes on from what came.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from rbees.host.checksums import sum_of_parts
from rbees.host.fetch_place import check_space, made, missing_bytes, place_of
from rbees.host.fetch_process import broken_off, reports
from rbees.host.hub_cache import COMMIT, HubCache
from rbees.host.lan_access import Access
from rbees.host.landing import Landing, check, land
from rbees.host.lending import Copy, Lending
from rbees.host.model_download import Capacity, Download, Pace, as_it_is, download, here_already, hub_reference, take_in
from rbees.host.model_store import ModelStore, StoredModel
from rbees.host.models_here import download_folder
from rbees.host.variants import Variant, named
from rbees.protocol import model_ref
from rbees.protocol.downloads import (
    CopyBegun,
    CopyOrder,
    CopySource,
    DownloadDone,
    DownloadEvent,
    DownloadPlanned,
    DownloadProgress,
    DownloadRequest,
    Fetched,
    HubFile,
    ModelOffer,
    PiecesHeld,
    SourceDropped,
)
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.model_ref import HubRef
from rbees.protocol.quantizations import label_of
from rbees.service import auth
from rbees.service.clock import Clock

if TYPE_CHECKING:
    from rbees.clients.dialer import Dialer

ASKED_WITHIN_S: Final = 10.0
SETTLE_S: Final = 2.0
"""So long after the first offer the other sources are waited for."""
_ELSEWHERE: Final = frozenset({ErrorCode.MODEL_NOT_FOUND, ErrorCode.DOWNLOAD_FAILED, ErrorCode.CHECKSUM_MISMATCH})
"""Failures of the pools after which the hub may still have the model."""


@dataclass(frozen=True, slots=True)
class Here:
    """This host, as far as a download needs it."""

    store: ModelStore
    cache: HubCache
    lending: Lending
    environ: Mapping[str, str]
    clock: Clock


async def bring(
    request: DownloadRequest, here: Here, capacity: Capacity, access: Access, folder: Path | None = None
) -> AsyncGenerator[DownloadEvent]:
    """Fetch a model from the request's sources, else from the hub, and tell how it goes. The last event is `DownloadDone`.

    What is here already, and could be no other one anywhere, is asked of nobody.
    `folder`: where it goes, instead of all other places. Closing the iterator ends the transfer; what was fetched is kept.

    Raises:
        RbeesError: what went wrong, in the sources' place or on this host.
    """
    if folder is None and (held := await asyncio.to_thread(here_already, request, here.store)) is not None:
        for event in as_it_is(held):
            yield event
        return
    wish = _hub_wish(request, here, folder)
    if not request.sources:
        assert wish is not None, "without sources a name that is no hub's is refused"
        async with aclosing(_from_hub(wish, here, capacity)) as events:
            async for event in events:
                yield event
        return
    sources = await asyncio.to_thread(_sources, request, access)
    copying = _Copying(request, here, access, sources, folder, wish)
    try:
        async with aclosing(copying.run()) as events:
            async for event in events:
                yield event
    except RbeesError as error:
        wish = _instead(wish, copying.pinned, request, here, folder)
        if wish is None or not (error.code in _ELSEWHERE or error is copying.too_large):
            raise
        refused = error
    else:
        return
    for dropped in copying.untold:
        yield dropped
    try:
        async with aclosing(_from_hub(wish, here, capacity)) as events:
            async for event in events:
                yield event
    except RbeesError as error:
        if error.code is ErrorCode.STORAGE_FULL:
            raise
        if refused.code is ErrorCode.STORAGE_FULL and error.code is ErrorCode.DOWNLOAD_FAILED:
            # The hub does not contradict: more room is what helps.
            raise refused from None
        told = RbeesError(error.code, f"{refused.message} {error.message}")
        told.details = {**refused.details, **error.details}
        raise told from None


def _sources(request: DownloadRequest, access: Access) -> dict[str, CopySource]:
    """The pools to ask, by url. Blocks on the disk. Raises as `Access.source`."""
    urls = [url for url in dict.fromkeys(request.sources) if url.rstrip("/") != access.own_url]
    return {url: access.source(url) for url in urls}


def _from_hub(wish: Download, here: Here, capacity: Capacity) -> AsyncGenerator[DownloadEvent]:
    return download(wish, here.store, here.cache, capacity, here.environ, here.clock)


def _hub_wish(request: DownloadRequest, here: Here, folder: Path | None) -> Download | None:
    """What the hub would be asked for; None where the name is no hub's and there are sources.

    Raises:
        RbeesError: INVALID_REQUEST, MODEL_NOT_FOUND: as `hub_reference`.
    """
    model_ref.parse(request.model_ref)
    try:
        hub, short = hub_reference(request.model_ref, here.store.catalog)
    except RbeesError:
        if request.sources:
            return None
        raise
    return Download(hub, request.quantization, _hub_folder(short, here, folder), request.sha256)


def _hub_folder(short: str, here: Here, folder: Path | None) -> Path | None:
    wanted = download_folder(here.environ)
    return folder or (wanted / short if wanted is not None else None)


def _instead(
    wish: Download | None, pinned: HubRef | None, request: DownloadRequest, here: Here, folder: Path | None
) -> Download | None:
    """What the hub is asked for once no pool is left: the very file that they offered, if they offered one of a hub."""
    if pinned is None:
        return wish
    if wish is None:
        short = pinned.repository.rpartition("/")[2]
        return Download(pinned, request.quantization, _hub_folder(short, here, folder), request.sha256)
    return replace(wish, hub=pinned)


class _Copying:
    """One model being fetched from pools."""

    def __init__(
        self,
        request: DownloadRequest,
        here: Here,
        access: Access,
        sources: Mapping[str, CopySource],
        folder: Path | None,
        wish: Download | None,
    ) -> None:
        self._request = request
        self._here = here
        self._access = access
        self._sources = sources
        self._folder = folder
        self._hub = wish.hub if wish is not None else None
        self._hub_folder = wish.folder if wish is not None else folder
        self.pinned: HubRef | None = None
        """What the pools offered, where it is of a hub."""
        self.too_large: RbeesError | None = None
        """Why nothing that they offer was begun: no offer fits the disk."""
        self.untold: list[SourceDropped] = []
        """Sources that gave nothing, until they are told of; a refusal names them itself."""

    async def run(self) -> AsyncGenerator[DownloadEvent]:
        """Ask the sources and fetch from them. Raises as `bring`."""
        here = self._here
        offers, failures = await self._ask()
        self.untold = [SourceDropped(source=url, why=error.message) for url, error in failures.items()]
        if not offers:
            raise _nobody(self._request.model_ref, failures)
        offer, urls = await self._chosen(offers)
        self.untold += [SourceDropped(source=url, why=_ANOTHER) for url in offers if url not in urls]
        while self.untold:
            yield self.untold.pop(0)
        reference = model_ref.parse(offer.model_ref)
        self.pinned = reference if isinstance(reference, HubRef) else None
        landing = self._landing(offer)
        files, total = tuple(file.path for file in landing.order.files), sum(file.size_bytes for file in landing.order.files)
        yield DownloadPlanned(model_ref=offer.model_ref, files=files, total_bytes=total, sources=tuple(urls))
        held = await asyncio.to_thread(self._held, offer)
        if held is not None:
            paths = tuple(map(str, held.paths))
            yield DownloadDone(model_ref=held.facts.ref, sha256=offer.sha256, paths=paths, fetched_bytes=0)
            return
        fetched: Fetched | None = None
        pace = Pace(here.clock)
        with here.lending.copying(offer) as copy:
            async with reports(self._order(landing, urls), here.environ) as told:
                async for report in told:
                    match report:
                        case DownloadProgress():
                            yield pace.with_rate(report)
                        case CopyBegun() | PiecesHeld():
                            copy.note(report)
                        case SourceDropped():
                            yield report
                        case Fetched():
                            fetched = report
            if fetched is None:
                raise broken_off()
            # Until the store knows the files, they are given as those of a copy.
            await asyncio.to_thread(self._take_in, fetched, copy)
        yield DownloadDone(
            model_ref=landing.reference or f"file:{fetched.paths[0]}",
            sha256=sum_of_parts(fetched.sha256),
            paths=fetched.paths,
            fetched_bytes=fetched.fetched_bytes,
            by_source=fetched.by_source,
        )

    async def _chosen(self, offers: dict[str, ModelOffer]) -> tuple[ModelOffer, list[str]]:
        """The offer that most sources make of those for which there is room; the others are taken out of `offers`.

        What size a file has is only said: one who says too much must not keep the others from giving it.

        Raises:
            RbeesError: STORAGE_FULL.
        """
        while offers:
            offer, urls = _most_common(offers)
            refusal = await asyncio.to_thread(self._room_for, offer)
            if refusal is None:
                return offer, urls
            self.too_large = self.too_large or refusal
            for url in urls:
                self.untold.append(SourceDropped(source=url, why=refusal.message))
                del offers[url]
        assert self.too_large is not None, "there was an offer"
        raise self.too_large

    def _room_for(self, offer: ModelOffer) -> RbeesError | None:
        """Why the disk cannot take an offer. Blocks on the disk."""
        if self._held(offer) is not None:
            return None
        order, cache = self._landing(offer).order, self._here.cache
        try:
            check_space(made(place_of(order, order.files[0], cache).blob.parent), missing_bytes(order, cache))
        except RbeesError as error:
            if error.code is not ErrorCode.STORAGE_FULL:
                raise
            return error
        return None

    def _landing(self, offer: ModelOffer) -> Landing:
        own = download_folder(self._here.environ) or self._here.store.places.own
        assert own is not None, "a host's places have a folder of rbees' own"
        is_of_hub = isinstance(model_ref.parse(offer.model_ref), HubRef)
        return land(offer, self._request.model_ref, own, self._hub_folder if is_of_hub else self._folder)

    def _held(self, offer: ModelOffer) -> StoredModel | None:
        """The same model, if it is here already: under the same reference if it is a hub's. Blocks on the disk."""
        if self._folder is not None:
            return None
        self._here.store.refresh()
        same = [model for model in self._here.store.stored() if model.facts.sha256 == offer.sha256]
        is_of_hub = isinstance(model_ref.parse(offer.model_ref), HubRef)
        return next((model for model in same if not is_of_hub or model.facts.ref == offer.model_ref), None)

    def _order(self, landing: Landing, urls: Sequence[str]) -> CopyOrder:
        asked = (self._hub.revision or "main") if self._hub is not None else None
        return CopyOrder(
            fetch=msgspec.structs.replace(landing.order, revision=asked),
            branches=landing.branches,
            cache_folder=str(self._here.cache.folder),
            sources=tuple(self._sources[url] for url in urls),
        )

    def _take_in(self, fetched: Fetched, copy: Copy) -> None:
        take_in(self._here.store, fetched)
        for begun in copy.begun.values():
            self._here.lending.keep(begun.pieces)

    # ---- who has it ------------------------------------------------------------------------------------------------------

    async def _ask(self) -> tuple[dict[str, ModelOffer], dict[str, RbeesError]]:
        """What each source offers, in the order in which they are named, and why others offer nothing."""
        from rbees.clients.dialer import Dialer  # Whoever asks the hub need not wait for what talks to pools.

        answers: dict[str, ModelOffer | RbeesError] = dict.fromkeys(self._sources, _SILENT)
        async with Dialer() as dialer:
            asking = {asyncio.create_task(self._ask_one(source, dialer)): url for url, source in self._sources.items()}
            waiting, limit_s = set(asking), ASKED_WITHIN_S
            try:
                while waiting:
                    done, waiting = await asyncio.wait(waiting, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
                    if not done:
                        break
                    answers |= {asking[task]: task.result() for task in done}
                    if any(isinstance(answer, ModelOffer) for answer in answers.values()):
                        limit_s = SETTLE_S
            finally:
                for task in asking:
                    task.cancel()
                await asyncio.gather(*asking, return_exceptions=True)
        offers = {url: answer for url, answer in answers.items() if isinstance(answer, ModelOffer)}
        return offers, {url: answer for url, answer in answers.items() if isinstance(answer, RbeesError)}

    async def _ask_one(self, source: CopySource, dialer: Dialer) -> ModelOffer | RbeesError:
        """The source's offer, or why there is none."""
        from rbees.clients.poold import PooldClient

        tls = auth.tls_client_context(source.tls_ca_file)
        client = PooldClient(source.url, token=source.token, ssl=tls, dialer=dialer, role="poold")
        refusal: RbeesError | None = None
        for name in self._names():
            try:
                offer = await client.offer(name, self._request.quantization, ASKED_WITHIN_S)
                check(offer)
                self._check_fit(offer)
            except RbeesError as error:
                if error.code is ErrorCode.UNAUTHENTICATED and source.token is None and self._access.token is not None:
                    return _WITHHELD
                refusal = refusal or error
                if error.code is not ErrorCode.MODEL_NOT_FOUND:
                    return error
            else:
                return offer
        assert refusal is not None, "it was asked for one name at least"
        return refusal

    def _names(self) -> list[str]:
        """What a source is asked for, one after the other: the sum where it is known, else the name, and what that means here."""
        if self._request.sha256 is not None:
            return [self._request.sha256]
        return list(dict.fromkeys([self._request.model_ref, *([str(self._hub)] if self._hub is not None else [])]))

    def _check_fit(self, offer: ModelOffer) -> None:
        """See that an offer is what was asked for.

        Raises:
            RbeesError: MODEL_NOT_FOUND.
        """
        if self._request.sha256 is not None:
            if self._request.sha256 != offer.sha256:
                raise _not_it("is another file")
            return
        reference, asked = model_ref.parse(offer.model_ref), model_ref.parse(self._request.model_ref)
        if isinstance(reference, HubRef) and self._hub is not None:
            _check_is(reference, self._hub, offer)
        if isinstance(asked, HubRef) and not isinstance(reference, HubRef):
            raise _not_it("is of no repository")
        if self._request.quantization is not None and label_of(offer.files[0].path) != self._request.quantization.upper():
            raise _not_it("has another quantisation")


_ANOTHER: Final = "What it has under this name is another file than the others have."
_SILENT: Final = RbeesError(ErrorCode.POOL_UNREACHABLE, "It did not answer in time.")


_WITHHELD: Final = RbeesError(
    ErrorCode.UNAUTHENTICATED,
    "It asks for the cluster's token, which is not sent to whoever any authority vouches for; name the authority of your own as "
    "`tls_ca_file` in `[poold]`, or this url and its `token_file` in `[hosts.NAME]`.",
)


def _check_is(reference: HubRef, asked: HubRef, offer: ModelOffer) -> None:
    """See that what is offered of a hub is what was asked for: as far as that goes, the very commit and the very file.

    Raises:
        RbeesError: MODEL_NOT_FOUND.
    """
    if reference.repository != asked.repository:
        raise _not_it(f"is of {reference.repository}")
    is_pinned = COMMIT.fullmatch(asked.revision or "") is not None
    if is_pinned and reference.revision != asked.revision:
        raise _not_it("is of another commit")
    if asked.file is None:
        return
    paths = [file.path for file in offer.files]
    if is_pinned and asked.file.lower().endswith(".gguf") and not set("*?[").intersection(asked.file):
        if asked.file not in paths:
            raise _not_it("is another file")
    else:
        # A part of a name or a pattern means what it means of the hub.
        files = tuple(HubFile(path=path, size_bytes=0) for path in paths)
        named([Variant(files, label_of(paths[0]))], asked.file, None)


def _not_it(what: str) -> RbeesError:
    return RbeesError(ErrorCode.MODEL_NOT_FOUND, f"What it has under this name {what}.")


def _most_common(offers: Mapping[str, ModelOffer]) -> tuple[ModelOffer, list[str]]:
    """The offer that most sources make, and those who have this file. Of two as common, the first one's counts."""
    sha256 = Counter(offer.sha256 for offer in offers.values()).most_common(1)[0][0]
    same = {url: offer for url, offer in offers.items() if offer.sha256 == sha256}
    # Who knows of what repository the file is gives it a name that holds everywhere.
    best = min(same.values(), key=lambda offer: not offer.model_ref.startswith("hf:"))
    return best, list(same)


def _nobody(name: str, failures: Mapping[str, RbeesError]) -> RbeesError:
    told = " ".join(f"{url}: {error.message}" for url, error in failures.items())
    nowhere = failures and all(error.code is ErrorCode.MODEL_NOT_FOUND for error in failures.values())
    code = ErrorCode.MODEL_NOT_FOUND if nowhere else ErrorCode.DOWNLOAD_FAILED
    return RbeesError(code, f"No pool that was named can give {name}. {told}".strip(), sources=list(failures))
