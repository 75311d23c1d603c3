"""PURE: a line of an input file, what is wrong with it, and the line of an output file that tells what came of it.

The form is that of OpenAI's guide (https://platform.openai.com/docs/guides/batch).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated, ClassVar, Final, Literal

import msgspec

from rbees.orcd.batches.objects import BatchError
from rbees.orcd.door.foreign import located
from rbees.orcd.openai import errors
from rbees.protocol.codec import Message, decode, encode
from rbees.protocol.errors import RbeesError

MAX_LINES: Final = 50_000
MAX_ERRORS: Final = 100
"""That are told of one file; nobody mends more at a time."""
BOM: Final = b"\xef\xbb\xbf"
"""That some programs write at the beginning of a file in UTF-8."""

CustomId = Annotated[str, msgspec.Meta(min_length=1, max_length=512)]


class BatchLine(Message, frozen=True, kw_only=True):
    """A request in an input file."""

    private: ClassVar[frozenset[str]] = frozenset({"body"})
    custom_id: CustomId
    method: str
    url: str
    body: msgspec.Raw


class _Body(Message, frozen=True, kw_only=True):
    """What of a body is looked at before it is run."""

    model: str


class LineResponse(Message, frozen=True, kw_only=True):
    """What the route would have answered."""

    status_code: int
    request_id: str | None
    """The job, or the first of several; null where none was accepted."""
    body: Message
    ignored: str | msgspec.UnsetType = msgspec.UNSET
    """Fields of the request that were passed over."""


class LineError(Message, frozen=True, kw_only=True):
    """Why a request was not run."""

    code: Literal["batch_expired", "batch_cancelled"]
    message: str


class OutputLine(Message, frozen=True, kw_only=True):
    """A line of an output or error file."""

    private: ClassVar[frozenset[str]] = frozenset({"response"})
    id: str
    custom_id: str
    response: LineResponse | None
    error: LineError | None


class Validation:
    """Reads a whole file, line by line, and says what is wrong with it."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._seen: set[bytes] = set()
        self._models: set[str] = set()
        self._errors: list[BatchError] = []
        self.total = 0

    @property
    def is_over(self) -> bool:
        """Nothing that may still come would be told."""
        return len(self._errors) >= MAX_ERRORS or self.total > MAX_LINES

    @property
    def errors(self) -> tuple[BatchError, ...]:
        """What is wrong, once all lines were taken or the validation is over."""
        if self.total > MAX_LINES:
            message = f"The file holds more than {MAX_LINES} requests; split it."
            return (*self._errors[: MAX_ERRORS - 1], BatchError(code="too_many_requests", message=message))
        if not self.total and not self._errors:
            return (BatchError(code="empty_file", message="The file holds no request; put one on each line."),)
        return tuple(self._errors)

    @property
    def model(self) -> str | None:
        """The one that all lines name."""
        return next(iter(self._models)) if len(self._models) == 1 else None

    def take(self, number: int, line: bytes) -> None:
        """The next line, which is not blank; the first of a file has the number 1."""
        self.total += 1
        try:
            self._look(line)
        except _Unsound as unsound:
            self._errors.append(BatchError(code=unsound.code, line=number, message=unsound.message, param=unsound.param))

    def too_long(self, number: int, limit_bytes: int) -> None:
        """A line has more than `limit_bytes`; nothing behind it is looked at."""
        message = f"The line has more than {limit_bytes} bytes, which no request may have."
        self._errors.append(BatchError(code="line_too_long", line=number, message=message))

    def _look(self, line: bytes) -> None:
        read = _sound(line)
        # A digest in place of the text: fifty thousand of those may have a lot of bytes.
        seen = hashlib.blake2b(read.custom_id.encode(), digest_size=16).digest()
        if seen in self._seen:
            raise _Unsound("duplicate_custom_id", "An earlier line has the same `custom_id`; give each its own.", "custom_id")
        self._seen.add(seen)
        if read.method != "POST":
            raise _Unsound("invalid_method", "`method` must be `POST`.", "method")
        if read.url != self._endpoint:
            raise _Unsound("mismatched_endpoint", f"`url` must be `{self._endpoint}`, the `endpoint` of the batch.", "url")
        if not bytes(read.body).lstrip().startswith(b"{"):
            raise _Unsound("invalid_body", "`body` must be an object: the request that the route takes.", "body")
        try:
            self._models.add(decode(bytes(read.body), _Body).model)
        except RbeesError:
            raise _Unsound("missing_model", "`body` must be JSON that names its `model`.", "body.model") from None


def read_line(line: bytes) -> BatchLine:
    """A line that passed the validation."""
    return decode(line, BatchLine)


def answered(id_: str, custom_id: str, request_id: str, body: Message, passed_over: str | None) -> bytes:
    """The line of a request that went well."""
    ignored = msgspec.UNSET if passed_over is None else passed_over
    response = LineResponse(status_code=200, request_id=request_id, body=body, ignored=ignored)
    return _written(OutputLine(id=id_, custom_id=custom_id, response=response, error=None))


def refused(id_: str, custom_id: str, request_id: str | None, error: RbeesError) -> bytes:
    """The line of a request that went wrong, with what its route would have answered."""
    response = LineResponse(status_code=errors.status_of(error), request_id=request_id, body=errors.body_of(error))
    return _written(OutputLine(id=id_, custom_id=custom_id, response=response, error=None))


def not_run(id_: str, custom_id: str, why: Literal["expired", "cancelled"]) -> bytes:
    """The line of a request that was never answered because its batch was over before."""
    error = LineError(code="batch_expired", message="The batch expired before this request was answered; send it in another.")
    if why == "cancelled":
        error = LineError(code="batch_cancelled", message="The batch was cancelled before this request was answered.")
    return _written(OutputLine(id=id_, custom_id=custom_id, response=None, error=error))


def is_blank(line: bytes) -> bool:
    """Whether a line holds no request, such as the end of a file that has a line break there."""
    return not line.strip()


@dataclass(frozen=True, slots=True)
class _Unsound(Exception):
    code: str
    message: str
    param: str | None = None


def _sound(line: bytes) -> BatchLine:
    try:
        line.decode()
    except UnicodeDecodeError as error:
        raise _Unsound("invalid_encoding", f"The line is not UTF-8 at its byte {error.start + 1}.") from None
    try:
        return decode(line, BatchLine)
    except RbeesError as error:
        shape = '`{"custom_id", "method", "url", "body"}`'
        raise _Unsound("invalid_line", f"Each line must be {shape}. {error.message}", _field(located(error))) from None


def _field(error: RbeesError) -> str | None:
    field = error.details.get("field")
    return field if isinstance(field, str) else None


def _written(line: OutputLine) -> bytes:
    return encode(line) + b"\n"
