"""PURE: `/api/pull`: a download of a pool, as lines of progress."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Final, assert_never

import msgspec
from msgspec import UNSET, UnsetType

from rbees.orcd.door.foreign import Refused
from rbees.orcd.door.model_names import file_pattern, quantization_of, taken_apart
from rbees.orcd.ollama import errors
from rbees.orcd.ollama.models import NamedRequest
from rbees.orcd.ollama.text_answers import line
from rbees.protocol.codec import Message
from rbees.protocol.downloads import (
    DownloadDone,
    DownloadEvent,
    DownloadFailed,
    DownloadPlanned,
    DownloadProgress,
    DownloadRequest,
    PoolChosen,
    SourceDropped,
)
from rbees.protocol.errors import RbeesError


class PullRequest(NamedRequest, frozen=True, kw_only=True):
    """Which model a pool is to fetch."""

    refused: ClassVar[Mapping[str, Refused]] = {
        "insecure": Refused("models come over TLS or from this cluster's own pools; leave it out.", (False,))
    }
    stream: Annotated[bool | None, msgspec.Meta(description="A line for each step; false: one answer at the end.")] = None

    @property
    def streams(self) -> bool:
        """Whether the answer is a stream."""
        return self.stream is not False


class Progress(Message, frozen=True, kw_only=True):
    """A step of it."""

    status: str
    digest: str | UnsetType = UNSET
    """What names the bytes: the reference, pinned to a commit. Checksums are known to the pool."""
    total: int | UnsetType = UNSET
    completed: int | UnsetType = UNSET


SUCCESS: Final = Progress(status="success")
BEGUN: Final = Progress(status="pulling manifest")


def download_of(name: str) -> DownloadRequest:
    """What a pool is asked to fetch.

    Raises:
        RbeesError: INVALID_REQUEST for what is no name.
    """
    written = taken_apart(name)
    if written.tag is None:
        return DownloadRequest(model_ref=written.reference)
    if label := quantization_of(written.tag):
        return DownloadRequest(model_ref=written.reference, quantization=label)
    return DownloadRequest(model_ref=file_pattern(written) or name)


class PullLines:
    """The lines, made event by event."""

    def __init__(self) -> None:
        self._digest = ""

    def take(self, event: DownloadEvent) -> bytes:
        """The lines of one event."""
        match event:
            case PoolChosen():
                return line(BEGUN)
            case DownloadPlanned():
                self._digest = event.model_ref
                return line(self._step(0, event.total_bytes))
            case DownloadProgress():
                return line(self._step(event.done_bytes, event.total_bytes))
            case SourceDropped():
                return b""
            case DownloadDone():
                return line(SUCCESS)
            case DownloadFailed():
                return line(errors.body_of(RbeesError.from_body(event.error)))
            case _:
                assert_never(event)

    def _step(self, completed: int, total: int) -> Progress:
        return Progress(status=f"pulling {self._digest}", digest=self._digest, total=total, completed=completed)
