"""What a daemon serves, as data: the table from which its application, its authentication and its OpenAPI are made.

Imports no web framework at run time, so that documents can be made from the table alone.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from rbees.protocol.errors import ErrorCode, RbeesError

if TYPE_CHECKING:
    from aiohttp import web

EVENT_STREAM: Final = "text/event-stream"
LINES: Final = "application/x-ndjson"
"""A JSON value on each line."""
PATH_PARAMETER: Final = re.compile(r"{([a-z_]+)(?::[^}]*)?}")
"""Place for any name in a path."""

Handler = Callable[["web.Request"], Awaitable["web.StreamResponse"]]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One value beside the body; those in the path need no entry unless there is something to say about them."""

    name: str
    about: str
    type_: Any = str
    """A type that msgspec converts a string to: `int`, `bool`, a Literal, an Annotated with limits."""
    where: Literal["query", "path", "header"] = "query"
    required: bool = False


@dataclass(frozen=True, slots=True)
class WordedError:
    """A failure as another API's clients expect it."""

    status: int
    body: Any
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ErrorShape:
    """How an API that is served beside rbees' own words its failures."""

    type_: Any
    """Of the body."""
    word: Callable[[RbeesError], WordedError]
    sign: str | None = None
    """A header that only its clients send, so that they are answered in it on paths that several APIs share."""
    id_header: str | None = None
    """The header of every answer, a refusal or not, in which its clients look for the correlation id."""


@dataclass(frozen=True, slots=True)
class Route:
    """One method on one path (`/v2/tasks/{job_id}`)."""

    method: str
    path: str
    handler: Handler
    summary: str
    """One sentence for the documentation."""
    request: Any = None
    """Type of the JSON body, or None where none is read."""
    response: Any = None
    """Type of the JSON answer, of each event's data where `stream` is set, or None where there is no body."""
    status: int = 200
    further_statuses: tuple[int, ...] = ()
    """Under which the same answer may come as well."""
    errors: tuple[ErrorCode, ...] = ()
    """Codes that this route can answer beside those that every route can."""
    public: bool = False
    """Answers without a token. Only /livez is."""
    own_proof: bool = False
    """Asks for another proof than the daemon's token; the handler checks it before it reads anything else."""
    stream: bool = False
    """Answers with server-sent events."""
    events: Any = None
    """Type of each event's data, where a parameter makes a stream of what is else one answer."""
    events_type: str = EVENT_STREAM
    """Of such a stream."""
    parameters: tuple[Parameter, ...] = ()
    content_type: str = "application/json"
    """Of the answer, where it is neither JSON nor a stream."""
    error_shape: ErrorShape | None = None
    """Of its failures, where it belongs to another API; None: the envelope."""
    signed: Mapping[str, Any] = field(default_factory=dict)
    """Type of the JSON answer to clients of a further API, by the header that only they send (`ErrorShape.sign`)."""


def shown_path(path: str) -> str:
    """Of a route, as people write it: a place for any name without the pattern that the web library reads."""
    return PATH_PARAMETER.sub(r"{\1}", path)


def first_word(path: str) -> str:
    """Of a path: where an API lives."""
    return path.split("/", 2)[1] if "/" in path else ""
