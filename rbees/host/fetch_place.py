"""Where the files of a download go: into the shared cache as the hub's own tools lay it out, or into a folder of their own."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rbees.host.hub_cache import COMMIT, HubCache
from rbees.protocol.downloads import FetchOrder, HubFile
from rbees.protocol.errors import ErrorCode, RbeesError

SPARE_BYTES: Final = 64 << 20
"""What a download leaves free on the disk."""
FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True, slots=True)
class Place:
    """Where one file goes: `blob` holds the bytes, `target` is the name to open them by (the same in a folder of its own)."""

    blob: Path
    target: Path
    partial: Path
    lock: Path

    @property
    def draft(self) -> Path:
        """What comes from several sources at once is put together here: right wherever it holds data, and with holes between."""
        return self.partial.with_name(f"{self.partial.name.removesuffix('.incomplete')}.pieces.incomplete")

    def join_draft(self) -> None:
        """Go on with what other pools gave, as far as it has no hole, where one file after the other is fetched from its start."""
        try:
            with self.draft.open("rb+") as file:
                # A system that does not tell where holes are tells the end; the sum of the whole shows what that was worth.
                end = os.lseek(file.fileno(), 0, os.SEEK_HOLE)
                file.truncate(end)
        except OSError:
            # There is none, or it holds nothing.
            self.draft.unlink(missing_ok=True)
            return
        if self.partial.exists() and self.partial.stat().st_size >= end:
            self.draft.unlink(missing_ok=True)
        else:
            os.replace(self.draft, self.partial)

    def kept_bytes(self) -> int:
        """How much an earlier process of rbees has left."""
        return max(_size(self.partial), filled_bytes(self.draft))

    def drop_empty(self) -> bool:
        """Leave no file of a transfer that brought nothing; True if nothing is left of it. Only for who holds the lock."""
        for path in (self.partial, self.draft):
            if _holds_nothing(path):
                path.unlink()
        return not self.partial.exists() and not self.draft.exists()

    def partial_bytes(self) -> int:
        """How much somebody else has fetched: the library's later versions put a random word into the name."""
        stem = self.partial.name.removesuffix(".incomplete")
        others = [path for path in self.partial.parent.glob(f"{stem}*.incomplete") if path != self.draft]
        return max(filled_bytes(self.draft), *map(_size, others), 0)

    def name(self, *, by_link: bool) -> None:
        """Give the blob its name in the snapshot; where there are no links, move it there, as the library does."""
        if self.blob == self.target or (self.target.exists() and self.target.resolve() == self.blob.resolve()):
            return
        made(self.target.parent)
        draft = self.target.with_name(f".{self.target.name}.{os.getpid()}.new")
        draft.unlink(missing_ok=True)
        try:
            if not by_link:
                raise OSError("no links are wanted")
            draft.symlink_to(os.path.relpath(self.blob, self.target.parent))
        except OSError:
            os.replace(self.blob, self.target)
        else:
            os.replace(draft, self.target)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _holds_nothing(path: Path) -> bool:
    """True for a file that is empty or all hole. Its blocks do not tell: some file systems count them only once written."""
    try:
        with path.open("rb") as file:
            os.lseek(file.fileno(), 0, os.SEEK_DATA)
    except OSError as error:
        return error.errno == errno.ENXIO
    return False


def filled_bytes(path: Path) -> int:
    """The size of a file without its holes, 0 where there is none: blocks are of 512 bytes wherever they are counted."""
    try:
        status = path.stat()
    except OSError:
        return 0
    return min(status.st_size, status.st_blocks * 512)


def place_of(order: FetchOrder, file: HubFile, cache: HubCache) -> Place:
    """The place of one of the order's files."""
    named = file.sha256 or file.git_oid
    if order.local_dir is not None:
        target = Path(order.local_dir, file.path)
        partial = target.with_name(f".{target.name}.{named[:16]}.incomplete")
        return Place(target, target, partial, partial.with_suffix(".lock"))
    repository = cache.repository(order.repository)
    blob = repository / "blobs" / named
    target = cache.snapshot(order.repository, order.commit) / file.path
    lock = cache.folder / ".locks" / repository.name / f"{named}.lock"
    return Place(blob, target, blob.with_name(f"{named}.incomplete"), lock)


def missing_bytes(order: FetchOrder, cache: HubCache) -> int:
    """How much of an order is still to be fetched."""
    places = ((file, place_of(order, file, cache)) for file in order.files)
    return sum(max(0, file.size_bytes - place.kept_bytes()) for file, place in places if not place.blob.exists())


def write_ref(order: FetchOrder, cache: HubCache) -> None:
    """Remember which commit the branch was at, as the library does; what was asked for by commit has no branch."""
    revision = order.revision or "main"
    if COMMIT.fullmatch(revision):
        return
    ref = cache.repository(order.repository) / "refs" / revision
    made(ref.parent)
    draft = ref.with_name(f"{ref.name}.{os.getpid()}.new")
    draft.write_text(order.commit, encoding="ascii")
    os.replace(draft, ref)


def made(folder: Path) -> Path:
    """`folder`, which exists and can be written.

    Raises:
        RbeesError: CONFIGURATION.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise unwritable(folder, error) from None
    return folder


def check_space(folder: Path, missing_bytes: int) -> None:
    """See that the disk of `folder` can take what is still to be fetched.

    Raises:
        RbeesError: STORAGE_FULL.
    """
    free = shutil.disk_usage(folder).free
    if missing_bytes and free < missing_bytes + SPARE_BYTES:
        raise RbeesError(
            ErrorCode.STORAGE_FULL,
            f"{_mib(missing_bytes)} are still to be fetched, {_mib(SPARE_BYTES)} are to stay free, and the disk of {folder} has "
            f"{_mib(free)} free; free some, or name another folder with `--local-dir` or `HF_HOME`.",
            needed_bytes=missing_bytes + SPARE_BYTES,
            free_bytes=free,
        )


def disk_full() -> RbeesError:
    """The refusal where the disk ran full all the same."""
    message = "The disk ran full while the model was fetched; what came is kept. Free some space and ask again to go on."
    return RbeesError(ErrorCode.STORAGE_FULL, message)


def unwritable(folder: object, error: OSError) -> RbeesError:
    """The refusal of a folder that cannot be written."""
    return RbeesError(
        ErrorCode.CONFIGURATION,
        f"The folder {folder} cannot be written ({os.strerror(error.errno or 0)}); mend it, or name another with `--local-dir` or "
        "`HF_HOME`.",
        path=str(folder),
    )


def _mib(count: int) -> str:
    return f"{-(-count // (1 << 20))} MiB"
