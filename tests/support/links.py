"""A link to a daemon that is as slow as wanted, breaks off, or carries nothing any more: what may befall a network of hosts."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

CHUNK = 64 * 1024
BURST_S = 0.1


@dataclass
class Link:
    """Use it as a context manager, and `url` in place of the target's. What is set counts for the daemon's answers."""

    target: str
    bytes_per_s: float | None = None
    """Of all connections together."""
    slow_after: int | None = None
    """Once so many bytes were carried, a tenth of that speed is left: what has to be seen meanwhile may take its time."""
    cut_after: list[int] = field(default_factory=list)
    """Connections are reset after so many bytes each; each is used up once."""
    url: str = ""
    carried_bytes: int = 0

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._lock = threading.Lock()
        self._free_at = time.monotonic()
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connected in list(self._open):
            _end(connected)

    def _accept(self) -> None:
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return
            place = urlsplit(self.target)
            try:
                daemon = socket.create_connection((place.hostname or "", place.port or 0))
            except OSError:
                caller.close()
                continue
            self._open |= {caller, daemon}
            threading.Thread(target=self._ask, args=(caller, daemon), daemon=True).start()
            threading.Thread(target=self._answer, args=(daemon, caller), daemon=True).start()

    def _ask(self, caller: socket.socket, daemon: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while content := caller.recv(CHUNK):
                daemon.sendall(content)
        _end(daemon)

    def _answer(self, daemon: socket.socket, caller: socket.socket) -> None:
        left = self.cut_after.pop(0) if self.cut_after else None
        with contextlib.suppress(OSError):
            while content := daemon.recv(CHUNK):
                self._wait(len(content))
                caller.sendall(content)
                self.carried_bytes += len(content)
                if left is not None:
                    left -= len(content)
                    if left <= 0:
                        break
        _end(caller)
        _end(daemon)

    def _wait(self, count: int) -> None:
        speed = self.bytes_per_s
        if speed is None:
            return
        if self.slow_after is not None and self.carried_bytes > self.slow_after:
            speed /= 10
        with self._lock:
            now = time.monotonic()
            # What a busy machine held up is made good, but no more than a moment's worth.
            begin = max(self._free_at, now - BURST_S)
            self._free_at = begin + count / speed
        time.sleep(max(0.0, begin - now))


def _end(connected: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connected.shutdown(socket.SHUT_RDWR)
    connected.close()
