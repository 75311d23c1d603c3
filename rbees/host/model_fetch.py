"""The downloading process: lists repositories and fetches files through huggingface_hub, whose only user it is.

`python -P -m rbees.host.model_fetch` takes one order as a line of JSON and answers with lines of JSON (`protocol/downloads.py`);
when its standard input ends, so does it. It is a process because the library reads its `HF_*` variables when it is imported,
because it blocks, and because whatever happens to it must not happen to a daemon.

The library's own `hf_hub_download` forgets what it has when it is interrupted and never looks at a checksum. Here the bytes go,
by the library's transfer, into `blobs/<sha256>.incomplete` under the lock that the library takes too; they get their name in the
shared cache only once their checksum is the hub's. Nothing unfinished or wrong can be loaded, by nobody's tools.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from rbees import __version__
from rbees.host.fetch_place import FULL, Place, check_space, disk_full, made, place_of, unwritable, write_ref
from rbees.host.gguf import read_header
from rbees.host.hub_cache import COMMIT, HubCache
from rbees.host.model_facts import facts, shape_at_first_sight
from rbees.host.partial_file import PIECE_BYTES, PartialFile, TooLong, locked, sum_of
from rbees.host.variants import ranked, variants
from rbees.protocol import codec, model_ref
from rbees.protocol.codec import Message
from rbees.protocol.downloads import (
    DownloadFailed,
    DownloadProgress,
    Fetched,
    FetchOrder,
    HubFile,
    HubListing,
    Listed,
    ListOrder,
    Order,
)
from rbees.protocol.errors import ErrorCode, ExitCode, RbeesError
from rbees.protocol.pools import ModelFacts
from rbees.service.leash import end_with_parent

TELL_EVERY_S: Final = 0.2
TRIES_WITHOUT_PROGRESS: Final = 3
"""The library tries each of them several times itself."""
LONGEST_DELAY_S: Final = 8.0
PEEKS: Final = (2 << 20, 8 << 20, 32 << 20)
"""How much of a file is fetched for its header, at most: vocabularies of a quarter of a million tokens take about 15 MiB."""
_RETRIED: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


def main() -> int:
    """Carry one order out."""
    report = _reporter()
    line = sys.stdin.buffer.readline()
    end_with_parent(sys.stdin.fileno(), grace_s=0.5)
    # The library's own pieces of 10 MiB are too coarse to show progress by, and a broken connection loses the one under way.
    constants.DOWNLOAD_CHUNK_SIZE = PIECE_BYTES
    order: ListOrder | FetchOrder = codec.decode(line, Order)  # type: ignore[arg-type]  # A union is no type to mypy.
    try:
        with _translated(order.repository):
            if isinstance(order, ListOrder):
                report(Listed(listing=_list(order)))
            else:
                report(_Fetching(order, report).run())
    except RbeesError as error:
        report(DownloadFailed(error=error.body()))
    return ExitCode.OK


def _reporter() -> Callable[[Message], None]:
    """Writes reports to what was standard output; anything that a library prints goes to standard error instead."""
    told = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def report(message: Message) -> None:
        told.write(codec.encode(message) + b"\n")

    return report


# ---- what a repository holds ---------------------------------------------------------------------------------------------


def _list(order: ListOrder) -> HubListing:
    info = HfApi().model_info(order.repository, revision=order.revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    if not isinstance(info.sha, str) or not COMMIT.fullmatch(info.sha):
        raise ValueError("no commit")
    files = tuple(_hub_file(sibling) for sibling in info.siblings or () if _is_safe(sibling.rfilename))
    open_ = ranked(variants(files))
    peeked = _peek(order.repository, info.sha, open_[0].files[0]) if order.peek and len(open_) > 1 else None
    return HubListing(commit=info.sha, files=files, facts=peeked)


def _is_safe(path: str) -> bool:
    """GGUF files whose path can be part of a reference, and so of a path below a folder."""
    try:
        model_ref.parse(f"hf:a/b::file={path}")
    except RbeesError:
        return False
    return path.lower().endswith(".gguf")


def _hub_file(sibling: Any) -> HubFile:
    """What the hub says of a file. Its checksum becomes a file name here, so it must be one.

    Raises:
        ValueError: it is not.
    """
    lfs = sibling.lfs
    size = lfs.size if lfs is not None else sibling.size
    sha256, git_oid = lfs.sha256 if lfs is not None else None, sibling.blob_id or ""
    if not isinstance(size, int) or size < 0 or not _is_checksum(sha256, git_oid):
        raise ValueError("no checksum")
    return HubFile(path=sibling.rfilename, size_bytes=size, sha256=sha256, git_oid=git_oid)


def _is_checksum(sha256: object, git_oid: object) -> bool:
    if sha256 is not None:
        return isinstance(sha256, str) and _SHA256.fullmatch(sha256) is not None
    return isinstance(git_oid, str) and COMMIT.fullmatch(git_oid) is not None


def _peek(repository: str, commit: str, file: HubFile) -> ModelFacts | None:
    """The facts that the header of a file states; None where it cannot be read or is longer than anybody's."""
    with tempfile.TemporaryDirectory(prefix="rbees-header-") as folder:
        path = Path(folder, "header.gguf")
        have = 0
        for limit in PEEKS:
            with path.open("ab") as sink:
                have += _fetch_range(repository, commit, file.path, have, min(limit, file.size_bytes), sink)
            try:
                # The rest of the file as a hole, so that the reader's bounds are the real ones.
                os.truncate(path, file.size_bytes)
                shape = shape_at_first_sight(read_header(path))
                return facts(shape, ref="", aliases=(), sha256="", file_name=file.path, size_bytes=file.size_bytes)
            except RbeesError:
                os.truncate(path, have)
            except OSError:
                # A file system that has no room for such a hole: the choice is made without the header.
                return None
            if have >= file.size_bytes:
                break
    return None


