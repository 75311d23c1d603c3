"""Messages about models that a hub or another pool offers, and about bringing one of them here.

The same events go from the downloading process to its parent, from poold to orcd and to the command line.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Final

import msgspec

from rbees.protocol.codec import Message, Request
from rbees.protocol.errors import ErrorBody, ErrorCode
from rbees.protocol.pools import ModelFacts

DOWNLOAD_ERRORS: Final = (
    ErrorCode.MODEL_NOT_FOUND,
    ErrorCode.MODEL_FORBIDDEN,
    ErrorCode.MODEL_INCOMPATIBLE,
    ErrorCode.MODEL_LOADING,
    ErrorCode.INSUFFICIENT_VRAM,
    ErrorCode.DOWNLOAD_FAILED,
    ErrorCode.CHECKSUM_MISMATCH,
    ErrorCode.STORAGE_FULL,
    ErrorCode.CONFIGURATION,
    ErrorCode.DRAINING,
)
"""What a download can end with, as a status or as its last event."""
MAX_SOURCES: Final = 16

SourceUrl = Annotated[str, msgspec.Meta(pattern=r"^https?://[^/\s?#@]+$", max_length=300)]
Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]


class HubFile(Message, frozen=True, kw_only=True):
    """One file of a repository at one commit."""

    path: str
    size_bytes: int
    sha256: str | None = None
    """Of large files; a small one is known by `git_oid` only."""
    git_oid: str = ""


class HubListing(Message, frozen=True, kw_only=True):
    """The GGUF files of a repository, pinned to a commit."""

    commit: str
    files: tuple[HubFile, ...]
    facts: ModelFacts | None = None
    """What the header of one of them says, where it was asked for and could be read; all have the same shape."""


class DownloadRequest(Request, frozen=True, kw_only=True):
    """`POST /models/download` on a pool, `POST /v2/pools/{id}/models/download` on orcd."""

    model_ref: Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
    """Alias of the pool's catalogue, or `hf:` reference; with sources, whatever the model goes by there."""
    quantization: Annotated[str, msgspec.Meta(min_length=1, max_length=64)] | None = None
    """Such as Q4_K_M; without it the pool takes what fits it."""
    sources: Annotated[tuple[SourceUrl, ...], msgspec.Meta(max_length=MAX_SOURCES)] = ()
    """URLs of pool daemons that hold the model or are fetching it. It comes from them, and from the hub only where none is left."""
    sha256: Sha256 | None = None
    """Of the model, where the caller knows it: nothing else is taken, whoever offers it. If the pool has it, that is enough."""


class PoolChosen(Message, frozen=True, kw_only=True, tag_field="type", tag="chosen"):
    """The first event of `POST /v2/models/download` of orcd: the pool that fetches the model, because nobody named one."""

    pool_id: str
    why: str


class DownloadPlanned(Message, frozen=True, kw_only=True, tag_field="type", tag="planned"):
    """What is going to be fetched."""

    model_ref: str
    """Pinned to the commit."""
    files: tuple[str, ...]
    total_bytes: int
    why: str | None = None
    """Why these files, where the pool chose among several."""
    sources: tuple[str, ...] = ()
    """The pools that it comes from; empty for the hub. A second `planned` says that the hub is asked after all."""


class DownloadProgress(Message, frozen=True, kw_only=True, tag_field="type", tag="progress"):
    """How far it is; `waiting` while another process does the work."""

    done_bytes: int
    total_bytes: int
    bytes_per_s: float | None = None
    left_s: float | None = None
    waiting: bool = False


class SourceDropped(Message, frozen=True, kw_only=True, tag_field="type", tag="source_dropped"):
    """A source is asked no more in this download: it lied, stood still, broke off or has nothing of the model."""

    source: str
    why: str
    """One sentence."""


class DownloadDone(Message, frozen=True, kw_only=True, tag_field="type", tag="done"):
    """All files are here and their checksums are those that were promised."""

    model_ref: str
    """The reference to serve it by: `hf:…` in the shared cache, `file:…` in a folder of its own."""
    sha256: str
    paths: tuple[str, ...]
    fetched_bytes: int
    """0 where everything was here already."""
    by_source: dict[str, int] = {}
    """Of these, the bytes that came from each of the pools."""


