"""HTTP without rbees: what tests and the bench send and receive is independent of the client they check.

Synchronous, one connection per request, loopback only. A stream is read frame by frame with the moment each one arrived.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Answer:
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """Its body as JSON."""
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The object under `error`."""
        error: dict[str, Any] = self.json["error"]
        return error


@dataclass(frozen=True)
class Frame:
    """One frame of an event stream: its bytes as they came, and when (`time.perf_counter`)."""

    raw: bytes
    at_s: float

    @property
    def id(self) -> int | None:
        """Its number, where it has one."""
        found = [line[4:] for line in self.raw.splitlines() if line.startswith(b"id: ")]
        return int(found[0]) if found else None

    @property
    def event(self) -> str:
        """Its kind; empty for a comment."""
        found = [line[7:] for line in self.raw.splitlines() if line.startswith(b"event: ")]
        return found[0].decode() if found else ""

    @property
    def data(self) -> Any:
        """Its data as JSON."""
        return json.loads(b"\n".join(line[6:] for line in self.raw.splitlines() if line.startswith(b"data: ")))


def request(
    method: str,
    url: str,
    body: object = None,
    *,
    raw: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    timeout_s: float = 30.0,
) -> Answer:
    """Send `body` as JSON, or the bytes of `raw`, and read the whole answer. Raises OSError where nothing answers."""
    with _sent(method, url, body, raw, headers, timeout_s) as response:
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())


@contextmanager
def stream(
    method: str, url: str, body: object = None, *, headers: Mapping[str, str] | None = None, timeout_s: float = 60.0
) -> Iterator[Iterator[Frame]]:
    """Open an event stream: `with stream(…) as frames: for frame in frames`. Raises OSError where it breaks."""
    with _sent(method, url, body, None, {"Accept": "text/event-stream", **(headers or {})}, timeout_s) as response:
        assert response.status == 200, (response.status, response.read())
        yield _frames(response)


def read_events(url: str, after: int | None = None, timeout_s: float = 60.0) -> bytes:
    """The bytes of a job's stream to its end, comments left out, as `curl -N` would show them."""
    headers = {} if after is None else {"Last-Event-ID": str(after)}
    with stream("GET", url, headers=headers, timeout_s=timeout_s) as frames:
        return b"".join(frame.raw for frame in frames if frame.event)


@contextmanager
def _sent(
    method: str, url: str, body: object, raw: bytes | None, headers: Mapping[str, str] | None, timeout_s: float
) -> Iterator[http.client.HTTPResponse]:
    parts = urlsplit(url)
    assert parts.hostname is not None
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout_s)
    content = raw if raw is not None else None if body is None else json.dumps(body).encode()
    typed = {"Content-Type": "application/json"} if content is not None else {}
    try:
        path = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
        connection.request(method, path, content, {**typed, **(headers or {})})
        yield connection.getresponse()
    except http.client.HTTPException as error:
        raise OSError(f"the connection broke: {type(error).__name__}") from error
    finally:
        connection.close()


def _frames(response: http.client.HTTPResponse) -> Iterator[Frame]:
    held = b""
    while chunk := response.read1():
        now = time.perf_counter()
        *whole, held = (held + chunk).split(b"\n\n")
        for raw in whole:
            yield Frame(raw + b"\n\n", now)
