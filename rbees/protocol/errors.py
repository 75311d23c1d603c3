"""The one error tree: every failure that a client, an operator or another role can see has a code from this table.

The table says who has to act (`Fault`), which HTTP status carries the code and which exit code a command ends with.
It knows nothing of the libraries whose exceptions are translated into it; each gateway does that once, where it calls them.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, NamedTuple

import msgspec


class Fault(StrEnum):
    """Who broke it, and so who can mend it."""

    CALLER = "caller"
    """The request cannot succeed as it stands."""
    CAPACITY = "capacity"
    """The same request can succeed later or with more resources."""
    PEER = "peer"
    """Another process or host failed; rbees has already tried what it could."""


class ExitCode:
    """Exit codes of every command, after BSD sysexits.h where one fits."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNAVAILABLE = 69
    IO_ERROR = 74
    BUSY = 75
    PERMISSION = 77
    CONFIGURATION = 78
    INTERRUPTED = 130
    PIPE_CLOSED = 141
    """128 and SIGPIPE, as a shell reports a program whose reader has left."""


class ErrorCode(StrEnum):
    """Stable, upper-case codes. Adding one is fine; renaming or removing one breaks clients."""

    INVALID_REQUEST = "INVALID_REQUEST"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    FORBIDDEN = "FORBIDDEN"
    NOT_FOUND = "NOT_FOUND"
    JOB_NOT_FOUND = "JOB_NOT_FOUND"
    MODEL_NOT_FOUND = "MODEL_NOT_FOUND"
    POOL_NOT_FOUND = "POOL_NOT_FOUND"
    WORKER_NOT_FOUND = "WORKER_NOT_FOUND"
    FILE_NOT_FOUND = "FILE_NOT_FOUND"
    BATCH_NOT_FOUND = "BATCH_NOT_FOUND"
    METHOD_NOT_ALLOWED = "METHOD_NOT_ALLOWED"
    IDEMPOTENCY_CONFLICT = "IDEMPOTENCY_CONFLICT"
    POOL_ID_TAKEN = "POOL_ID_TAKEN"
    DEVICE_BUSY = "DEVICE_BUSY"
    FILE_IN_USE = "FILE_IN_USE"
    BATCH_ENDED = "BATCH_ENDED"
    OUTPUT_ERASED = "OUTPUT_ERASED"
    MODEL_FORBIDDEN = "MODEL_FORBIDDEN"
    REQUEST_TOO_LARGE = "REQUEST_TOO_LARGE"
    RANGE_NOT_SATISFIABLE = "RANGE_NOT_SATISFIABLE"
    INSUFFICIENT_VRAM = "INSUFFICIENT_VRAM"
    MODEL_INCOMPATIBLE = "MODEL_INCOMPATIBLE"
    CONTEXT_EXCEEDED = "CONTEXT_EXCEEDED"
    QUEUE_FULL = "QUEUE_FULL"
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    CANCELLED = "CANCELLED"
    INTERNAL = "INTERNAL"
    WORKER_CRASHED = "WORKER_CRASHED"
    WORKER_UNREACHABLE = "WORKER_UNREACHABLE"
    POOL_UNREACHABLE = "POOL_UNREACHABLE"
    ORCD_UNREACHABLE = "ORCD_UNREACHABLE"
    HOST_UNREACHABLE = "HOST_UNREACHABLE"
    HOST_REFUSED = "HOST_REFUSED"
    HOST_KEY_UNKNOWN = "HOST_KEY_UNKNOWN"
    HOST_KEY_CHANGED = "HOST_KEY_CHANGED"
    HOST_WITHOUT_RBEES = "HOST_WITHOUT_RBEES"
    HOST_VERSION = "HOST_VERSION"
    DOWNLOAD_FAILED = "DOWNLOAD_FAILED"
    CHECKSUM_MISMATCH = "CHECKSUM_MISMATCH"
    NO_PLACEMENT = "NO_PLACEMENT"
    MODEL_LOADING = "MODEL_LOADING"
    DRAINING = "DRAINING"
    TIMEOUT = "TIMEOUT"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    STORAGE_FULL = "STORAGE_FULL"
    CONFIGURATION = "CONFIGURATION"
    ADDRESS_IN_USE = "ADDRESS_IN_USE"
    ALREADY_RUNNING = "ALREADY_RUNNING"
    BACKEND_UNAVAILABLE = "BACKEND_UNAVAILABLE"
    CHECKOUT_UNUSABLE = "CHECKOUT_UNUSABLE"
    CHECKOUT_CONFLICT = "CHECKOUT_CONFLICT"
    REMOTE_UNREACHABLE = "REMOTE_UNREACHABLE"