class DownloadFailed(Message, frozen=True, kw_only=True, tag_field="type", tag="failed"):
    """The last event of a download that came to nothing. What was fetched is kept and the next one goes on from there."""

    error: ErrorBody


DownloadEvent = PoolChosen | DownloadPlanned | DownloadProgress | SourceDropped | DownloadDone | DownloadFailed


class OfferedFile(Message, frozen=True, kw_only=True):
    """One file of a model that a pool can give, and the name of its bytes on that pool."""

    path: str
    """In the repository, or the bare name of a file that is of none."""
    size_bytes: int
    sha256: str


class ModelOffer(Message, frozen=True, kw_only=True):
    """`GET /models/{name}/offer` of a pool: what somebody needs who wants the model, under the same names, on another host."""

    model_ref: str
    sha256: str
    """Of the model: of its file, or of its parts' sums."""
    aliases: tuple[str, ...] = ()
    """Short names."""
    branches: tuple[str, ...] = ()
    """Of the repository, that are at the reference's commit."""
    files: tuple[OfferedFile, ...]


class FilePieces(Message, frozen=True, kw_only=True):
    """`GET /models/{sha256}/pieces` of a pool: by what each part of a file can be checked, and which of them the pool has."""

    sha256: str
    size_bytes: int
    piece_bytes: int
    """Of every piece but the last, which holds the rest."""
    pieces: tuple[str, ...]
    """The sha256 of each, in order."""
    held: tuple[int, ...] | None = None
    """The numbers of those that it has checked and can give, from a pool that still fetches the file; None: all."""


class ListOrder(Message, frozen=True, kw_only=True, tag_field="type", tag="list"):
    """To the downloading process: say what a repository holds."""

    repository: str
    revision: str | None = None
    peek: bool = False
    """Read the header of one file as well."""


class FetchOrder(Message, frozen=True, kw_only=True, tag_field="type", tag="fetch"):
    """To the downloading process: bring these files here."""

    repository: str
    commit: str
    revision: str | None = None
    """The branch or tag that was asked for; None is the repository's main branch."""
    files: tuple[HubFile, ...]
    local_dir: str | None = None
    """A folder of its own instead of the shared cache."""


Order = ListOrder | FetchOrder


class CopySource(Message, frozen=True, kw_only=True):
    """A pool to fetch from, and how it is called."""

    private: ClassVar[frozenset[str]] = frozenset({"token"})

    url: str
    token: str | None = None
    """Sent to this pool, if any is."""
    tls_ca_file: str | None = None


class CopyOrder(Message, frozen=True, kw_only=True):
    """To the process that fetches from pools: bring these files here."""

    fetch: FetchOrder
    """What, and where to; without a repository it goes into the folder that is named."""
    branches: tuple[str, ...] = ()
    """Which are at this commit, as far as the sources know."""
    cache_folder: str
    sources: tuple[CopySource, ...]


class Listed(Message, frozen=True, kw_only=True, tag_field="type", tag="listed"):
    """From the downloading process: the answer to `ListOrder`."""

    listing: HubListing


class Fetched(Message, frozen=True, kw_only=True, tag_field="type", tag="fetched"):
    """From the downloading process: the answer to `FetchOrder`, in the order of its files."""

    paths: tuple[str, ...]
    sha256: tuple[str, ...]
    fetched_bytes: int
    by_source: dict[str, int] = {}


class CopyBegun(Message, frozen=True, kw_only=True, tag_field="type", tag="copy_begun"):
    """From the process that fetches from pools: from now on it fetches this file, and what it has of it can be given to others."""

    draft: str
    """The file that grows until it is whole."""
    path: str
    """Where it is then."""
    pieces: FilePieces


class PiecesHeld(Message, frozen=True, kw_only=True, tag_field="type", tag="pieces_held"):
    """From the process that fetches from pools: these further pieces are in the draft, and right."""

    sha256: str
    """Of the file."""
    numbers: tuple[int, ...]


Report = Listed | Fetched | DownloadProgress | DownloadFailed | SourceDropped | CopyBegun | PiecesHeld


class ModelRemoved(Message, frozen=True, kw_only=True):
    """`DELETE /models/{id}` of a pool."""

    model_ref: str
    freed_bytes: int
    """0 where another name has the same bytes."""
