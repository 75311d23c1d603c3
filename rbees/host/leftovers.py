"""What interrupted downloads, copies and imports left on this host: in the shared cache, and beside models in folders.

Whoever asks for the same model again goes on with it. Nothing that somebody writes at this moment is thrown away.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rbees.host.fetch_place import filled_bytes, made
from rbees.host.hub_cache import HubCache
from rbees.host.model_candidates import Places
from rbees.host.partial_file import locked
from rbees.host.variants import PART

_BESIDE: Final = re.compile(r"\.(?P<file>.+)\.[0-9a-f]{16}(\.lock|(\.pieces)?\.incomplete)")
"""How `place_of` names the bytes and the lock of a file that goes into a folder of its own."""


@dataclass(frozen=True, slots=True)
class Leftover:
    """A file that was not finished. `file` is the name that it would have got; None in the shared cache, which tells sums only."""

    path: Path
    lock: Path
    file: str | None

    @property
    def size_bytes(self) -> int:
        """What it takes of the disk: a copy from several sources has holes."""
        return filled_bytes(self.path)

    def discard(self) -> int | None:
        """Remove it; the bytes that are free now, or None where somebody writes it.

        Raises:
            OSError, RbeesError: the folder cannot be written.
        """
        made(self.lock.parent)
        try:
            with locked(self.lock, _give_up):
                size = self.size_bytes
                self.path.unlink(missing_ok=True)
                if self.lock.parent == self.path.parent:
                    # In the shared cache locks stay, as the hub's own tools leave them.
                    self.lock.unlink(missing_ok=True)
        except _Written:
            return None
        return size


class _Written(Exception):
    """Somebody holds the lock."""


def _give_up() -> None:
    raise _Written


def leftovers(places: Places) -> Iterator[Leftover]:
    """All that can be found where this host's models lie, in a stable order."""
    if places.cache is not None:
        for path in sorted(places.cache.folder.glob("models--*/blobs/*.incomplete")):
            yield _of_cache(path, places.cache)
    searched = tuple(places.folders.each())
    further = places.local.all() if places.local is not None else ()
    for folder in dict.fromkeys((*searched, *further)):
        yield from (one for one in _in(folder) if one.path != one.lock)


def beside(path: Path) -> Iterator[Leftover]:
    """What is left of the same model in the folder of one of its files, locks of nobody included."""
    return (one for one in _in(path.parent) if one.file is not None and _whole(one.file) == _whole(path.name))


def of_blob(blob: Path, cache: HubCache) -> Iterator[Leftover]:
    """What is left of the same bytes in the shared cache."""
    return (_of_cache(path, cache) for path in sorted(blob.parent.glob(f"{blob.name}.*incomplete")))


def _of_cache(path: Path, cache: HubCache) -> Leftover:
    # Behind the sum the library writes a word of its own, and rbees one for what comes from several sources.
    named = path.name.partition(".")[0]
    return Leftover(path, cache.folder / ".locks" / path.parent.parent.name / f"{named}.lock", None)


def _in(folder: Path) -> Iterator[Leftover]:
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return
    for name in names:
        match = _BESIDE.fullmatch(name)
        if match is not None:
            lock = f"{name[: match.start(2)]}.lock"
            yield Leftover(folder / name, folder / lock, match["file"])


def _whole(name: str) -> str:
    """The same for all parts of a model."""
    return PART.sub(r"-of-\g<count>.gguf", name)
