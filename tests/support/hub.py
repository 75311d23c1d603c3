"""A hub on loopback that the real huggingface_hub takes for one: repositories, commits, large files behind redirects, faults.

Large files are served by a second port, as the public hub leads to another host for them: a client that sends its token there
as well would give it away, so what that port was sent is kept for the tests to look at.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

PIECE = 64 * 1024
HELD_S = 120.0
"""Longer than a test waits for what it wants to see meanwhile."""
SIGN_OF_LIFE_S = 0.5
"""What is held back comes byte by byte, or a client would give the connection up."""
SEEN_BYTES_PER_S = 2e6
"""So slow that progress, which is told five times a second, is told before what is held back begins."""
HOLD_AT = 2 << 20


@dataclass
class Repository:
    """One repository at one commit; `token` is what must be sent to see it, `gated` what must be sent to read its files."""

    files: dict[str, bytes]
    commit: str = ""
    token: str | None = None
    gated: str | None = None
    small: frozenset[str] = frozenset()
    """Files that lie in git itself."""
    branches: tuple[str, ...] = ("main",)

    def __post_init__(self) -> None:
        self.commit = self.commit or hashlib.sha1(repr(sorted(self.files)).encode()).hexdigest()


@dataclass
class Faults:
    """What goes wrong with a file's bytes; each is used up as it is met."""

    cut_after: list[int] = field(default_factory=list)
    """Close the connection after so many bytes of an answer."""
    statuses: list[int] = field(default_factory=list)
    """Answer with these first."""
    wrong: int = 0
    """In so many answers one byte is another one."""
    bytes_per_s: float | None = None
    ignores_ranges: bool = False
    hold_at: int | None = None
    """Send hardly anything behind so many bytes of an answer until `go_on` is set."""
    go_on: threading.Event = field(default_factory=threading.Event)

    def hold(self, at: int = HOLD_AT) -> None:
        """Let a part be seen to come, and no more than that until `let_go`, however long what a test wants to see takes."""
        self.bytes_per_s, self.hold_at = SEEN_BYTES_PER_S, at
        self.go_on.clear()

    def let_go(self) -> None:
        """Send what was held back, and all else, at full speed."""
        self.bytes_per_s = self.hold_at = None
        self.go_on.set()


@dataclass(frozen=True)
class Asked:
    """A request as it came to one of the two ports."""

    method: str
    path: str
    headers: Mapping[str, str]

    @property
    def first_byte(self) -> int:
        """Where the range begins that was asked for."""
        found = re.match(r"bytes=(\d+)-", self.headers.get("range", ""))
        return int(found[1]) if found else 0


class Hub:
    """Use it as a context manager; `url` is for HF_ENDPOINT."""

    def __init__(self, address: str = "127.0.0.1") -> None:
        self.repositories: dict[str, Repository] = {}
        self.faults: dict[str, Faults] = defaultdict(Faults)
        """By file path."""
        self.claimed: dict[str, int] = {}
        """Sizes that the listing states in place of the real ones."""
        self.lies: dict[str, str] = {}
        """Checksums that the listing states in place of the real ones."""
        self.listing_takes_s = 0.0
        self.listing_statuses: list[int] = []
        """Answers to the next questions what a repository holds."""
        self.asked: list[Asked] = []
        self.asked_for_bytes: list[Asked] = []
        self._servers = [_server(self, address, _HubHandler), _server(self, address, _BytesHandler)]
        self.url, self.bytes_url = (f"http://{address}:{server.server_address[1]}" for server in self._servers)

    def add(self, name: str, files: dict[str, bytes], **more: Any) -> Repository:
        """Offer a repository."""
        made = self.repositories[name] = Repository(files, **more)
        return made

    def sent_bytes(self, path: str) -> list[Asked]:
        """The requests for the bytes of a large file."""
        return [
            asked for asked in self.asked_for_bytes if asked.method == "GET" and unquote(urlsplit(asked.path).path).endswith(path)
        ]

    def __enter__(self) -> Self:
        for server in self._servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()


