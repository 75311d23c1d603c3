"""The process that fetches a model's files from other pools: several at once, each piece checked as it comes, the whole at the end.

`python -P -m rbees.host.lan_fetch` takes one order as a line of JSON and answers with lines of JSON (`protocol/downloads.py`);
when its standard input ends, so does it. It is a process for the reasons that `model_fetch.py` is one, works under the same lock,
and leaves its files in the same places. A piece is written only once its sum is right, so what is in the draft of a file is worth
keeping whatever ends this process; the next one sums it again, because a disk may have lost what was written last.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Final

import msgspec

from rbees.clients.dialer import Dialer
from rbees.clients.poold import PooldClient
from rbees.host.fetch_place import FULL, Place, check_space, disk_full, made, missing_bytes, place_of, unwritable, write_ref
from rbees.host.hub_cache import HubCache
from rbees.host.lan_sources import Source
from rbees.host.lan_transfer import Transfer
from rbees.host.partial_file import locked, sum_of
from rbees.protocol import codec
from rbees.protocol.codec import Message
from rbees.protocol.downloads import (
    CopyBegun,
    CopyOrder,
    DownloadFailed,
    DownloadProgress,
    Fetched,
    HubFile,
    PiecesHeld,
    SourceDropped,
)
from rbees.protocol.errors import ExitCode, RbeesError
from rbees.service import auth
from rbees.service.clock import SystemClock
from rbees.service.leash import end_with_parent

TELL_EVERY_S: Final = 0.2
_TRUE: Final = frozenset({"1", "ON", "YES", "TRUE"})


def main() -> int:
    """Carry one order out."""
    line = sys.stdin.buffer.readline()
    end_with_parent(sys.stdin.fileno(), grace_s=0.5)
    order = codec.decode(line, CopyOrder)
    try:
        _report(asyncio.run(_Copying(order).run()))
    except RbeesError as error:
        _report(DownloadFailed(error=error.body()))
    return ExitCode.OK


def _report(message: Message) -> None:
    sys.stdout.buffer.write(codec.encode(message) + b"\n")
    sys.stdout.buffer.flush()


class _Copying:
    """One order being carried out."""

    def __init__(self, order: CopyOrder) -> None:
        self._order = order
        self._fetch = order.fetch
        self._cache = HubCache(Path(order.cache_folder))
        self._total_bytes = sum(file.size_bytes for file in order.fetch.files)
        self._before_bytes = 0
        """Of the files that are done."""
        self._told_at = 0.0

    async def run(self) -> Fetched:
        """Bring all files here, one after the other."""
        places = [place_of(self._fetch, file, self._cache) for file in self._fetch.files]
        check_space(made(places[0].blob.parent), missing_bytes(self._fetch, self._cache))
        async with Dialer() as dialer:
            sources = [
                Source(
                    PooldClient(
                        source.url,
                        token=source.token,
                        ssl=auth.tls_client_context(source.tls_ca_file),
                        dialer=dialer,
                        role="poold",
                    ),
                    _dropped,
                    SystemClock(),
                )
                for source in self._order.sources
            ]
            fetched_bytes = 0
            for file, place in zip(self._fetch.files, places, strict=True):
                fetched_bytes += await self._bring(file, place, sources)
                self._before_bytes += file.size_bytes
        self._write_refs()
        self._tell(0, force=True)
        return Fetched(
            paths=tuple(str(place.target) for place in places),
            sha256=tuple(file.sha256 or "" for file in self._fetch.files),
            fetched_bytes=fetched_bytes,
            by_source={source.url: source.came_bytes for source in sources if source.came_bytes},
        )

    async def _bring(self, file: HubFile, place: Place, sources: list[Source]) -> int:
        """Have the file under its name; how many of its bytes were fetched."""
        made(place.blob.parent)
        made(place.lock.parent)
        by_link = os.environ.get("HF_HUB_DISABLE_SYMLINKS", "").upper() not in _TRUE
        fetched_bytes = 0
        try:
            # Nothing else goes on in this process while another one has the lock.
            with locked(place.lock, lambda: self._wait_for_another(place, file)):
                try:
                    if sum_of(place.blob, file, self._tell) is None:
                        fetched_bytes = await self._transfer(file, place, sources)
                    place.name(by_link=by_link)
                finally:
                    if place.drop_empty() and self._fetch.local_dir is not None:
                        # In a folder of its own nothing but the model is left. The file goes while it is locked: who waits for it
                        # notices; once let go, it may be the next one's.
                        place.lock.unlink(missing_ok=True)
        except OSError as error:
            raise _not_written(place, error) from None
        return fetched_bytes

    async def _transfer(self, file: HubFile, place: Place, sources: list[Source]) -> int:
        if place.partial.exists() and not place.draft.exists():
            # What the hub gave is as good: each piece of it is summed before it counts.
            os.replace(place.partial, place.draft)
        descriptor = os.open(place.draft, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fetched_bytes = await Transfer(
                file,
                descriptor,
                sources,
                on_progress=self._tell,
                on_begun=lambda pieces: _report(CopyBegun(draft=str(place.draft), path=str(place.blob), pieces=pieces)),
                on_held=lambda numbers: _report(PiecesHeld(sha256=file.sha256 or "", numbers=tuple(numbers))),
            ).run()
            await asyncio.to_thread(os.fsync, descriptor)
        finally:
            os.close(descriptor)
        os.replace(place.draft, place.blob)
        place.partial.unlink(missing_ok=True)
        return fetched_bytes

    def _write_refs(self) -> None:
        """Let the branches that the sources know mean this commit, where they mean none here or the branch was asked for."""
        if self._fetch.local_dir is not None:
            return
        for branch in self._order.branches:
            ref = self._cache.repository(self._fetch.repository) / "refs" / branch
            if branch == self._fetch.revision or not ref.exists():
                write_ref(msgspec.structs.replace(self._fetch, revision=branch), self._cache)

    def _wait_for_another(self, place: Place, file: HubFile) -> None:
        self._tell(min(place.partial_bytes(), file.size_bytes), waiting=True)

    def _tell(self, done_bytes: int, *, waiting: bool = False, force: bool = False) -> None:
        now = time.monotonic()
        if force or now - self._told_at >= TELL_EVERY_S:
            self._told_at = now
            done = min(self._before_bytes + done_bytes, self._total_bytes)
            _report(DownloadProgress(done_bytes=done, total_bytes=self._total_bytes, waiting=waiting))


def _dropped(source: str, why: str) -> None:
    _report(SourceDropped(source=source, why=why))


def _not_written(place: Place, error: OSError) -> RbeesError:
    return disk_full() if error.errno in FULL else unwritable(place.blob.parent, error)


if __name__ == "__main__":
    sys.exit(main())
