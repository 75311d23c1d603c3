"""Bringing a model of a hub to this host: which repository a name means, which of its variants, and the process that fetches it.

The bytes are `model_fetch.py`'s, in a process of its own. Two downloads of the same file, by whatever processes of this host,
become one: the second waits for the lock of the first, shows its progress, and takes over where that one dies.
"""

from __future__ import annotations

import asyncio
import difflib
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from rbees.host.checksums import sum_of_parts
from rbees.host.fetch_process import broken_off, reports
from rbees.host.fit import Room
from rbees.host.hub_cache import HubCache
from rbees.host.model_choice import choose, sole, wanted
from rbees.host.model_store import ModelStore, StoredModel
from rbees.host.variants import Variant, variants
from rbees.protocol import model_ref
from rbees.protocol.downloads import (
    DownloadDone,
    DownloadEvent,
    DownloadPlanned,
    DownloadProgress,
    DownloadRequest,
    Fetched,
    FetchOrder,
    HubListing,
    Listed,
    ListOrder,
)
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.model_ref import AliasRef, HubRef
from rbees.protocol.workers import Backend
from rbees.service.catalog import Catalog
from rbees.service.clock import Clock

RATE_WINDOW_S: Final = 15.0


@dataclass(frozen=True, slots=True)
class Capacity:
    """What this host has for a worker, by which a variant is chosen."""

    rooms: Sequence[Room]
    problems: Mapping[Backend, str | None]
    default_ctx: int
    slots: int


@dataclass(frozen=True, slots=True)
class Download:
    """What somebody wants to have here."""

    hub: HubRef
    quantization: str | None = None
    folder: Path | None = None
    """Where it goes, if not into the shared cache."""
    sha256: str | None = None
    """Of the model, where only one with this sum will do."""


