"""An orchestrator that only listens: it takes what pools report and keeps it for the test to look at."""

from __future__ import annotations

import gzip
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from tests.support.home import wait_until

BEAT_MS: Final = 200


class FakeOrcd:
    """Listens on loopback in a thread. Use it as a context manager."""

    def __init__(self) -> None:
        self.received: list[tuple[str, dict[str, Any]]] = []
        self.knows_pools = True
        self.authorizations: set[str | None] = set()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                sent = self.rfile.read(int(self.headers["Content-Length"]))
                body = json.loads(gzip.decompress(sent) if self.headers["Content-Encoding"] == "gzip" else sent)
                fake.received.append((self.path, body))
                fake.authorizations.add(self.headers["Authorization"])
                self._answer(*fake.answer(self.path))

            def _answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def answer(self, path: str) -> tuple[int, bytes]:
        """What a call gets."""
        if path.endswith("/register"):
            self.knows_pools = True
            return 200, json.dumps({"heartbeat_interval_ms": BEAT_MS}).encode()
        if path.endswith("/heartbeat") and not self.knows_pools:
            return 404, b'{"error": {"code": "POOL_NOT_FOUND", "message": "Who?"}}'
        return 204, b""

    def of(self, ending: str) -> list[dict[str, Any]]:
        """The bodies that came to paths with this ending."""
        return [body for path, body in list(self.received) if path.endswith(ending)]

    def wait(self, ending: str, count: int = 1, timeout_s: float = 30.0) -> dict[str, Any]:
        """The `count`th body on such a path, once it has come."""
        wait_until(lambda: len(self.of(ending)) >= count, what=f"get {count} × {ending}", timeout_s=timeout_s)
        return self.of(ending)[count - 1]

    def __enter__(self) -> FakeOrcd:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
