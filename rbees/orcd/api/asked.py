"""What routes of every foreign API read and say beside an API's own fields: headers, and the failures that a job may come to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Final, TypeVar

import msgspec
from aiohttp import web

from rbees.orcd.door.foreign import Foreign, read_foreign, told
from rbees.orcd.door.patience import LEAST_S, wait_of
from rbees.orcd.door.runs import Run, Runs
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.service import answers, passed_over
from rbees.service.web import Parameter, argument, pass_over, read_json, tell

IGNORED: Final = passed_over.HEADER
"""Header that names what of a request was passed over."""
JOB: Final = answers.JOBS
"""Header that names the jobs behind an answer; a failure that comes of them names them by itself."""
APPLIED: Final = "Preference-Applied"
"""Header that says which preference was heard (RFC 7240, section 3)."""

F = TypeVar("F", bound=Foreign)

KEY: Final = Parameter(
    "Idempotency-Key",
    "Any text of up to 190 characters: sending the same body under the same key again gives the same answer, from the same job.",
    Annotated[str, msgspec.Meta(min_length=1, max_length=190)],
    where="header",
)
PREFER: Final = Parameter(
    "Prefer",
    "`wait=SECONDS`: where the job has not started by then, 503 or 429 with `Retry-After` comes instead of more waiting.",
    Annotated[str, msgspec.Meta(max_length=1_000)],
    where="header",
)
ACCEPTING: Final = (
    ErrorCode.MODEL_NOT_FOUND,
    ErrorCode.MODEL_INCOMPATIBLE,
    ErrorCode.CONTEXT_EXCEEDED,
    ErrorCode.IDEMPOTENCY_CONFLICT,
    ErrorCode.OUTPUT_ERASED,
    ErrorCode.REQUEST_TOO_LARGE,
    ErrorCode.QUEUE_FULL,
    ErrorCode.QUOTA_EXCEEDED,
    ErrorCode.CANCELLED,
    ErrorCode.WORKER_CRASHED,
    ErrorCode.NO_PLACEMENT,
    ErrorCode.MODEL_LOADING,
    ErrorCode.DRAINING,
    ErrorCode.TIMEOUT,
    ErrorCode.DEADLINE_EXCEEDED,
    ErrorCode.STORAGE_FULL,
)
"""What may come of a request for a job."""
ACCEPTING_WITHOUT_A_KEY: Final = tuple(
    code for code in ACCEPTING if code not in {ErrorCode.IDEMPOTENCY_CONFLICT, ErrorCode.OUTPUT_ERASED}
)
"""The same at a route that takes no idempotency key."""


async def read_asked(
    request: web.Request, type_: type[F], runs: Runs | None, unmet: Callable[[F], Sequence[str]]
) -> tuple[F, dict[str, str]]:
    """What is asked for, and the headers of the answer that tell of what was passed over; `unmet` names what nobody does.

    Without `runs` it does not matter whether there is room for a job. Who sends a key means to ask again where the connection
    breaks, so the job then goes on unless the body says otherwise.

    Raises:
        RbeesError: as `read_json`, `read_foreign` and `Runs.check_room`, or for headers that contradict each other.
    """
    if argument(request, KEY) is None:
        if runs is not None:
            runs.check_room()
    elif wait_s(request) is not None:
        message = "`Prefer: wait` gives a job up, and the key would give that job again; send one of them."
        raise RbeesError(ErrorCode.INVALID_REQUEST, message)
    reading = read_foreign(await read_json(request), type_)
    asked = reading.request if argument(request, KEY) is None else _kept(reading.request)
    names = (*reading.passed_over, *unmet(asked))
    pass_over(request, names)
    return asked, ignored(names)


def ignored(names: tuple[str, ...]) -> dict[str, str]:
    """The header that names what was passed over."""
    said = told(names)
    return {} if said is None else {IGNORED: said}


def _kept(asked: F) -> F:
    """The same for a client that may come back for its answer."""
    if getattr(asked, "cancel_on_disconnect", False) is not None:
        return asked
    return msgspec.structs.replace(asked, cancel_on_disconnect=False)


def wait_s(request: web.Request) -> float | None:
    """How long the client waits for the start, where it says so; the answer then says that it was heard."""
    asked = wait_of(argument(request, PREFER))
    if asked is None:
        return None
    tell(request, APPLIED, f"wait={asked:g}")
    return max(asked, LEAST_S)


def names_of(runs: Sequence[Run]) -> dict[str, str]:
    """The header that names the jobs."""
    return {JOB: ", ".join(run.row.job_id for run in runs)}