def hub_reference(text: str, catalog: Catalog) -> tuple[HubRef, str]:
    """The repository that a name or reference means, and a short name for a folder of the model's own.

    Raises:
        RbeesError: INVALID_REQUEST (no reference, or a file), MODEL_NOT_FOUND with the nearest names.
    """
    reference = model_ref.parse(text)
    if isinstance(reference, HubRef):
        return reference, reference.repository.rpartition("/")[2]
    if not isinstance(reference, AliasRef):
        message = "A `file:` reference names a file of this host; there is nothing to download."
        raise RbeesError(ErrorCode.INVALID_REQUEST, message, field="model")
    entry = catalog.get(reference.name)
    if entry is None:
        names = [name for name, known in catalog.items() if known.hub is not None]
        close = difflib.get_close_matches(reference.name, names, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else "see `rbees-pool models catalog`, or name it `hf:org/repo`."
        raise RbeesError(ErrorCode.MODEL_NOT_FOUND, f"The catalogue has no model {reference.name!r}; {hint}", close_names=close)
    if entry.hub is None:
        where = "ships with rbees" if entry.packaged else f"is the file {entry.path}"
        raise RbeesError(ErrorCode.INVALID_REQUEST, f"The model {entry.name} {where}; there is nothing to download.", field="model")
    return entry.hub, entry.name


def here_already(request: DownloadRequest, store: ModelStore) -> StoredModel | None:
    """What this host has under the name, if it is the very model that is asked for, or of no hub and asked of no pool.

    Looks at the files, so it blocks on the disk.

    Raises:
        RbeesError: INVALID_REQUEST (no reference), MODEL_LOADING (it is here, and its checksum is not known yet).
    """
    name = str(model_ref.parse(request.model_ref))
    if request.sha256 is None and (request.sources or _is_of_a_hub(name, store)):
        return None
    try:
        held = store.resolve(name)
    except RbeesError as error:
        if error.code is ErrorCode.MODEL_LOADING:
            raise
        return None
    if request.sha256 is not None:
        return held if request.sha256 == held.facts.sha256 else None
    is_meant = request.quantization is None or request.quantization.casefold() == held.facts.quantization.casefold()
    # That a model ships with rbees is a refusal of its own.
    return held if is_meant and held.origin != "package" else None


def _is_of_a_hub(name: str, store: ModelStore) -> bool:
    try:
        hub_reference(name, store.catalog)
    except RbeesError:
        return False
    return True


async def download(
    wish: Download, store: ModelStore, cache: HubCache, capacity: Capacity, environ: Mapping[str, str], clock: Clock
) -> AsyncGenerator[DownloadEvent]:
    """Fetch a model and tell how it goes. The last event is `DownloadDone`; the store knows the model by then.

    Closing the iterator ends the transfer; what was fetched is kept.

    Raises:
        RbeesError: what went wrong, in the hub's place or on this host.
    """
    try:
        listing = await look(wish, environ)
    except RbeesError as error:
        held = await asyncio.to_thread(_held, wish, store) if error.code is ErrorCode.DOWNLOAD_FAILED else None
        if held is None:
            raise
        for event in as_it_is(held, "the hub cannot be asked whether there is a newer one, and this one is here"):
            yield event
        return
    variant, why = _choose(wish, listing, capacity)
    _check_sum(wish, variant)
    pinned = HubRef(wish.hub.repository, listing.commit, variant.path)
    files = tuple(file.path for file in variant.files)
    yield DownloadPlanned(model_ref=str(pinned), files=files, total_bytes=variant.size_bytes, why=why)
    fetched = await asyncio.to_thread(_already_here, pinned, variant, wish, store, cache)
    if fetched is None:
        order = FetchOrder(
            repository=wish.hub.repository,
            commit=listing.commit,
            revision=wish.hub.revision,
            files=variant.files,
            local_dir=str(wish.folder) if wish.folder is not None else None,
        )
        pace = Pace(clock)
        async with reports(order, environ) as told:
            async for report in told:
                if isinstance(report, DownloadProgress):
                    yield pace.with_rate(report)
                elif isinstance(report, Fetched):
                    fetched = report
    if fetched is None:
        raise broken_off()
    await asyncio.to_thread(take_in, store, fetched)
    ref = str(pinned) if wish.folder is None else f"file:{fetched.paths[0]}"
    yield DownloadDone(model_ref=ref, sha256=sum_of_parts(fetched.sha256), paths=fetched.paths, fetched_bytes=fetched.fetched_bytes)


async def look(wish: Download, environ: Mapping[str, str]) -> HubListing:
    """What the repository holds now. Raises as `download`."""
    peek = wish.hub.file is None and wish.quantization is None
    order = ListOrder(repository=wish.hub.repository, revision=wish.hub.revision, peek=peek)
    async with reports(order, environ) as told:
        async for report in told:
            if isinstance(report, Listed):
                return report.listing
    raise broken_off()


def _held(wish: Download, store: ModelStore) -> StoredModel | None:
    """What is here already of this name, for the time that the hub cannot be asked."""
    if wish.folder is not None or wish.quantization is not None:
        return None
    try:
        return store.resolve(str(wish.hub))
    except RbeesError:
        return None


def as_it_is(held: StoredModel, why: str | None = None) -> tuple[DownloadEvent, ...]:
    """The events of a download for which nothing is to be done."""
    facts, paths = held.facts, tuple(map(str, held.paths))
    planned = DownloadPlanned(model_ref=facts.ref, files=(facts.file_name,), total_bytes=facts.size_bytes, why=why)
    return planned, DownloadDone(model_ref=facts.ref, sha256=facts.sha256, paths=paths, fetched_bytes=0)


def _choose(wish: Download, listing: HubListing, capacity: Capacity) -> tuple[Variant, str | None]:
    found = variants(listing.files)
    open_ = wanted(found, wish.hub.repository, wish.hub.file, wish.quantization)
    if len(open_) == 1:
        return open_[0] if wish.hub.file is not None else sole(open_[0], found, wish.hub.repository), None
    variant, why = choose(
        open_,
        listing.facts,
        capacity.rooms,
        default_ctx=capacity.default_ctx,
        slots=capacity.slots,
        problems=capacity.problems,
    )
    return sole(variant, found, wish.hub.repository), why


def _check_sum(wish: Download, variant: Variant) -> None:
    sums = [file.sha256 for file in variant.files if file.sha256 is not None]
    if wish.sha256 is not None and len(sums) == len(variant.files) and sum_of_parts(sums) != wish.sha256:
        message = f"The file {variant.path} of {wish.hub.repository} is another one than was asked for: its sha256 differs."
        raise RbeesError(ErrorCode.MODEL_NOT_FOUND, message)


def _already_here(pinned: HubRef, variant: Variant, wish: Download, store: ModelStore, cache: HubCache) -> Fetched | None:
    """The answer to an order whose files are all in the cache and have been summed before. Blocks on the disk."""
    if wish.folder is not None or pinned.revision is None:
        return None
    paths = [cache.snapshot(pinned.repository, pinned.revision) / file.path for file in variant.files]
    sums = [store.checksums.known(path) for path in paths]
    if any(file.sha256 is None or file.sha256 != known for file, known in zip(variant.files, sums, strict=True)):
        return None
    return Fetched(paths=tuple(map(str, paths)), sha256=tuple(str(known) for known in sums), fetched_bytes=0)


def take_in(store: ModelStore, fetched: Fetched) -> None:
    """Have the store know what has been fetched. Blocks on the disk."""
    for path, sha256 in zip(fetched.paths, fetched.sha256, strict=True):
        store.checksums.remember(Path(path), sha256)
    store.refresh()


@dataclass(slots=True)
class Pace:
    """How fast it goes, over the last seconds, and so how long it will take."""

    clock: Clock
    seen: deque[tuple[float, int]] = field(default_factory=deque)

    def with_rate(self, progress: DownloadProgress) -> DownloadProgress:
        """The same progress with what can be said about time."""
        now = self.clock.monotonic()
        if self.seen and progress.done_bytes < self.seen[-1][1]:
            self.seen.clear()  # It began once more.
        self.seen.append((now, progress.done_bytes))
        while len(self.seen) > 2 and now - self.seen[0][0] > RATE_WINDOW_S:
            self.seen.popleft()
        began_at, before = self.seen[0]
        elapsed_s = now - began_at
        if elapsed_s <= 0 or progress.done_bytes <= before:
            return progress
        rate = (progress.done_bytes - before) / elapsed_s
        return msgspec.structs.replace(progress, bytes_per_s=rate, left_s=(progress.total_bytes - progress.done_bytes) / rate)