def _fetch_range(repository: str, commit: str, path: str, start: int, end: int, sink: BinaryIO) -> int:
    """Bytes `start` to `end` of a file into `sink`; how many came."""
    if start >= end:
        return 0
    headers = {**_headers(), "Range": f"bytes={start}-{end - 1}"}
    url = hf_hub_url(repository, path, revision=commit)
    came = 0
    with get_session().stream("GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as answer:
        hf_raise_for_status(answer)
        # A server that ignores ranges sends the whole file: what is in front is passed over, what is behind never read.
        skip = start if answer.status_code == 200 else 0
        for piece in answer.iter_bytes(PIECE_BYTES):
            dropped = min(skip, len(piece))
            skip -= dropped
            kept = piece[dropped : dropped + end - start - came]
            sink.write(kept)
            came += len(kept)
            if came >= end - start:
                break
    return came


def _headers() -> dict[str, str]:
    # A compressed answer has no ranges to go on from.
    made: dict[str, str] = build_hf_headers(library_name="rbees", library_version=__version__)
    return {**made, "Accept-Encoding": "identity"}


# ---- fetching ------------------------------------------------------------------------------------------------------------


class _Fetching:
    """One order being carried out."""

    def __init__(self, order: FetchOrder, report: Callable[[Message], None]) -> None:
        self._order = order
        self._report = report
        self._cache = HubCache(Path(constants.HF_HUB_CACHE))
        self._total_bytes = sum(file.size_bytes for file in order.files)
        self._before_bytes = 0
        """Of the files that are done."""
        self._fetched_bytes = 0
        self._told_at = 0.0

    def run(self) -> Fetched:
        """Bring all files here, one after the other."""
        places = [place_of(self._order, file, self._cache) for file in self._order.files]
        self._check_space(places)
        sums = []
        for file, place in zip(self._order.files, places, strict=True):
            sums.append(self._bring(file, place))
            self._before_bytes += file.size_bytes
        if self._order.local_dir is None:
            write_ref(self._order, self._cache)
        self._tell(0, force=True)
        return Fetched(paths=tuple(str(place.target) for place in places), sha256=tuple(sums), fetched_bytes=self._fetched_bytes)

    def _check_space(self, places: Sequence[Place]) -> None:
        missing = 0
        for file, place in zip(self._order.files, places, strict=True):
            if file.size_bytes > constants.MAX_HTTP_DOWNLOAD_SIZE:
                message = (
                    f"{file.path} is larger than the {constants.MAX_HTTP_DOWNLOAD_SIZE // 10**9} GB that the hub gives at once; "
                    "take a variant in parts, or fetch it with `hf download`, whose cache rbees shares."
                )
                raise RbeesError(ErrorCode.DOWNLOAD_FAILED, message)
            if not place.blob.exists():
                missing += max(0, file.size_bytes - place.kept_bytes())
        check_space(made(places[0].blob.parent), missing)

    def _bring(self, file: HubFile, place: Place) -> str:
        """Have the file under its name; its sha256."""
        made(place.blob.parent)
        made(place.lock.parent)
        with locked(place.lock, lambda: self._wait_for_another(place, file)):
            try:
                found = sum_of(place.blob, file, self._tell) or self._fetch(file, place)
                place.name(by_link=not constants.HF_HUB_DISABLE_SYMLINKS)
            finally:
                if place.drop_empty() and self._order.local_dir is not None:
                    # In a user's own folder nothing but the model is left. The file goes while it is locked: who waits for it
                    # notices; once let go, it may be the next one's.
                    place.lock.unlink(missing_ok=True)
        return found

    def _fetch(self, file: HubFile, place: Place) -> str:
        place.join_draft()
        with place.partial.open("ab+") as partial:
            sink = PartialFile(partial, file, self._tell)
            sink.take_in()
            began = sink.size_bytes
            self._tell(began, force=True)
            right = self._transfer(file, sink)
            if not right and began:
                # What was kept may be what is wrong; the whole file once more settles it.
                sink.start_over()
                began = 0
                right = self._transfer(file, sink)
            partial.flush()
            os.fsync(partial.fileno())
        if not right:
            place.partial.unlink(missing_ok=True)
            raise RbeesError(
                ErrorCode.CHECKSUM_MISMATCH,
                f"The bytes that came for {file.path} are not those that the hub promised (sha256 or size differ) and were thrown "
                "away; try again, and if it happens again tell whoever runs the hub or the proxy in between.",
                file=file.path,
            )
        os.replace(place.partial, place.blob)
        self._fetched_bytes += file.size_bytes - began
        return sink.sha256

    def _transfer(self, file: HubFile, sink: PartialFile) -> bool:
        """Fetch what is missing, going on after every interruption as long as each try brings something; whether it is right."""
        url = hf_hub_url(self._order.repository, file.path, revision=self._order.commit)
        idle, delay_s = 0, 1.0
        while sink.size_bytes < file.size_bytes:
            before = sink.size_bytes
            try:
                # Each try asks the hub's own address: the one that it leads to is signed and soon forgotten.
                http_get(url, sink, resume_size=before, headers=_headers(), expected_size=file.size_bytes)
            except TooLong:
                return False
            except (HTTPError, OSError) as error:
                if not _may_pass(error):
                    raise
                idle = idle + 1 if sink.size_bytes <= before else 0
                if idle >= TRIES_WITHOUT_PROGRESS:
                    raise
                delay_s = 1.0 if idle == 0 else min(delay_s * 2, LONGEST_DELAY_S)
                time.sleep(delay_s)
        return sink.is_right()

    def _wait_for_another(self, place: Place, file: HubFile) -> None:
        self._tell(min(place.partial_bytes(), file.size_bytes), waiting=True)

    def _tell(self, done_bytes: int, *, waiting: bool = False, force: bool = False) -> None:
        now = time.monotonic()
        if force or now - self._told_at >= TELL_EVERY_S:
            self._told_at = now
            done = min(self._before_bytes + done_bytes, self._total_bytes)
            self._report(DownloadProgress(done_bytes=done, total_bytes=self._total_bytes, waiting=waiting))


def _may_pass(error: Exception) -> bool:
    """True for what may be over at the next try: connections that fail or break off, and a hub that has trouble."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in _RETRIED
    if isinstance(error, OfflineModeIsEnabled):
        return False
    # The library's own word for an answer that ended early is an OSError without a number.
    return isinstance(error, HTTPError) or error.errno is None  # type: ignore[attr-defined]


# ---- what went wrong -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _translated(repository: str) -> Iterator[None]:
    """The library's failures as errors of rbees: never with its texts, which hold signed addresses and more."""
    try:
        yield
    except RbeesError:
        raise
    except (HTTPError, EntryNotFoundError, OfflineModeIsEnabled, OSError, ValueError) as error:
        raise _refusal(repository, error) from None


def _refusal(repository: str, error: Exception) -> RbeesError:
    page = f"{constants.ENDPOINT}/{repository}"
    match error:
        case GatedRepoError():
            message = f"{repository} is gated: accept its terms at {page}, and put a token of that account into `HF_TOKEN`."
            return RbeesError(ErrorCode.MODEL_FORBIDDEN, message, repository=repository)
        case RepositoryNotFoundError():
            message = f"The hub has no repository {repository}, or it is private: check the name, or put a token into `HF_TOKEN`."
            return RbeesError(ErrorCode.MODEL_NOT_FOUND, message, repository=repository)
        case RevisionNotFoundError():
            return RbeesError(ErrorCode.MODEL_NOT_FOUND, f"{repository} has no such branch, tag or commit.", repository=repository)
        case EntryNotFoundError():
            return RbeesError(ErrorCode.MODEL_NOT_FOUND, f"{repository} has no such file any more.", repository=repository)
        case DisabledRepoError():
            return RbeesError(ErrorCode.MODEL_FORBIDDEN, f"The hub has closed {repository}.", repository=repository)
        case OfflineModeIsEnabled():
            return RbeesError(ErrorCode.DOWNLOAD_FAILED, "`HF_HUB_OFFLINE` forbids to ask the hub; unset it.")
        case HfHubHTTPError():
            return _refused(repository, error.response)
        case HTTPError():
            return RbeesError(
                ErrorCode.DOWNLOAD_FAILED,
                f"The hub at {constants.ENDPOINT} cannot be reached or broke off; check the network, and ask again to go on.",
            )
        case OSError(errno=number) if number in FULL:
            return disk_full()
        case OSError(errno=number) if number is not None:
            return unwritable(error.filename or "of the models", error)
    message = f"{constants.ENDPOINT} does not answer as a Hugging Face hub does; check `HF_ENDPOINT` and the proxy."
    return RbeesError(ErrorCode.DOWNLOAD_FAILED, message)


def _refused(repository: str, answer: Any) -> RbeesError:
    status = answer.status_code
    if status in (401, 403):
        message = f"The hub refuses {repository} to this token; put one that may read it into `HF_TOKEN`."
        return RbeesError(ErrorCode.MODEL_FORBIDDEN, message, repository=repository)
    if status == 429:
        wait = answer.headers.get("Retry-After", "")
        later = {"retry_after_s": int(wait)} if wait.isascii() and wait.isdigit() and len(wait) < 6 else {}
        message = "The hub has had too many requests from here; wait a while, or put a token into `HF_TOKEN` to be allowed more."
        return RbeesError(ErrorCode.DOWNLOAD_FAILED, message, **later)
    return RbeesError(ErrorCode.DOWNLOAD_FAILED, f"The hub answered {status}; try again later.", status=status)


if __name__ == "__main__":
    sys.exit(main())
