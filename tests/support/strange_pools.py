"""A pool daemon on loopback that answers whatever it is told to, as one that lies to those who ask it for models."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Self

import msgspec


class StrangePool:
    """Gives the same answer to every `GET`: `with StrangePool(offer) as pool: … pool.url`."""

    def __init__(self, answer: Any, answers_with: int = 200) -> None:
        content = msgspec.json.encode(answer)

        class Handler(_Handler):
            body = content
            status = answers_with

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    body: ClassVar[bytes]
    status: ClassVar[int]

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing into the tests' output."""
