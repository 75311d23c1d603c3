"""One pool as a source of files: what it is asked, what it brought, and when it is asked no more.

A source that cannot be reached or breaks off is tried again; one that lies, refuses or has nothing is dropped at once, and so is
one whose tries bring nothing any more. Whoever is dropped stays so until the download ends.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

from rbees.host.piece_sums import is_complete
from rbees.host.pieces import piece_bytes_of, piece_count
from rbees.protocol.downloads import FilePieces, HubFile
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.service.clock import Clock

TRIES_WITHOUT_PROGRESS: Final = 3
FIRST_DELAY_S: Final = 0.5
STALL_S: Final = 10.0
"""A source that sends nothing for so long has stalled."""
LOOK_EVERY_S: Final = 0.5
SUMMED_WITHIN_S: Final = 900.0
"""A disk that reads a hundred megabytes a second sums the largest files in less."""
_FINAL: Final = frozenset({ErrorCode.MODEL_NOT_FOUND, ErrorCode.UNAUTHENTICATED, ErrorCode.FORBIDDEN, ErrorCode.NOT_FOUND})


class Asked(Protocol):
    """What a source is asked through: `clients.poold.PooldClient`."""

    @property
    def url(self) -> str:
        """Where it is."""
        ...

    async def pieces(self, sha256: str, max_bytes: int) -> FilePieces:
        """`GET /models/{sha256}/pieces`, whose answer is at most so long."""
        ...

    def blob(
        self, sha256: str, first: int, length: int, idle_timeout_s: float
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """`GET /models/{sha256}/blob`, a range of it."""
        ...


class Source:
    """A pool that is asked for files, one after the other."""

    def __init__(self, client: Asked, on_drop: Callable[[str, str], None], clock: Clock) -> None:
        self.client = client
        self.clock = clock
        self.came_bytes = 0
        """Checked and written, of all files."""
        self.is_dropped = False
        self.held: frozenset[int] | None = None
        """The pieces of the file that it has; None for all."""
        self._on_drop = on_drop
        self._failures = 0

    @property
    def url(self) -> str:
        """Where it is."""
        return self.client.url

    def drop(self, why: str) -> None:
        """Ask it no more."""
        if not self.is_dropped:
            self.is_dropped = True
            self._on_drop(self.url, why)

    def has_brought(self, count: int) -> None:
        """So many right bytes are from it."""
        self.came_bytes += count
        self._failures = 0

    async def failed(self, error: RbeesError) -> None:
        """A call came to nothing: drop it, or return when it may be tried again."""
        if error.code in _FINAL:
            self.drop(error.message)
            return
        self._failures += 1
        if self._failures >= TRIES_WITHOUT_PROGRESS:
            reason = error.details.get("reason")
            self.drop(f"It failed {self._failures} times in a row: {reason or error.message}")
            return
        await self.clock.sleep(FIRST_DELAY_S * 2 ** (self._failures - 1))

    async def pieces(self, file: HubFile) -> FilePieces | None:
        """The sums of a file's pieces, once the source knows them; None where it is dropped first."""
        began_at = self.clock.monotonic()
        while not self.is_dropped:
            try:
                found = await self.client.pieces(file.sha256 or "", _most_bytes(file))
            except RbeesError as error:
                if error.code is ErrorCode.MODEL_LOADING and self.clock.monotonic() - began_at < SUMMED_WITHIN_S:
                    await self.clock.sleep(LOOK_EVERY_S)
                else:
                    await self.failed(error)
                continue
            if (found.sha256, found.size_bytes) != (file.sha256, file.size_bytes) or not is_complete(found):
                self.drop("It answers with sums that cannot be those of the file.")
                return None
            self.held = frozenset(found.held) if found.held is not None else None
            return found
        return None


def _most_bytes(file: HubFile) -> int:
    """How long what a source says of a file's pieces can be: for each a sum and its number in quotes and commas, and a head."""
    return 4096 + 80 * piece_count(file.size_bytes, piece_bytes_of(file.size_bytes))
