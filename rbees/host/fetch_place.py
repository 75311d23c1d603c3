"""Where the files of a download go: into the shared cache as the hub's own tools lay it out, or into a folder of their own."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path

from rbees.host.hub_cache import COMMIT, HubCache
from rbees.protocol.downloads import FetchOrder, HubFile
from rbees.protocol.errors import ErrorCode, RbeesError


@dataclass(frozen=True, slots=True)
class Place:
    """Where one file goes: `blob` holds the bytes, `target` is the name to open them by (the same in a folder of its own)."""

    blob: Path
    target: Path
    partial: Path
    lock: Path

    def partial_bytes(self) -> int:
        """How much somebody else has fetched: the library's later versions put a random word into the name."""
        stem = self.partial.name.removesuffix(".incomplete")
        sizes = [path.stat().st_size for path in self.partial.parent.glob(f"{stem}*.incomplete") if path.exists()]
        return max(sizes, default=0)

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


def unwritable(folder: object, error: OSError) -> RbeesError:
    """The refusal of a folder that cannot be written."""
    return RbeesError(
        ErrorCode.CONFIGURATION,
        f"The folder {folder} cannot be written ({os.strerror(error.errno or 0)}); mend it, or name another with `--local-dir` or "
        "`HF_HOME`.",
        path=str(folder),
    )
