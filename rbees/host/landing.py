"""Where a model that another pool offers goes on this host, so that it has the same names here; and whether the offer makes sense.

What is of a hub goes into the shared cache under its commit, as if it had come from there. Anything else goes into rbees' own
folder, below one that is named by the model's sum, under a file name that gives it the short name it was asked by: its reference
is then one of this host, and what it is known by everywhere is its sha256.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from rbees.host.checksums import sum_of_parts
from rbees.host.hub_cache import COMMIT
from rbees.host.model_candidates import MAX_PARTS, short_name
from rbees.host.model_files import SUFFIXES
from rbees.host.variants import PART
from rbees.protocol import model_ref
from rbees.protocol.downloads import FetchOrder, HubFile, ModelOffer, OfferedFile
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.model_ref import AliasRef, HubRef

MAX_FILE_BYTES: Final = 1 << 44
MAX_NAMES: Final = 256
"""Short names and branches of one model: each is looked at, and whoever offers them may be a stranger."""
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Landing:
    """Where the files of an offer go, and the branches that are then known to be at its commit."""

    order: FetchOrder
    branches: tuple[str, ...] = ()

    @property
    def reference(self) -> str | None:
        """What it is served by here; None where the place of its first file says that."""
        order = self.order
        return str(HubRef(order.repository, order.commit, order.files[0].path)) if order.local_dir is None else None


def check(offer: ModelOffer) -> None:
    """See that an offer is one: its names can be names here, and its sums are those of the model.

    Raises:
        RbeesError: INVALID_REQUEST.
    """
    files = offer.files
    if not 0 < len(files) <= MAX_PARTS or not all(map(_is_file, files)):
        raise _refusal("has no files, or sizes and checksums that are none")
    if max(len(offer.aliases), len(offer.branches)) > MAX_NAMES:
        raise _refusal("has more names than a model has")
    if sum_of_parts([file.sha256 for file in files]) != offer.sha256:
        raise _refusal("has another checksum than its files")
    reference = model_ref.parse(offer.model_ref)
    if isinstance(reference, HubRef):
        if not COMMIT.fullmatch(reference.revision or "") or reference.file != files[0].path:
            raise _refusal("names no file at a commit")
        for branch in offer.branches:
            model_ref.parse(f"hf:{reference.repository}@{branch}")
    elif "/" in files[0].path or not files[0].path.endswith(SUFFIXES):
        raise _refusal("names no file of a model")
    for file in files:
        model_ref.parse(f"hf:a/b::file={file.path}")
    if not files[0].path.lower().endswith(SUFFIXES) or [file.path for file in files] != _names_of_parts(files[0].path, len(files)):
        raise _refusal("has file names that are no model's")


def _is_file(file: OfferedFile) -> bool:
    return 0 <= file.size_bytes <= MAX_FILE_BYTES and _SHA256.fullmatch(file.sha256) is not None


def land(offer: ModelOffer, asked: str, own: Path, folder: Path | None = None) -> Landing:
    """Where a checked offer goes: into `folder` if there is one; `own` is for models of no repository, `asked` what was typed."""
    reference = model_ref.parse(offer.model_ref)
    if isinstance(reference, HubRef):
        assert reference.revision is not None, "a checked offer is at a commit"
        files = tuple(HubFile(path=file.path, size_bytes=file.size_bytes, sha256=file.sha256) for file in offer.files)
        return Landing(
            FetchOrder(
                repository=reference.repository,
                commit=reference.revision,
                files=files,
                local_dir=str(folder) if folder is not None else None,
            ),
            offer.branches if folder is None else (),
        )
    named = _named(offer, asked)
    place = folder if folder is not None else own / offer.sha256[:16]
    files = tuple(HubFile(path=file.path, size_bytes=file.size_bytes, sha256=file.sha256) for file in named)
    return Landing(FetchOrder(repository="", commit="", files=files, local_dir=str(place)))


def _named(offer: ModelOffer, asked: str) -> Sequence[OfferedFile]:
    """The files under names that give the model a short name of those it has: the one it was asked by, its own, or the first."""
    first = offer.files[0].path
    own = short_name(Path(first))
    known = [alias for alias in offer.aliases if isinstance(model_ref.parse(alias), AliasRef)]
    short = asked if asked in known else own if own in known or not known else known[0]
    if short is None or short == own:
        return offer.files
    suffix = next(suffix for suffix in SUFFIXES if first.endswith(suffix))
    stem = f"{short}-00001-of-{len(offer.files):05d}" if len(offer.files) > 1 else short
    names = _names_of_parts(f"{stem}{suffix}", len(offer.files))
    return [msgspec.structs.replace(file, path=name) for file, name in zip(offer.files, names, strict=True)]


def _names_of_parts(first: str, count: int) -> list[str]:
    """What the files of a model in `count` parts are called, whose first one has this name."""
    match = PART.search(first)
    if count == 1 or match is None or int(match["number"]) != 1 or int(match["count"]) != count:
        return [first] if count == 1 else []
    stem, suffix = first[: match.start()], first[match.end("count") :]
    return [f"{stem}-{number:05d}-of-{match['count']}{suffix}" for number in range(1, count + 1)]


def _refusal(reason: str) -> RbeesError:
    return RbeesError(ErrorCode.INVALID_REQUEST, f"The offer {reason}.")
