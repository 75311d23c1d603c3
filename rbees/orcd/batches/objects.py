"""PURE: files and batches as clients of OpenAI's API send and get them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Final, Literal

import msgspec

from rbees.orcd.door.foreign import Foreign, refusal
from rbees.orcd.openai.shared import Metadata
from rbees.protocol.batches import BatchStatus, FilePurpose
from rbees.protocol.codec import Message

WINDOW: Final = "24h"
WINDOW_MS: Final = 24 * 3_600 * 1_000


class ExpiresAfter(Foreign, frozen=True, kw_only=True):
    """When a file is deleted by itself."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, msgspec.Meta(ge=3_600, le=2_592_000)]


class FileObject(Message, frozen=True, kw_only=True):
    """A file that was uploaded, or that a batch wrote."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: FilePurpose
    status: Literal["processed"] = "processed"
    status_details: None = None


class FileObjects(Message, frozen=True, kw_only=True):
    """A page of files."""

    object: Literal["list"] = "list"
    data: tuple[FileObject, ...]
    first_id: str | None
    last_id: str | None
    """Where the next page goes on, as its `after`."""
    has_more: bool


class FileDeleted(Message, frozen=True, kw_only=True):
    """A file that is no more."""

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


class BatchRequest(Foreign, frozen=True, kw_only=True):
    """A file of requests to be run."""

    private: ClassVar[frozenset[str]] = frozenset({"metadata"})

    input_file_id: Annotated[
        str, msgspec.Meta(min_length=1, max_length=128, description="An uploaded file whose purpose is `batch`.")
    ]
    endpoint: Annotated[str, msgspec.Meta(max_length=128, description="The route that every line is for.")]
    completion_window: Annotated[
        str, msgspec.Meta(max_length=32, description="`24h`, after which what has not been begun is given up.")
    ]
    metadata: Annotated[Metadata | None, msgspec.Meta(description="Given back with the batch.")] = None
    output_expires_after: Annotated[
        ExpiresAfter | None,
        msgspec.Meta(description="When the files that the batch writes are deleted; kept until somebody does that if absent."),
    ] = None


class BatchError(Message, frozen=True, kw_only=True):
    """Why a batch failed: one thing that is wrong with its file."""

    code: str
    line: int | None = None
    message: str
    param: str | None = None


class BatchErrors(Message, frozen=True, kw_only=True):
    """All that was found, or the first of it."""

    object: Literal["list"] = "list"
    data: tuple[BatchError, ...]


class RequestCounts(Message, frozen=True, kw_only=True):
    """Lines of a batch; those that neither completed nor failed are still to come."""

    total: int
    completed: int
    failed: int


class InputDetails(Message, frozen=True, kw_only=True):
    """Of the prompts' tokens."""

    cached_tokens: int


class OutputDetails(Message, frozen=True, kw_only=True):
    """Of the answers' tokens."""

    reasoning_tokens: int


class BatchUsage(Message, frozen=True, kw_only=True):
    """What the answered lines took together."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class BatchObject(Message, frozen=True, kw_only=True):
    """A batch. Times are seconds since 1970."""

    private: ClassVar[frozenset[str]] = frozenset({"metadata"})

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    model: str | None
    """That all lines name; null where they name several, and before they were read."""
    errors: BatchErrors | None
    input_file_id: str
    completion_window: str
    status: BatchStatus
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    usage: BatchUsage
    metadata: dict[str, str] | None


class BatchObjects(Message, frozen=True, kw_only=True):
    """A page of batches."""

    object: Literal["list"] = "list"
    data: tuple[BatchObject, ...]
    first_id: str | None
    last_id: str | None
    """Where the next page goes on, as its `after`."""
    has_more: bool


def check_batch(request: BatchRequest, endpoints: Sequence[str]) -> None:
    """What the types cannot say.

    Raises:
        RbeesError: INVALID_REQUEST.
    """
    if request.completion_window != WINDOW:
        raise refusal(f"`completion_window` must be `{WINDOW}`; batches have no other.", "completion_window")
    if request.endpoint not in endpoints:
        known = ", ".join(f"`{one}`" for one in endpoints)
        raise refusal(f"Lines of a batch may be for {known}; send one of these as `endpoint`.", "endpoint")