class ErrorKind(NamedTuple):
    """One row of the error table."""

    http_status: int
    exit_code: int
    fault: Fault
    meaning: str
    """One sentence for the documentation: what happened and what to do."""


ERROR_TABLE: dict[ErrorCode, ErrorKind] = {
    ErrorCode.INVALID_REQUEST: ErrorKind(
        400, ExitCode.USAGE, Fault.CALLER, "A field is missing, unknown, of the wrong type or out of range; the message names it."
    ),
    ErrorCode.UNAUTHENTICATED: ErrorKind(
        401, ExitCode.PERMISSION, Fault.CALLER, "No token or a wrong one was sent; name the token file in the settings."
    ),
    ErrorCode.FORBIDDEN: ErrorKind(
        403, ExitCode.PERMISSION, Fault.CALLER, "The Host, Origin or token of this request is not allowed here."
    ),
    ErrorCode.NOT_FOUND: ErrorKind(404, ExitCode.FAILED, Fault.CALLER, "No route has this path; see /docs for those that exist."),
    ErrorCode.JOB_NOT_FOUND: ErrorKind(
        404, ExitCode.FAILED, Fault.CALLER, "No job has this id; list them with `llorch jobs list`."
    ),
    ErrorCode.MODEL_NOT_FOUND: ErrorKind(
        404,
        ExitCode.FAILED,
        Fault.CALLER,
        "No pool holds a model by this name; the message says how to fetch it, or lists close ones.",
    ),
    ErrorCode.POOL_NOT_FOUND: ErrorKind(
        404, ExitCode.FAILED, Fault.CALLER, "No pool has this id; list them with `llorch pool list`."
    ),
    ErrorCode.WORKER_NOT_FOUND: ErrorKind(404, ExitCode.FAILED, Fault.CALLER, "No worker has this id; it may have ended."),
    ErrorCode.FILE_NOT_FOUND: ErrorKind(
        404, ExitCode.FAILED, Fault.CALLER, "No file has this id, or it has expired; list them with `GET /v1/files`."
    ),
    ErrorCode.BATCH_NOT_FOUND: ErrorKind(
        404, ExitCode.FAILED, Fault.CALLER, "No batch has this id; list them with `GET /v1/batches`."
    ),
    ErrorCode.METHOD_NOT_ALLOWED: ErrorKind(
        405, ExitCode.FAILED, Fault.CALLER, "The path exists but not with this HTTP method; see /docs."
    ),
    ErrorCode.IDEMPOTENCY_CONFLICT: ErrorKind(
        409, ExitCode.FAILED, Fault.CALLER, "This Idempotency-Key, or attempt of a job, was used with another body; send a new one."
    ),
    ErrorCode.POOL_ID_TAKEN: ErrorKind(
        409, ExitCode.CONFIGURATION, Fault.CALLER, "A live pool already uses this id; give this one another `pool_id`."
    ),
    ErrorCode.DEVICE_BUSY: ErrorKind(
        409, ExitCode.BUSY, Fault.CAPACITY, "The device is taken by another worker; stop it or name another device."
    ),
    ErrorCode.FILE_IN_USE: ErrorKind(
        409, ExitCode.FAILED, Fault.CALLER, "A batch that has not ended reads the file; cancel the batch or wait for its end."
    ),
    ErrorCode.BATCH_ENDED: ErrorKind(
        409, ExitCode.FAILED, Fault.CALLER, "The batch has ended or is about to, so it cannot be cancelled."
    ),
    ErrorCode.OUTPUT_ERASED: ErrorKind(
        410,
        ExitCode.FAILED,
        Fault.CALLER,
        "The job ended and its content was erased: it was deleted, or the retention setting says so.",
    ),
    ErrorCode.MODEL_FORBIDDEN: ErrorKind(
        403,
        ExitCode.PERMISSION,
        Fault.CALLER,
        "The hub gives this model only to whom it knows: accept its terms there, or put a token that may read it into `HF_TOKEN`.",
    ),
    ErrorCode.REQUEST_TOO_LARGE: ErrorKind(
        413, ExitCode.USAGE, Fault.CALLER, "The request body is larger than the limit that the message names."
    ),
    ErrorCode.RANGE_NOT_SATISFIABLE: ErrorKind(
        416, ExitCode.FAILED, Fault.CALLER, "The range lies beyond the end of the file, or is none; the details have the size."
    ),
    ErrorCode.INSUFFICIENT_VRAM: ErrorKind(
        422,
        ExitCode.FAILED,
        Fault.CAPACITY,
        "The model needs more memory than the device has free; message and details say how much.",
    ),
    ErrorCode.MODEL_INCOMPATIBLE: ErrorKind(
        422, ExitCode.FAILED, Fault.CALLER, "The file is not a GGUF model that this backend can load; the message says why."
    ),
    ErrorCode.CONTEXT_EXCEEDED: ErrorKind(
        422, ExitCode.FAILED, Fault.CALLER, "Prompt and answer do not fit the context; shorten them or serve the model with more."
    ),
    ErrorCode.QUEUE_FULL: ErrorKind(
        429, ExitCode.BUSY, Fault.CAPACITY, "More has come than is taken in at once; send it again after `Retry-After` seconds."
    ),
    ErrorCode.QUOTA_EXCEEDED: ErrorKind(
        429, ExitCode.BUSY, Fault.CAPACITY, "The cluster's own policy refused the job; the message says why and when to try again."
    ),
    ErrorCode.CANCELLED: ErrorKind(
        499, ExitCode.FAILED, Fault.CALLER, "The job was cancelled, on request where the message says nothing else."
    ),
    ErrorCode.INTERNAL: ErrorKind(
        500, ExitCode.FAILED, Fault.PEER, "A defect of rbees; the daemon's log has the details under the correlation id."
    ),
    ErrorCode.WORKER_CRASHED: ErrorKind(
        502, ExitCode.FAILED, Fault.PEER, "The worker process died; the details hold signal or exit code, its log has the rest."
    ),
    ErrorCode.WORKER_UNREACHABLE: ErrorKind(
        502, ExitCode.UNAVAILABLE, Fault.PEER, "The worker did not answer; see `rbees-pool worker logs`."
    ),
    ErrorCode.POOL_UNREACHABLE: ErrorKind(
        502, ExitCode.UNAVAILABLE, Fault.PEER, "The pool daemon did not answer at its endpoint; start it with `rbees poold serve`."
    ),
    ErrorCode.ORCD_UNREACHABLE: ErrorKind(
        502, ExitCode.UNAVAILABLE, Fault.PEER, "No orchestrator answered at the address; start it with `rbees up` or name its url."
    ),
    ErrorCode.HOST_UNREACHABLE: ErrorKind(
        502,
        ExitCode.UNAVAILABLE,
        Fault.PEER,
        "The host's name does not resolve, nothing answers there by SSH, or the connection broke off; the message says which.",
    ),
    ErrorCode.HOST_REFUSED: ErrorKind(
        502, ExitCode.PERMISSION, Fault.CALLER, "The host's SSH server took none of the keys; load the right one with `ssh-add`."
    ),
    ErrorCode.HOST_KEY_UNKNOWN: ErrorKind(
        502,
        ExitCode.PERMISSION,
        Fault.CALLER,
        "The host's SSH key was never confirmed; compare the fingerprint and confirm it in a terminal.",
    ),
    ErrorCode.HOST_KEY_CHANGED: ErrorKind(
        502,
        ExitCode.PERMISSION,
        Fault.PEER,
        "The host shows another SSH key than the known one: it was set up anew, or somebody is in between. Nothing was sent.",
    ),
    ErrorCode.HOST_WITHOUT_RBEES: ErrorKind(
        502, ExitCode.UNAVAILABLE, Fault.PEER, "The host has no `rbees-pool`; install it there, or name its place as `program`."
    ),
    ErrorCode.HOST_VERSION: ErrorKind(
        502, ExitCode.UNAVAILABLE, Fault.PEER, "The host runs a version of rbees that does not know the command; upgrade one side."
    ),
    ErrorCode.DOWNLOAD_FAILED: ErrorKind(
        502,
        ExitCode.UNAVAILABLE,
        Fault.PEER,
        "Hub or pools did not answer, refused for now or broke off; what was fetched is kept, and the next try goes on from there.",
    ),
    ErrorCode.CHECKSUM_MISMATCH: ErrorKind(
        502, ExitCode.IO_ERROR, Fault.PEER, "A model file's bytes are not those that were promised; fetch it again."
    ),
    ErrorCode.NO_PLACEMENT: ErrorKind(
        503,
        ExitCode.FAILED,
        Fault.CAPACITY,
        "No pool could ever hold this model; message and details say by how much.",
    ),
    ErrorCode.MODEL_LOADING: ErrorKind(
        503, ExitCode.BUSY, Fault.CAPACITY, "The worker is still loading its model; try again after `Retry-After` seconds."
    ),
    ErrorCode.DRAINING: ErrorKind(
        503, ExitCode.UNAVAILABLE, Fault.CAPACITY, "This daemon is shutting down and takes no new work; try again once it is back."
    ),
    ErrorCode.TIMEOUT: ErrorKind(
        504, ExitCode.FAILED, Fault.CAPACITY, "The job ran longer than its `timeout_ms`; raise it or ask for fewer tokens."
    ),
    ErrorCode.DEADLINE_EXCEEDED: ErrorKind(
        504,
        ExitCode.FAILED,
        Fault.CAPACITY,
        "The job was not done within its `deadline_ms`, or could not be; allow it more.",
    ),
    ErrorCode.STORAGE_FULL: ErrorKind(
        507, ExitCode.IO_ERROR, Fault.CAPACITY, "The disk is full, or too small for a model; free space, accepted jobs are kept."
    ),
    ErrorCode.CONFIGURATION: ErrorKind(
        500,
        ExitCode.CONFIGURATION,
        Fault.CALLER,
        "A setting is unknown, contradictory or unsafe; the message says which and what to write.",
    ),
    ErrorCode.ADDRESS_IN_USE: ErrorKind(
        500, ExitCode.BUSY, Fault.CALLER, "Another program listens on this port; stop it or choose another with `--port`."
    ),
    ErrorCode.ALREADY_RUNNING: ErrorKind(
        500,
        ExitCode.BUSY,
        Fault.CALLER,
        "Another process already works on this folder, such as the same daemon; the message says which.",
    ),
    ErrorCode.BACKEND_UNAVAILABLE: ErrorKind(
        422,
        ExitCode.UNAVAILABLE,
        Fault.CAPACITY,
        "This host lacks the backend, extra or compiler; the message names the command to install it.",
    ),
    ErrorCode.CHECKOUT_UNUSABLE: ErrorKind(
        500,
        ExitCode.CONFIGURATION,
        Fault.CALLER,
        "There is no git, no checkout, or none with a branch and an upstream; the message says what to do.",
    ),
    ErrorCode.CHECKOUT_CONFLICT: ErrorKind(
        409, ExitCode.FAILED, Fault.CALLER, "The checkout holds work that the command would lose; keep it first, or say so."
    ),
    ErrorCode.REMOTE_UNREACHABLE: ErrorKind(
        502, ExitCode.UNAVAILABLE, Fault.PEER, "The git remote cannot be reached or refuses; the message says which and why."
    ),
}


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """The object under `"error"` in every error answer and in the terminal `error` event."""

    code: ErrorCode
    message: str
    details: dict[str, Any] = {}
    correlation_id: str | None = None