def _server(hub: Hub, address: str, handler: type[_Handler]) -> ThreadingHTTPServer:
    made = ThreadingHTTPServer((address, 0), type("Bound", (handler,), {"hub": hub}))
    made.daemon_threads = True
    return made


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def asked(self) -> Asked:
        return Asked(self.command, self.path, {name.lower(): value for name, value in self.headers.items()})

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        raise AssertionError("each port has its own")

    def token(self) -> str | None:
        kind, _, token = self.headers.get("Authorization", "").partition(" ")
        return token if kind == "Bearer" else None

    def serve_bytes(self, path: str, content: bytes, **headers: str) -> None:
        faults = self.hub.faults[path]
        if faults.statuses:
            self.answer(faults.statuses.pop(0), b"", Retry_After="1")
            return
        start = 0 if faults.ignores_ranges else self.asked().first_byte
        found = re.match(r"bytes=\d+-(\d+)", self.headers.get("Range", ""))
        end = int(found[1]) + 1 if found and not faults.ignores_ranges else len(content)
        if start >= len(content) > 0:
            self.answer(416, b"", Content_Range=f"bytes */{len(content)}")
            return
        part = content[start:end]
        if faults.wrong:
            faults.wrong -= 1
            part = bytes([part[0] ^ 1]) + part[1:]
        self.send_response(206 if start or found else 200)
        self.send_header("Content-Length", str(len(part)))
        if start or found:
            self.send_header("Content-Range", f"bytes {start}-{start + len(part) - 1}/{len(content)}")
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self._send(part, faults)

    def _send(self, part: bytes, faults: Faults) -> None:
        cut = faults.cut_after.pop(0) if faults.cut_after else None
        position, held_until = 0, time.monotonic() + HELD_S
        while position < len(part):
            if cut is not None and position >= cut:
                # What was sent arrives; after a reset it would not.
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            is_held = faults.hold_at is not None and position >= faults.hold_at and time.monotonic() < held_until
            count = 1 if is_held and not faults.go_on.wait(SIGN_OF_LIFE_S) else PIECE
            try:
                self.wfile.write(part[position : position + count])
                self.wfile.flush()
            except OSError:
                self.close_connection = True
                return
            position += count
            if faults.bytes_per_s and count == PIECE:
                time.sleep(PIECE / faults.bytes_per_s)


class _HubHandler(_Handler):
    """The hub's own host."""

    def do_GET(self) -> None:
        self.hub.asked.append(self.asked())
        path = unquote(urlsplit(self.path).path)
        listing = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        match = listing or file
        repository = self._repository(match[1], match[2]) if match else None
        if match is None:
            self.answer(404)
        elif repository is None:
            return
        elif listing and self.hub.listing_statuses:
            self.answer(self.hub.listing_statuses.pop(0), Retry_After="7")
        elif listing:
            self._list(match[1], repository)
        else:
            self._resolve(repository, match[3])

    def _repository(self, name: str, revision: str | None) -> Repository | None:
        found = self.hub.repositories.get(name)
        if found is None or (found.token is not None and self.token() != found.token):
            self.answer(401, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
            return None
        if revision not in {None, found.commit, *found.branches}:
            self.answer(404, X_Error_Code="RevisionNotFound")
            return None
        return found

    def _list(self, name: str, repository: Repository) -> None:
        time.sleep(self.hub.listing_takes_s)
        assert parse_qs(urlsplit(self.path).query).get("blobs"), "sizes are asked for"
        siblings = [
            {
                "rfilename": path,
                "size": self._size(path, content),
                "blobId": git_oid(content),
                **self._lfs(repository, path, content),
            }
            for path, content in repository.files.items()
        ]
        body = {"id": name, "modelId": name, "sha": repository.commit, "private": False, "tags": [], "siblings": siblings}
        self.answer(200, json.dumps(body).encode(), Content_Type="application/json")

    def _lfs(self, repository: Repository, path: str, content: bytes) -> dict[str, Any]:
        if path in repository.small:
            return {}
        return {
            "lfs": {
                "size": self._size(path, content),
                "sha256": self.hub.lies.get(path, hashlib.sha256(content).hexdigest()),
                "pointerSize": 134,
            }
        }

    def _size(self, path: str, content: bytes) -> int:
        return self.hub.claimed.get(path, len(content))

    def _resolve(self, repository: Repository, path: str) -> None:
        if repository.gated is not None and self.token() != repository.gated:
            self.answer(403, X_Error_Code="GatedRepo", X_Error_Message="Access is restricted")
            return
        content = repository.files.get(path)
        if content is None:
            self.answer(404, X_Error_Code="EntryNotFound")
            return
        if path in repository.small:
            self.serve_bytes(path, content, X_Repo_Commit=repository.commit, ETag=f'"{git_oid(content)}"')
            return
        sha256 = hashlib.sha256(content).hexdigest()
        name = next(name for name, held in self.hub.repositories.items() if held is repository)
        self.answer(
            302,
            X_Repo_Commit=repository.commit,
            X_Linked_Etag=f'"{sha256}"',
            X_Linked_Size=str(len(content)),
            Location=f"{self.hub.bytes_url}/{name}/{path}?signature={len(self.hub.asked)}",
        )


class _BytesHandler(_Handler):
    """The host of large files: knows no tokens, only addresses that the hub has signed."""

    def do_GET(self) -> None:
        self.hub.asked_for_bytes.append(self.asked())
        _, organisation, name, path = unquote(urlsplit(self.path).path).split("/", 3)
        assert "signature=" in self.path
        self.serve_bytes(path, self.hub.repositories[f"{organisation}/{name}"].files[path])


def git_oid(content: bytes) -> str:
    """What git calls a file with this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