class ErrorEnvelope(msgspec.Struct, frozen=True, kw_only=True):
    """The body of every HTTP answer that is not a success."""

    error: ErrorBody


class RbeesError(Exception):
    """A failure that has a code.

    `message` is one sentence that says what to do; `details` holds JSON values with units in their names. Neither ever
    carries a prompt, an output, a key, or the text of a foreign exception.
    """

    def __init__(self, code: ErrorCode, message: str, **details: Any) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details
        self.correlation_id: str | None = None
        """Of the call in which a peer answered with this error; None for one that was made here."""
        self.job_ids: tuple[str, ...] = ()
        """Of the jobs that stand behind the answer which fails with this error."""

    @property
    def kind(self) -> ErrorKind:
        """The row of the table that this error's code names."""
        return ERROR_TABLE[self.code]

    @property
    def http_status(self) -> int:
        """The HTTP status that carries this error."""
        return self.kind.http_status

    @property
    def exit_code(self) -> int:
        """The exit code of a command that ends with this error."""
        return self.kind.exit_code

    def body(self, correlation_id: str | None = None) -> ErrorBody:
        """This error as it goes over the wire: under the id of the call it answers, where there is one, else of the peer's call."""
        stands_under = correlation_id or self.correlation_id
        return ErrorBody(code=self.code, message=self.message, details=self.details, correlation_id=stands_under)

    @classmethod
    def from_body(cls, body: ErrorBody) -> RbeesError:
        """The error that a peer sent. Its details may have any keys, so they never become arguments."""
        error = cls(body.code, body.message)
        error.details = body.details
        error.correlation_id = body.correlation_id
        return error

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"
